"""Where annotated keypoints lie (paper, Tab. 3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_coco import coco, person

from probpose_training.coco import parse_coco, read_coco
from probpose_training.domain import PAPER_DOMAINS, domain, domain_table, keypoint_areas

DATA = Path(__file__).parents[1] / "../shared/data/coco_val.tar"


def test_areas_by_hand() -> None:
    # Image 100 x 80, bbox 5..35 x 6..46: centre (20, 26), window 37.5 x 50 and so 1.25 .. 38.75 and 1 .. 51.
    places = {(20, 20): "A", (35, 46): "A", (37, 20): "B", (20, 50): "B", (60, 20): "D", (-20, 20): "E", (20, 200): "E"}
    keypoints = np.zeros((17, 3))
    keypoints[: len(places)] = [(x, y, 2) for x, y in places]
    dataset = parse_coco(coco(person(keypoints=keypoints.ravel().tolist())))
    assert keypoint_areas(dataset)[0].tolist() == [*places.values(), *[""] * (17 - len(places))]
    assert domain(dataset)["A"] == pytest.approx(100 * 2 / len(places))


def test_in_window_but_out_of_image() -> None:
    keypoints = np.zeros((17, 3))
    keypoints[0] = (-2, 20, 3)
    keypoints[1] = (-20, 20, 3)
    annotation = person(bbox=[0, 0, 30, 40], keypoints=keypoints.ravel().tolist())
    assert keypoint_areas(parse_coco(coco(annotation)))[0, :2].tolist() == ["C", "E"]


def test_the_paper_rows_are_percentages() -> None:
    for row in PAPER_DOMAINS.values():
        assert sum(row) == pytest.approx(100, abs=0.15)


def test_table_shows_the_set_beside_the_paper() -> None:
    text = domain_table("mine", dict(zip("ABCDE", (90.0, 4.0, 3.0, 2.0, 1.0), strict=True)))
    lines = text.splitlines()
    assert lines[1].split() == ["mine", "90.0", "4.0", "3.0", "2.0", "1.0"]
    assert lines[3].split() == ["COCO", "val", "(paper)", "95.8", "3.9", "0.0", "0.2", "0.0"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.skipif(not DATA.is_file(), reason="the data folder ../shared is not there")
def test_coco_val_has_the_papers_domain(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(DATA) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("person_keypoints_val.json"))
        (tmp_path / "a.json").write_bytes(archive.extractfile(member).read())
    shares = domain(read_coco(tmp_path / "a.json"))
    np.testing.assert_allclose(list(shares.values()), PAPER_DOMAINS["COCO val"], atol=1.5)
