"""ROS 2 bags (mcap and sqlite3) without ROS, through the pure-Python library rosbags, which is optional.

probpose_msgs is read from its .msg files; there is no second definition of it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from probpose_ros.transport import share_file

SUFFIXES = (".mcap", ".db3")
STORAGES = ("mcap", "sqlite3")
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
IMAGES = (IMAGE, COMPRESSED)
PEOPLE = "probpose_msgs/msg/PersonPoseArray"
SKELETON = "probpose_msgs/msg/SkeletonInfo"
RESERVE = 16 * 2**20  # bytes of the disk that are left for closing a bag: its index and metadata
COMMIT_BYTES = 2**20  # between two commits of a sqlite3 bag; mcap's chunks have this size

MCAP_MAGIC = b"\x89MCAP0\r\n"
MCAP_END = b"\x02" + (20).to_bytes(8, "little") + bytes(20) + MCAP_MAGIC  # a footer that says: there is no index


class BagError(OSError):
    """The bag cannot be read or written; the message says which and why."""


def is_bag(path: str | Path) -> bool:
    """A file of a bag, or the folder of one."""
    path = Path(path)
    files = path.iterdir() if path.is_dir() else [path]
    return any(suffix in SUFFIXES for file in files for suffix in file.suffixes)  # .db3.zstd is one too


@functools.cache
def typestore() -> Any:
    """The message types of Jazzy (those used here are the same in Humble) and of probpose_msgs."""
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"bags need the library rosbags ({error}): pip install rosbags") from None
    store = get_typestore(Stores.ROS2_JAZZY)
    for file in sorted(share_file("probpose_msgs/msg/PersonPoseArray.msg").parent.glob("*.msg")):
        store.register(get_types_from_msg(file.read_text(encoding="utf-8"), f"probpose_msgs/msg/{file.stem}"))
    return store


def message(kind: str, values: dict[str, Any]) -> Any:
    """A message of rosbags from dicts, lists and numbers. Keys that the type does not have are left out."""
    from rosbags.interfaces import Nodetype

    store = typestore()

    def convert(node: tuple[Any, Any], value: Any) -> Any:
        if node[0] == Nodetype.NAME:
            return message(node[1], value)
        if node[0] == Nodetype.BASE:
            return value
        item = node[1][0]
        if item[0] == Nodetype.BASE and item[1][0] != "string":
            return np.asarray(value, item[1][0])
        return [convert(item, one) for one in value]

    return store.types[kind](**{name: convert(node, values[name]) for name, node in store.fielddefs[kind][1]})


class BagReader:
    """One topic of a bag: iterate for (time of recording in ns, message). Use it with ``with``.

    types: allowed message types. topic: None for the only topic of these types; BagError, naming the topics, otherwise.
    length: number of messages, None for a file that was cut off. rate: messages a second, if known.
    raw: give the messages as bytes. option: of the command, that chooses the topic.
    """

    def __init__(
        self, path: str | Path, types: tuple[str, ...], topic: str | None = None, raw: bool = False,
        option: str = "--topic",
    ) -> None:  # fmt: skip
        self.path, self.raw = Path(path).expanduser(), raw
        self.cut = False
        self._reader = self._open()
        try:
            self._connections = choose(self._reader.connections, types, topic, f"{self.path}", option)
        except BagError:
            self.close()
            raise
        self.topic, self.type = self._connections[0].topic, self._connections[0].msgtype
        self.length = None if self.cut else sum(connection.msgcount for connection in self._connections)
        seconds = self._reader.duration * 1e-9
        self.rate = (self.length - 1) / seconds if self.length and self.length > 1 and seconds > 0 else None

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """BagError where the bag breaks off; everything before has been given by then."""
        count, store = 0, typestore()
        messages = self._reader.messages(connections=self._connections)
        while True:
            try:
                connection, time, data = next(messages)
                msg = data if self.raw else store.deserialize_cdr(data, connection.msgtype)
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001 - rosbags and what it stands on raise many kinds for a broken file
                raise BagError(f"{self.path}: broken after {count} messages of {self.topic}: {_line(error)}") from None
            yield time, msg
            count += 1
        if self.cut:
            raise BagError(f"{self.path}: the recording was cut off; its {count} messages of {self.topic} were read")

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _open(self) -> Any:
        typestore()  # says what to install
        from rosbags.rosbag2 import Reader

        path = self.path
        if path.is_dir() and not (path / "metadata.yaml").is_file():
            files = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES]
            if len(files) != 1:
                raise BagError(
                    f"{path}: there is no metadata.yaml: 'ros2 bag reindex {path}', or name one of its files"
                )
            self.path = path = files[0]
        try:
            reader = Reader(path)
            reader.open()
        except Exception as error:  # noqa: BLE001
            if not (path.suffix == ".mcap" and path.is_file()):
                raise BagError(f"{path}: cannot be read as a bag: {_line(error)}") from None
            try:
                whole: Any = _CutMcap(path)
                reader = Reader(whole)
                reader.open()
            except Exception:  # noqa: BLE001 - the first error says more
                raise BagError(f"{path}: cannot be read as a bag: {_line(error)}") from None
            self.cut = True
        return reader


def choose(connections: list[Any], types: tuple[str, ...], topic: str | None, name: str, option: str) -> list[Any]:
    """The connections of one topic. BagError, with the topics that there are, if it is not clear which."""
    fitting = [each for each in connections if each.msgtype in types and topic in (None, each.topic)]
    topics = sorted({each.topic for each in fitting})
    if len(topics) == 1:
        return fitting
    wanted = " or ".join(kind.replace("/msg/", "/") for kind in types)
    if topics:
        raise BagError(f"{name}: {len(topics)} topics of {wanted}, choose one with {option}: {', '.join(topics)}")
    known = ", ".join(sorted(f"{each.topic} ({each.msgtype.replace('/msg/', '/')})" for each in connections))
    raise BagError(f"{name}: no topic {f'{topic} ' if topic else ''}of {wanted}; there is: {known or 'nothing'}")


def check_new(path: Path) -> None:
    """ModuleNotFoundError or BagError if a BagWriter could not begin a bag there."""
    typestore()
    if path.exists():
        raise BagError(f"{path}: exists already and is not overwritten; remove it or choose another folder")


class BagWriter:
    """A new bag, a folder. Use it with ``with``: whatever happens, what was written is a bag that can be read.

    BagError if the folder exists (nothing is ever overwritten), cannot be written, or the disk is full.
    """

    def __init__(self, path: str | Path, storage: str = STORAGES[0]) -> None:
        if storage not in STORAGES:
            raise ValueError(f"storage {storage!r}: must be one of {', '.join(STORAGES)}")
        self.path, self.count, self._uncommitted = Path(path), 0, 0
        check_new(self.path)
        from rosbags.rosbag2 import StoragePlugin, Writer

        self._connections: dict[str, Any] = {}
        self._writer: Any = None
        with self._errors():
            writer = Writer(self.path, version=8, storage_plugin=StoragePlugin[storage.upper()])
            writer.open()
            self._writer = writer
        self._sql = getattr(writer.storage, "conn", None)
        if self._sql is not None:
            # rosbags keeps a sqlite3 bag in one transaction: a recorder that is killed would lose everything.
            self._sql.execute("PRAGMA cache_spill = OFF")

    def write(self, topic: str, kind: str, time: int, msg: Any, latched: bool = False) -> None:
        """time: of recording, ns. msg: bytes, or a message of rosbags. latched: replayed as transient local."""
        data = msg if isinstance(msg, (bytes, memoryview)) else typestore().serialize_cdr(msg, kind)
        if self._writer is None:
            raise BagError(f"{self.path}: the bag is closed")
        free = shutil.disk_usage(self.path).free
        if free < RESERVE + 2 * len(data):
            self.close()
            raise BagError(f"{self.path}: the disk is full; the bag is closed with {self.count} messages")
        with self._errors():
            if topic not in self._connections:
                self._connections[topic] = self._connect(topic, kind, latched)
            self._writer.write(self._connections[topic], time, data)
            self.count += 1
            self._uncommitted += len(data)
            if self._sql is not None and self._uncommitted >= COMMIT_BYTES:
                self._sql.commit()
                self._uncommitted = 0

    def close(self) -> None:
        if self._writer is not None:
            with self._errors():
                self._writer.close()
                self._writer = None

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _connect(self, topic: str, kind: str, latched: bool) -> Any:
        from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

        forever = QosTime(2147483647, 4294967295)
        durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
        profile = Qos(
            QosHistory.KEEP_LAST, 1 if latched else 10, QosReliability.RELIABLE, durability, forever, forever,
            QosLiveliness.AUTOMATIC, forever, False,
        )  # fmt: skip
        return self._writer.add_connection(topic, kind, typestore=typestore(), offered_qos_profiles=[profile])

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever goes wrong in rosbags becomes a BagError; what is in the files by then stays and can be read."""
        try:
            yield
        except Exception as error:
            writer, self._writer = self._writer, None
            if writer is not None:
                with contextlib.suppress(Exception):
                    writer.abort()
            raise BagError(f"{self.path}: cannot be written after {self.count} messages: {_line(error)}") from None


class _CutMcap:
    """Stands in for the path of an MCAP file that was not closed: its whole records, and an end that says no more.

    An MCAP file without an index is valid; rosbags then scans it. Nothing is copied, and the file is not touched.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.stem, self.suffix = path, path.stem, path.suffix
        size, self.whole = path.stat().st_size, len(MCAP_MAGIC)
        with open(path, "rb") as file:
            if file.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
                raise BagError(f"{path}: not MCAP")
            # A record: one byte for its kind (2: the footer), eight for the length of the rest.
            while len(head := file.read(9)) == 9 and head[0] != 2:
                end = file.tell() + int.from_bytes(head[1:], "little")
                if end > size:
                    break
                self.whole = file.seek(end)

    def exists(self) -> bool:
        return True

    def is_dir(self) -> bool:
        return False

    def open(self, mode: str = "rb") -> BinaryIO:
        return io.BufferedReader(_Joined(self.path, self.whole, MCAP_END))

    def __str__(self) -> str:
        return str(self.path)


class _Joined(io.RawIOBase):
    """The first ``length`` bytes of a file, and then ``tail``, as one file to read."""

    def __init__(self, path: Path, length: int, tail: bytes) -> None:
        self.file, self.length, self.tail, self.position = open(path, "rb"), length, tail, 0  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = (0, self.position, self.length + len(self.tail))[whence]
        self.position = max(0, start + offset)
        return self.position

    def readinto(self, buffer: Any) -> int:
        if self.position < self.length:
            self.file.seek(self.position)
            data = self.file.read(min(len(buffer), self.length - self.position))
        else:
            start = self.position - self.length
            data = self.tail[start : start + len(buffer)]
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def _line(error: Exception) -> str:
    """One line of what an exception says."""
    return " ".join(str(error).split()) or type(error).__name__
