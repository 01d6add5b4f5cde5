"""Checkpoints: a directory of directories, each one complete or absent, every byte of which is checked when loaded.

    checkpoints/
      000000120/header.json     format, the caller's header, and every leaf's name, shape, dtype and SHA-256
                arrays/         written by Orbax: one Zarr array per leaf, by the leaf's number, not compressed
      000000140/...
      latest                    the name of a checkpoint, and a checksum of that name
      best

A checkpoint is written beside the others under another name, flushed to the disk, and renamed: a process that is killed
at any moment leaves whole checkpoints only.  What is asked of its files when it is loaded is in `operant.run.distrust`,
what an array is on the disk in `operant.run.leaves`.

Typed keys are kept as their data; empty arrays and host environments are not kept, they come from `like`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from operant import __version__
from operant.errors import UserError
from operant.run import distrust, files
from operant.run.distrust import FORMAT, check_layout, sealed
from operant.run.distrust import read_header as read_header
from operant.run.leaves import Damaged, checksum, on_host, parts, write_arrays
from operant.types import PyTree

_NAME = re.compile(r"[0-9]{9,12}")
_REPLACED = ".replaced"  # a checkpoint on its way out, while a new one of the same number comes in
_PASSING = (".saving-", ".removing-")  # what a killed process may leave; never loaded


def _to_stderr(text: str) -> None:
    print(f"operant: {text}", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------------------- save
def save(
    directory: Path, tree: PyTree, header: dict[str, Any], *, number: int, keep: int = 2, best: bool = False
) -> Path:
    """Writes a checkpoint, points `latest` (and `best`, if so) to it, and removes old ones. Returns its path.

    directory  where the run's checkpoints are; it is made if it is not there
    tree       arrays on any device or devices, typed keys, numbers, and host environments (which are left out)
    header     anything that JSON can hold, NaN and infinity included; `load` gives it back
    number     grows during a run, such as the number of updates; one of the same number is replaced
    keep       how many of the highest numbers to keep, besides those that `latest` and `best` point to

    Raises UserError where the disk is full or refuses; the checkpoints that were there before are then untouched.
    """
    if not 0 <= number < 10**12:
        raise ValueError(f"number is {number}; expected 0 to {10**12 - 1}")
    if keep < 1:
        raise ValueError(f"keep is {keep}; expected at least 1")
    directory = Path(directory)
    path = directory / f"{number:09d}"
    temporary = directory / f"{_PASSING[0]}{number:09d}-{os.getpid()}-{os.urandom(2).hex()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _clear(directory)
        try:
            (temporary / "arrays").mkdir(parents=True)
            _write_content(temporary, tree, header, number)
            _flush_tree(temporary)
            _put_in_place(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"checkpoint {number} could not be saved in {directory}: {reason}. Earlier checkpoints are untouched"
        ) from error
    # `latest` last: a process killed before it goes on from the one before, and comes by here again
    if best:
        _point(directory / "best", path.name)
    _point(directory / "latest", path.name)
    _remove_old(directory, number, keep)
    return path


def _write_content(path: Path, tree: PyTree, header: dict[str, Any], number: int) -> None:
    leaves, hosts = parts(tree)
    arrays = {i: on_host(leaf) for i, leaf in enumerate(leaves) if not leaf.empty}
    with ThreadPoolExecutor(2) as pool:
        digests = pool.map(checksum, arrays.values())  # meanwhile the disk is busy
        write_arrays(path / "arrays", {f"{i:05d}": x for i, x in arrays.items()})
        sums = dict(zip(arrays, digests, strict=True))
    content = {
        "format": FORMAT,
        "operant": __version__,
        "number": number,
        "header": header,
        "leaves": [
            {"name": leaf.name, "shape": list(leaf.shape), "dtype": leaf.dtype, "sha256": sums.get(i)}
            for i, leaf in enumerate(leaves)
        ],
        "hosts": hosts,
        "layout_sha256": check_layout(path / "arrays", leaves),
    }
    data = sealed(files.to_text(content).encode())
    if len(data) > files.MAX_JSON:
        raise UserError(f"the header of checkpoint {number} has {len(data):,} bytes; at most {files.MAX_JSON:,} fit")
    (path / "header.json").write_bytes(data)


def _put_in_place(temporary: Path, path: Path) -> None:
    replaced = path.with_name(path.name + _REPLACED)
    if path.exists() or path.is_symlink():
        _remove(replaced)
        os.rename(path, replaced)  # a directory cannot be replaced in one step; this one can still be loaded
    os.rename(temporary, path)
    files.flush_directory(path.parent)
    _remove(replaced)


def _point(pointer: Path, name: str) -> None:
    files.write(pointer, _pointer_text(name).encode())


def _remove_old(directory: Path, number: int, keep: int) -> None:
    """Those of higher numbers stay: the run went on from before them, and will replace them when it passes."""
    pointed = set()
    for pointer in ("latest", "best"):
        with contextlib.suppress(FileNotFoundError, Damaged):
            pointed.add(_pointed(directory / pointer))
    passed = [path for path in checkpoints(directory) if int(path.name) <= number]
    for path in passed[:-keep]:
        if path.name not in pointed:
            _remove(path)


def _remove(path: Path) -> None:
    if not path.exists():
        return
    # renamed first: half of a checkpoint must not look like a whole one
    passing = path.with_name(f"{_PASSING[1]}{path.name}-{os.getpid()}-{os.urandom(2).hex()}")
    try:
        os.rename(path, passing)
    except OSError as error:
        raise UserError(f"the old checkpoint {path} could not be removed: {error.strerror}") from error
    shutil.rmtree(passing, ignore_errors=True)


def _clear(directory: Path) -> None:
    """Removes what a killed process left. A run has one writer, so nothing here is still being written."""
    for entry in list(os.scandir(directory)):
        if entry.name.startswith(_PASSING) and entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        elif entry.name.startswith(files.TEMPORARY) and entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)


def _flush_tree(path: Path) -> None:
    """Flushes every file to the disk, many at once: one after another, hundreds of them take seconds on a busy disk.
    (A sync of the whole system would be as fast, but does not say that the disk was full.)"""
    folders = [Path(folder) for folder, _, _ in os.walk(path, topdown=False)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(_flush, [p for folder in folders for p in folder.iterdir() if p.is_file()]))
        list(pool.map(files.flush_directory, folders))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --------------------------------------------------------------------------------------------------------------- load
def load(
    directory: Path, like: PyTree, which: str = "latest", *, warn: Callable[[str], None] = _to_stderr
) -> tuple[PyTree, dict[str, Any]]:
    """A tree of the structure of `like`, and the header that it was saved with.

    like   the tree that is expected: arrays, or shapes as from `jax.eval_shape`; its empty arrays and its host
           environments are given back as they are (an empty array's shape as an empty array)
    which  `latest` or `best`
    warn   called with one line for every checkpoint that cannot be used; the next older one is then tried

    The leaves are NumPy arrays, but for typed keys.  The header has two keys more: `checkpoint`, the name of the one
    that was loaded, and `fallback_from`, the name of the one that should have been, or None.

    Raises UserError where the tree was saved with other leaves than those of `like`, where there is no checkpoint, and
    where none is sound, with the reason for each.
    """
    directory = Path(directory)
    candidates, failures = _candidates(directory, which, warn)
    for path in candidates:
        try:
            tree, header = distrust.read(path, like)
        except Damaged as error:
            failures.append((path.name, str(error)))
            warn(f"checkpoint {path.name} cannot be used: {error}")
            continue
        wanted = failures[0][0] if failures else None
        if wanted is not None:
            warn(f"falling back from checkpoint {wanted} to {path.name}")
        return tree, {**header, "checkpoint": path.name, "fallback_from": wanted}
    if not failures:
        raise UserError(f"there is no checkpoint in {directory}")
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in failures)
    raise UserError(f"no checkpoint in {directory} is sound:{reasons}")


def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a directory, in the order of their numbers. Whether they are sound is seen when loading."""
    return [path for path in _entries(Path(directory)) if not path.name.endswith(_REPLACED)]


def _candidates(directory: Path, which: str, warn: Callable[[str], None]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Checkpoints in the order in which to try them, and what was wrong with the pointer to the first."""
    if which not in ("latest", "best"):
        raise UserError(f"which checkpoint is '{which}'; expected latest or best")
    entries = _entries(directory)[::-1]
    failures: list[tuple[str, str]] = []
    try:
        name = _pointed(directory / which)
    except FileNotFoundError:
        if which == "best" and entries:
            raise UserError(f"no checkpoint in {directory} has been called the best yet; take the latest") from None
        return entries, failures  # the process was killed while it saved its first
    except Damaged as error:
        warn(f"{error}; going by the checkpoints' numbers")
        return entries, [(which, str(error))]
    first = directory / name
    if first not in entries:
        failures.append((name, "it is missing"))
        warn(f"checkpoint {name}, which `{which}` points to, is missing")
    return [path for path in entries if path == first] + [path for path in entries if path != first], failures


def _entries(directory: Path) -> list[Path]:
    try:
        names = [entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{directory} cannot be read: {error.strerror}") from error
    numbers = {name: name.removesuffix(_REPLACED) for name in names}
    found = [name for name in names if _NAME.fullmatch(numbers[name])]
    return [directory / name for name in sorted(found, key=lambda name: (int(numbers[name]), name == numbers[name]))]


def _pointed(pointer: Path) -> str:
    """The name that a pointer holds. Raises FileNotFoundError or Damaged."""
    try:
        text = files.read(pointer, 64).decode("ascii", "replace")
    except UserError as error:
        raise Damaged(str(error)) from error
    name = text.partition(" ")[0]
    if not _NAME.fullmatch(name) or text != _pointer_text(name):
        raise Damaged(f"the pointer {pointer} is damaged")
    return name


def _pointer_text(name: str) -> str:
    # with one bit flipped, a number is another number
    return f"{name} {zlib.crc32(name.encode()):08x}\n"
