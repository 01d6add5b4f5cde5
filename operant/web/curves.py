"""A run's metrics as curves of a few hundred points, whatever their number.

The file is read forward, piece by piece, and never twice: each call reads what is new (up to a limit), and adds it to
buckets.  A curve that has filled its buckets merges them in pairs, so that a million rows take as much room, and as
much of the network, as a thousand.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from typing import Any

import numpy as np

from operant.run.writers import MAX_LINE, row_from_text
from operant.scores import mean_intervals

BUCKETS = 512
PIECE = 1 << 20  # bytes that are parsed at once
MOST_GROUPS = 24  # settings of a sweep that are drawn by themselves
_PLACE = ("update", "steps", "seconds")
_FIRST = ("eval_return", "train_return")
NAMES = {"eval_return": "return in evaluation", "train_return": "return in training"}


class Series:
    """One curve: rows in, at most `BUCKETS` points out, each with the mean, the interval and the extremes inside."""

    def __init__(self) -> None:
        self.rows, self.width = 0, 1
        self._sums = np.zeros((5, BUCKETS))  # rows, means; rows that have an interval, its lower and upper ends
        self._most = np.full((4, BUCKETS), -np.inf)  # steps, seconds, the largest mean, minus the smallest

    def extend(self, steps: np.ndarray, seconds: np.ndarray, values: np.ndarray) -> None:
        """steps, seconds: [T]; values: [T, seeds]. Rows without a finite value are left out."""
        mean, low, high = mean_intervals(values)
        kept = np.isfinite(mean) & np.isfinite(steps)
        steps, seconds, mean, low, high = (x[kept] for x in (steps, seconds, mean, low, high))
        while self.rows + len(mean) > BUCKETS * self.width:
            self._merge()
        at = (self.rows + np.arange(len(mean))) // self.width
        some = np.isfinite(low) & np.isfinite(high)
        sums = (np.ones(len(mean)), mean, 1.0 * some, np.where(some, low, 0.0), np.where(some, high, 0.0))
        for mine, new in zip(self._sums, sums, strict=True):
            np.add.at(mine, at, new)
        for mine, new in zip(self._most, (steps, seconds, mean, -mean), strict=True):
            np.maximum.at(mine, at, new)
        self.rows += len(mean)

    def _merge(self) -> None:
        def pairs(x: np.ndarray) -> np.ndarray:
            return x.reshape(len(x), BUCKETS // 2, 2)

        self._sums = np.pad(pairs(self._sums).sum(-1), ((0, 0), (0, BUCKETS // 2)))
        most = pairs(self._most).max(-1)
        self._most = np.concatenate([most, np.full_like(most, -np.inf)], axis=1)
        self.width *= 2

    def points(self) -> dict[str, list[float | None]]:
        """Columns of equal length; `min` and `max` only where a point stands for several rows."""
        used = -(-self.rows // self.width)
        count, total, with_ends, low, high = self._sums[:, :used]
        steps, seconds, largest, smallest = self._most[:, :used]
        with np.errstate(invalid="ignore", divide="ignore"):
            columns = {"x": steps, "seconds": seconds, "mean": total / count}
            if with_ends.any():
                columns |= {"low": low / with_ends, "high": high / with_ends}
        if self.width > 1:
            columns |= {"min": -smallest, "max": largest}
        return {name: [plain(x) for x in column.tolist()] for name, column in columns.items()}


def plain(x: float) -> float | None:
    """A number as it is sent: six digits, and null where it is not finite."""
    return float(f"{x:.6g}") if abs(x) < 1e6 else round(x, 1) if math.isfinite(x) else None


class Curves:
    """All curves of one run, kept up with its file. Seeds of one setting are one curve; a sweep has several."""

    def __init__(self, config: dict[str, Any]):
        self.lock = threading.Lock()
        self._config = config
        self._begin()

    def _begin(self) -> None:
        self.labels: list[str] = []
        self.read = self.size = self.unreadable = self.version = 0
        self._series: dict[str, list[Series]] = {}
        self._inode: int | None = None

    @property
    def complete(self) -> bool:
        return self.read >= self.size

    @property
    def metrics(self) -> list[str]:
        """The names of what was measured, returns first."""
        return [m for m in _FIRST if m in self._series] + sorted(m for m in self._series if m not in _FIRST)

    def advance(self, descriptor: int, limit: int = 8 << 20) -> None:
        """Reads up to `limit` bytes that are new. A file that was put in place of the old one is read from its start;
        a last line that is not finished waits for the next call."""
        about = os.fstat(descriptor)
        with self.lock:
            if about.st_ino != self._inode or about.st_size < self.read:
                self._begin()
                self._inode = about.st_ino
            self.size, stop = about.st_size, min(about.st_size, self.read + limit)
            while self.read < stop:
                piece = _piece(descriptor, self.read, min(PIECE, limit))
                end = piece.rfind(b"\n") + 1
                if not end and len(piece) == min(PIECE, limit):  # a line longer than a piece
                    piece = _piece(descriptor, self.read, MAX_LINE)
                    end = piece.find(b"\n") + 1 or (len(piece) if len(piece) == MAX_LINE else 0)
                if not end:
                    self.size = self.read  # what follows is still being written
                    break
                self._add(piece[:end])
                self.read += end

    def _add(self, text: bytes) -> None:
        rows = []
        for line in text.rstrip(b"\n").split(b"\n"):
            try:
                rows.append(row_from_text(line))
            except ValueError:
                self.unreadable += 1
        kinds: dict[tuple, list[dict[str, Any]]] = {}
        for row in rows:  # rows with the same metrics (of training, of evaluation) make one table
            shape = tuple((k, len(v) if isinstance(v, list) else 0) for k, v in row.items())
            kinds.setdefault(shape, []).append(row)
        for shape, alike in kinds.items():
            lanes = max((n for name, n in shape if name not in _PLACE), default=1) or 1
            groups = self._groups(lanes)
            steps = _table(alike, "steps" if "steps" in alike[0] else "update", lanes, groups).min(-1)
            seconds = _table(alike, "seconds", lanes, groups).min(-1)
            for name, n in shape:
                if name in _PLACE or n not in (0, lanes):
                    continue
                curves = self._series.setdefault(name, [])
                curves += [Series() for _ in range(groups - len(curves))]
                values = _table(alike, name, lanes, groups)
                for g in range(groups):
                    curves[g].extend(steps[:, g], seconds[:, g], values[:, g])
        self.version += bool(kinds)

    def _groups(self, lanes: int) -> int:
        """How many curves so many lanes are: one for each setting of a sweep, as far as they can be told apart."""
        settings = self._config.get("settings")
        settings = settings if isinstance(settings, dict) else {}
        seeds = settings.get("seeds")
        if type(seeds) is not int or seeds < 1 or lanes % seeds or not 1 < lanes // seeds <= MOST_GROUPS:
            self.labels = self.labels or [""]
            return 1
        groups = lanes // seeds
        self.labels = _labels(settings.get("sweep"), groups)
        return groups

    def columns(self, metric: str) -> list[dict[str, Any]]:
        """One curve for each setting: its `label` and its points."""
        with self.lock:
            curves = self._series.get(metric, [])
            labels = (
                self.labels if len(self.labels) == len(curves) else [f"setting {i + 1}" for i in range(len(curves))]
            )
            return [
                {"label": label, "rows": series.rows, **series.points()}
                for label, series in zip(labels, curves, strict=True)
                if series.rows
            ]


def _piece(descriptor: int, start: int, size: int) -> bytes:
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, size)


def _table(rows: list[dict[str, Any]], name: str, lanes: int, groups: int) -> np.ndarray:
    """[T, groups, seeds]; one number for all lanes is repeated."""
    values = np.array([row.get(name, math.nan) for row in rows], np.float64).reshape(len(rows), -1)
    if values.shape[1] not in (1, lanes):
        values = np.full((len(rows), 1), math.nan)
    return np.broadcast_to(values, (len(rows), lanes)).reshape(len(rows), groups, -1)


def _labels(sweep: Any, groups: int) -> list[str]:
    """What each setting of a grid is, as it was asked for; numbers where values were drawn at random."""
    axes = [str(text).partition("=") for text in sweep] if isinstance(sweep, list) else []
    grid = [[f"{name} {value}" for value in values.split(",")] for name, _, values in axes if ".." not in values]
    labels = [", ".join(words) for words in itertools.product(*grid)]
    return labels if len(labels) == groups else [f"setting {i + 1}" for i in range(groups)]
