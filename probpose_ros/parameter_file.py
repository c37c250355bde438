"""config/pose.yaml from the config dataclasses: ``python -m probpose_ros.parameter_file > config/pose.yaml``."""

from __future__ import annotations

from dataclasses import fields

import yaml

from probpose_ros.config import NodeConfig, PipelineConfig, allowed

HEAD = """\
# Every parameter of the pose node with its default. Made by: python -m probpose_ros.parameter_file > config/pose.yaml
# Use: ros2 launch probpose_ros pose.launch.py params_file:=my.yaml   Only what differs needs to stand in your file.
/**:
  ros__parameters:
"""


def parameter_file() -> str:
    text = HEAD
    for config, title in ((PipelineConfig(), "image -> people"), (NodeConfig(), "topics and behaviour of the node")):
        text += f"    # --- {title}\n"
        for spec in fields(config):
            runtime = "; may change while running" if spec.metadata["runtime"] else ""
            value = yaml.safe_dump(getattr(config, spec.name), default_flow_style=True).splitlines()[0]
            text += f"    # {spec.metadata['help']} ({allowed(spec)}{runtime})\n    {spec.name}: {value}\n"
    return text


if __name__ == "__main__":
    print(parameter_file(), end="")
