"""A file from the network that is what it was said to be: resumed, bounded, hashed, and put in place in one step."""

from __future__ import annotations

import http.client
import os
import shutil
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from probpose_ros.manifest import Entry
from probpose_ros.models import file_sha256

MAX_BYTES = 2_000_000_000  # where the manifest gives no size
BLOCK = 2**16


class DownloadError(OSError):
    """It did not arrive, or is not what it should be; the message says what to do."""


def fetch(entry: Entry, folder: Path, sha256: str, timeout: float = 30.0) -> Path:
    """The verified file of an entry in ``folder``; downloaded unless it is there already.

    An interrupted download stays beside it as ``.part`` and is taken up again. A file whose hash is wrong is deleted:
    under its own name there is only ever a verified one.
    """
    target = folder / entry.file
    if target.is_file() and file_sha256(target) == sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    arrived, unpacked = folder / f"{entry.file}.part", folder / f"{entry.file}.unpacked"
    # In a zip the size of the archive is not known, and neither is its hash.
    download(entry.url, arrived, MAX_BYTES if entry.member else entry.size or MAX_BYTES, timeout)
    try:
        if entry.member:
            _unpack(arrived, entry, unpacked)
        verified = unpacked if entry.member else arrived
        if (found := file_sha256(verified)) != sha256:
            raise DownloadError(
                f"{entry.url}: {verified.stat().st_size} bytes with sha256 {found}, expected {sha256}; deleted. Run it "
                "again; if it stays so, the file was replaced and must not be trusted"
            )
        os.replace(verified, target)
    finally:
        arrived.unlink(missing_ok=True)
        unpacked.unlink(missing_ok=True)
    return target


def download(url: str, part: Path, limit: int, timeout: float) -> None:
    """The content of ``url`` in the file ``part``; what is there already is not fetched again.

    limit: bytes, more is refused. timeout: seconds without any byte.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "probpose"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            start = have if response.status == http.client.PARTIAL_CONTENT and _starts_at(response, have) else 0
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else None
            _write(response, part, start, total, limit, url)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:  # the part is of another file, or whole
            part.unlink()
            return download(url, part, limit, timeout)
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DownloadError(f"{url}: {reason}; run it again to go on where it stopped") from None


def _starts_at(response: http.client.HTTPResponse, position: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {position}-")


def _write(response: http.client.HTTPResponse, part: Path, start: int, total: int | None, limit: int, url: str) -> None:
    received = start
    bar = tqdm(initial=start, total=total, unit="B", unit_scale=True, desc=part.stem, disable=None)
    with bar, open(part, "r+b" if start else "wb") as file:
        file.seek(start)
        while received <= limit and (block := response.read(BLOCK)):
            file.write(block)
            received += len(block)
            bar.update(len(block))
        file.flush()
        os.fsync(file.fileno())
    if received > limit:
        part.unlink()
        raise DownloadError(f"{url}: more than the {limit} bytes that it may have; deleted")
    if total is not None and received < total:
        raise DownloadError(f"{url}: cut off at {received} of {total} bytes; run it again to go on")


def _unpack(archive: Path, entry: Entry, target: Path) -> None:
    """The entry's member of a zip, at most as large as it may be."""
    limit = entry.size or MAX_BYTES
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [info for info in packed.infolist() if info.filename.split("/")[-1] == entry.member]
            if len(members) != 1:
                raise DownloadError(f"{entry.url}: holds {len(members)} files named {entry.member}, expected one")
            if members[0].file_size > limit:  # zipfile never gives more than this number
                raise DownloadError(f"{entry.url}: {entry.member} has {members[0].file_size} bytes, at most {limit}")
            with packed.open(members[0]) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        zlib.error,
    ) as error:  # encrypted, unknown, cut off
        raise DownloadError(f"{entry.url}: not a readable zip ({error}); deleted") from None
