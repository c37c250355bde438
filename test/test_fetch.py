"""probpose fetch against a server of our own: whole, cut off, replaced, missing, slow, zipped, and too large files."""

from __future__ import annotations

import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from probpose_ros import cli, models
from probpose_ros.manifest import ManifestError, find_manifest, read_manifest

CONTENT = bytes(range(256)) * 2000  # half a megabyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """files: what it has, by path. cut: bytes after which it hangs up. ranges: whether it resumes. asked: requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut: int | None = None
        self.ranges, self.wait = True, threading.Event()
        self.asked: list[tuple[str, str | None]] = []
        self.wait.set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        if self.path not in server.files:
            return self.send_error(404, "Gone")
        content, start = server.files[self.path], 0
        if wanted and server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = len(content) if server.cut is None else start + server.cut
        self.wfile.write(content[start:end])
        self.wfile.flush()
        if end < len(content):
            server.wait.wait(30)
            self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.wait.set()
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def fetch(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """probpose fetch net with one entry in the manifest; changes: of that entry."""
    monkeypatch.setenv("PROBPOSE_MODELS", str(tmp_path / "models"))
    server.files["/net.onnx"] = CONTENT

    def call(*args: str, **changes: Any) -> int:
        entry = {
            "what": "a test", "url": f"{server.url}/net.onnx", "file": "net.onnx", "sha256": SHA256,
            "size": len(CONTENT), "licence": "GPL-3.0 (a test)", **changes,
        }  # fmt: skip
        (tmp_path / "manifest.yaml").write_text(yaml.safe_dump({"net": entry}))
        return cli.main(["fetch", "--manifest", str(tmp_path / "manifest.yaml"), *(args or ["net"])])

    return call


def left(tmp_path: Path) -> list[str]:
    return sorted(file.name for file in (tmp_path / "models").glob("*"))


def test_a_whole_file_is_verified_and_found_by_name(fetch: Any, server: Server, tmp_path: Path, capsys: Any) -> None:
    assert fetch() == 0
    out = capsys.readouterr().out
    assert out.index("GPL-3.0 (a test)") < out.index("sha256 is right") and "--detector net" in out
    assert (tmp_path / "models/net.onnx").read_bytes() == CONTENT and left(tmp_path) == ["net.onnx"]
    assert models.find_model("net") == tmp_path / "models/net.onnx" and "net" in models.model_names()
    assert fetch() == 0 and len(server.asked) == 1, "what is there already is not fetched again"


def test_the_licence_is_shown_before_anything_is_asked_of_the_server(fetch: Any, server: Server, capsys: Any) -> None:
    server.files.clear()
    assert fetch() == 2
    printed = capsys.readouterr()
    assert "licence: GPL-3.0 (a test)" in printed.out
    assert printed.err == f"probpose: error: {server.url}/net.onnx: the server says 404 Gone\n"


def test_a_cut_download_is_taken_up_again(fetch: Any, server: Server, tmp_path: Path, capsys: Any) -> None:
    server.cut = 100_000
    assert fetch() == 2
    assert "cut off at 100000 of 512000 bytes; run it again" in capsys.readouterr().err
    assert left(tmp_path) == ["net.onnx.part"]
    server.cut = None
    assert fetch() == 0
    assert server.asked[-1] == ("/net.onnx", "bytes=100000-")
    assert (tmp_path / "models/net.onnx").read_bytes() == CONTENT and left(tmp_path) == ["net.onnx"]


def test_a_server_that_does_not_resume_starts_again(fetch: Any, server: Server, tmp_path: Path) -> None:
    server.cut, server.ranges = 100_000, False
    assert fetch() == 2
    server.cut = None
    assert fetch() == 0 and (tmp_path / "models/net.onnx").read_bytes() == CONTENT


def test_a_part_that_is_whole_or_too_long_starts_again(fetch: Any, server: Server, tmp_path: Path) -> None:
    for part in (CONTENT, CONTENT + b"more"):
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models/net.onnx").unlink(missing_ok=True)
        (tmp_path / "models/net.onnx.part").write_bytes(part)
        assert fetch() == 0 and left(tmp_path) == ["net.onnx"]


def test_another_file_is_deleted(fetch: Any, server: Server, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/net.onnx").write_bytes(b"older")
    server.files["/net.onnx"] = CONTENT[:-1] + b"!"
    assert fetch() == 2
    error = capsys.readouterr().err
    assert "expected " + SHA256 in error and "must not be trusted" in error
    assert left(tmp_path) == ["net.onnx"] and (tmp_path / "models/net.onnx").read_bytes() == b"older"


def test_a_part_of_another_file_is_found_out(fetch: Any, server: Server, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/net.onnx.part").write_bytes(b"other" * 1000)
    assert fetch() == 2 and left(tmp_path) == []
    assert fetch() == 0


def test_more_bytes_than_promised_are_refused(fetch: Any, server: Server, tmp_path: Path, capsys: Any) -> None:
    assert fetch(size=1000) == 2
    assert "more than the 1000 bytes" in capsys.readouterr().err and left(tmp_path) == []


def test_a_server_that_falls_silent(fetch: Any, server: Server, tmp_path: Path, capsys: Any) -> None:
    server.cut = 65536
    server.wait.clear()
    assert fetch("net", "--timeout", "0.3") == 2
    assert "timed out" in capsys.readouterr().err and left(tmp_path) == ["net.onnx.part"]
    server.wait.set()
    server.cut = None
    assert fetch() == 0


def test_nobody_there(fetch: Any, server: Server, capsys: Any) -> None:
    server.shutdown()
    server.server_close()
    assert fetch("net", "--timeout", "5") == 2
    assert "refused" in capsys.readouterr().err


def zipped(**members: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/") + ".onnx", content)
    return held.getvalue()


def test_a_member_of_a_zip(fetch: Any, server: Server, tmp_path: Path) -> None:
    server.files["/net.zip"] = zipped(deep__folder__end2end=CONTENT, other=b"x")
    changes = {"url": f"{server.url}/net.zip", "member": "end2end.onnx"}
    assert fetch(**changes) == 0
    assert (tmp_path / "models/net.onnx").read_bytes() == CONTENT and left(tmp_path) == ["net.onnx"]
    assert fetch(**changes, sha256="0" * 64) == 2
    assert left(tmp_path) == ["net.onnx"]


@pytest.mark.parametrize(
    "content, words",
    [
        (zipped(other=CONTENT), "holds 0 files named end2end.onnx"),
        (zipped(a__end2end=CONTENT, b__end2end=CONTENT), "holds 2 files named end2end.onnx"),
        (zipped(end2end=bytes(20_000_000)), "end2end.onnx has 20000000 bytes, at most 512000"),
        (zipped(end2end=CONTENT)[:-400], "not a readable zip"),
        (zipped(end2end=CONTENT)[:100] + bytes(50) + zipped(end2end=CONTENT)[150:], "not a readable zip"),
        (b"no zip", "not a readable zip"),
    ],
)
def test_bad_zips(fetch: Any, server: Server, tmp_path: Path, capsys: Any, content: bytes, words: str) -> None:
    server.files["/net.zip"] = content
    assert fetch(url=f"{server.url}/net.zip", member="end2end.onnx") == 2
    assert words in capsys.readouterr().err and left(tmp_path) == []


def test_without_a_hash_nothing_is_fetched(fetch: Any, server: Server, tmp_path: Path, capsys: Any) -> None:
    assert fetch(sha256=None) == 2 and server.asked == []
    assert "no sha256" in capsys.readouterr().err
    assert fetch("net", "--sha256", "abc", sha256=None) == 2 and "64 hexadecimal" in capsys.readouterr().err
    assert fetch("net", "--sha256", "0" * 64) == 2 and "the manifest says" in capsys.readouterr().err
    assert server.asked == []
    assert fetch("net", "--sha256", SHA256.upper(), sha256=None) == 0


def test_list_unknown_name_and_folder(fetch: Any, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["fetch"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("probpose_s", "yolox_nano", "yolox_tiny", "rtmdet_nano", "GPL-3.0"))
    assert fetch("other") == 2 and "'other' is not in the manifest; there are net" in capsys.readouterr().err
    assert fetch("net", "--out", str(tmp_path / "mine")) == 0
    assert f"--detector {tmp_path / 'mine/net.onnx'}" in capsys.readouterr().out
    assert fetch("net", "--timeout", "0") == 2


def test_the_manifest_that_is_shipped() -> None:
    entries = read_manifest()
    assert find_manifest().parent == models.model_dirs()[0]
    assert {"probpose_s", "yolox_nano", "yolox_tiny", "rtmdet_nano"} <= set(entries)
    for entry in entries.values():
        assert entry.url.startswith("https://") and entry.sha256 and entry.licence and entry.page
    assert "GPL-3.0" in entries["probpose_s"].licence
    assert len({entry.file for entry in entries.values()} | set(models.model_names())) >= len(entries)


@pytest.mark.parametrize(
    "text, words",
    [
        ("[", "not YAML"),
        ("- 1", "must map names"),
        ("", "must map names"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        ("net: 5", "must be an entry"),
        ("../net: {}", "a name has letters"),
        ("net: {what: a, url: 'file:///etc/passwd', file: a, licence: b}", "url must begin with"),
        ("net: {what: a, url: 'http://a/b', file: ../a, licence: b}", "plain file name"),
        ("net: {what: a, url: 'http://a/b', file: a}", "licence missing"),
        ("net: {what: a, url: 'http://a/b', file: a, licence: b, size: -1}", "size must be"),
        ("net: {what: a, url: 'http://a/b', file: a, licence: b, sha256: 12}", "sha256 must be 64"),
        ("net: {what: a, url: 'http://a/b', file: a, licence: b, hash: c}", "unknown hash"),
        ("net: {what: a, url: [1], file: a, licence: b}", "url must be text"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(ManifestError, match=words):
        read_manifest(tmp_path / "m.yaml")


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_as_a_manifest(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.yaml").write_bytes(content)
    try:
        read_manifest(tmp_path / "m.yaml")
    except ManifestError as error:
        assert "\n" not in str(error)
