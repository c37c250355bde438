"""Options: defaults, ranges, and the words of the errors."""

from __future__ import annotations

from dataclasses import fields

import pytest

from probpose_ros.config import ConfigError, NodeConfig, PipelineConfig, allowed


@pytest.mark.parametrize("config", [PipelineConfig, NodeConfig])
def test_every_option_has_help_and_a_default_that_is_allowed(config):
    config()
    for spec in fields(config):
        assert len(spec.metadata["help"]) > 10
        assert allowed(spec)


def test_pipeline_and_node_options_can_share_one_parameter_file():
    assert not {spec.name for spec in fields(PipelineConfig)} & {spec.name for spec in fields(NodeConfig)}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("detector_threshold", 1.5, "detector_threshold = 1.5: must be a number from 0.0 to 1.0"),
        ("detector_threshold", "high", "detector_threshold = 'high': must be a number from 0.0 to 1.0"),
        ("detector_threshold", float("nan"), "detector_threshold = nan"),
        ("max_people", 0, "max_people = 0: must be a whole number from 1 to 100"),
        ("max_people", 2.5, "max_people = 2.5: must be a whole number"),
        ("max_people", True, "max_people = True: must be a whole number"),
        ("backend", "cuda", "backend = 'cuda': must be one of auto, tensorrt, onnxruntime"),
        ("levels", [0.5, 1.0], "levels = .*: must be a list of numbers from 0.01 to 0.999"),
        ("levels", 0.5, "levels = 0.5: must be a list of numbers"),
        ("model", 3, "model = 3: must be a string"),
    ],
)
def test_bad_values(name, value, words):
    with pytest.raises(ConfigError, match=words):
        PipelineConfig(**{name: value})


def test_unknown_option_names_the_known_ones():
    with pytest.raises(ConfigError, match="unknown option 'treshold'; the options are: .*backend, .*_threshold"):
        PipelineConfig.from_mapping({"treshold": 0.3})


def test_values_take_the_options_type():
    config = PipelineConfig.from_mapping({"detector_threshold": 1, "levels": (0.5, 0.9)})
    assert isinstance(config.detector_threshold, float)
    assert config.levels == [0.5, 0.9]
    assert PipelineConfig().levels is not PipelineConfig().levels  # no default that all share and one may change


@pytest.mark.parametrize("cameras", [["front cam"], ["1st"], ["a", "a"], [""]])
def test_camera_names_become_topics(cameras):
    with pytest.raises(ConfigError, match="cameras = .*: must be different names of letters, digits and _"):
        NodeConfig(cameras=cameras)
