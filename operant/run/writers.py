"""Metrics on their way out: metrics.jsonl, TensorBoard files, Weights & Biases.

`metrics.jsonl` is the record; the others are views of it.  Each line is a JSON object with `update`, `steps`, `seconds`
and metrics, each one number or a list with one number per lane.  JSON has no NaN and no infinity: they are written as
the strings "NaN", "Infinity" and "-Infinity", and `read_metrics` makes them numbers again.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from operant.errors import MissingExtra, UserError
from operant.run import files

MAX_LINE = 16 << 20
MAX_LANES_SHOWN = 16  # with more lanes, TensorBoard and Weights & Biases get their mean only
_PLACE = ("update", "steps", "seconds")  # where a row stands, not what was measured
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


# --------------------------------------------------------------------------------------------------------------- rows
def row_to_text(row: dict[str, Any]) -> str:
    """A row as one line of standard JSON. Raises ValueError for a row that is not of numbers."""
    plain = {}
    for name, value in row.items():
        value = value.tolist() if hasattr(value, "tolist") else value
        plain[name] = [_encoded(name, x) for x in value] if isinstance(value, (list, tuple)) else _encoded(name, value)
    if type(plain.get("update")) is not int:
        raise ValueError(f"a row's update is {row.get('update')!r}; expected a whole number")
    return json.dumps(plain, allow_nan=False, separators=(",", ":"))


def _encoded(name: str, x: Any) -> Any:
    x = x.item() if hasattr(x, "item") else x
    if not isinstance(x, (int, float)):
        raise ValueError(f"the metric {name} is {x!r}; expected a number, or a list with one per lane")
    if math.isfinite(x):
        return x
    return "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"


def row_from_text(line: str | bytes) -> dict[str, Any]:
    """The inverse of `row_to_text`. Raises ValueError saying what is wrong with the line."""
    row = files.from_text(line)
    if not isinstance(row, dict) or type(row.get("update")) is not int:
        raise ValueError("it is no object with a whole number called update")
    return {name: [_decoded(x) for x in v] if isinstance(v, list) else _decoded(v) for name, v in row.items()}


def _decoded(x: Any) -> Any:
    if isinstance(x, str) and x in _WORDS:
        return _WORDS[x]
    if not isinstance(x, (int, float)):
        raise ValueError(f"{str(x)[:40]!r} is no number")
    return x


def read_metrics(path: str | os.PathLike) -> Iterator[dict[str, Any]]:
    """The rows of a metrics.jsonl, one at a time; none if there is no such file.

    A last line without its end is still being written, or its writer was killed: it is left out.  Raises UserError for
    any other line that is no row of metrics.
    """
    for _, row in _rows(Path(path)):
        yield row


def _rows(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Lines as they are in the file, and the rows in them."""
    if not path.exists():
        return
    if path.is_symlink() or not path.is_file():
        raise UserError(f"{path} is no regular file")
    try:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE):
                number += 1
                if not line.endswith(b"\n"):
                    if len(line) == MAX_LINE:
                        raise UserError(f"{path}, line {number}, is longer than {MAX_LINE:,} bytes")
                    return
                try:
                    yield line, row_from_text(line)
                except ValueError as error:
                    raise UserError(f"{path}, line {number}, is no row of metrics: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


# ------------------------------------------------------------------------------------------------------------- writer
class Metrics:
    """Writes rows of metrics in the directory of a run.

    path          the run's directory
    wandb         a project of Weights & Biases to send the rows to as well, or nothing
    tensorboard   whether to write TensorBoard files

    Means are over the lanes where a metric is finite.  The horizontal axis is `steps`, that every lane has reached.
    Raises UserError where there are metrics already, and MissingExtra where `wandb` is not installed.
    """

    def __init__(self, path: str | os.PathLike, *, wandb: str | None = None, tensorboard: bool = True):
        self._start(Path(path), wandb, tensorboard, purge_step=None)

    @classmethod
    def resume(
        cls, path: str | os.PathLike, update: int, *, wandb: str | None = None, tensorboard: bool = True
    ) -> Metrics:
        """Goes on after `update`, the last that the run keeps: what was written after it is taken back, also where the
        writer was killed in the middle of a line, so that the curve has neither a gap nor a line twice."""
        path, kept = Path(path), None
        metrics_path = path / "metrics.jsonl"
        temporary = metrics_path.with_name(f"{files.TEMPORARY}metrics.jsonl-{os.getpid()}")
        try:
            try:
                with open(temporary, "wb") as file:
                    for line, row in _rows(metrics_path):
                        if row["update"] <= update:
                            file.write(line)
                            kept = row
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, metrics_path)
                files.flush_directory(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(f"{metrics_path} could not be written: {error.strerror}") from error
        writer = cls.__new__(cls)
        writer._start(path, wandb, tensorboard, purge_step=0 if kept is None else _place(kept) + 1)
        return writer

    def _start(self, path: Path, project: str | None, tensorboard: bool, purge_step: int | None) -> None:
        self.path = path
        self._board: Any = None
        self._wandb: Any = None
        self._refused = False
        wandb = _import_wandb() if project else None
        metrics_path = path / "metrics.jsonl"
        try:
            self._file: BinaryIO = open(metrics_path, "xb" if purge_step is None else "ab")
        except FileExistsError:
            raise UserError(f"{metrics_path} is there already: go on with: operant resume {path}") from None
        except OSError as error:
            raise UserError(f"{metrics_path} could not be written: {error.strerror}") from error
        if tensorboard:
            if purge_step == 0:  # nothing of it is kept
                shutil.rmtree(path / "tensorboard", ignore_errors=True)
            from tensorboardX import SummaryWriter

            # files are named by the second: one more part, so that resuming at once does not write over the last
            suffix = f".{os.urandom(4).hex()}"
            self._board = SummaryWriter(
                str(path / "tensorboard"), purge_step=purge_step or None, filename_suffix=suffix
            )
        if wandb is not None:
            self._wandb = _start_wandb(wandb, path, project)

    def write(self, row: dict[str, Any]) -> None:
        """Adds a row: `update` (whole number), `steps`, `seconds`, and metrics: numbers, or lists of one per lane.

        Raises UserError where the disk refuses.
        """
        line = row_to_text(row)
        with self._refusals("metrics.jsonl"):
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        if self._board is None and self._wandb is None:
            return
        row = row_from_text(line)
        scalars = _scalars(row)
        if self._board is not None:
            with self._refusals("tensorboard"):
                for name, x in scalars.items():
                    self._board.add_scalar(name, x, _place(row))
                self._board.flush()
        if self._wandb is not None:
            steps = {"steps": _place(row)} if "steps" in row else {}
            self._wandb.log({**steps, **scalars}, step=row["update"])

    def sync(self) -> None:
        """Makes the rows so far outlast a power cut, as a checkpoint does that is saved next."""
        with self._refusals("metrics.jsonl"):
            os.fsync(self._file.fileno())

    @contextmanager
    def _refusals(self, name: str) -> Iterator[None]:
        """What the disk refuses, as a UserError."""
        try:
            yield
        except OSError as error:
            self._refused = True
            raise UserError(f"{self.path / name} could not be written: {error.strerror or error}") from error

    def close(self) -> None:
        """Ends all of them. Raises UserError where the disk refuses, but not if that has been said before: the same
        rows, that it still does not take, would hide what went wrong first."""
        told = self._refused
        with suppress(UserError) if told else nullcontext(), ExitStack() as ends:  # each of them, also if one fails
            board, wandb, self._board, self._wandb = self._board, self._wandb, None, None
            if wandb is not None:
                ends.callback(wandb.finish)
            if board is not None:
                ends.enter_context(self._refusals("tensorboard"))
                ends.callback(board.close)
            if not self._file.closed:
                ends.enter_context(self._refusals("metrics.jsonl"))
                ends.callback(self._file.close)
                self._file.flush()
                os.fsync(self._file.fileno())

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _place(row: dict[str, Any]) -> int:
    """Where a row stands on the horizontal axis: the steps that every lane has reached."""
    steps = row.get("steps", row["update"])
    finite = [x for x in (steps if isinstance(steps, list) else [steps]) if math.isfinite(x)]
    return int(min(finite, default=row["update"]))


def _scalars(row: dict[str, Any]) -> dict[str, float]:
    """The finite numbers in a row by name: means over lanes, and single lanes where they are few."""
    scalars = {}
    for name, value in row.items():
        if name in _PLACE:
            continue
        lanes = value if isinstance(value, list) else [value]
        finite = [x for x in lanes if math.isfinite(x)]
        if finite:
            scalars[name] = sum(finite) / len(finite)
        if 1 < len(lanes) <= MAX_LANES_SHOWN:
            scalars |= {f"{name}/lane_{i}": x for i, x in enumerate(lanes) if math.isfinite(x)}
    return scalars


def check_wandb(project: str) -> None:
    """Raises MissingExtra where Weights & Biases is asked for and not installed."""
    if project:
        _import_wandb()


def _import_wandb() -> Any:
    try:
        import wandb
    except ImportError:
        raise MissingExtra("Weights & Biases (--wandb)", "wandb") from None
    return wandb


def _start_wandb(wandb: Any, path: Path, project: str | None) -> Any:
    config = files.read_json(path / "config.json") if (path / "config.json").exists() else {}
    name = _wandb_id(path)
    try:
        return wandb.init(project=project, name=path.name, dir=str(path), id=name, resume="allow", config=config)
    except wandb.Error as error:
        raise UserError(
            f"Weights & Biases did not start: {str(error).splitlines()[0][:200]} Without an account, set "
            f"WANDB_MODE=offline; what there is of the run is in {path}"
        ) from error


def _wandb_id(path: Path) -> str:
    """By what Weights & Biases knows the run, kept so that a resumed run goes on with the same one."""
    kept = path / "wandb-id"
    try:
        name = files.read(kept, 64).decode("ascii", "replace").strip()
        if name.isalnum():
            return name
    except FileNotFoundError:
        name = ""
    name = os.urandom(8).hex()
    files.write(kept, name.encode())
    return name
