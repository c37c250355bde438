"""Checkpoints: our round trip, the official layout, and every refusal with its reason."""

from __future__ import annotations

import datetime
import pathlib

import numpy as np
import pytest
import torch
from reference_files import FOLDER, golden, layout, needs_reference
from test_network import PROBPOSE_S, SMALL, TINY

from probpose_ros.cli import main
from probpose_training.checkpoint import (
    LeftOut,
    codec_of,
    import_checkpoint,
    load_checkpoint,
    pose_info,
    read_tensors,
    save_checkpoint,
)
from probpose_training.graph import normalise
from probpose_training.network import NetworkConfig, ProbPose


def tiny_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return ProbPose(TINY).state_dict()


def test_round_trip(tmp_path):
    model = ProbPose(NetworkConfig(**SMALL, temperature=0.7))
    info = pose_info(model.config, "small", decode_profile="reference", padding=1.3, metrics={"ap": 0.5})
    save_checkpoint(tmp_path / "a.pt", model, info, step=torch.tensor(3))
    loaded, loaded_info = load_checkpoint(tmp_path / "a.pt")
    assert loaded.config == model.config and loaded_info == info and not loaded.training
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    codec = codec_of(loaded_info)
    assert (codec.profile, codec.padding, codec.map_size) == ("reference", 1.3, (48, 64))
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "meta": {"epoch": 3}}])
def test_import_reads_the_sizes(tmp_path, wrap):
    state = tiny_state()
    torch.save(wrap(state), tmp_path / "official.pth")
    model, info = import_checkpoint(tmp_path / "official.pth", heads=3)
    assert model.config == TINY and info.decode_profile == "reference" and info.name == "official"
    assert list(model.state_dict()) == list(state)


def test_import_of_another_input_size_and_without_error_branch(tmp_path):
    config = NetworkConfig(
        input_size=(384, 512), backbone="vit", embed_dim=24, depth=3, heads=2, mlp_dim=40, head_width=16,
        scalar_heads="separate",
    )  # fmt: skip
    torch.save(ProbPose(config).state_dict(), tmp_path / "large.pth")
    assert import_checkpoint(tmp_path / "large.pth", heads=2)[0].config == config


@needs_reference
def test_import_then_run_is_the_golden_network(tmp_path):
    assert (
        main(["import-checkpoint", str(FOLDER / "golden/net_tiny_weights.pth"), "--out", str(tmp_path), "--heads", "3"])
        == 0
    )
    model, _ = load_checkpoint(tmp_path / "net_tiny_weights.pt")
    data = golden("net_tiny_sharp.npz")
    with torch.no_grad():
        logits = model(normalise(torch.from_numpy(data["images_bgr_u8"]))).logits
    torch.testing.assert_close(logits, torch.from_numpy(data["logits"]), rtol=0, atol=5e-5)


@needs_reference
def test_import_of_the_full_layout(tmp_path):
    state = {
        key: torch.zeros(shape, dtype=getattr(torch, dtype))
        for key, shape, dtype in layout("state_dict_ProbPose-s.txt")
    }
    torch.save({"state_dict": state}, tmp_path / "s.pth")
    assert import_checkpoint(tmp_path / "s.pth")[0].config == PROBPOSE_S


def broken(change):
    state = tiny_state()
    change(state)
    return state


CASES = {
    "missing": (lambda s: s.pop("head.final_layer.bias"), "missing: head.final_layer.bias"),
    "unexpected": (lambda s: s.update({"head.extra": torch.zeros(1)}), "unexpected: head.extra"),
    "misshapen": (
        lambda s: s.update({"head.final_layer.bias": torch.zeros(18)}),
        r"head.final_layer.bias has shape \(18,\), expected \(17,\)",
    ),
    "nan": (lambda s: s["backbone.ln1.weight"].fill_(float("nan")), "not finite: backbone.ln1.weight"),
    "two at once": (
        lambda s: (s.pop("backbone.ln1.bias"), s.pop("head.oks_layers.0.bias")),
        "missing: backbone.ln1.bias, head.oks_layers.0.bias",
    ),
    "no position embedding": (lambda s: s.pop("backbone.pos_embed"), "not a ProbPose checkpoint; .*backbone.pos_embed"),
    "odd grid": (
        lambda s: s.update({"backbone.pos_embed": torch.zeros(1, 191, 48)}),
        "191 tokens do not form a grid with the aspect 3:4",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_state_is_named(tmp_path, case):
    change, message = CASES[case]
    torch.save(broken(change), tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=message):
        import_checkpoint(tmp_path / "bad.pth", heads=3)


def test_heads_must_fit(tmp_path):
    torch.save(tiny_state(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="heads must divide the embedding of 48, got 7"):
        import_checkpoint(tmp_path / "a.pth", heads=7)


class Planted:
    """Unpickled by a careless reader, it would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (pathlib.Path(self.path).touch, ())


def test_pickled_objects_are_refused_unopened(tmp_path, capsys):
    torch.save({"state_dict": tiny_state(), "hook": Planted(str(tmp_path / "planted"))}, tmp_path / "evil.pth")
    assert main(["import-checkpoint", str(tmp_path / "evil.pth"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "evil.pth: not a file of plain tensors" in error and "pickled objects are never loaded" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "planted").exists() and not (tmp_path / "out").exists()


class History:
    """A log as training tools keep them."""

    def __init__(self) -> None:
        self.losses = np.arange(5.0)


def test_pickled_objects_are_read_past_on_request_and_never_made(tmp_path):
    logs = {"history": History(), "when": datetime.datetime(2024, 12, 3), "lr": np.float64(0.1)}
    torch.save({"state_dict": tiny_state(), "meta": {"epoch": 210}, "message_hub": logs}, tmp_path / "full.pth")
    command = ["import-checkpoint", str(tmp_path / "full.pth"), "--out", str(tmp_path / "out"), "--heads", "3"]
    assert main(command) == 2
    assert main([*command, "--leave-out-objects"]) == 0
    torch.save(tiny_state(), tmp_path / "plain.pth")
    read = load_checkpoint(tmp_path / "out/full.pt")[0].state_dict()
    for key, value in import_checkpoint(tmp_path / "plain.pth", 3)[0].state_dict().items():
        torch.testing.assert_close(read[key], value, rtol=0, atol=0)
    content = read_tensors(tmp_path / "full.pth", leave_out=True)
    assert content["meta"] == {"epoch": 210}
    assert all(isinstance(log, LeftOut) and not vars(log) for log in content["message_hub"].values())


def test_planted_code_does_not_run_when_objects_are_left_out(tmp_path):
    torch.save({"state_dict": tiny_state(), "hook": Planted(str(tmp_path / "planted"))}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        import_checkpoint(tmp_path / "evil.pth", leave_out=True)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no torch file",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"\x80\x02jabcd.",
        [1, 2],
        {"state_dict": {"a": 1}},
        {"a": 1},
    ],
)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    for read in (import_checkpoint, load_checkpoint):
        with pytest.raises(ValueError, match="x.pth: "):
            read(path)


def test_our_loader_sends_official_files_to_import(tmp_path):
    torch.save(tiny_state(), tmp_path / "official.pth")
    with pytest.raises(ValueError, match="probpose import-checkpoint"):
        load_checkpoint(tmp_path / "official.pth")


def test_a_tensor_that_claims_more_than_the_file_holds(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"state_dict": {"backbone.pos_embed": torch.zeros(1).expand(1, 10**6, 10**6)}}, path)
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match="backbone.pos_embed claims .* more than the file holds"):
        import_checkpoint(path)
