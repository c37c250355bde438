"""The node with tiny models, talked to over DDS: messages, states, faults, cameras, QoS, lifecycle."""

from __future__ import annotations

import array
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from ros_bench import Bench, Header, Image, PersonPoseArray, SkeletonInfo, ZoneArray
from tiny_models import person_image

pytestmark = pytest.mark.ros

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage  # noqa: E402
from visualization_msgs.msg import Marker, MarkerArray  # noqa: E402

from probpose_ros.body import PARTS  # noqa: E402
from probpose_ros.pipeline import Pipeline  # noqa: E402
from probpose_ros.ros.convert import result_of  # noqa: E402
from probpose_ros.skeleton import EDGES, KEYPOINT_NAMES, SIGMAS  # noqa: E402
from probpose_ros.types import FrameState  # noqa: E402

PEOPLE = person_image((40, 30, 100, 200), (200, 40, 280, 220))
NOBODY = person_image()


@pytest.fixture
def make(tiny_detector_model: Any, tiny_pose_model: Any) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def start(active: bool = True, **parameters: Any) -> Bench:
        # Generous, so that a busy test machine does not make results STALE; one test sets it low.
        bench = Bench(tiny_detector_model, tiny_pose_model, **{"stale_after": 10.0, **parameters})
        made.append(bench)
        if active:
            bench.start()
        return bench

    yield start
    for bench in made:
        bench.close()


def test_messages_say_what_the_pipeline_says(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher()
    msg = bench.image(PEOPLE)
    found = bench.answer(publisher, msg)
    expected: Any = bench.node.pipeline(PEOPLE)

    assert (found.state, found.image_width, found.image_height, found.model) == (1, 320, 240, "tiny_pose")
    np.testing.assert_allclose(found.levels, [0.5, 0.95])
    assert 0 < found.processing_ms < 1e4 and 0 < found.age_ms < 1e4
    result = result_of(found)
    assert len(result.people) == len(expected.people) == 2
    for got, want in zip(result.people, expected.people):
        for name in ("bbox", "window", "keypoints", "presence", "visibility", "quality", "states"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        for name in ("levels", "kind", "valid", "ellipses", "areas", "covariances"):
            np.testing.assert_array_equal(getattr(got.regions, name), getattr(want.regions, name))
    assert all(len(person.keypoints) == 17 for person in found.people)


def test_zones_hold_their_person_and_promise_nothing(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher()
    msg = bench.image(PEOPLE)
    people, zones = bench.answer(publisher, msg), bench.answer(publisher, msg, "zones")
    assert (zones.state, zones.kind) == (ZoneArray.UNKNOWN, ZoneArray.KIND_UNKNOWN)
    own = [zone for zone in zones.zones if zone.part == "person"]
    assert len(own) == 2 and len(zones.zones) == 2 * (1 + len(PARTS))
    assert [(p.x, p.y) for p in zones.observed_area] == [(0, 0), (319, 0), (319, 239), (0, 239)]
    for zone, person in zip(own, people.people):
        corners = np.array([(p.x, p.y) for p in zone.polygon])
        assert not zone.valid and zone.state == 0
        assert (corners.min(axis=0) <= person.bbox[:2]).all() and (corners.max(axis=0) >= person.bbox[2:]).all()
    end = zones.valid_until.sec + zones.valid_until.nanosec * 1e-9
    stamp = msg.header.stamp.sec + msg.header.stamp.nanosec * 1e-9
    lookahead = bench.node.config.zone_lookahead
    assert end - stamp == pytest.approx(1e-3 * zones.age_ms + lookahead, abs=1e-3) and zones.assumed_speed == 2.0


def test_people_do_not_wait_for_zones(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    bench.listen_to_results()
    heard, advisory = threading.Event(), bench.node.channels[0].advisory
    bodies = advisory.bodies
    monkeypatch.setattr(advisory, "bodies", lambda *args: heard.wait(60) and bodies(*args))
    found = bench.answer(bench.publisher(), bench.image(PEOPLE))
    assert found.state == FrameState.OK and found.header not in [zones.header for zones in bench.messages["zones"]]
    heard.set()
    bench.until(lambda: bench.messages["zones"][-1:] and bench.messages["zones"][-1].header == found.header, "zones")


def test_nobody_is_an_empty_list_with_a_state_of_its_own(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher()
    msg = bench.image(NOBODY)
    people, zones = bench.answer(publisher, msg), bench.answer(publisher, msg, "zones")
    assert (people.state, list(people.people)) == (PersonPoseArray.NO_PERSON_DETECTED, [])
    assert (zones.state, list(zones.zones), len(zones.observed_area)) == (ZoneArray.NO_PERSON_DETECTED, [], 4)


def test_headers_are_untouched_and_sequences_count(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher()
    for i in range(3):
        msg = bench.image(PEOPLE, frame=f"frame_{i}")
        assert bench.answer(publisher, msg).header == bench.answer(publisher, msg, "zones").header == msg.header
    sequences = [m.sequence for m in bench.messages["keypoints"]]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


def test_a_missing_stamp_gives_no_age(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.listen_to_results()
    msg = bench.image(PEOPLE)
    msg.header = Header(frame_id="cam")
    found = bench.answer(bench.publisher(), msg)
    assert np.isnan(found.age_ms) and found.state == PersonPoseArray.UNKNOWN and found.people


def test_a_stamp_in_the_future_is_unknown(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher()
    msg = bench.image(NOBODY)
    msg.header.stamp.sec += 100
    assert bench.answer(publisher, msg).state == PersonPoseArray.UNKNOWN
    zones = bench.answer(publisher, msg, "zones")
    assert zones.state == ZoneArray.UNKNOWN and zones.zones[0].part == "view"


def test_only_the_newest_frame_and_every_drop_counted(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher(qos=QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE))
    inside, go = threading.Event(), threading.Event()
    process = bench.node.pipeline.process

    def slow(images: Any) -> Any:
        inside.set()
        assert go.wait(30)
        return process(images)

    monkeypatch.setattr(bench.node.pipeline, "process", slow)
    stats = bench.node.channels[0].stats
    sent = []
    for i in range(6):
        sent.append(bench.image(PEOPLE, frame=str(i)))
        publisher.publish(sent[-1])
        bench.until(lambda i=i: stats.received == i + 1, f"image {i} arrived")
        assert inside.wait(30)
    go.set()
    bench.until(lambda: len(bench.messages["keypoints"]) == 2, "two results")
    assert [m.header.frame_id for m in bench.messages["keypoints"]] == ["0", "5"]
    status = bench.until(lambda: [m for m in bench.messages["status"] if m.processed == 2], "status")[0]
    assert (status.received, status.dropped, status.errors) == (6, 4, 0)


def test_status_goes_on_while_the_worker_hangs(make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make(stale_after=0.1)
    bench.listen_to_results()
    publisher = bench.publisher()
    bench.answer(publisher, bench.image(PEOPLE))
    bench.until(lambda: bench.node.channels[0].stats.outputs, "a result")
    bench.node.channels[0].stats.outputs = type(bench.node.channels[0].stats.outputs)(
        [bench.node.channels[0].stats.outputs[-1]], maxlen=100
    )  # one output: no frame time yet, so the limit is stale_after
    go = threading.Event()
    monkeypatch.setattr(bench.node.pipeline, "process", lambda images: go.wait(60))
    publisher.publish(bench.image(PEOPLE))
    heard = bench.messages["status"]
    bench.until(lambda: any(m.state == FrameState.STALE for m in heard), "STALE")
    bench.until(lambda: heard[-1].state == FrameState.UNKNOWN, "UNKNOWN")
    before = len(heard)
    bench.until(lambda: len(heard) > before + 5, "more heartbeats")
    go.set()


def bad_images(bench: Bench) -> list[Image]:
    bad = [bench.image(PEOPLE) for _ in range(4)]
    bad[0].encoding = "nonsense"
    bad[1].step = 7
    bad[2].data = bad[2].data[:1000]
    bad[3].height = bad[3].width = 0
    return bad


def test_broken_images_are_answered_unknown_and_counted(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.listen_to_results()
    bench.listen("/diagnostics", DiagnosticArray)
    publisher = bench.publisher()
    for msg in bad_images(bench):
        assert bench.answer(publisher, msg).state == PersonPoseArray.UNKNOWN
        zones = bench.answer(publisher, msg, "zones")
        assert zones.state == ZoneArray.UNKNOWN and zones.zones and not zones.observed_area
        for corner in zones.zones[-1].polygon:  # the whole view, or no polygon where not even the size is known
            assert corner.x >= 0 and corner.y >= 0
    errors = bench.node.channels[0].stats.errors
    assert errors >= 4
    status = bench.until(lambda: [m for m in bench.messages["status"] if "0 x 0" in m.message], "status")[-1]
    assert status.state == 0 and status.errors >= 4
    bench.until(lambda: int(value(bench, "errors") or 0) >= 4, "diagnostics")
    assert bench.answer(publisher, bench.image(PEOPLE)).state == PersonPoseArray.OK
    stats = bench.node.channels[0].stats
    bench.until(lambda: stats.received == stats.processed + stats.dropped + stats.errors, "every image accounted for")


def value(bench: Bench, key: str, camera: int = 0) -> str | None:
    messages = bench.messages["/diagnostics"]
    return {pair.key: pair.value for pair in messages[-1].status[camera].values}[key] if messages else None


def test_an_exception_of_the_network_is_answered_unknown(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher()

    def fail(images: Any) -> Any:
        raise MemoryError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(bench.node.pipeline, "process", fail)
        assert bench.answer(publisher, bench.image(PEOPLE)).state == PersonPoseArray.UNKNOWN
        bench.until(lambda: bench.node.channels[0].stats.last_error == "no memory left", "the error")
    assert bench.answer(publisher, bench.image(PEOPLE)).state == PersonPoseArray.OK


def test_two_cameras_in_one_batch_and_one_fault_does_not_stop_the_other(make: Callable[..., Bench]) -> None:
    bench = make(cameras=["front", "rear"])
    bench.listen_to_results("front/")
    bench.listen_to_results("rear/")
    front, rear = bench.publisher("front/image"), bench.publisher("rear/image")
    one, none = bench.image(PEOPLE, "front_cam"), bench.image(NOBODY[:100], "rear_cam")
    front.publish(one)
    found = bench.answer(rear, none, "rear/keypoints")
    assert (found.state, found.image_height) == (PersonPoseArray.NO_PERSON_DETECTED, 100)
    assert len(bench.answer(front, one, "front/keypoints").people) == 2

    broken = bench.image(PEOPLE)
    broken.encoding = "nonsense"
    assert bench.answer(rear, broken, "rear/keypoints").state == PersonPoseArray.UNKNOWN
    assert bench.answer(front, bench.image(PEOPLE), "front/keypoints").state == PersonPoseArray.OK
    assert [channel.stats.errors > 0 for channel in bench.node.channels] == [False, True]
    batches = []
    process = bench.node.pipeline.process
    bench.node.pipeline.process = lambda images: batches.append(len(images)) or process(images)
    worker = bench.node.worker
    with worker._changed:  # both before the worker may look
        for channel in bench.node.channels:
            worker._slots[channel] = (bench.image(PEOPLE), 0.0)
        worker._changed.notify()
    bench.until(lambda: batches, "a batch")
    assert batches == [2]


@pytest.mark.parametrize("reliability", [ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT])
def test_images_of_reliable_and_best_effort_publishers(
    make: Callable[..., Bench], reliability: ReliabilityPolicy
) -> None:
    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher(qos=QoSProfile(depth=1, reliability=reliability))
    assert len(bench.answer(publisher, bench.image(PEOPLE)).people) == 2


def test_qos_can_be_overridden_and_a_mismatch_is_explained(make: Callable[..., Bench], capfd: Any) -> None:
    bench = make(**{"qos_overrides./probpose/image.subscription.reliability": "reliable"})
    client = bench.client.create_publisher(
        Image, "image", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    text = ""

    def explained() -> bool:
        nonlocal text
        text += capfd.readouterr().err
        return "qos_overrides./probpose/image.subscription.reliability" in text

    bench.until(explained, "the line with the fix")
    assert client.get_subscription_count() == 0


def test_silence_is_explained_with_the_topics_there_are(make: Callable[..., Bench], capfd: Any) -> None:
    bench = make(no_image_hint_after=0.5)
    bench.client.create_publisher(Image, "/camera/image_raw", 1)
    text = ""

    def explained() -> bool:
        nonlocal text
        text += capfd.readouterr().err
        return "no image on /probpose/image" in text

    bench.until(explained, "the hint")
    assert "/camera/image_raw (reliable)" in text and "-r image:=/camera/image_raw" in text


def test_compressed_images(make: Callable[..., Bench]) -> None:
    import cv2

    bench = make(compressed=True)
    bench.listen_to_results()
    publisher = bench.publisher("image", CompressedImage)
    data = cv2.imencode(".png", PEOPLE)[1].tobytes()
    good = CompressedImage(header=bench.image(NOBODY).header, format="png", data=array.array("B", data))
    assert len(bench.answer(publisher, good).people) == 2
    bad = CompressedImage(header=bench.image(NOBODY).header, format="jpeg", data=array.array("B", b"\xff\xd8 no"))
    assert bench.answer(publisher, bad).state == PersonPoseArray.UNKNOWN


def camera_info(bench: Bench, **changes: Any) -> CameraInfo:
    info = CameraInfo(width=320, height=240)
    info.k = [300.0, 0.0, 160.0, 0.0, 310.0, 120.0, 0.0, 0.0, 1.0]
    for name, new in changes.items():
        setattr(info, name, new)
    return info


def test_markers_need_a_camera_info_and_lie_on_the_joints(make: Callable[..., Bench]) -> None:
    import cv2

    bench = make(marker_depth=2.0)
    bench.listen_to_results()
    bench.listen("markers", MarkerArray)
    bench.listen("/diagnostics", DiagnosticArray)
    publisher, infos = bench.publisher(), bench.publisher("camera_info", CameraInfo)
    bench.connected()
    bench.answer(publisher, bench.image(PEOPLE))
    assert not bench.messages["markers"]
    for info, word in (
        (camera_info(bench, k=[0.0] * 9), "focal lengths 0.0, 0.0"), (camera_info(bench, width=640), "(640, 240)")
    ):  # fmt: skip
        infos.publish(info)
        bench.until(lambda word=word: word in read_camera_info(bench, publisher), word)
        assert not bench.messages["markers"]

    infos.publish(camera_info(bench))
    bench.until(lambda: read_camera_info(bench, publisher) == "valid", "valid camera_info")
    msg = bench.image(PEOPLE)
    people, found = bench.answer(publisher, msg), None
    found = bench.until(lambda: [m for m in bench.messages["markers"] if m.markers[0].header == msg.header], "markers")[
        0
    ]
    markers = {marker.ns: marker for marker in found.markers}
    assert set(markers) == {"ellipses", "skeleton", "joints", "zones", "limbs", "volumes"}
    assert len({m.id for m in found.markers}) == 6
    assert markers.pop("volumes").action == Marker.DELETE  # no distance is known
    assert all(m.action == Marker.ADD and m.header.frame_id == "cam" for m in markers.values())
    assert len(markers["ellipses"].points) % 3 == 0
    for marker in markers.values():
        assert len(marker.colors) == len(marker.points) > 0
    # OpenCV projects the joints back onto the pixels.
    points = np.array([(p.x, p.y, p.z) for p in markers["joints"].points])
    matrix = np.array(camera_info(bench).k).reshape(3, 3)
    pixels = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, None)[0][:, 0]
    drawn = [(k.x, k.y) for person in people.people for k in person.keypoints if k.state != 3]
    np.testing.assert_allclose(pixels, drawn, atol=1e-3)
    assert np.allclose(points[:, 2], 2.0)

    msg = bench.image(NOBODY)
    bench.answer(publisher, msg)
    found = bench.until(lambda: [m for m in bench.messages["markers"] if m.markers[0].header == msg.header], "markers")[
        0
    ]
    assert all(marker.action == Marker.DELETE for marker in found.markers)


def read_camera_info(bench: Bench, publisher: Any) -> str:
    bench.answer(publisher, bench.image(PEOPLE))
    return bench.node.channels[0].camera_problem or "valid"


def test_overlay_is_drawn_only_while_somebody_listens(
    make: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    from probpose_ros.ros import channel

    drawn = []
    draw = channel.draw
    monkeypatch.setattr(channel, "draw", lambda *args, **options: drawn.append(1) or draw(*args, **options))
    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher()
    bench.answer(publisher, bench.image(PEOPLE))
    assert not drawn
    bench.listen("overlay", Image)
    bench.until(lambda: bench.node.channels[0].overlay.get_subscription_count() == 1, "subscription")
    bench.connected()
    msg = bench.image(PEOPLE)
    found = bench.answer(publisher, msg, "overlay")
    assert drawn and (found.width, found.height, found.encoding) == (320, 240, "bgr8")


def test_skeleton_info_reaches_late_subscribers(make: Callable[..., Bench]) -> None:
    bench = make()
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)
    bench.listen("skeleton_info", SkeletonInfo, latched)
    info = bench.until(lambda: bench.messages["skeleton_info"], "skeleton_info")[0]
    assert tuple(info.names) == KEYPOINT_NAMES and info.model == "tiny_pose"
    assert np.array(info.edges).reshape(-1, 2).tolist() == [list(edge) for edge in EDGES]
    np.testing.assert_allclose(info.sigmas, SIGMAS, rtol=1e-6)


def test_lifecycle_in_any_order(make: Callable[..., Bench]) -> None:
    bench = make(active=False)
    names = ["configure", "activate", "deactivate", "cleanup"]
    allowed = {
        "unconfigured": {"configure": "inactive"},
        "inactive": {"activate": "active", "cleanup": "unconfigured"},
        "active": {"deactivate": "inactive"},
    }
    order = np.random.default_rng(0).integers(0, len(names), 60)
    state = "unconfigured"
    visited = set()
    for name in (names[i] for i in order):
        expected = allowed[state].get(name)
        assert (getattr(bench.node, f"trigger_{name}")().name == "SUCCESS") == (expected is not None)
        state = expected or state
        visited.add(state)
        assert bench.node._state_machine.current_state[1] == state
        assert len(bench.node.channels) == (state != "unconfigured")
    assert visited == set(allowed)
    threads = {thread.name for thread in threading.enumerate()}
    while state != "unconfigured":
        state = "inactive" if state == "active" else "unconfigured"
        assert (
            getattr(bench.node, "trigger_deactivate" if state == "inactive" else "trigger_cleanup")().name == "SUCCESS"
        )
    threads = {thread.name for thread in threading.enumerate()}
    assert not threads & {"probpose_worker", "probpose_heartbeat"}
    assert [
        p.topic_name
        for p in bench.node.publishers
        if p.topic_name.startswith("/probpose/") and "event" not in p.topic_name
    ] == []


def test_a_transition_that_is_not_possible_is_answered_over_the_service(make: Callable[..., Bench]) -> None:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    bench = make(active=False)
    client = bench.client.create_client(ChangeState, "pose_node/change_state")
    bench.until(lambda: client.wait_for_service(0.0), "service")

    def change(transition: int) -> bool:
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        bench.until(future.done, "answer")
        return future.result().success

    order = [Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CONFIGURE, 99,
             Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_CLEANUP,
             Transition.TRANSITION_ACTIVE_SHUTDOWN]  # fmt: skip
    assert [change(transition) for transition in order] == [False, True, False, False, True, False, True]


def test_a_missing_model_fails_configure_and_the_node_stays(tiny_detector_model: Any, capfd: Any) -> None:
    bench = Bench(tiny_detector_model, "/nowhere/model.onnx")
    try:
        assert bench.node.trigger_configure().name == "FAILURE"
        assert bench.node.trigger_configure().name == "FAILURE"
        assert "/nowhere/model.onnx" in capfd.readouterr().err
    finally:
        bench.close()


def test_thresholds_change_at_run_time(make: Callable[..., Bench]) -> None:
    from rclpy.parameter import Parameter

    bench = make()
    bench.listen_to_results()
    publisher = bench.publisher()
    assert len(bench.answer(publisher, bench.image(PEOPLE)).people) == 2
    assert bench.node.set_parameters([Parameter("detector_threshold", value=0.85)])[0].successful
    assert len(bench.answer(publisher, bench.image(PEOPLE)).people) == 1
    assert isinstance(bench.node.pipeline, Pipeline)


def test_between_detections_the_boxes_follow_the_people(make: Callable[..., Bench]) -> None:
    bench = make(detector_interval=3, track_keep=10.0)  # longer than until a lost image is sent again
    bench.listen_to_results()
    pipeline: Any = bench.node.pipeline
    calls, detector = [], pipeline.detector
    detector_call = type(detector).__call__

    class Counted:
        def __getattr__(self, name: str) -> Any:
            return getattr(detector, name)

        def __call__(self, images: Any) -> Any:
            calls.append(len(images))
            return detector_call(detector, images)

    pipeline.detector = Counted()
    publisher = bench.publisher()
    found = []
    for i in range(7):  # Two pixels to the right in every image.
        found.append(bench.answer(publisher, bench.image(np.roll(PEOPLE, 2 * i, axis=1))))
    assert [len(msg.people) for msg in found] == [2] * 7
    assert 1 <= sum(calls) <= 4  # 3, or one more where a lost image was sent again
    assert {person.id for msg in found for person in msg.people} == {person.id for person in found[0].people}
    moved = [np.mean([k.x for person in msg.people for k in person.keypoints]) for msg in found]
    np.testing.assert_allclose(moved[-1] - moved[0], 12, atol=3)
