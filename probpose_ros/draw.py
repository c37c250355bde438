"""The overlay: people, the uncertainty of every joint, and what is not known, drawn over the image.

Nothing is drawn that the result does not say: a joint that is UNKNOWN has no place and is only counted, one that is OUT
gets a hollow ring and no region, and a joint beyond the edge of the picture becomes an arrow at the edge.
"""

from __future__ import annotations

import cv2
import numpy as np

from probpose_ros.config import NodeConfig
from probpose_ros.skeleton import EDGES
from probpose_ros.types import FrameResult, FrameState, KeypointState, Person, RegionKind

# BGR
COLORS = {
    KeypointState.IN: (96, 222, 74),
    KeypointState.IN_OR_OUT: (36, 176, 255),
    KeypointState.OUT: (72, 72, 242),
    KeypointState.UNKNOWN: (170, 170, 170),
}
LABELS = {
    KeypointState.IN: "in",
    KeypointState.IN_OR_OUT: "in or out",
    KeypointState.OUT: "out",
    KeypointState.UNKNOWN: "unknown",
}
WHITE, SHADE, OUTSIDE = (245, 245, 245), (24, 22, 20), (46, 42, 40)
_FILL = 0.32  # opacity of the regions
_SHIFT = 4  # cv2 draws in 1/16 px


def draw(
    image: np.ndarray,
    frame: FrameResult,
    margin: float = 0.0,
    legend: bool = True,
    level: float = NodeConfig.drawn_level,
) -> np.ndarray:
    """A new image with the people of ``frame`` drawn over ``image`` (H, W, 3) uint8 BGR.

    Args:
        margin: extends the canvas on every side by this fraction of the image's longer side, so that joints predicted
            outside the image are seen; the image's border is marked.
        level: the regions of the level nearest to it are drawn.
        legend: the key of the colours and the line with the counts.
    """
    height, width = image.shape[:2]
    pad = round(margin * max(height, width))
    if pad:
        canvas = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=OUTSIDE)
    else:
        canvas = image.copy()
    pen = _Pen(canvas, offset=pad, unit=max(min(height, width) / 480, 0.4))
    if pad:
        pen.box((-0.5, -0.5, width - 0.5, height - 0.5), WHITE, 1)

    for person in frame.people:
        _draw_windows(pen, person)
    fill = canvas.copy()
    for person in frame.people:
        _fill_regions(_Pen(fill, pad, pen.unit), person, level)
    cv2.addWeighted(fill, _FILL, canvas, 1 - _FILL, 0, dst=canvas)
    for person in reversed(frame.people):  # the best last, on top
        _draw_bones(pen, person)
        _draw_joints(pen, person, level)
    if legend:
        _draw_legend(pen, frame, level)
    return canvas


def _draw_windows(pen: _Pen, person: Person) -> None:
    thin = max(1, round(pen.unit))
    pen.dashed_box(person.window, WHITE, thin)
    pen.box(person.bbox, WHITE, thin)
    label = f"{person.id}  {person.score:.2f}" if person.id >= 0 else f"{person.score:.2f}"
    pen.text(label, (float(person.bbox[0]), float(person.bbox[1]) - 4 * pen.unit), 0.42)


def _fill_regions(pen: _Pen, person: Person, level: float) -> None:
    """Of joints in the window. The others' are outlines: of a person who is cut off they would cover the picture."""
    for ellipse, state in _shown_regions(person, level):
        if state == KeypointState.IN:
            pen.polygon(_ellipse_points(ellipse), COLORS[state])


def _draw_bones(pen: _Pen, person: Person) -> None:
    thickness = pen.person_unit(person) * 2.2
    for a, b in EDGES:
        worst = max(person.states[a], person.states[b])  # IN < IN_OR_OUT < OUT
        if KeypointState.UNKNOWN in (person.states[a], person.states[b]):
            continue
        ends = person.keypoints[[a, b]]
        if worst == KeypointState.IN:
            pen.line(ends, SHADE, thickness + 2)
            pen.line(ends, COLORS[KeypointState.IN], thickness)
        elif worst == KeypointState.IN_OR_OUT:
            pen.dashed(ends, COLORS[KeypointState.IN_OR_OUT], thickness * 0.7)


def _draw_joints(pen: _Pen, person: Person, level: float) -> None:
    for ellipse, state in _shown_regions(person, level):
        pen.outline(_ellipse_points(ellipse), COLORS[state], max(1, round(pen.unit * 0.8)))
    radius = pen.person_unit(person) * 3.2
    for point, state in zip(person.keypoints, person.states, strict=True):
        color = COLORS[KeypointState(state)]
        if not np.isfinite(point).all():
            continue
        if not pen.inside(point):
            pen.arrow_at_edge(point, color, 12 * pen.unit)
        elif state == KeypointState.OUT:
            pen.ring(point, color, radius * 1.5)
        else:
            pen.dot(point, color, radius)


def _shown_regions(person: Person, level: float) -> list[tuple[np.ndarray, KeypointState]]:
    """Ellipse and state of every joint that has a place, largest first."""
    if person.regions is None:
        return []
    ellipses = person.regions.ellipses[:, person.regions.nearest(level)]
    shown = [
        (ellipse, KeypointState(state))
        for ellipse, state in zip(ellipses, person.states, strict=True)
        if state in (KeypointState.IN, KeypointState.IN_OR_OUT) and np.isfinite(ellipse).all()
    ]
    return sorted(shown, key=lambda pair: -pair[0][2] * pair[0][3])


def _ellipse_points(ellipse: np.ndarray) -> np.ndarray:
    x, y, major, minor, theta = ellipse.astype(float)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    along, across = major * np.cos(angle), minor * np.sin(angle)
    c, s = np.cos(theta), np.sin(theta)
    return np.column_stack([x + c * along - s * across, y + s * along + c * across])


def _draw_legend(pen: _Pen, frame: FrameResult, level: float) -> None:
    states = [state for person in frame.people for state in person.states]
    counts = {state: sum(s == state for s in states) for state in LABELS}
    if frame.state == FrameState.NO_PERSON_DETECTED:
        headline = "no person detected"  # which does not say that nobody is there
    elif frame.state == FrameState.OK:
        headline = "1 person" if len(frame.people) == 1 else f"{len(frame.people)} people"
    else:
        headline = frame.state.name.lower()
    if frame.stage_ms:
        headline += f"   {sum(frame.stage_ms.values()):.0f} ms"
    entries = [(COLORS[state], f"{counts[state]} {LABELS[state]}") for state in LABELS]
    pen.caption(headline, entries, _region_text(frame, level))


def _region_text(frame: FrameResult, level: float) -> str:
    regions = next((person.regions for person in frame.people if person.regions is not None), None)
    if regions is None:
        return ""
    promise = "of the map, not calibrated" if regions.kind == RegionKind.UNKNOWN else f"region ({regions.kind.name})"
    return f"ellipse: {100 * regions.levels[regions.nearest(level)]:.0f} % {promise}"


class _Pen:
    """Anti-aliased drawing in image px on a canvas that starts ``offset`` px up and left of the image."""

    def __init__(self, canvas: np.ndarray, offset: int, unit: float) -> None:
        self.canvas, self.offset, self.unit = canvas, offset, unit

    def person_unit(self, person: Person) -> float:
        """Line widths follow the size of the person as well, so that a small one is not painted over."""
        return min(self.unit, max(0.45, float(np.max(person.bbox[2:] - person.bbox[:2])) / 220))

    def inside(self, point: np.ndarray) -> bool:
        size = np.array(self.canvas.shape[1::-1])
        return bool(((point + self.offset >= 0) & (point + self.offset <= size - 1)).all())

    def line(self, points: np.ndarray, color: tuple, thickness: float) -> None:
        self._polylines([points], False, color, thickness)

    def outline(self, points: np.ndarray, color: tuple, thickness: float) -> None:
        self._polylines([points], True, color, thickness)

    def polygon(self, points: np.ndarray, color: tuple) -> None:
        cv2.fillPoly(self.canvas, [self._fixed(points)], color, cv2.LINE_AA, _SHIFT)

    def dot(self, point: np.ndarray, color: tuple, radius: float) -> None:
        self._circle(point, SHADE, radius + max(1.0, 0.35 * radius), -1)
        self._circle(point, color, radius, -1)

    def ring(self, point: np.ndarray, color: tuple, radius: float) -> None:
        thickness = max(1, round(radius * 0.4))
        self._circle(point, SHADE, radius, thickness + 1)
        self._circle(point, color, radius, thickness)

    def arrow_at_edge(self, point: np.ndarray, color: tuple, length: float) -> None:
        """A triangle at the canvas's edge that points to a place beyond it."""
        low = np.full(2, float(-self.offset)) + length / 2
        high = np.array(self.canvas.shape[1::-1]) - 1.0 - self.offset - length / 2
        tip = np.clip(point, low, high).astype(float)
        direction = point - tip
        direction = direction / max(float(np.hypot(*direction)), 1e-6)
        across = np.array([-direction[1], direction[0]])
        tip = tip + direction * length / 2
        back, half = tip - direction * length, across * length / 2
        triangle = np.array([tip, back + half, back - half])
        self.polygon(triangle, color)
        self.outline(triangle, SHADE, 1)

    def box(self, box: np.ndarray | tuple, color: tuple, thickness: float) -> None:
        self.outline(_box_corners(box), color, thickness)

    def dashed_box(self, box: np.ndarray, color: tuple, thickness: float) -> None:
        corners = _box_corners(box)
        for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            self.dashed(np.array([a, b]), color, thickness)

    def dashed(self, ends: np.ndarray, color: tuple, thickness: float) -> None:
        dash = max(4.0, 7 * self.unit)
        count = int(np.clip(np.hypot(*(ends[1] - ends[0])) / dash, 1, 400)) // 2 * 2 + 1  # odd: a dash at both ends
        stops = np.linspace(ends[0], ends[1], count + 1)
        self._polylines([stops[i : i + 2] for i in range(0, count, 2)], False, color, thickness)

    def text(self, text: str, at: tuple[float, float], size: float, color: tuple = WHITE) -> None:
        """Text whose baseline starts at ``at``, moved into the canvas."""
        scale = size * max(self.unit, 0.8)
        (w, h), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        x = int(np.clip(at[0] + self.offset, 1, max(1, self.canvas.shape[1] - w - 2)))
        y = int(np.clip(at[1] + self.offset, h + 2, self.canvas.shape[0] - 3))
        for shade, extra in ((SHADE, 2), (color, 0)):
            thickness = max(1, round(self.unit)) + extra
            cv2.putText(self.canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, shade, thickness, cv2.LINE_AA)

    def caption(self, headline: str, entries: list[tuple[tuple, str]], note: str) -> None:
        """The key in a strip along the bottom; left out when the canvas is too small to hold it."""
        scale = 0.42 * max(self.unit, 0.8)
        thickness = max(1, round(self.unit * 0.9))
        height = round(42 * scale)

        def width(text: str) -> int:
            return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0]

        rows: list[list[tuple[tuple | None, str]]] = [[(None, headline), *entries]]
        if note:
            rows.append([(None, note)])
        needed = max(sum(width(text) + height * 3 // 2 for _, text in row) for row in rows)
        top = self.canvas.shape[0] - height * len(rows) - height // 2
        if needed > self.canvas.shape[1] or top < self.canvas.shape[0] // 2:
            return
        strip = self.canvas[top:]
        strip[:] = (0.35 * strip + 0.65 * np.array(SHADE)).astype(np.uint8)
        for i, row in enumerate(rows):
            x, y = height // 2, top + height * (i + 1)
            for dot, text in row:
                if dot is not None:
                    cv2.circle(
                        self.canvas, (x + height // 4, y - height // 4), max(2, height // 4), dot, -1, cv2.LINE_AA
                    )
                    x += height * 3 // 4
                cv2.putText(self.canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, WHITE, thickness, cv2.LINE_AA)
                x += width(text) + height * 3 // 4

    def _circle(self, point: np.ndarray, color: tuple, radius: float, thickness: int) -> None:
        centre = tuple(int(v) for v in self._fixed(point[None])[0])
        cv2.circle(self.canvas, centre, round(radius * 2**_SHIFT), color, thickness, cv2.LINE_AA, _SHIFT)

    def _polylines(self, lines: list[np.ndarray], closed: bool, color: tuple, thickness: float) -> None:
        fixed = [self._fixed(points) for points in lines]
        cv2.polylines(self.canvas, fixed, closed, color, max(1, round(thickness)), cv2.LINE_AA, _SHIFT)

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        # Far beyond the canvas is as good as infinitely far, and cv2's fixed point does not overflow.
        limited = np.clip(np.asarray(points, np.float64) + self.offset, -20_000, 20_000)
        return np.round(limited * 2**_SHIFT).astype(np.int32)


def _box_corners(box: np.ndarray | tuple) -> np.ndarray:
    x0, y0, x1, y1 = (float(v) for v in box)
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
