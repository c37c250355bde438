"""The SROS 2 policy against the node's own endpoints: it allows what the node has, and nothing it has not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

POLICY = Path(__file__).parents[1] / "config/sros2_policy.xml"
NODE = "/probpose/pose_node"
# Endpoints that depend on what is installed or asked for.
OPTIONAL = {"/clock", "/probpose/annotations", "/probpose/detections", "/humans/bodies/*"}
OPTIONAL_SERVICES = {
    f"{NODE}/{name}" for name in ("get_type_description", "get_available_transitions", "get_transition_graph")
}
COMMANDS = {"change_state", "set_parameters", "set_parameters_atomically"}


def allowed(enclave: str, tag: str, right: str) -> set[str]:
    """Full names of what an enclave may publish, subscribe to, reply to or request."""
    found = set()
    for profile in ElementTree.parse(POLICY).iterfind(f".//enclave[@path='{enclave}']/profiles/profile"):
        space, node = profile.attrib["ns"], profile.attrib["node"]
        for item in profile.iterfind(f"{tag}[@{right}='ALLOW']/*"):
            name = (item.text or "").strip()
            own = f"{space}/{node}{name[1:]}" if name.startswith("~") else f"{space}/{name}"
            found.add(name if name.startswith("/") else own)
    return found


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """What a running node publishes, subscribes to and serves, as another node sees it."""
    bench_module = pytest.importorskip("ros_bench", reason="needs ROS 2 (rclpy, probpose_msgs)")
    from tiny_models import write_tiny_detector, write_tiny_pose

    folder = tmp_path_factory.mktemp("models")
    bench: Any = bench_module.Bench(write_tiny_detector(folder / "d.onnx"), write_tiny_pose(folder / "p.onnx"))
    try:
        bench.start()
        bench.until(lambda: bench.client.count_publishers("/probpose/status"), "the node is seen")
        asked = {
            "publish": bench.client.get_publisher_names_and_types_by_node,
            "subscribe": bench.client.get_subscriber_names_and_types_by_node,
            "reply": bench.client.get_service_names_and_types_by_node,
            "request": bench.client.get_client_names_and_types_by_node,
        }
        needed = {
            right: allowed(NODE, "topics" if right in ("publish", "subscribe") else "services", right)
            - OPTIONAL
            - OPTIONAL_SERVICES
            for right in asked
        }
        deadline, has = time.monotonic() + 20, {}
        while time.monotonic() < deadline:  # endpoints are discovered one by one
            has = {right: {name for name, _ in ask("pose_node", "/probpose")} for right, ask in asked.items()}
            if all(needed[right] <= has[right] for right in asked):
                break
            time.sleep(0.1)
        yield has
    finally:
        bench.close()


@pytest.mark.ros
@pytest.mark.parametrize("right", ["publish", "subscribe", "reply", "request"])
def test_the_node_may_do_what_it_does_and_no_more(endpoints: dict[str, set[str]], right: str) -> None:
    has = endpoints[right]
    may = allowed(NODE, "topics" if right in ("publish", "subscribe") else "services", right)
    assert bool(has) == (right != "request")
    denied = {name for name in has if not any(fnmatch(name, pattern) for pattern in may)}
    assert not denied, "the node would fail: add these to config/sros2_policy.xml"
    assert not may - has - OPTIONAL - OPTIONAL_SERVICES, "the policy allows what the node has not"


def test_the_others_fit_the_node() -> None:
    published, heard = allowed(NODE, "topics", "publish"), allowed(NODE, "topics", "subscribe")
    common = {"/rosout", "/parameter_events"}
    assert allowed("/probpose/camera", "topics", "publish") - common == heard - {"/clock"}
    assert allowed("/probpose/consumer", "topics", "subscribe") <= published
    assert {"/probpose/zones", "/probpose/status"} <= allowed("/probpose/consumer", "topics", "subscribe")
    served = allowed(NODE, "services", "reply")
    assert allowed("/probpose/operator", "services", "request") <= served
    assert {f"{NODE}/{name}" for name in COMMANDS} <= served


def test_only_the_operator_commands_and_only_the_node_publishes_results() -> None:
    enclaves = [enclave.attrib["path"] for enclave in ElementTree.parse(POLICY).iterfind(".//enclave")]
    assert len(enclaves) == len(set(enclaves)) == 4
    common = {"/rosout", "/parameter_events"}
    for enclave in enclaves:
        requests = {name.split("/")[-1] for name in allowed(enclave, "services", "request")}
        assert enclave == "/probpose/operator" or not requests
        if enclave != NODE:
            results = allowed(NODE, "topics", "publish") - common
            assert not allowed(enclave, "topics", "publish") & results
    for item in ElementTree.parse(POLICY).iter():
        assert (item.text or "").strip() not in ("*", "/*", "**"), "a wildcard for everything protects nothing"
