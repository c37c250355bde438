"""Images, folders, videos; and what is not one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from tiny_models import person_image

from probpose_ros.sources import SourceError, open_source
from probpose_ros.video import VideoWriter


def test_image(tmp_path):
    image = person_image((40, 40, 100, 200))
    cv2.imwrite(str(tmp_path / "a.png"), image)
    source = open_source(tmp_path / "a.png")
    assert len(source) == 1 and source.fps is None and source.names == ("a.png",)
    ((stamp, found),) = source
    assert stamp == 0.0
    np.testing.assert_array_equal(found, image)


def test_grey_and_transparent_images_become_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((20, 30), 90, np.uint8))
    cv2.imwrite(str(tmp_path / "rgba.png"), np.full((20, 30, 4), 90, np.uint8))
    for _, image in open_source(tmp_path):
        assert image.shape == (20, 30, 3) and (image == 90).all()


def test_folder_in_the_order_of_names(tmp_path):
    for name, value in (("b.png", 20), ("a.PNG", 10), ("c.png", 30)):
        cv2.imwrite(str(tmp_path / name.lower()), np.full((9, 9, 3), value, np.uint8))
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_source(str(tmp_path))
    assert len(source) == 3 and source.names == ("a.png", "b.png", "c.png")
    assert [int(image[0, 0, 0]) for _, image in source] == [10, 20, 30]


def test_video_round_trip(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, fps=10) as video:
        for i in range(12):
            video.write(np.full((121, 161, 3), 20 * i, np.uint8))  # odd sides: one px is cut
    source = open_source(path)
    assert source.fps == 10 and source.length == 12
    stamps, images = zip(*source, strict=True)
    np.testing.assert_allclose(stamps, np.arange(12) / 10)
    assert images[0].shape == (120, 160, 3)
    np.testing.assert_allclose([image.mean() for image in images], 20 * np.arange(12), atol=6)


def jpeg() -> bytes:
    """With a whole thumbnail in its EXIF part, which a picture that breaks off has, too."""
    picture, small = (cv2.imencode(".jpg", person_image((40, 40, 100, 200))[::step, ::step]) for step in (1, 8))
    part = b"Exif\0\0" + small[1].tobytes()
    data = picture[1].tobytes()
    return data[:2] + b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part + data[2:]


def test_what_a_camera_appends_to_a_picture_does_no_harm(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg() + b"a short film" * 99)
    (tmp_path / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    source = open_source(tmp_path)
    assert len(list(source)) == 1
    assert source.skipped == [f"{tmp_path / 'b.jpg'}: cannot be read as an image (No such file or directory)"]


def test_gif(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    frames = [image_module.fromarray(np.full((40, 60, 3), 80 * i, np.uint8)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=100)
    images = [image for _, image in open_source(tmp_path / "a.gif")]
    np.testing.assert_allclose([image.mean() for image in images], [0, 80, 160], atol=4)


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: "rtsp://camera/1", "rtsp://camera/1: network streams are not read; record a file"),
        (lambda folder: write(folder / "half.jpg", jpeg()[:-400]), "half.jpg: breaks off, this JPEG has no end"),
        (lambda folder: folder / "none.png", "none.png: no such file, folder or camera index"),
        (lambda folder: write(folder / "empty.png", b""), "empty.png: the file is empty"),
        (lambda folder: write(folder / "bad.jpg", b"\xff\xd8 no jpeg"), "bad.jpg: cannot be read as an image"),
        (lambda folder: write(folder / "bad.mp4", b"no video" * 99), "bad.mp4: cannot be opened, or gives no image"),
        (
            lambda folder: write(folder / "text.txt", b"hello"),
            r"text.txt: not an image \(.jpg.*video \(.mp4.*or bag \(.mcap",
        ),
        (lambda folder: folder, "no images in this folder"),
        (lambda folder: 987, "camera 987: (there is no /dev/video987|cannot be opened)"),
    ],
)
def test_unreadable_sources(tmp_path, make, words):
    with pytest.raises(SourceError, match=words) as caught:
        open_source(make(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_bad_image_in_a_folder_is_skipped_and_named(tmp_path):
    write(tmp_path / "a.png", b"broken")
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((9, 9, 3), np.uint8))
    write(tmp_path / "c.png", b"")
    source = open_source(tmp_path)
    assert [(stamp, source.names[int(stamp)]) for stamp, _ in source] == [(1.0, "b.png")]
    assert [line.split("/")[-1] for line in source.skipped] == [f"{x}.png: cannot be read as an image" for x in "ac"]


def test_a_folder_of_bad_images_only_is_an_error(tmp_path):
    write(tmp_path / "a.png", b"broken")
    write(tmp_path / "b.jpg", b"")
    with pytest.raises(SourceError, match="none of its 2 images can be read; .*a.png: cannot be read as an image"):
        list(open_source(tmp_path))
