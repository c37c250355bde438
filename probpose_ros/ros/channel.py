"""One camera of the node: its topics, its counts, its state."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from probpose_msgs.msg import PersonPoseArray, Status
from probpose_ros.camera import Camera
from probpose_ros.config import NodeConfig
from probpose_ros.draw import draw
from probpose_ros.input_check import InputCheck
from probpose_ros.models import file_sha256
from probpose_ros.pipeline import Pipeline
from probpose_ros.ros import qos
from probpose_ros.ros.advisory import Advisory
from probpose_ros.ros.convert import people_head
from probpose_ros.ros.foxglove import ImageAnnotations, image_annotations
from probpose_ros.ros.geometry_input import camera_of
from probpose_ros.ros.images import bgr_to_image
from probpose_ros.ros.interop import Bodies, Detection2DArray, detections_message
from probpose_ros.ros.markers import people_markers
from probpose_ros.ros.stats import Stats, rate
from probpose_ros.ros.wire import message_bytes, people_items
from probpose_ros.tracking import Tracker
from probpose_ros.types import Detections, FrameResult, FrameState
from probpose_ros.zones import Body, Zone

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks


NOTHING = FrameResult((), 0, 0, FrameState.UNKNOWN)  # known of an image that gave no result


@dataclass(frozen=True)
class ModelFacts:
    """What messages say about the loaded models; calibration_error: why the configured one is not used;
    backend_problem: why it is not the configured, or the fastest, backend that runs them."""

    model: str
    detector: str
    backend: str
    model_hash: str
    detector_hash: str
    calibration_id: str = ""
    calibration_hash: str = ""
    calibration_error: str = ""
    delta: float = math.nan
    backend_problem: str = ""

    @classmethod
    def of(cls, pipeline: Pipeline) -> ModelFacts:
        pose, detector = pipeline.pose, pipeline.detector
        calibration = pipeline.calibration
        return cls(
            pose.info.name, detector.info.name, pipeline.backend,
            file_sha256(pose.path), file_sha256(detector.path),
            pipeline.calibration_id, calibration.sha256 if calibration else "", pipeline.calibration_error,
            calibration.delta_of(pipeline.config.region_kind) if calibration else math.nan, pipeline.backend_problem,
        )  # fmt: skip


def one_line(error: Exception) -> str:
    """onnxruntime's messages have several, and its own source paths in them."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class Channel:
    """Publishers from the start, subscriptions between ``subscribe`` and ``unsubscribe``."""

    def __init__(
        self, node: Node, name: str, config: NodeConfig, levels: list[float], facts: ModelFacts, tracker: Tracker,
        bodies: Bodies | None = None,
    ) -> None:  # fmt: skip
        self.node, self.name, self.config, self.levels, self.facts = node, name, config, levels, facts
        self.prefix = f"{name}/" if name else ""
        self.tracker, self.bodies = tracker, bodies
        self.stats = Stats(config.stale_after)
        self.camera: Camera | None = None
        # The executor's thread says what is wrong with camera_info, the worker's whether it fits the images: each in a
        # place of its own, so that neither overwrites newer words of the other.
        self._info_problem, self._size_problem, self._problem_said = "no camera_info yet", "", ""
        self._info_changed = ""
        self._check = InputCheck()
        self.sequence = self.status_sequence = 0
        self._since_detection = 0  # images
        self.header = Header()  # of the newest image
        # The zones are published by the worker and, once they are late, by the heartbeat: one at a time.
        self._zones_lock = threading.Lock()
        self._last: tuple[Header, FrameResult, list[Body]] = (Header(), NOTHING, [])
        self._zones_state = self._status_state = FrameState.UNKNOWN
        self.subscribed_at: float | None = None
        self.hinted = False
        create = node.create_publisher
        self.keypoints = create(PersonPoseArray, self.prefix + "keypoints", qos.OUTPUT)
        self.advisory = Advisory(node, self.prefix, config)
        self.markers = create(MarkerArray, self.prefix + "markers", qos.OUTPUT)
        self.overlay = create(Image, self.prefix + "overlay", qos.OVERLAY)
        self.status = create(Status, self.prefix + "status", qos.heartbeat(config.status_rate))
        self.publishers = [self.keypoints, self.markers, self.overlay, self.status, *self.advisory.publishers]
        self.annotations = None  # where foxglove_msgs is not installed
        if ImageAnnotations is not None:
            self.annotations = create(ImageAnnotations, self.prefix + "annotations", qos.OUTPUT)
            self.publishers.append(self.annotations)
        self.detections = None  # where vision_msgs is not installed
        if Detection2DArray is not None:
            self.detections = create(Detection2DArray, self.prefix + "detections", qos.OUTPUT)
            self.publishers.append(self.detections)
        self.subscriptions: list[Any] = []

    def subscribe(self, put: Callable[[Channel, Any], bool]) -> None:
        """Hands every image message with its time of arrival to ``put``, which tells whether it dropped another one."""

        def on_image(msg: Image | CompressedImage) -> None:
            self.stats.arrived(put(self, (msg, time.perf_counter())))

        self.stats, self._check = Stats(self.config.stale_after), InputCheck()
        self.subscribed_at = time.monotonic()
        self.hinted = False
        for kind, topic, callback in (
            (CompressedImage if self.config.compressed else Image, "image", on_image),
            (CameraInfo, "camera_info", self._on_camera_info),
            (Image, "depth", self.advisory.on_depth),
        ):
            name = self.node.resolve_topic_name(self.prefix + topic)
            self.subscriptions.append(
                self.node.create_subscription(
                    kind, self.prefix + topic, callback, qos.sensor_input(),
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                    event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible(name)),
                )
            )  # fmt: skip

    def reconfigure(self, config: NodeConfig) -> None:
        self.config = self.advisory.config = config
        self.stats.stale_after = config.stale_after
        self.tracker.keep = config.track_keep

    def unsubscribe(self) -> None:
        for subscription in self.subscriptions:
            self.node.destroy_subscription(subscription)
        self.subscriptions = []
        self.subscribed_at = None

    def destroy(self) -> None:
        self.unsubscribe()
        for publisher in self.publishers:
            self.node.destroy_publisher(publisher)

    def expected(self, msg: Image | CompressedImage) -> Detections | None:
        """Where the people are believed to be in an image between two detections; None: it is the detector's turn."""
        if self.config.detector_interval == 1:
            return None
        boxes = self.tracker.boxes(Time.from_msg(msg.header.stamp).nanoseconds / 1e9)
        self._since_detection += 1
        if self._since_detection >= self.config.detector_interval or not len(boxes):
            self._since_detection = 0
            return None
        return Detections(boxes, np.ones(len(boxes), np.float32))

    def answer(
        self, msg: Image | CompressedImage, image: np.ndarray | None, result: FrameResult | Exception, taken: float
    ) -> None:
        """Publishes what is known of an image; whatever goes wrong, there is an answer: state UNKNOWN."""
        try:
            if isinstance(result, Exception):
                raise result
            self._publish(image, msg.header, result, taken)
        except Exception as error:  # one camera's fault does not stop the others
            size = getattr(msg, "width", 0), getattr(msg, "height", 0)
            nothing = replace(NOTHING, image_width=size[0], image_height=size[1])
            self._publish(None, msg.header, nothing, taken, error=one_line(error))

    def _publish(
        self, image: np.ndarray | None, header: Header, result: FrameResult, taken: float, error: str = ""
    ) -> None:
        """Everything that follows from one result. ``taken``: when the image arrived (time.perf_counter)."""
        self.header = header
        if image is not None:
            error = result.doubt or self._doubt(image, header, taken)
            result = self.tracker.track(result, Time.from_msg(header.stamp).nanoseconds / 1e9)
        camera, facts, seen = self._usable_camera(), self.facts, result
        if image is not None and self.config.track_lost:
            result = replace(result, people=(*result.people, *self.tracker.lost()))
        items = people_items(result.people, self.config.polygons)
        message = people_head(result, header, self.levels, facts.model, facts.calibration_id)
        message.age_ms = age_ms = self._age_ms(header)
        error = error or self.stats.doubt(age_ms)
        state = FrameState.UNKNOWN if error else self.stats.judge(result.state, age_ms)
        result = replace(result, state=state)
        message.state = int(state)
        message.sequence = self.sequence
        message.processing_ms = 1e3 * (time.perf_counter() - taken)
        self.keypoints.publish(message_bytes(message, len(result.people), items))
        self.sequence += 1
        people_seen = self.advisory.bodies(seen, header, camera)  # whoever is LOST has no zones
        with self._zones_lock:
            self._last = header, result, people_seen
            zones = self._publish_zones(header, result, people_seen, age_ms)
            self.stats.finished(state, age_ms, error, failed=image is None)
        if error:
            self.node.get_logger().error(f"{self.prefix}image: {error}", throttle_duration_sec=5.0)

        polygons = [zone.polygon for zone in zones if zone.part == "person"]
        if self.annotations is not None and self.annotations.get_subscription_count():
            self.annotations.publish(image_annotations(result, polygons, header, self.config.drawn_level))
        if self.detections is not None and self.detections.get_subscription_count():
            self.detections.publish(detections_message(result, header))
        if self.bodies is not None:
            self.bodies.publish(self.name, result, header)
        if camera and self.markers.get_subscription_count():
            self.markers.publish(people_markers(result, zones, header, camera, self.config))
        if image is not None and self.overlay.get_subscription_count():
            self.overlay.publish(bgr_to_image(draw(image, result, level=self.config.drawn_level), header))

    def _publish_zones(self, header: Header, result: FrameResult, people: list[Body], age_ms: float) -> list[Zone]:
        self._zones_state = result.state
        facts, camera = self.facts, None if self.camera_problem else self.camera
        return self.advisory.publish(header, result, people, age_ms, camera, facts.calibration_id, facts.delta)

    def now(self) -> tuple[FrameState, float]:
        """State and age of the newest result at this moment."""
        state, age_ms = self.stats.now()
        return (state if self.subscribed_at is not None else FrameState.UNKNOWN), age_ms

    def watch(self, beat: bool) -> None:
        """Heartbeat's thread: says at once when the newest result has become too old, and repeats it at every beat."""
        state, age_ms = self.now()
        if beat or state != self._status_state:
            self._status_state = state
            self._publish_status(state, age_ms)
        if not self._zones_lock.acquire(timeout=0.05):  # the worker publishes newer ones, or hangs while it does
            return
        try:
            state, age_ms = self.now()
            too_old = state in (FrameState.STALE, FrameState.UNKNOWN)
            silent = self.subscribed_at is not None and self.stats.silent()
            if too_old and (state != self._zones_state or (beat and silent)):
                header, result, people = self._last
                people = people if state == FrameState.STALE else []  # UNKNOWN: the whole view instead
                self._publish_zones(header, replace(result, state=state), people, age_ms)
        finally:
            self._zones_lock.release()

    def _publish_status(self, state: FrameState, age_ms: float) -> None:
        header = Header(stamp=self.node.get_clock().now().to_msg(), frame_id=self.header.frame_id)
        stats, facts = self.stats, self.facts
        self.status.publish(
            Status(
                header=header, sequence=self.status_sequence, state=int(state), age_ms=age_ms,
                received=stats.received, processed=stats.processed, dropped=stats.dropped, errors=stats.errors,
                message=facts.calibration_error or stats.last_error or facts.backend_problem,
                model_hash=facts.model_hash, detector_hash=facts.detector_hash,
                calibration_hash=facts.calibration_hash,
            )
        )  # fmt: skip
        self.status_sequence += 1

    def diagnostics(self) -> DiagnosticStatus:
        stats, facts = self.stats, self.facts
        state, age_ms = self.now()
        if self.subscribed_at is None:
            level, message = DiagnosticStatus.OK, "inactive"
        elif state == FrameState.STALE:
            level, message = DiagnosticStatus.STALE, f"newest result is {age_ms:.0f} ms old"
        elif stats.received == 0:
            level, message = DiagnosticStatus.WARN, f"no image on {self.node.resolve_topic_name(self.prefix + 'image')}"
        elif state == FrameState.UNKNOWN:
            level, message = DiagnosticStatus.ERROR, facts.calibration_error or stats.last_error or "no usable result"
        elif facts.backend_problem:
            level, message = DiagnosticStatus.WARN, facts.backend_problem
        else:
            level, message = DiagnosticStatus.OK, state.name
        p50, p99 = stats.age_percentiles()
        values = {
            "state": state.name,
            "input rate (Hz)": f"{rate(stats.inputs):.1f}", "output rate (Hz)": f"{rate(stats.outputs):.1f}",
            "image age p50 (ms)": f"{p50:.1f}", "image age p99 (ms)": f"{p99:.1f}",
            "received": stats.received, "processed": stats.processed, "dropped": stats.dropped,
            "errors": stats.errors, "last error": stats.last_error,
            "camera_info": self.camera_problem or "valid", "depth": self.advisory.depth_problem or "valid",
            "backend": facts.backend, "backend problem": facts.backend_problem or "none", "model": facts.model,
            "model sha256": facts.model_hash, "detector": facts.detector, "detector sha256": facts.detector_hash,
            "calibration": facts.calibration_error or facts.calibration_id or "none",
        }  # fmt: skip
        return DiagnosticStatus(
            level=level, name=f"{self.node.get_fully_qualified_name()}: {self.name or 'image'}", message=message,
            hardware_id=self.name, values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )  # fmt: skip

    def hint(self) -> None:
        """Once, when no image has come for a while: what there is to subscribe to, and how."""
        if self.subscribed_at is None or self.hinted or self.stats.received:
            return
        if time.monotonic() - self.subscribed_at >= self.config.no_image_hint_after:
            self.hinted = True
            self.node.get_logger().warning(qos.no_image_hint(self.node, self.prefix + "image", self.config))

    def _age_ms(self, header: Header) -> float:
        stamp = Time.from_msg(header.stamp).nanoseconds
        return (self.node.get_clock().now().nanoseconds - stamp) / 1e6 if stamp else math.nan

    @property
    def camera_problem(self) -> str:
        """Why there are no markers; empty when camera_info is good."""
        return self._info_problem or self._size_problem

    def _on_camera_info(self, info: CameraInfo) -> None:
        camera, self._info_problem = None, ""
        try:
            camera = camera_of(info, self.config.rectified)
        except ValueError as error:
            self._info_problem = str(error)
        if self.camera not in (None, camera) and not self._size_problem:
            self._info_changed = "camera_info changed while the camera ran"
        self.camera, self.advisory.frame_id = camera, info.header.frame_id

    def _doubt(self, image: np.ndarray, header: Header, taken: float) -> str:
        """Why the input says nothing, whatever the networks see in it; empty if it can be trusted."""
        config, stamp = self.config, Time.from_msg(header.stamp).nanoseconds
        doubt = self._check.doubt(image, stamp, taken, config.frozen_after, config.min_contrast)
        camera, size = self.camera, (image.shape[1], image.shape[0])
        self._size_problem = ""
        if camera is not None and size != (camera.width, camera.height):
            expected = (camera.width, camera.height)
            self._size_problem = f"camera_info is for {expected} px, the images have {size} px"
        changed, self._info_changed = self._info_changed, ""
        return doubt or self._size_problem or changed

    def _usable_camera(self) -> Camera | None:
        """The camera for markers in metres; without one, says once why."""
        problem = self.camera_problem
        if problem and problem != self._problem_said:
            self.node.get_logger().warning(f"{self.prefix}markers are not published: {problem}")
        self._problem_said = problem
        return None if problem else self.camera

    def _on_incompatible(self, topic: str) -> Callable[[Any], None]:
        def log(event: Any) -> None:
            self.stats.last_error = qos.incompatible_hint(topic, event.last_policy_kind)
            self.node.get_logger().error(self.stats.last_error)

        return log
