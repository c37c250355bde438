"""Images that must not read as "nobody there": frozen, black, saturated, of another size, out of order."""

from __future__ import annotations

import numpy as np
import pytest

from probpose_ros.input_check import InputCheck, percentiles

FROZEN, CONTRAST = 0.2, 16.0
RNG = np.random.default_rng(0)


def noisy(size: tuple[int, int] = (240, 320)) -> np.ndarray:
    return RNG.integers(0, 256, (*size, 3), np.uint8)


def doubts(images: list[np.ndarray], stamps: list[int] | None = None, period: float = 0.05) -> list[str]:
    check = InputCheck()
    stamps = stamps or list(range(1, len(images) + 1))
    return [
        check.doubt(image, stamp, i * period, FROZEN, CONTRAST) for i, (image, stamp) in enumerate(zip(images, stamps))
    ]


def test_a_live_camera_is_trusted() -> None:
    still = np.tile(np.arange(240, dtype=np.uint8)[:, None, None], (1, 320, 3))
    noise = [still + RNG.integers(0, 2, still.shape, np.uint8) for _ in range(20)]
    assert doubts(noise) == [""] * 20


def test_identical_images_are_frozen_after_a_while_and_no_longer_than_they_stay() -> None:
    image = noisy()
    said = doubts([image] * 8 + [noisy()])
    assert [("frozen" in words) for words in said] == [False] * 4 + [True] * 4 + [False]


def test_two_equal_images_far_apart_are_not_frozen_yet() -> None:
    image = noisy()
    assert doubts([image, image], period=5.0) == ["", ""]
    assert "frozen" in doubts([image] * 3, period=5.0)[2]


@pytest.mark.parametrize("level", [0, 3, 128, 255])
def test_an_image_without_contrast_shows_nothing(level: int) -> None:
    dull = np.clip(level + RNG.integers(-6, 7, (240, 320, 3)), 0, 255).astype(np.uint8)
    assert "black, saturated or covered" in doubts([dull])[0]
    lamp = dull.copy()
    lamp[:20, :20] = 255 - level  # half a percent of the pixels: a lamp in the dark is no view
    assert "covered" in doubts([lamp])[0]
    lamp[:80] = 255 - level if level != 128 else 250
    assert doubts([lamp])[0] == ""


def test_percentiles_are_numpys() -> None:
    for scale in (1, 20, 255):
        pixels = RNG.integers(0, scale + 1, (67, 43), np.uint8)
        expected = np.sort(pixels.ravel())[[int(np.ceil(q * pixels.size)) - 1 for q in (0.01, 0.5, 0.99)]]
        assert percentiles(pixels, (1, 50, 99)).tolist() == expected.tolist()


def test_another_size_is_doubted_once() -> None:
    said = doubts([noisy(), noisy((480, 640)), noisy((480, 640))])
    assert "320 x 240 to 640 x 480" in said[1] and said[2] == ""


def test_a_stamp_that_goes_back_is_doubted_once() -> None:
    said = doubts([noisy() for _ in range(4)], [1_000_000_000, 2_000_000_000, 500_000_000, 600_000_000])
    assert "1500.0 ms before" in said[2] and said[3] == said[1] == ""


def test_zero_switches_a_check_off() -> None:
    check, black = InputCheck(), np.zeros((48, 64, 3), np.uint8)
    assert [check.doubt(black, i, float(i), 0.0, 0.0) for i in range(5)] == [""] * 5


def test_it_costs_little_at_1080p() -> None:
    import timeit

    image = noisy((1080, 1920))
    check = InputCheck()
    ours = min(timeit.repeat(lambda: check.doubt(image, 1, 0.0, FROZEN, CONTRAST), number=5, repeat=5))
    copy = min(timeit.repeat(lambda: image.copy(), number=5, repeat=5))
    assert ours < 5 * copy  # a copy of such an image takes about 1 ms
    print(f"{1e3 * ours / 5:.2f} ms, copy {1e3 * copy / 5:.2f} ms")
