"""ros2 launch probpose_ros pose.launch.py image_topic:=/camera/image_raw camera_info_topic:=/camera/camera_info

Starts the pose node, configures and activates it; with rviz:=true also RViz. An argument left empty keeps the value of
the params file. Never uses the network.
"""

import os

import yaml
from launch.actions import DeclareLaunchArgument, EmitEvent, LogInfo, OpaqueFunction, RegisterEventHandler
from launch.events import Shutdown, matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

from launch import LaunchDescription
from probpose_ros.transport import share_file, transport_environment

# Arguments that are also parameters of the node: empty keeps the params file's value.
PARAMETERS = {
    "compressed": "subscribe to sensor_msgs/CompressedImage: true or false",
    "cameras": "several cameras in one node, for example front,rear: topics <namespace>/<camera>/image, .../keypoints",
    "model": "pose model: name of a bundled model or path of an ONNX file",
    "detector": "person detector: name of a bundled model or path of an ONNX file",
    "backend": "auto, tensorrt or onnxruntime",
}
TOPICS = {
    "image_topic": "image to use instead of <namespace>/image; with several cameras {camera} stands for the name",
    "camera_info_topic": "camera_info to use instead of <namespace>/camera_info; needed for markers",
    "depth_topic": "depth image aligned to the image (reserved: this version does not use depth)",
}


def generate_launch_description() -> LaunchDescription:
    arguments = [DeclareLaunchArgument(name, default_value="", description=text) for name, text in TOPICS.items()]
    arguments += [DeclareLaunchArgument(name, default_value="", description=text) for name, text in PARAMETERS.items()]
    arguments += [
        DeclareLaunchArgument("namespace", default_value="probpose", description="of the node and its topics"),
        DeclareLaunchArgument(
            "params_file", default_value="", description="YAML file of parameters, empty: config/pose.yaml"
        ),
        DeclareLaunchArgument("rviz", default_value="false", choices=["true", "false"], description="start RViz too"),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def start(context) -> list:
    """The actions, now that the arguments have values."""
    given = {name: LaunchConfiguration(name).perform(context).strip() for name in context.launch_configurations}
    params_file = given["params_file"] or str(share_file("config/pose.yaml"))
    if not os.path.isfile(params_file):
        raise FileNotFoundError(f"params_file:={params_file}: there is no such file; give a YAML file or leave it out")
    overrides = parameter_overrides(given)

    node = LifecycleNode(
        package="probpose_ros",
        executable="pose_node",
        name="pose_node",
        namespace=given["namespace"],
        parameters=[params_file, {**overrides, "autostart": False}],
        remappings=remappings(given, overrides.get("cameras") or cameras_of(params_file)),
        additional_env=transport_environment(),
        output="screen",
        on_exit=OpaqueFunction(function=stop),
    )

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    def when_configured(goal: str, action) -> RegisterEventHandler:
        event = {"target_lifecycle_node": node, "start_state": "configuring", "goal_state": goal}
        return RegisterEventHandler(OnStateTransition(**event, entities=[action]))

    actions = [
        node,
        when_configured("inactive", change(Transition.TRANSITION_ACTIVATE)),
        when_configured("unconfigured", OpaqueFunction(function=stop)),
        change(Transition.TRANSITION_CONFIGURE),
    ]
    if given["depth_topic"]:
        actions.append(LogInfo(msg=f"depth_topic:={given['depth_topic']} is ignored: this version does not use depth"))
    if given["rviz"] == "true":
        topics = {name: f"/{given['namespace']}/{name}" for name in ("image", "camera_info", "markers", "overlay")}
        topics.update({name: given[f"{name}_topic"] for name in ("image", "camera_info") if given[f"{name}_topic"]})
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", str(share_file("config/pose.rviz"))],
                # The .rviz file names topics in /probpose.
                remappings=[(f"/probpose/{name}", topic) for name, topic in topics.items()],
                additional_env=transport_environment(),
            )
        )
    return actions


def stop(context) -> list:
    """Ends the launch when the node has ended or cannot be configured; shutting down twice would be an error itself."""
    return [] if context.is_shutdown else [EmitEvent(event=Shutdown(reason="the pose node does not run"))]


def parameter_overrides(given: dict) -> dict:
    """Parameters of the arguments that are not empty; the node itself refuses bad values."""
    overrides = {name: given[name] for name in PARAMETERS if given[name]}
    if "compressed" in overrides:
        if overrides["compressed"].lower() not in ("true", "false"):
            raise ValueError(f"compressed:={overrides['compressed']}: must be true or false")
        overrides["compressed"] = overrides["compressed"].lower() == "true"
    if "cameras" in overrides:
        names = overrides["cameras"].strip("[]").split(",")
        overrides["cameras"] = [name.strip().strip("'\"") for name in names if name.strip()]
    return overrides


def cameras_of(params_file: str) -> list:
    """The cameras that a params file names under /**."""
    with open(params_file, encoding="utf-8") as file:
        content = yaml.safe_load(file) or {}
    return ((content.get("/**") or {}).get("ros__parameters") or {}).get("cameras") or []


def remappings(given: dict, cameras: list) -> list:
    """Relative input topics -> the topics of the arguments."""
    made = []
    for name in ("image", "camera_info"):
        topic = given[f"{name}_topic"]
        if topic and not cameras:
            made.append((name, topic))
        elif topic:
            if "{camera}" not in topic:
                raise ValueError(f"{name}_topic:={topic}: with several cameras it must contain {{camera}}")
            made += [(f"{camera}/{name}", topic.replace("{camera}", camera)) for camera in cameras]
    return made
