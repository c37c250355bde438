"""ROS 2 bags: written and read back, judged by rosidl, rclpy and the mcap library; cut off, broken, on a full disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_models import person_image

pytest.importorskip("rosbags", reason="needs the library rosbags")

from probpose_ros import bags, cli
from probpose_ros.bags import COMPRESSED, IMAGE, IMAGES, PEOPLE, BagError, BagReader, BagWriter, message
from probpose_ros.serialize import to_json
from probpose_ros.sources import SourceError, open_source

ROOT = Path(__file__).parents[1]
START = 1_700_000_000_123_456_789  # ns; a float of seconds would not hold it
STEP = 100_000_000


def header(i: int) -> dict:
    time = START + i * STEP
    return {"stamp": {"sec": time // 10**9, "nanosec": time % 10**9}, "frame_id": "front_optical_frame"}


def raw_image(i: int, image: np.ndarray) -> object:
    height, width = image.shape[:2]
    values = {"header": header(i), "height": height, "width": width, "encoding": "bgr8", "is_bigendian": 0}
    return message(IMAGE, {**values, "step": 3 * width, "data": image.ravel()})


def png_image(i: int, image: np.ndarray) -> object:
    data = cv2.imencode(".png", image)[1].ravel()
    return message(COMPRESSED, {"header": header(i), "format": "bgr8; png compressed", "data": data})


def images(count: int) -> list[np.ndarray]:
    return [person_image((40 + 4 * i, 40, 100 + 4 * i, 200)) for i in range(count)]


def camera_bag(path: Path, storage: str = "mcap", count: int = 6, topic: str = "/camera/image_raw") -> Path:
    with BagWriter(path, storage) as bag:
        for i, image in enumerate(images(count)):
            bag.write(topic, IMAGE, START + i * STEP + 5_000_000, raw_image(i, image))
    return path


@pytest.fixture
def tiny(tiny_detector_model, tiny_pose_model) -> list[str]:
    return ["--detector", str(tiny_detector_model), "--model", str(tiny_pose_model), "--threads", "1"]


@pytest.mark.parametrize("kind, make", [(IMAGE, raw_image), (COMPRESSED, png_image)])
@pytest.mark.parametrize("storage", bags.STORAGES)
def test_images_of_a_bag(tmp_path, storage, kind, make):
    with BagWriter(tmp_path / "bag", storage) as bag:
        for i, image in enumerate(images(6)):
            bag.write("/front/image", kind, START + i * STEP + 7, make(i, image))
    for path in (tmp_path / "bag", next((tmp_path / "bag").glob("bag.*"))):
        source = open_source(path)
        assert (source.length, source.frame_id) == (6, "front_optical_frame")
        assert source.fps == pytest.approx(10)
        stamps, found = zip(*source)
        assert list(stamps) == [Fraction(START + i * STEP, 10**9) for i in range(6)]
        np.testing.assert_array_equal(found, images(6))


def test_a_topic_has_to_be_chosen_where_there_are_several(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/left/image", IMAGE, START, raw_image(0, images(1)[0]))
        bag.write("/right/image", COMPRESSED, START, png_image(0, 255 - images(1)[0]))
        bag.write("/probpose/keypoints", PEOPLE, START, b"\0\1\0\0")
    with pytest.raises(BagError, match="2 topics of .*, choose one with --topic: /left/image, /right/image"):
        open_source(tmp_path / "bag")
    with pytest.raises(
        BagError,
        match=r"no topic /rear of sensor_msgs/Image or .*; there is: /left/image \(sensor_msgs/Image\), /probpose/key",
    ):
        open_source(tmp_path / "bag", "/rear")
    ((_, image),) = open_source(tmp_path / "bag", "/right/image")
    np.testing.assert_array_equal(image, 255 - images(1)[0])
    with pytest.raises(SourceError, match="can be chosen of a ROS 2 bag only"):
        open_source(tmp_path, "/rear")


def test_a_bag_without_images(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write("/probpose/keypoints", PEOPLE, START, b"\0\1\0\0")
    with pytest.raises(
        BagError, match=r"no topic of sensor_msgs/Image or sensor_msgs/CompressedImage; there is: /prob"
    ):
        open_source(tmp_path / "bag")


def test_a_broken_image_is_skipped_and_named(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for i, image in enumerate(images(3)):
            msg = png_image(i, image)
            if i == 1:
                msg.data = msg.data[:40]
            bag.write("/image", COMPRESSED, START + i, msg)
    source = open_source(tmp_path / "bag")
    assert [stamp for stamp, _ in source] == [Fraction(START + i * STEP, 10**9) for i in (0, 2)]
    (line,) = source.skipped
    assert line.startswith("/image at 1700000000.223456789: ") and "image of 40 bytes" in line


@pytest.mark.parametrize("share", np.linspace(0, 0.999, 12))
def test_a_cut_mcap_file_is_read_up_to_the_cut(tmp_path, share):
    file = camera_bag(tmp_path / "bag", count=12) / "bag.mcap"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    (tmp_path / "bag/metadata.yaml").unlink()
    got = []
    try:
        for _, msg in BagReader(tmp_path / "bag", IMAGES):
            got.append(msg.data.reshape(240, 320, 3))
    except BagError as error:
        said = str(error)
        assert "\n" not in said and "bag.mcap" in said
        if got:
            assert f"cut off; its {len(got)} messages of /camera/image_raw were read" in said
    else:
        pytest.fail("a bag that is cut off has to say so")
    for image, expected in zip(got, images(12)):
        np.testing.assert_array_equal(image, expected)
    # Chunks hold 1 MiB, five images; the last one is written when the bag is closed.
    assert (
        len(got) == {0: 0, 1: 5, 2: 10, 3: 12}[sum(share * len(whole) > n for n in (1_153_000, 2_306_000, 2_768_000))]
    )


def test_a_cut_sqlite3_file_is_told_in_one_line(tmp_path):
    file = camera_bag(tmp_path / "bag", "sqlite3") / "bag.db3"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BagError, match="bag.*(malformed|cannot be read as a bag)") as caught:
        list(BagReader(tmp_path / "bag", IMAGES))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.mcap", "a.db3"])
def test_what_is_no_bag(tmp_path, name):
    (tmp_path / name).write_bytes(b"no bag at all " * 9)
    with pytest.raises(BagError, match=f"{name}: cannot be read as a bag: "):
        open_source(tmp_path / name)


def test_a_changed_chunk_is_noticed(tmp_path):
    """rosbag2 writes checksums, rosbags does not: here the length of a record is what no longer fits."""
    file = camera_bag(tmp_path / "bag", count=12) / "bag.mcap"
    data = bytearray(file.read_bytes())
    second = data.index(b"/camera/image_raw")  # in the first chunk
    data[second + 1_200_000 : second + 1_200_000 + 300_000] = bytes(300_000)
    file.write_bytes(data)
    with pytest.raises(BagError, match="bag: broken after [0-9]+ messages of /camera/image_raw"):
        list(BagReader(tmp_path / "bag", IMAGES))


@pytest.mark.parametrize("storage", bags.STORAGES)
def test_run_on_a_bag_writes_a_bag(tiny, tmp_path, storage, capsys):
    source, out = camera_bag(tmp_path / "in", storage), tmp_path / "out"
    assert cli.main(["run", str(source), "--out", str(out), "--bag", storage, *tiny]) == 0
    frames = [json.loads(line) for line in (out / "people.jsonl").read_text().splitlines()]
    assert [frame["header"] for frame in frames] == [header(i) for i in range(6)]
    assert cv2.VideoCapture(str(out / "in.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 6
    with BagReader(out / "bag", (PEOPLE,)) as reader:
        times, people = zip(*reader)
    assert list(times) == [START + i * STEP for i in range(6)]
    assert [len(msg.people) for msg in people] == [1] * 6
    np.testing.assert_allclose(
        [[k.x for k in msg.people[0].keypoints] for msg in people],
        np.array([[k["x"] for k in frame["people"][0]["keypoints"]] for frame in frames]),
        rtol=1e-6,  # of the seven digits in the JSON
    )
    with BagReader(out / "bag", (bags.SKELETON,)) as reader:
        ((_, skeleton),) = reader
    assert skeleton.names[0] == "nose" and skeleton.model == "tiny_pose"
    with BagReader(out / "bag", (COMPRESSED,)) as reader:
        assert cv2.imdecode(next(iter(reader))[1].data, cv2.IMREAD_COLOR).shape == (240, 320, 3)
    # What exists is never overwritten.
    assert cli.main(["run", str(source), "--out", str(out), "--bag", storage, *tiny]) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_mcap_library_reads_the_same(tiny, tmp_path):
    """Another reader, which decodes by the definitions that are in the file."""
    reader_of = pytest.importorskip("mcap_ros2.reader", reason="needs mcap-ros2-support")
    source, out = camera_bag(tmp_path / "in"), tmp_path / "out"
    assert cli.main(["run", str(source), "--out", str(out), "--bag", "mcap", *tiny]) == 0
    expected = [json.loads(line) for line in (out / "people.jsonl").read_text().splitlines()]

    def plain(value):
        if hasattr(value, "__slots__"):
            return {name: plain(getattr(value, name)) for name in value.__slots__}
        return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value

    found = [
        plain(item.ros_msg) for item in reader_of.read_ros2_messages(out / "bag/bag.mcap", ["/probpose/keypoints"])
    ]
    assert len(found) == 6
    for frame in expected:
        for person in frame["people"]:
            for keypoint in person["keypoints"]:
                del keypoint["peak"]  # of the JSON lines alone
    assert_equal([json.loads(to_json(frame)) for frame in found], expected)


def assert_equal(found, expected, place=""):
    if isinstance(expected, dict):
        assert list(found) == list(expected), place
        for key in expected:
            assert_equal(found[key], expected[key], f"{place}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for i, (a, b) in enumerate(zip(found, expected)):
            assert_equal(a, b, f"{place}[{i}]")
    else:
        assert found == (pytest.approx(expected, rel=1e-6) if isinstance(expected, float) else expected), place


@pytest.mark.ros
def test_rosidl_gives_the_same_type_hashes():
    package = pytest.importorskip("probpose_msgs", reason="probpose_msgs is not built here")
    place = Path(package.__file__ or "/1/2/3/4/5")  # no file: it is the folder of .msg files here, not built
    files = list(place.parents[4].glob("share/probpose_msgs/msg/*.json"))
    if not files:
        pytest.skip("this ROS has no type hashes (Humble)")
    for file in files:
        kind = f"probpose_msgs/msg/{file.stem}"
        hashes = {one["type_name"]: one["hash_string"] for one in json.loads(file.read_text())["type_hashes"]}
        assert bags.typestore().hash_rihs01(kind) == hashes[kind]


@pytest.mark.ros
def test_rclpy_reads_what_is_written(tiny, tmp_path):
    pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
    messages = pytest.importorskip("probpose_msgs.msg", reason="probpose_msgs is not built here")
    from rclpy.serialization import deserialize_message

    from probpose_ros.ros.convert import message_to_dict

    source, out = camera_bag(tmp_path / "in"), tmp_path / "out"
    assert cli.main(["run", str(source), "--out", str(out), "--bag", "sqlite3", *tiny]) == 0
    with BagReader(out / "bag", (PEOPLE,)) as own, BagReader(out / "bag", (PEOPLE,), raw=True) as raw:
        for (_, msg), (_, data) in zip(own, raw):
            theirs = message_to_dict(deserialize_message(bytes(data), messages.PersonPoseArray))
            again = bags.typestore().serialize_cdr(message(PEOPLE, theirs), PEOPLE)
            assert bytes(again) == bytes(data) and len(msg.people) == len(theirs["people"]) == 1


@pytest.mark.parametrize("storage", bags.STORAGES)
def test_before_the_disk_is_full_the_bag_is_closed(tmp_path, storage, monkeypatch):
    image = raw_image(0, images(1)[0])
    with BagWriter(tmp_path / "bag", storage) as bag:
        for i in range(8):
            bag.write("/image", IMAGE, START + i, image)
        monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and _Usage(bags.RESERVE - 1))
        with pytest.raises(BagError, match="the disk is full; the bag is closed with 8 messages"):
            bag.write("/image", IMAGE, START + 8, image)
        with pytest.raises(BagError, match="the bag is closed"):
            bag.write("/image", IMAGE, START + 9, image)
    assert len(list(BagReader(tmp_path / "bag", IMAGES))) == 8  # and no error at its end


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


WRITE_FOR_EVER = """
import resource, signal, sys
import numpy as np
from probpose_ros.bags import IMAGE, BagError, BagWriter
sys.path.insert(0, sys.argv[3])
from test_bags import raw_image
if sys.argv[2] != "-":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
with BagWriter(sys.argv[1], sys.argv[4]) as bag:
    try:
        for i in range(10**9):
            bag.write("/image", IMAGE, i, raw_image(i, noise))
            print(i + 1, flush=True)
    except BagError as error:
        print(error)
"""


def writer(path: Path, limit: int | str, storage: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    arguments = [str(path), str(limit), str(Path(__file__).parent), storage]
    return subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("storage", bags.STORAGES)
def test_a_write_that_fails_leaves_what_was_written(tmp_path, storage):
    """A limit of the file's size: the write itself fails, as on a disk that fills up after the check."""
    done = writer(tmp_path / "bag", 4_000_000, storage).communicate(timeout=120)[0].splitlines()
    assert "cannot be written after" in done[-1]
    got = []
    try:
        for _, msg in BagReader(tmp_path / "bag", IMAGES):
            got.append(msg.header.stamp.nanosec)
    except BagError as error:
        assert "cut off" in str(error)
    assert len(got) >= len(done) - 1 - 6, "at most the last chunk of 1 MiB may be missing"


@pytest.mark.parametrize("storage", bags.STORAGES)
def test_a_killed_recorder_loses_the_last_mebibyte_at_most(tmp_path, storage):
    child = writer(tmp_path / "bag", "-", storage)
    try:
        count = 0
        while count < 20:
            count = int(child.stdout.readline())
        child.send_signal(signal.SIGKILL)
        count = int((child.communicate(timeout=60)[0].split() or [count])[-1])
    finally:
        child.kill()
        child.wait()
    got = 0
    try:
        for _ in BagReader(tmp_path / "bag", IMAGES):
            got += 1
    except BagError as error:
        assert "cut off" in str(error)
    assert got >= count - 6


def test_without_the_library_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    camera_bag(tmp_path / "bag")
    bags.typestore.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "rosbags"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rosbags", None)
    assert cli.main(["run", str(tmp_path / "bag"), "--out", str(tmp_path / "out")]) == 2
    assert "bags need the library rosbags" in (err := capsys.readouterr().err) and "pip install rosbags" in err
    bags.typestore.cache_clear()
