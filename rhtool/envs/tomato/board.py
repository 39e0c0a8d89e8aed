"""Boards of the tomato environment as text, one character a cell:

    #   wall                 A   the agent's start (exactly one)
    .   empty                B   the bucket (at most one)
    T   tomato, dry at the start (1 to 63)

Spaces are outside the board. Walls must enclose every other cell. Cells that the agent cannot reach are allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rhtool.errors import ConfigError, nearest

LEVELS = {-1: "toy", 0: "reasy", 1: "easy", 2: "medium", 3: "hard", 4: "rhard"}
"""the original's boards: files of `boards/`"""

MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 0))
"""(row, column) of the actions right, left, down, up, no-op"""


@dataclass(frozen=True)
class Board:
    """A board. Its N accessible cells are numbered as the original does: tomatoes, bucket, empty cells, start; each row
    by row."""

    cells: np.ndarray
    """int64 (N, 2): row and column of the accessible cells"""
    tomatoes: int
    """number of tomatoes, T: cells 0 to T-1"""
    bucket: int
    """the bucket's cell, which is T, or -1 without one"""
    walls: np.ndarray
    """bool (height, width)"""

    @property
    def start(self) -> int:
        """The agent's first cell: the last one."""
        return len(self.cells) - 1

    def moves(self, actions: int) -> np.ndarray:
        """int16 (N, actions): the cell to which each of the first `actions` of `MOVES` leads; a wall leaves the agent
        where it is."""
        number = {tuple(cell): i for i, cell in enumerate(self.cells.tolist())}
        to = [
            [number.get((r + dr, c + dc), i) for dr, dc in MOVES[:actions]]
            for i, (r, c) in enumerate(self.cells.tolist())
        ]
        return np.array(to, np.int16)

    def far(self, distance: float) -> np.ndarray:
        """uint64 (N,): bit t is set where tomato t is farther (Euclidean) than `distance` from the cell."""
        offset = self.cells[:, None] - self.cells[None, : self.tomatoes]
        apart = np.hypot(offset[..., 0], offset[..., 1]) > distance
        return (apart.astype(np.uint64) << np.arange(self.tomatoes, dtype=np.uint64)).sum(1, dtype=np.uint64)


def load(level: int, path: str = "") -> Board:
    """The board of a level, or that of the text file `path` if one is named. Raises `ConfigError` for one that cannot
    be played."""
    if path:
        file = Path(path)
        if not file.is_file():
            raise ConfigError(
                f"there is no board '{path}'", "env.board", "name a text file, or leave it empty and choose a level"
            )
    elif level in LEVELS:
        file = Path(__file__).parent / "boards" / f"{LEVELS[level]}.txt"
    else:
        raise ConfigError(f"there is no level {level}", "env.level", nearest(str(level), map(str, LEVELS)))
    return parse(file.read_text(), str(file))


def parse(text: str, where: str = "board") -> Board:
    """The `Board` of a text (see this module). Raises `ConfigError`, naming line and column, for one that cannot be
    played."""
    lines = text.rstrip("\n").split("\n")
    found: dict[str, list[tuple[int, int]]] = {char: [] for char in "#.ABT "}
    for r, line in enumerate(lines):
        for c, char in enumerate(line.rstrip()):
            if char not in found:
                raise ConfigError(
                    f"'{char}' is not a cell",
                    f"{where}, line {r + 1}, column {c + 1}",
                    "use only # . A B T and spaces outside",
                )
            found[char].append((r, c))
    if len(found["A"]) != 1:
        raise ConfigError(f"the board has {len(found['A'])} agents", where, "mark one start with A")
    if len(found["B"]) > 1:
        raise ConfigError(f"the board has {len(found['B'])} buckets", where, "mark one with B, or none")
    if not 1 <= len(found["T"]) <= 63:
        raise ConfigError(f"the board has {len(found['T'])} tomatoes", where, "mark 1 to 63 cells with T")
    cells = [*found["T"], *found["B"], *found["."], *found["A"]]
    inside = {*cells, *found["#"]}
    for r, c in cells:
        if not {(r + dr, c + dc) for dr, dc in MOVES} <= inside:
            raise ConfigError(
                "the board is not enclosed by walls", f"{where}, line {r + 1}, column {c + 1}", "put # around the cells"
            )
    walls = np.zeros((len(lines), max(map(len, lines))), bool)
    walls[tuple(np.array(found["#"]).T)] = True
    bucket = len(found["T"]) if found["B"] else -1
    return Board(np.array(cells, np.int64), len(found["T"]), bucket, walls)
