"""The ROS node: convert, call, publish. ros2 launch probpose_ros pose.launch.py, or ros2 run probpose_ros pose_node."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.utilities import remove_ros_args

from probpose_msgs.msg import SkeletonInfo
from probpose_ros.backends import BackendError
from probpose_ros.config import ConfigError, NodeConfig, PipelineConfig
from probpose_ros.pipeline import Pipeline
from probpose_ros.ros import parameters, qos
from probpose_ros.ros.channel import Channel, ModelFacts
from probpose_ros.ros.convert import skeleton_message
from probpose_ros.ros.cv_bridge import cv_bridge_reader
from probpose_ros.ros.heartbeat import Heartbeat
from probpose_ros.ros.images import ImageError, image_to_bgr
from probpose_ros.ros.interop import Bodies
from probpose_ros.ros.lifecycle import SafeLifecycleNode
from probpose_ros.ros.worker import Worker
from probpose_ros.tracking import Tracker
from probpose_ros.transport import transport_environment
from probpose_ros.types import Detections, FrameResult

HELP = """People in images, with presence probability and uncertainty regions. Options are ROS parameters, listed in
config/pose.yaml: --ros-args -p NAME:=VALUE, or --params-file FILE. Topics: --ros-args -r image:=/camera/image_raw."""
STOP_TIMEOUT = 0.7  # seconds for the frame in hand when deactivating; the whole process has to end within 1 s
WATCH_PERIOD = 0.02  # seconds: within this a state that has changed is published, whatever the worker does
HANGS = 5.0  # seconds with one batch after which the worker is said to hang
MOST_HUNG = 2  # workers left behind in a network that never returned, each with its models; a thread cannot be killed


class PoseNode(SafeLifecycleNode):
    """configure: load the models, create publishers. activate: subscribe. deactivate and cleanup: the reverse.

    Threads: the executor's puts newest images into slots; the worker's owns the pipeline and publishes results; the
    heartbeat's publishes status and diagnostics whatever the others do.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("pose_node", **kwargs)
        self.pipeline_config, self.config = parameters.declare(self)
        parameters.on_change(self, self._reconfigure)
        self.pipeline: Pipeline | None = None
        self.bodies: Bodies | None = None
        self._ids = count(1)  # of people; of all cameras, for the node's whole life
        self.channels: list[Channel] = []
        self.worker: Worker | None = None
        self.hung: list[Worker] = []
        self.heartbeat: Heartbeat | None = None
        self._next_beat = self._next_diagnostics = 0.0  # time.monotonic

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.hung = [worker for worker in self.hung if worker.alive()]
        if len(self.hung) >= MOST_HUNG:
            self.get_logger().fatal(f"cannot configure: {len(self.hung)} workers still hang; restart the process")
            return TransitionCallbackReturn.FAILURE
        try:
            self.pipeline = pipeline = Pipeline(self.pipeline_config)
            warm_up(pipeline)
            self._read = cv_bridge_reader() if self.config.cv_bridge else image_to_bgr
            self.bodies = Bodies(self) if self.config.hri else None
        except Exception as error:  # each backend has exceptions of its own
            self.get_logger().fatal(f"cannot configure: {error or type(error).__name__}")
            self.pipeline = None
            return TransitionCallbackReturn.FAILURE
        facts = ModelFacts.of(pipeline)
        levels = self.pipeline_config.levels
        self.channels = [
            Channel(self, name, self.config, levels, facts, Tracker(self.config.track_keep, self._ids), self.bodies)
            for name in self.config.cameras or [""]
        ]
        self.skeleton = self.create_publisher(SkeletonInfo, "skeleton_info", qos.LATCHED)
        self.skeleton.publish(skeleton_message(facts.model, facts.calibration_id))
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.OUTPUT)
        self.heartbeat = Heartbeat(min(WATCH_PERIOD, 1 / self.config.status_rate), self._watch, self._on_error)
        self.get_logger().info(f"ready: {facts.detector} and {facts.model} on {facts.backend}")
        if facts.backend_problem:
            self.get_logger().warning(facts.backend_problem)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        if self.pipeline is None:
            self.get_logger().error("cannot activate: the models are with a worker that hangs; clean up and configure")
            return TransitionCallbackReturn.FAILURE
        try:
            self.pipeline.resume()
        except BackendError as error:
            self.get_logger().error(f"cannot activate: {error}")
            return TransitionCallbackReturn.FAILURE
        self.worker = Worker(self._process, self._on_error)
        for channel in self.channels:
            channel.subscribe(self.worker.put)
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState | None) -> TransitionCallbackReturn:
        for channel in self.channels:
            channel.unsubscribe()
        if self.worker is not None and not self.worker.stop(STOP_TIMEOUT):
            self.get_logger().error("the worker hangs; it is left behind and will publish nothing more")
            self.hung.append(self.worker)
            self.pipeline = None  # Still in use; freed when the worker ends.
        self.worker = None
        if self.pipeline is not None:
            self.pipeline.suspend()  # A node that does nothing holds no GPU memory.
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState | None) -> TransitionCallbackReturn:
        if self.heartbeat is not None:
            self.heartbeat.stop()
            self.destroy_publisher(self.skeleton)
            self.destroy_publisher(self.diagnostics)
        for channel in self.channels:
            channel.destroy()
        if self.bodies is not None:
            self.bodies.destroy()
        if self.pipeline is not None:
            self.pipeline.close()
        self.channels, self.heartbeat, self.pipeline, self.bodies = [], None, None, None
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState | None = None) -> TransitionCallbackReturn:
        self.on_deactivate(state)
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self.on_shutdown(state)

    def _process(self, newest: dict[Channel, tuple[Any, float]]) -> None:
        """Worker thread: the newest image of every camera in one batch."""
        worker, pipeline, batch = self.worker, self.pipeline, []  # now: a worker that hangs must not touch later ones
        for channel, (msg, arrived) in newest.items():
            try:
                batch.append((channel, msg, arrived, self._read(msg)))
            except (ImageError, MemoryError) as error:
                channel.answer(msg, None, error, arrived)
        images, boxes = [image for *_, image in batch], [channel.expected(msg) for channel, msg, *_ in batch]
        results = _results(pipeline, images, boxes) if pipeline and batch else []
        for (channel, msg, arrived, image), result in zip(batch, results):
            if worker is None or worker.stopping:
                return
            channel.answer(msg, image, result, arrived)

    def _watch(self, count: int) -> None:
        """Heartbeat's thread."""
        now, period = time.monotonic(), 1 / self.config.status_rate
        beat = now >= self._next_beat
        if beat:
            self._next_beat = max(self._next_beat + period, now)
        for channel in self.channels:
            channel.watch(beat)
            if beat:
                channel.hint()
        if now >= self._next_diagnostics:
            self._next_diagnostics = now + 1.0
            self._diagnose()

    def _diagnose(self) -> None:
        if self.worker is not None and (busy := self.worker.busy_for()) > HANGS:
            self._on_error(RuntimeError(f"the worker has been busy with one batch for {busy:.0f} s: it hangs"))
        if (pipeline := self.pipeline) is not None:  # onnxruntime may have taken the place of TensorRT.
            problem = pipeline.backend_problem
            if problem and any(channel.facts.backend_problem != problem for channel in self.channels):
                self.get_logger().error(problem)
            for channel in self.channels:
                channel.facts = replace(channel.facts, backend=pipeline.backend, backend_problem=problem)
        msg = DiagnosticArray(status=[channel.diagnostics() for channel in self.channels])
        msg.header.stamp = self.get_clock().now().to_msg()
        self.diagnostics.publish(msg)

    def _reconfigure(self, pipeline_config: PipelineConfig, config: NodeConfig) -> None:
        if self.pipeline is not None:
            self.pipeline.reconfigure(pipeline_config)
        self.pipeline_config, self.config = pipeline_config, config
        for channel in self.channels:
            channel.reconfigure(config)

    def _on_error(self, error: Exception) -> None:
        if self.context.ok():  # at shutdown the context goes first
            self.get_logger().error(f"{type(error).__name__}: {error}", throttle_duration_sec=5.0)


def _results(
    pipeline: Pipeline, images: list[np.ndarray], boxes: list[Detections | None]
) -> list[FrameResult | Exception]:
    """A result or an exception for every image: one camera's fault does not stop the others."""
    try:
        return list(pipeline.process(images, boxes) if any(boxes) else pipeline.process(images))
    except Exception as error:
        if len(images) == 1:
            return [error]
        return [_results(pipeline, [image], [its])[0] for image, its in zip(images, boxes)]


def warm_up(pipeline: Pipeline) -> None:
    """One run of each network: the first is slow, and a model that cannot run says so here."""
    (width, height), (crop_width, crop_height) = pipeline.detector.info.input_size, pipeline.pose.info.input_size
    pipeline.detector([np.zeros((height, width, 3), np.uint8)])
    pipeline.pose(np.zeros((1, crop_height, crop_width, 3), np.uint8))


def spin(node: PoseNode, executor: SingleThreadedExecutor) -> None:
    """Until a signal comes. No message, timer or service call ends the node, whatever its callback raises."""
    while rclpy.ok():
        try:
            executor.spin()
        except (KeyboardInterrupt, ExternalShutdownException):
            raise
        except Exception as error:
            node._on_error(error)
            time.sleep(0.01)  # one that comes back at once must not take a core


def live(node: PoseNode) -> int:
    """Starts it, where it starts itself, and spins until a signal comes; exit status."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    if node.config.autostart:
        for transition in (node.trigger_configure, node.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                return int(rclpy.ok())  # not ok: a signal came meanwhile
    spin(node, executor)
    return 0


def main(args: list[str] | None = None) -> None:
    status = run(args)
    gc.collect()  # the last references to the DDS participant: without its farewell others believe in it for 20 s
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed by now. Taking the interpreter apart would only cost time, or hang with a network that hangs.
    os._exit(status)


def run(args: list[str] | None = None) -> int:
    """The node until a signal comes; exit status."""
    try:
        os.environ.update(transport_environment())
        words = sys.argv if args is None else args
        argparse.ArgumentParser("pose_node", description=HELP).parse_args(remove_ros_args(words)[1:])
        # As SIGINT. On SIGTERM rclpy wakes the executor first and invalidates the context then: if that comes a moment
        # too late, the executor waits again, for good (once in 100 times on a busy machine).
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        rclpy.init(args=args)
    except KeyboardInterrupt:
        return 0
    except RuntimeError as error:  # a params file that is missing or no YAML, a malformed --ros-args
        print(f"pose_node: error: {error}", file=sys.stderr)
        return 1
    node = None
    try:
        node = PoseNode()
        # A function of its own: a signal at a loop's jump back, written here, would escape the except (CPython 3.13).
        return live(node)
    except (ConfigError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        rclpy.logging.get_logger("pose_node").fatal(str(error))
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RuntimeError:  # rclpy raises from whatever it was doing when a signal shuts it down
        if rclpy.ok():
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # a second one (launch sends one too) must not cut the clean-up
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            node.on_shutdown()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    main()
