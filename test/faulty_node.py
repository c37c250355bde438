"""The pose node with a topic ``fault`` (std_msgs/String) that makes its worker hang or slow, for the tests."""

from __future__ import annotations

import threading
import time
from typing import Any

from std_msgs.msg import String

from probpose_ros.ros import node


class FaultyNode(node.PoseNode):
    """``hang`` and ``go``; ``slow S``: seconds of sleep for every image."""

    def on_configure(self, state: Any) -> Any:
        result = super().on_configure(state)
        self.go = threading.Event()
        self.go.set()
        self.slow = 0.0
        if self.pipeline is not None:
            process, go = self.pipeline.process, self.go

            def faulty(images: Any) -> Any:
                time.sleep(self.slow * len(images))
                go.wait()
                return process(images)

            self.pipeline.process = faulty
        if not hasattr(self, "commands"):
            self.commands = self.create_subscription(String, "fault", self._on_command, 1)
        return result

    def _on_command(self, msg: String) -> None:
        command, *value = msg.data.split()
        if command == "slow":
            self.slow = float(value[0])
        else:
            {"hang": self.go.clear, "go": self.go.set}[command]()


if __name__ == "__main__":
    node.PoseNode = FaultyNode
    node.main()
