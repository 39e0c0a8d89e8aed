"""A picture of a small SUMO network with its vehicles, drawn without a display."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GRASS, _ROAD, _INK, _MARKED = (229, 236, 221), (98, 102, 108), (40, 44, 52), (30, 90, 220)
_LIGHTS = {"G": (40, 220, 60), "g": (40, 220, 60), "y": (250, 210, 30), "r": (235, 40, 30)}
_SMOOTH = 2


class Canvas:
    """Roads drawn once, vehicles on a copy of them for each frame."""

    def __init__(
        self, network: Path, view: tuple[float, float, float, float], scale: float, fast: float, header: int = 46
    ):
        """`view` is the part of the network to show: x0, y0, x1, y1 (m); `scale` in pixels/m; `fast` is the speed (m/s)
        drawn in full green; `header` pixels on top are for text."""
        self._fast = fast
        self._x0, self._y0, x1, self._y1 = view
        self._scale, self._header = scale * _SMOOTH, header * _SMOOTH
        width, height = (x1 - self._x0) * self._scale, (self._y1 - self._y0) * self._scale
        self._roads = Image.new("RGB", (round(width), round(height) + self._header), _GRASS)
        draw = ImageDraw.Draw(self._roads)
        for shape, lane_width in lanes(network):
            points = [self._pixel(*point) for point in shape]
            thick = round(lane_width * self._scale)
            draw.line(points, _ROAD, thick, joint="curve")
        draw.rectangle((0, 0, width, self._header), "white")

    def frame(
        self,
        vehicles: list[tuple[float, float, float, float, bool]],
        lines: list[str],
        lights: Sequence[tuple[tuple[float, float], str]] = (),
    ) -> np.ndarray:
        """uint8 (H, W, 3).

        `vehicles` are (x, y, angle, speed, marked) of the front bumper: SUMO's angle (degrees, north 0, clockwise) and
        m/s. Red ones stand, green ones drive at `fast` or more, marked ones have a blue frame. `lights` are points (m)
        with SUMO's letter of their colour.
        """
        image = self._roads.copy()
        draw = ImageDraw.Draw(image)
        for x, y, angle, speed, marked in vehicles:
            along = math.radians(90 - angle)
            share = min(max(speed / self._fast, 0), 1)
            colour = (round(215 * min(1, 2 - 2 * share)), round(40 + 130 * min(1, 2 * share)), 40)
            if marked:
                draw.polygon(self._box(x, y, along, 5.0, 2.6, 0.5), _MARKED)
            draw.polygon(self._box(x, y, along, 5.0, 1.8, 0.0), colour)
        for (x, y), letter in lights:
            px, py = self._pixel(x, y)
            r = 1.4 * self._scale
            draw.ellipse((px - r, py - r, px + r, py + r), _LIGHTS.get(letter, _LIGHTS["r"]), _INK)
        for i, line in enumerate(lines):
            draw.text((8 * _SMOOTH, (5 + 20 * i) * _SMOOTH), line, _INK, font=_font(13 * _SMOOTH))
        width, height = image.size
        return np.asarray(image.resize((width // _SMOOTH, height // _SMOOTH), Image.Resampling.BOX))

    def _pixel(self, x: float, y: float) -> tuple[float, float]:
        return (x - self._x0) * self._scale, self._header + (self._y1 - y) * self._scale

    def _box(self, x: float, y: float, along: float, length: float, width: float, more: float) -> list:
        c, s = math.cos(along), math.sin(along)
        corners = [(more, width / 2), (more, -width / 2), (-length - more, -width / 2), (-length - more, width / 2)]
        return [self._pixel(x + u * c - v * s, y + u * s + v * c) for u, v in corners]


@cache
def lanes(network: Path) -> tuple[tuple[tuple[tuple[float, float], ...], float], ...]:
    """Centre line (m) and width (m) of each lane of a .net.xml."""
    found = []
    for lane in ElementTree.parse(network).getroot().iter("lane"):
        shape = tuple(tuple(float(c) for c in point.split(",")[:2]) for point in lane.get("shape").split())
        found.append((shape, float(lane.get("width", 3.2))))
    return tuple(found)


@cache
def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)
