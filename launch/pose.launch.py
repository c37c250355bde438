"""ros2 launch probpose_ros pose.launch.py image_topic:=/camera/image_raw camera_info_topic:=/camera/camera_info

Starts the pose node, configures and activates it; with rviz:=true also RViz. An argument left empty keeps the value of
the params file. Never uses the network.
"""

import os

import yaml
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction, RegisterEventHandler
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
    "backend": "auto, tensorrt, onnxruntime or openvino",
}
TOPICS = {
    "image_topic": "image to use instead of <namespace>/image; with several cameras {camera} stands for the name",
    "camera_info_topic": "camera_info to use instead of <namespace>/camera_info; needed for markers and metres",
    "depth_topic": "depth image aligned to the image, 16UC1 mm or 32FC1 m; gives zones a measured distance",
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
    namespace = given["namespace"].strip("/")
    params = node_parameters(params_file, namespace)
    overrides = parameter_overrides(given)
    cameras = overrides.get("cameras") or params.get("cameras") or []

    node = LifecycleNode(
        package="probpose_ros",
        executable="pose_node",
        name="pose_node",
        namespace=namespace,
        parameters=[params_file, {**overrides, "autostart": False}],
        remappings=remappings(given, cameras),
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
        when_configured("unconfigured", OpaqueFunction(function=give_up)),
        change(Transition.TRANSITION_CONFIGURE),
    ]
    if given["rviz"] == "true":
        prefix = "/".join(["", *filter(None, [namespace, *cameras[:1]])])  # of several cameras, the first
        actions.append(
            Node(
                package="probpose_ros",
                executable="rviz_view",
                arguments=["--prefix", prefix, *rviz_topics(given, cameras)],
                additional_env=transport_environment(),
                output="screen",
            )
        )
    return actions


def stop(context) -> list:
    """Ends the launch when the node has ended, as a failure if the node failed."""
    if context.is_shutdown:  # shutting down twice would be an error itself
        return []
    if context.locals.event.returncode:
        raise RuntimeError("the pose node has failed; its message is above")
    return [EmitEvent(event=Shutdown(reason="the pose node has ended"))]


def give_up(context) -> list:
    raise RuntimeError("the pose node cannot be configured; its message is above")


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


def node_parameters(params_file: str, namespace: str) -> dict:
    """What a params file says to this node. One that says nothing is refused: ROS would ignore it without a word."""
    if not os.path.isfile(params_file):
        raise FileNotFoundError(f"params_file:={params_file}: there is no such file; give a YAML file or leave it out")
    try:
        with open(params_file, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"params_file:={params_file}: not YAML: {' '.join(str(error).split())}") from None
    content = content if isinstance(content, dict) else {}
    nested = content.get(namespace) or content.get(f"/{namespace}")
    name = f"/{namespace}/pose_node" if namespace else "/pose_node"
    sections = [content.get(key) for key in ("/**", "/**/pose_node", "/*/pose_node", name, name[1:])]
    sections += [nested.get("pose_node")] if isinstance(nested, dict) else []
    sections = [section for section in sections if isinstance(section, dict) and "ros__parameters" in section]
    if not sections:
        raise ValueError(
            f"params_file:={params_file}: nothing in it is for {name}; begin with /**: and ros__parameters:"
        )
    return {key: value for section in sections for key, value in (section["ros__parameters"] or {}).items()}


def remappings(given: dict, cameras: list) -> list:
    """Relative input topics -> the topics of the arguments."""
    made = []
    for name in ("image", "camera_info", "depth"):
        topic = given[f"{name}_topic"]
        if topic and not cameras:
            made.append((name, topic))
        elif topic:
            if "{camera}" not in topic:
                raise ValueError(f"{name}_topic:={topic}: with several cameras it must contain {{camera}}")
            made += [(f"{camera}/{name}", topic.replace("{camera}", camera)) for camera in cameras]
    return made


def rviz_topics(given: dict, cameras: list) -> list:
    """Options of rviz_view for the inputs that are not in the namespace."""
    options = []
    for name, topic in remappings(given, cameras[:1]):
        topic = topic if topic.startswith("/") else "/" + "/".join(filter(None, [given["namespace"].strip("/"), topic]))
        options += ["--" + name.split("/")[-1].replace("_", "-"), topic]
    return options
