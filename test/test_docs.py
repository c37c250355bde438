"""Every command in README and docs is run here, or says why not; links hold; numbers stand in one place.

A comment right above a fenced block of commands (sh) or Python says what happens to it:

    <!-- run -->                    run here, in the order of the page, in a folder with photographs and labels
    <!-- run: slow -->              the same, but the whole page only with ``pytest -m slow``
    <!-- tested by: test/x.py::y -->    another test does the same
    <!-- not run: REASON -->
    <!-- file: NAME -->             any block: the page's commands find it as this file
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("models/*.md")])
COMMANDS = {"sh", "bash", "console", "shell", "python"}
FENCE = re.compile(r"(?:^ *<!-- ([^>]*) -->\n)?^( *)```(\w*)[^\n]*\n(.*?)^\2```$", re.M | re.S)
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block: what its comment says (kind and value), its language and its text."""

    kind: str
    value: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    found = []
    for comment, indent, language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        kind, _, value = comment.partition(": ")
        found.append(Block(kind, value, language, re.sub(f"^{indent}", "", text, flags=re.M)))
    return found


def page_ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_every_command_is_run_or_says_why_not(page: Path) -> None:
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks(page)), "a fence that is not closed"
    for block in blocks(page):
        first = block.text.strip().splitlines()[0]
        if block.language in COMMANDS or first.split()[0] in ("probpose", "python", "ros2", "pip", "make", "colcon"):
            assert block.kind in ("run", "tested by", "not run", "file"), f"no comment above the block {first!r}"
        if block.kind in ("not run", "file", "tested by"):
            assert block.value, f"{first!r}: {block.kind}: what, or why?"
        if block.kind == "tested by":
            file, _, name = block.value.partition("::")
            assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8"), f"there is no test {block.value}"


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_a_comment_stands_once(page: Path) -> None:
    """Of two in a row only the second would count."""
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"^ *(<!-- (?:run|tested by|not run|file)\b.*)\n *<!-- ", text, re.M)


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_configuration_is_readable(page: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml":
            assert yaml.safe_load(block.text) is not None
        if block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_links_lead_to_files(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{target} does not exist"


def write_site(folder: Path, count: int = 40) -> None:
    """photo.jpg, photos/, and site/ with site.json: one photograph of skimage, moved and scaled, with its keypoints.

    The labels were put by eye; what comes out of them is looked at by no test.
    """
    import cv2

    data = pytest.importorskip("skimage.data", reason="scikit-image has the photographs (make test installs it)")
    picture = data.astronaut()[:, :, ::-1]
    labels = np.array(
        [(224, 118), (243, 98), (206, 98), (268, 112), (188, 112), (345, 255), (118, 262), (420, 400), (60, 400),
         (380, 500), (90, 500)]
    )  # fmt: skip
    for name in ("photos", "site"):
        (folder / name).mkdir()
    cv2.imwrite(str(folder / "photo.jpg"), picture)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for n in range(count):
        scale = rng.uniform(0.45, 0.65)
        move = np.array([[scale, 0, rng.uniform(-20, 100)], [0, scale, rng.uniform(-10, 60)]])
        moved = cv2.warpAffine(picture, move, (384, 320), borderValue=(90, 90, 90))
        cv2.imwrite(str(folder / f"site/{n}.jpg"), moved)
        if n < 3:
            cv2.imwrite(str(folder / f"photos/{n}.jpg"), moved)
        points = labels @ move[:, :2].T + move[:, 2]
        inside = (points >= 0).all(axis=1) & (points <= (383, 319)).all(axis=1)
        keypoints = np.zeros((17, 3))
        keypoints[: len(points)] = np.column_stack([points, 2 * inside]) * inside[:, None]
        (x0, y0), (x1, y1) = points[inside].min(0) - 15, np.minimum(points[inside].max(0) + 15, (384, 320))
        images.append({"id": n, "file_name": f"{n}.jpg", "width": 384, "height": 320})
        annotations.append(
            {"id": n + 1, "image_id": n, "category_id": 1, "iscrowd": 0, "bbox": [x0, y0, x1 - x0, y1 - y0],
             "area": 0.53 * (x1 - x0) * (y1 - y0), "num_keypoints": int(inside.sum()),
             "keypoints": keypoints.ravel().tolist()}
        )  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "site.json").write_text(json.dumps(content))


def run_page(page: Path, folder: Path) -> None:
    """The page's commands, in a folder like a checkout in which its user has put photographs."""
    write_site(folder)
    for name in ("bench", "config", "docs", "launch", "models", "training"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    environment = {
        **os.environ, "PATH": f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1",
        "PROBPOSE_ENGINES": str(folder / "engines"), "PROBPOSE_MODELS": str(folder / "fetched"),
    }  # fmt: skip
    for block in blocks(page):
        if block.kind == "file":
            (folder / block.value).write_text(block.text)
        if block.kind == "run":
            python = block.language == "python"
            command = [sys.executable, "-c", block.text] if python else ["bash", "-euo", "pipefail", "-c", block.text]
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200)
            assert done.returncode == 0, f"{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


RUN = [page for page in PAGES if any(block.kind == "run" for block in blocks(page))]
SLOW = [page for page in RUN if any(block.kind == "run" and block.value == "slow" for block in blocks(page))]


@pytest.mark.parametrize("page", [page for page in RUN if page not in SLOW], ids=page_ids)
def test_commands_of_a_page(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=page_ids)
def test_commands_of_a_slow_page(page: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training's commands need torch")
    run_page(page, tmp_path)


def broken_links(site: Path) -> list[str]:
    """Of the pages as they were written: a page that includes another file has its links, from another folder."""
    text = {page: page.read_text(encoding="utf-8") for page in sorted(site.rglob("*.html")) if page.name != "404.html"}
    anchors = {page.resolve(): set(re.findall(r'\bid="?([^" >]+)', html)) for page, html in text.items()}
    broken = []
    for page, html in text.items():
        for link in re.findall(r'\b(?:href|src)="?([^" >]+)', html):
            path, _, anchor = unescape(link).partition("#")
            if not re.match(r"[a-z]+:", link):
                target = (page.parent / path.partition("?")[0] if path else page).resolve()
                target = target / "index.html" if target.is_dir() else target
                known = anchor in anchors.get(target, {anchor}) | {""}
                if not target.is_file() or not known:
                    broken.append(f"{page.name}: {link}")
    return broken


def test_a_broken_link_of_the_site_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#there"> <a href="b.html#gone"> <a href="../b.html"> <a href=#x>')
    (tmp_path / "b.html").write_text('<h2 id="there"> <img src="https://example.org/a.png"> <img src=none.png>')
    assert broken_links(tmp_path) == ["a.html: b.html#gone", "a.html: ../b.html", "a.html: #x", "b.html: none.png"]


def test_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("zensical", reason="zensical is not installed (Python 3.11 or later: make docs)")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)  # of a link it would take the target's folder, and build there
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("README.md", "bench", "config", "models", "probpose_msgs"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}
    assert pages <= {page.stem for page in (tmp_path / "out/site").glob("*.html")}
    assert not broken_links(tmp_path / "out/site")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    assert sorted(re.findall(r" (\w+)\.md$", navigation, re.M)) == sorted(pages), "every page once in the menu"
