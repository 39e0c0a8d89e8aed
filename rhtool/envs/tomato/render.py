"""Pictures of the tomato environment: as text and as RGB arrays, drawn with numpy alone."""

from __future__ import annotations

from functools import cache

import numpy as np

from rhtool.envs.tomato.board import Board

SIZE = 32
"""pixels of a cell's side"""

_WALL, _MORTAR, _SOIL, _FURROW = (96, 84, 74), (78, 67, 58), (222, 203, 164), (211, 190, 148)
_DRY, _RED, _LEAF, _WATER, _SHINE = (168, 126, 92), (214, 52, 40), (62, 137, 60), (70, 140, 220), (255, 255, 255)
_TIN, _RIM, _SKIN, _HAT, _SHIRT = (142, 152, 163), (98, 107, 118), (244, 201, 160), (235, 184, 60), (52, 92, 160)


def text(board: Board, agent: int, watered: list[bool], step: int) -> str:
    """The board's characters (see `board.py`) with `t` for a watered tomato and `A` where the agent is, and a line of
    numbers."""
    grid = np.where(board.walls, "#", " ")
    for i, (r, c) in enumerate(board.cells):
        grid[r, c] = ("t" if watered[i] else "T") if i < board.tomatoes else "B" if i == board.bucket else "."
    grid[tuple(board.cells[agent])] = "A"
    rows = "\n".join("".join(row).rstrip() for row in grid)
    return f"{rows}\nstep {step}, watered {sum(watered)} of {board.tomatoes}\n"


def picture(board: Board, agent: int, watered: list[bool], step: int) -> np.ndarray:
    """The board as uint8 (SIZE * height, SIZE * width, 3)."""
    image = np.tile(_tile("wall"), (*board.walls.shape, 1))
    for i, (r, c) in enumerate(board.cells):
        plant = ("watered" if watered[i] else "dry") if i < board.tomatoes else "bucket" if i == board.bucket else ""
        image[r * SIZE : (r + 1) * SIZE, c * SIZE : (c + 1) * SIZE] = _tile(plant, i == agent)
    return image


@cache
def _tile(kind: str, agent: bool = False) -> np.ndarray:
    """One cell's pixels, uint8 (SIZE, SIZE, 3)."""
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE
    tile = np.empty((SIZE, SIZE, 3), np.uint8)

    def disc(cx: float, cy: float, radius: float, colour: tuple[int, int, int], flat: float = 1.0) -> None:
        tile[(x - cx) ** 2 + ((y - cy) / flat) ** 2 < radius**2] = colour

    if kind == "wall":
        tile[:] = _WALL
        brick = (x + 0.25 * (np.floor(y * 4) % 2)) * 2 % 1
        tile[(y * 4 % 1 < 0.14) | (brick < 0.07)] = _MORTAR
        return tile
    tile[:] = _SOIL
    tile[y * 4 % 1 < 0.3] = _FURROW
    if kind in ("dry", "watered"):
        if kind == "watered":
            disc(0.5, 0.78, 0.40, _WATER, flat=0.45)
        disc(0.5, 0.54, 0.30, _RED if kind == "watered" else _DRY)
        disc(0.40, 0.44, 0.06, _SHINE if kind == "watered" else _SOIL)
        tile[(abs(y - 0.26) + 0.35 * abs(x - 0.5) < 0.07) & (abs(x - 0.5) < 0.2)] = _LEAF
    elif kind == "bucket":
        tile[(y > 0.3) & (y < 0.86) & (abs(x - 0.5) < 0.40 - 0.18 * y)] = _TIN
        disc(0.5, 0.3, 0.36, _RIM, flat=0.4)
        disc(0.5, 0.3, 0.29, _WATER, flat=0.4)
    if agent:
        tile[(y > 0.62) & (y < 0.94) & (abs(x - 0.5) < 0.12 + 0.25 * (y - 0.62) / 0.32)] = _SHIRT
        disc(0.5, 0.46, 0.20, _SKIN)
        disc(0.5, 0.34, 0.31, _HAT, flat=0.26)
        disc(0.5, 0.27, 0.16, _HAT)
        disc(0.43, 0.48, 0.03, (40, 40, 40))
        disc(0.57, 0.48, 0.03, (40, 40, 40))
    return tile
