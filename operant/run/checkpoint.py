"""Checkpoints: a pytree on disk that is whole, or is not there.

    checkpoints/000000120/header.json     what it is: format, the caller's header, and for each leaf name, shape, dtype, SHA-256
    checkpoints/000000120/arrays/         the leaves, written by Orbax
    checkpoints/latest, checkpoints/best  two pointers: the number of a checkpoint

A checkpoint is written beside its place and renamed into it, so that a kill at any moment leaves the ones before.
Orbax notices a missing file but not a flipped bit: every leaf's checksum is verified when it is loaded, and a damaged
checkpoint falls back to the one before, loudly.  Nothing in a file is executed or imported: the tree is rebuilt from
shapes that the caller knows, and a file that says otherwise is refused before anything is allocated.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from operant.errors import UserError
from operant.types import PyTree

FORMAT = 1
HEADER_BYTES = 64 << 20


def _warn(text: str) -> None:
    print(f"operant: {text}", file=sys.stderr, flush=True)


# -------------------------------------------------------------------------------------------------------- leaves
def _is_host(x: Any) -> bool:
    """Part of a state that lives in another library's memory: a pointer of this process, meaningless to any other."""
    from operant.envs.base import Host

    return isinstance(x, Host)


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    """(dotted name, leaf) of every leaf that is stored; a Host counts as one leaf and is not."""
    flat = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_host)[0]
    named = [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in flat]
    return [(name, leaf) for name, leaf in named if not _is_host(leaf) and leaf.size]


def _stored(leaf: Any) -> np.ndarray:
    """A leaf as it lies on disk: keys as their data, types that NumPy does not know as bytes."""
    array = np.asarray(jax.device_get(jax.random.key_data(leaf) if _is_key(leaf) else leaf))
    return array if array.dtype.kind in "biuf" else array.view(np.uint8)


def _stored_shape(leaf: Any) -> tuple[tuple[int, ...], str]:
    """Shape and dtype that `_stored` will have, from a leaf or its ShapeDtypeStruct."""
    shape = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    dtype = np.dtype(shape.dtype)
    if dtype.kind in "biuf":
        return tuple(shape.shape), dtype.name
    return (*shape.shape[:-1], shape.shape[-1] * dtype.itemsize), "uint8"


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


# --------------------------------------------------------------------------------------------------------- saving
def save(
    directory: Path, tree: PyTree, header: dict[str, Any], *, number: int, keep: int = 2, best: bool = False
) -> Path:
    """Writes checkpoint `number`, points `latest` (and `best`) to it, and removes all but the last `keep` and the best.

    header: JSON values of the caller's. Raises UserError where the disk is full; what was saved before stays.
    """
    import orbax.checkpoint as ocp

    directory = Path(directory).absolute()
    place, partial = directory / f"{number:09d}", directory / f".{number:09d}.partial"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        arrays = {f"{i:05d}": _stored(leaf) for i, (_, leaf) in enumerate(_named(tree))}
        leaves = [
            {"name": name, "shape": list(x.shape), "dtype": x.dtype.name, "sha256": _digest(x)}
            for (name, _), x in zip(_named(tree), arrays.values(), strict=True)
        ]
        with ocp.PyTreeCheckpointer() as checkpointer:
            checkpointer.save(partial / "arrays", arrays)
        body = {"format": FORMAT, "number": number, "header": header, "leaves": leaves}
        text = json.dumps({"sha256": _text_digest(body), **body})
        _write(partial / "header.json", text)
        if place.exists():  # the same update saved again, after a resume
            shutil.rmtree(place)
        os.replace(partial, place)
        _sync(directory)
        _write(directory / "latest", str(number))
        if best:
            _write(directory / "best", str(number))
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno == errno.ENOSPC:
            raise UserError(f"the disk is full: checkpoint {number} was not written to {directory}; free some space and "
                            "resume the run") from error  # fmt: skip
        raise UserError(f"checkpoint {number} cannot be written to {directory}: {error}") from error
    kept = {p.name for p in checkpoints(directory)[-keep:]} | {f"{n:09d}" for n in _pointers(directory)}
    for old in checkpoints(directory):
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)
    return place


def _text_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    """A small file, whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -------------------------------------------------------------------------------------------------------- loading
def checkpoints(directory: Path) -> list[Path]:
    """The checkpoints of a directory, oldest first, sound or not."""
    if not directory.is_dir():
        return []
    return sorted(p for p in directory.iterdir() if p.name.isdigit() and p.is_dir() and not p.is_symlink())


def _pointers(directory: Path) -> list[int]:
    found = []
    for name in ("latest", "best"):
        path = directory / name
        if path.is_file() and path.stat().st_size < 32 and path.read_text().strip().isdigit():
            found.append(int(path.read_text()))
    return found


def load(
    directory: Path, like: PyTree, which: str = "latest", warn: Callable[[str], None] = _warn
) -> tuple[PyTree, dict[str, Any]]:
    """The tree of the `latest` or `best` checkpoint, and its header. `like`: shapes and dtypes of the whole tree.

    A damaged `latest` falls back to the one before, with a warning.  Parts that belong to host simulators come back as
    they are in `like`.  Raises UserError if no checkpoint is sound, saying what is wrong with each.
    """
    if which not in ("latest", "best"):
        raise UserError(f"checkpoint '{which}' is not known; expected latest or best")
    directory = Path(directory).absolute()
    candidates = checkpoints(directory)[::-1]
    if which == "best":
        pointer = directory / "best"
        number = pointer.read_text().strip() if pointer.is_file() and pointer.stat().st_size < 32 else ""
        candidates = [p for p in candidates if number.isdigit() and p.name == f"{int(number):09d}"]
    if not candidates:
        raise UserError(f"no {which} checkpoint in {directory}")
    reasons = []
    for path in candidates:
        try:
            tree, header = _load_one(path, like)
        except (UserError, OSError, ValueError, KeyError, TypeError) as error:
            reasons.append(f"{path.name}: {_one_line(error)}")
            warn(f"checkpoint {path.name} is damaged ({_one_line(error)}); trying the one before")
            continue
        if reasons:
            warn(f"going on from checkpoint {path.name}")
        return tree, {**header, "fallback_from": reasons}
    raise UserError(f"no sound checkpoint in {directory}: {'; '.join(reasons)}")


def _one_line(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def read_header(path: Path) -> dict[str, Any]:
    """The header of one checkpoint, its own checksum verified; UserError if it is damaged."""
    file = path / "header.json"
    if file.is_symlink() or not file.is_file():
        raise UserError("header.json is missing")
    if file.stat().st_size > HEADER_BYTES:
        raise UserError(f"header.json is larger than {HEADER_BYTES >> 20} MB")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"header.json is not JSON ({_one_line(error)})") from None
    if not isinstance(data, dict) or set(data) != {"sha256", "format", "number", "header", "leaves"}:
        raise UserError("header.json does not have the keys of a checkpoint")
    digest = data.pop("sha256")
    if digest != _text_digest(data):
        raise UserError("header.json does not match its checksum")
    if data["format"] != FORMAT:
        raise UserError(f"format {data['format']} is not known to this version, which reads {FORMAT}")
    return data


def _load_one(path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    import orbax.checkpoint as ocp

    data = read_header(path)
    expected = _named(like)
    found = {leaf["name"]: leaf for leaf in data["leaves"]}
    if list(found) != [name for name, _ in expected]:
        differing = sorted(set(found) ^ {name for name, _ in expected})
        raise UserError(f"its tensors are not those of this agent: {', '.join(differing[:4])}")
    shapes = {}
    for i, (name, leaf) in enumerate(expected):
        shape, dtype = _stored_shape(leaf)
        if (tuple(found[name]["shape"]), found[name]["dtype"]) != (shape, dtype):
            raise UserError(f"{name} is {found[name]['dtype']}{found[name]['shape']}; expected {dtype}{list(shape)}")
        shapes[f"{i:05d}"] = jax.ShapeDtypeStruct(shape, np.dtype(dtype))
    if any(p.is_symlink() for p in path.rglob("*")):
        raise UserError("it holds a symbolic link")
    restore = jax.tree.map(lambda x: ocp.RestoreArgs(restore_type=np.ndarray, dtype=x.dtype), shapes)
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            arrays = checkpointer.restore(path / "arrays", item=shapes, restore_args=restore)
    except Exception as error:  # tensorstore and Orbax raise many kinds for damaged files
        raise UserError(f"its arrays cannot be read ({_one_line(error)})") from error
    values = {}
    for i, (name, leaf) in enumerate(expected):
        array, wanted = np.asarray(arrays[f"{i:05d}"]), shapes[f"{i:05d}"]
        if array.shape != wanted.shape or array.dtype != wanted.dtype or _digest(array) != found[name]["sha256"]:
            raise UserError(f"{name} does not match its checksum")
        values[name] = _rebuilt(array, leaf)
    flat, structure = jax.tree_util.tree_flatten_with_path(like, is_leaf=_is_host)
    names = [(jax.tree_util.keystr(p, simple=True, separator="."), leaf) for p, leaf in flat]
    leaves = [values[name] if name in values else _absent(leaf) for name, leaf in names]
    return jax.tree_util.tree_unflatten(structure, leaves), data["header"]


def _rebuilt(array: np.ndarray, leaf: Any) -> Any:
    if _is_key(leaf):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
    dtype = np.dtype(leaf.dtype)
    return array if dtype.kind in "biuf" else array.view(dtype)


def _absent(leaf: Any) -> Any:
    return leaf if _is_host(leaf) else np.zeros(leaf.shape, leaf.dtype)
