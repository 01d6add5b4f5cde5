"""Where metrics go: a file of JSON lines, TensorBoard, and Weights & Biases where asked for."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from operant.errors import MissingExtra

NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
LANES_SHOWN = 16


class Metrics:
    """One row per chunk. A row has `update`, `steps`, `seconds`, and metrics: a number, or a list with one per lane.

    JSON has no NaN and no infinity: in metrics.jsonl they are the texts "nan", "inf", "-inf", which `read_metrics`
    turns back.
    """

    def __init__(self, directory: Path, *, wandb: str = "", purge_step: int | None = None):
        self._file = open(directory / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115  (closed by close())
        self._directory, self._purge_step, self._board = directory, purge_step, None
        self._wandb = _start_wandb(wandb, directory) if wandb else None

    @staticmethod
    def resume(directory: Path, update: int, *, wandb: str = "") -> Metrics:
        """Goes on after `update`: later rows, and a half-written one, are taken back first."""
        path = directory / "metrics.jsonl"
        rows = [row for row in read_metrics(path) if row["update"] <= update] if path.exists() else []
        partial = path.with_suffix(".partial")
        with open(partial, "w", encoding="utf-8") as file:
            file.writelines(_line(row) for row in rows)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        return Metrics(directory, wandb=wandb, purge_step=_mean(rows[-1]["steps"]) if rows else 0)

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(_line(row))
        self._file.flush()
        step = int(_mean(row["steps"]))
        scalars = {}
        for name, value in row.items():
            if name in ("update", "steps"):
                continue
            scalars[name] = _mean(value)
            if isinstance(value, list) and 1 < len(value) <= LANES_SHOWN:
                scalars |= {f"lane {i}/{name}": x for i, x in enumerate(value)}
        if self._board is None:
            from tensorboardX import SummaryWriter

            where = str(self._directory / "tensorboard")
            self._board = SummaryWriter(where, purge_step=self._purge_step, flush_secs=10)
        for name, value in scalars.items():
            if math.isfinite(value):
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log({name: x for name, x in scalars.items() if math.isfinite(x)}, step=step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that was only half written is left out."""
    rows = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                break
            if not isinstance(row, dict) or not line.endswith("\n"):
                break
            rows.append({name: _decoded(value) for name, value in row.items()})
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps({name: _encoded(value) for name, value in row.items()}, allow_nan=False) + "\n"


def _encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_encoded(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(v) for v in value]
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _mean(value: Any) -> float:
    """Over the lanes that have a number."""
    if not isinstance(value, list):
        return float(value)
    numbers = [float(v) for v in value if math.isfinite(v)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def _start_wandb(project: str, directory: Path) -> Any:
    try:
        import wandb
    except ImportError:
        raise MissingExtra("logging to Weights & Biases", "wandb") from None
    return wandb.init(project=project, name=directory.name, dir=str(directory), config={"run": str(directory)})
