"""ament_python package of the run time (probpose_ros) and of training/ (import name probpose_training)."""

from glob import glob

from setuptools import find_packages, setup

NAME = "probpose_ros"


def commands(package: str, *names: str) -> list[str]:
    """Entry points: one module with a ``register`` function per command."""
    return [f"{name} = {package}.commands.{name.replace('-', '_')}:register" for name in names]


setup(
    name=NAME,
    version="0.1.0",
    description="People's keypoints with presence probability and uncertainty regions (ProbPose), for ROS 2",
    license="Apache-2.0",
    author="The probpose_ros authors",
    maintainer="The probpose_ros authors",
    maintainer_email="maintainers@probpose-ros.example",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=[NAME, f"{NAME}.*"]),
        "probpose_training",
        *(f"probpose_training.{package}" for package in find_packages("training")),
    ],
    package_dir={"probpose_training": "training"},
    package_data={"probpose_training": ["configs/*.yaml", "*.yaml"]},
    data_files=[
        # The definitions by which bags are written and read where ROS is missing.
        (f"share/{NAME}/probpose_msgs/msg", sorted(glob("probpose_msgs/msg/*.msg"))),
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *((f"share/{NAME}/{folder}", sorted(glob(f"{folder}/*.*"))) for folder in ("launch", "config", "models")),
    ],
    install_requires=["numpy>=1.21", "onnxruntime", "opencv-python>=4.5", "PyYAML", "scipy", "tqdm"],
    extras_require={
        "bags": ["rosbags"],
        "test": ["hypothesis", "onnx", "pytest"],  # by pytest's name here colcon test knows what runs the tests
        "training": "jinja2 lightning-fabric matplotlib onnx pycocotools scipy>=1.12 tensorboard torch".split(),
    },
    zip_safe=False,
    entry_points={
        "console_scripts": [
            f"probpose = {NAME}.cli:main",
            f"pose_node = {NAME}.ros.node:main",
            f"camera_node = {NAME}.ros.camera_node:main",
            f"recorder = {NAME}.ros.recorder:main",
            f"rviz_view = {NAME}.ros.rviz_view:main",
        ],
        "probpose.commands": [
            *commands(NAME, "run", "doctor", "fetch", "build-engine", "compare"),
            *commands("probpose_training", "train", "evaluate", "crop-dataset", "bench"),
            *commands("probpose_training", "import-checkpoint", "export", "calibrate"),
        ],
    },
)
