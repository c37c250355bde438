"""The QoS of every topic, and what to say when it does not fit."""

from __future__ import annotations

from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    LivelinessPolicy,
    QoSProfile,
    ReliabilityPolicy,
    qos_policy_name_from_kind,
)

from probpose_ros.config import NodeConfig

# Reliable meets best-effort subscribers too (RViz, ros2 topic echo and recorders ask for reliable).
OUTPUT = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
OVERLAY = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def sensor_input() -> QoSProfile:
    """Best effort meets reliable publishers too; depth 1 because only the newest frame counts.

    A new profile every time: rclpy writes the user's qos_overrides into it.
    """
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def heartbeat(rate: float) -> QoSProfile:
    """Status: a subscriber that asks for this deadline and liveliness is told when the node is late or dead."""
    period = 1 / rate
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        deadline=Duration(seconds=2 * period),
        # By hand: every message says "alive". A process that hangs as a whole is noticed, not only one that is gone.
        liveliness=LivelinessPolicy.MANUAL_BY_TOPIC,
        liveliness_lease_duration=Duration(seconds=5 * period),
    )


def incompatible_hint(topic: str, policy_kind: Any) -> str:
    """The line that tells how to meet a publisher whose QoS this node's subscription does not accept."""
    policy = qos_policy_name_from_kind(policy_kind).lower()
    return (
        f"a publisher on {topic} offers an incompatible QoS ({policy}): no image will come from it. "
        f"See what it offers with 'ros2 topic info -v {topic}' and set the same in the params file: "
        f"qos_overrides.{topic}.subscription.{policy}"
    )


def no_image_hint(node: Node, topic: str, config: NodeConfig) -> str:
    """What one could subscribe to instead of ``topic``, with QoS and the exact remap."""
    wanted = "CompressedImage" if config.compressed else "Image"
    other = "Image" if config.compressed else "CompressedImage"
    name = node.resolve_topic_name(topic)
    lines = [f"no image on {name} (sensor_msgs/{wanted}) for {config.no_image_hint_after:g} s."]
    found: dict[str, list[str]] = {wanted: [], other: []}
    for candidate, types in node.get_topic_names_and_types():
        for kind in found:
            if f"sensor_msgs/msg/{kind}" in types:
                offers = {p.qos_profile.reliability.name.lower() for p in node.get_publishers_info_by_topic(candidate)}
                if offers and not candidate.endswith(("/overlay", "/depth")):
                    found[kind].append(f"{candidate} ({', '.join(sorted(offers))})")
    if found[wanted]:
        best = found[wanted][0].split(" ")[0]
        lines.append(f"There is: {'; '.join(found[wanted])}.")
        if best == name:
            lines.append("It is connected but silent: is the camera running?")
        else:
            lines.append(f"Use it with: --ros-args -r {topic}:={best} (launch: image_topic:={best})")
    elif found[other]:
        lines.append(f"There is sensor_msgs/{other}: {'; '.join(found[other])}.")
        lines.append(f"Set compressed:={str(not config.compressed).lower()}")
    else:
        lines.append("Nobody publishes images: is the camera driver running, with the same ROS_DOMAIN_ID?")
    return " ".join(lines)
