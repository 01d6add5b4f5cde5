"""The rows of a replay memory on the disk: written once each, beside the checkpoints that need them.

A memory only ever adds rows, so a checkpoint writes those that are new since the one before, in a segment of its own,
and its header names the segments that together hold what the memory holds:

    rows/000000001000-000000001400/0.npy   rows 1000 to 1399 of the first leaf, [K, 400, B, ...]
                                   1.npy   ...

So a checkpoint of a full memory costs what was collected since the last one, not the whole.  A segment is complete or
absent, as a checkpoint is; one that no checkpoint names any more is removed.  What changes of a row later (where host
environments began anew it is no experience any more) stands in the header, and is changed again after every load.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operant.errors import UserError
from operant.memory import Stored
from operant.run import files
from operant.run.leaves import Damaged
from operant.types import PyTree

_NAME = re.compile(r"[0-9]{12}-[0-9]{12}")
_PASSING = ".saving-"
BLOCK = 1 << 26  # bytes that are copied at a time
Segments = list[dict[str, Any]]
"""As a header holds them: `from`, `to` (rows, `to` not included) and `sha256` of each leaf's file."""


def save(directory: Path, memory: Stored, before: Segments) -> Segments:
    """Writes the rows that `before` (the segments of the run's last checkpoint) does not hold. Returns the segments
    that hold all of the memory. Raises UserError where the disk is full or refuses."""
    written, first = int(memory.written), oldest(memory)
    kept = [segment for segment in before if segment["to"] > first and segment["to"] <= written]
    start = max([first, *(segment["to"] for segment in kept)])
    if start == written:
        return kept
    name = f"{start:012d}-{written:012d}"
    temporary = directory / f"{_PASSING}{name}-{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            with ThreadPoolExecutor(4) as pool:
                leaves = enumerate(_kept(memory))
                sums = list(pool.map(lambda leaf: _write(temporary, leaf[0], leaf[1], start, written, memory), leaves))
            shutil.rmtree(directory / name, ignore_errors=True)
            os.rename(temporary, directory / name)
            files.flush_directory(directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"the replay memory could not be saved in {directory}: {reason}") from error
    return [*kept, {"from": start, "to": written, "sha256": sums}]


def load(directory: Path, segments: Segments, like: Stored) -> Stored:
    """A memory of the shapes of `like`, its rows and carries from the segments, the rest as it is there.

    It is filled where it will stay (the shardings of `like`), a block at a time: there need be no room for a second
    one.  Raises Damaged where a segment is missing or is not what was written.
    """
    leaves = [jnp.zeros(x.shape, x.dtype, device=x.sharding) for x in _kept(like)]
    for segment in segments:
        path = directory / f"{segment['from']:012d}-{segment['to']:012d}"
        for i, leaf in enumerate(leaves):
            part, length, end = _read(path / f"{i}.npy", segment["sha256"][i]), leaf.shape[1], segment["to"]
            if part.dtype != leaf.dtype or part.shape[:1] + part.shape[2:] != leaf.shape[:1] + leaf.shape[2:]:
                raise Damaged(f"the segment {path} of the replay memory has other shapes than this run's")
            part, last = part[:, -length:], end // _unit(like, leaf)
            for at, place, number in _blocks(leaf, last - part.shape[1], last):
                leaves[i] = _put(leaves[i], part[:, at : at + number], place)
    rows, carries = jax.tree.unflatten(jax.tree.structure((like.rows, like.carries)), leaves)
    return like.replace(rows=rows, carries=carries)


@functools.partial(jax.jit, donate_argnums=0)
def _put(leaf: jax.Array, part: jax.Array, at: Any) -> jax.Array:
    """`leaf` with rows at .. replaced by those of `part`; the buffer is the same."""
    return jax.lax.dynamic_update_slice_in_dim(leaf, part, at, axis=1)


def remove_unused(directory: Path, used: Iterable[Segments]) -> None:
    """Removes the segments that are in none of `used`, and what a killed process left."""
    names = {f"{s['from']:012d}-{s['to']:012d}" for segments in used for s in segments}
    if directory.is_dir():
        for entry in list(os.scandir(directory)):
            if entry.name not in names and (_NAME.fullmatch(entry.name) or entry.name.startswith(_PASSING)):
                shutil.rmtree(entry.path, ignore_errors=True)


def oldest(memory: Stored) -> int:
    """The number, counted from the run's start, of the oldest row that the memory holds."""
    return max(int(memory.written) - memory.rows.reward.shape[1], 0)


def cut(memory: Stored, places: Sequence[int]) -> Stored:
    """A memory of all lanes (as `lane_axes` has them) in which these rows, by number, are no experience: where they led
    was not kept, and the row after each is another episode's first.

    A row is to be cut before the next `add`: an index takes rows up after the rollout that they were written with.
    """
    valid = jnp.asarray(memory.rows.valid)  # [K, N, B]
    at = np.asarray(places, np.int32) % valid.shape[1]
    return memory.replace(rows=memory.rows.replace(valid=valid.at[:, at].set(0.0)))


def without_rows(memory: Stored) -> Stored:
    """The memory as a checkpoint keeps it: its index and count, not its rows."""
    return memory.replace(rows=(), carries=())


def _kept(memory: Stored) -> list[Any]:
    return jax.tree.leaves((memory.rows, memory.carries))


def _unit(memory: Stored, leaf: PyTree) -> int:
    """Rows to an entry of this leaf: 1, or for carries those of a rollout."""
    return memory.rows.reward.shape[1] // leaf.shape[1]


def _write(folder: Path, number: int, leaf: PyTree, start: int, end: int, memory: Stored) -> str:
    """Writes rows start .. end of a ring [K, N, ...] (or of carries [K, N/T, ...]), a block at a time, since a copy of
    all might not fit. Returns the file's SHA-256."""
    unit, path = _unit(memory, leaf), folder / f"{number}.npy"
    first, last = start // unit, end // unit
    lanes, _, *row = leaf.shape
    form = {"descr": np.lib.format.dtype_to_descr(leaf.dtype), "fortran_order": False}
    with open(path, "xb") as file:
        np.lib.format.write_array_header_1_0(file, {**form, "shape": (lanes, last - first, *row)})
        begin, size = file.tell(), math.prod(row) * leaf.dtype.itemsize
        for at, place, length in _blocks(leaf, first, last):
            block = np.asarray(leaf[:, place : place + length])
            for lane in range(lanes):
                file.seek(begin + (lane * (last - first) + at) * size)
                file.write(np.ascontiguousarray(block[lane]).data)
        file.flush()
        os.fsync(file.fileno())
    return _digest(path)


def _blocks(leaf: PyTree, first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Rows first .. last of a ring [K, N, ...] in pieces that are short: each its place behind `first`, its place in
    the ring, and its length."""
    lanes, length, *row = leaf.shape
    most = max(1, BLOCK // max(1, lanes * math.prod(row) * leaf.dtype.itemsize))
    at = first
    while at < last:
        number = min(most, last - at, length - at % length)
        yield at - first, at % length, number
        at += number


def _read(path: Path, digest: str) -> np.ndarray:
    try:
        if _digest(path) != digest:
            raise Damaged(f"{path} of the replay memory is damaged: its bytes are not those that were written")
        return np.load(path, mmap_mode="r", allow_pickle=False)  # read as it is put in place
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} of the replay memory cannot be read: {error}") from error


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
