"""The paper's grid worlds in numbers (Oh et al. 2020, arXiv:2007.08794, appendix): mazes, objects and caps.

A maze is rows of open cells (`.`) and walls (`#`). Objects are given by type: (count, reward, P(the episode ends when
one is collected), P(it is back, per step of absence)). What happens with them is in `grids`.
"""

from __future__ import annotations

Objects = tuple[tuple[int, float, float, float], ...]


def _open(height: int, width: int) -> tuple[str, ...]:
    return ("." * width,) * height


DENSE: Objects = ((2, 1.0, 0.0, 0.05), (1, -1.0, 0.5, 0.1), (1, -1.0, 0.0, 0.5))
LONG: Objects = ((2, 1.0, 0.0, 0.01), (2, -1.0, 0.5, 1.0))

GRIDS: dict[str, tuple[tuple[str, ...], Objects, int]] = {
    "dense": (_open(11, 11), DENSE, 500),
    "sparse": (_open(13, 13), ((1, 1.0, 1.0, 0.0), (1, -1.0, 1.0, 0.0)), 50),
    "long": (_open(11, 11), LONG, 1000),
    "longer": (
        (
            "....#....",
            ".........",
            "....#....",
            "...###...",
            "....#....",
            ".........",
            "....#....",
        ),
        ((2, 1.0, 0.1, 0.01), (5, -1.0, 0.8, 1.0)),
        2000,
    ),
    "long_dense": (
        (
            "...........",
            ".....#.....",
            ".....#.....",
            ".....#.....",
            "##.#####.##",
            ".....#.....",
            ".....#.....",
            "...........",
            ".....#.....",
            ".....#.....",
            ".....#.....",
        ),
        ((4, 1.0, 0.0, 0.005),),
        2000,
    ),
}
"""Mazes, objects and caps of the paper's tabular grids."""

RANDOM_GRIDS: dict[str, tuple[tuple[str, ...], Objects, int]] = {
    "dense": GRIDS["dense"],
    "long": GRIDS["long"],
    "small": (
        (
            ".......",
            "..#....",
            ".......",
            "....#..",
            ".......",
        ),
        ((2, 1.0, 0.0, 0.05), (2, -1.0, 0.5, 0.1)),
        500,
    ),
    "small_sparse": (_open(5, 7), ((1, 1.0, 1.0, 1.0), (2, -1.0, 1.0, 1.0)), 50),
    "very_dense": (_open(11, 11), ((1, 1.0, 0.0, 1.0),), 2000),
}
"""The same of its random grids."""
