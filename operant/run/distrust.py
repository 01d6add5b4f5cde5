"""What is asked of one checkpoint's files before they are believed. Directories come from other people too.

Nothing in a file is trusted: names in it are never paths, no class or function is looked up by it, and the sizes of
everything are compared with those of the tree that is asked for before memory is taken.  The arrays are not compressed,
since a small file that unpacks into a large one cannot be bounded.  Every byte is checked: the header has a checksum of
itself, of the small files that describe the arrays, and of each array.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from operant import __version__
from operant.errors import UserError
from operant.run import files
from operant.run.leaves import Damaged, Leaf, checksum, describe, parts, read_arrays, rebuilt, restored
from operant.types import PyTree

FORMAT = 1
MAX_FILES = 1_000_000

_ZARR_KEYS = {
    "chunks", "compressor", "dimension_separator", "dtype", "fill_value", "filters", "order", "shape", "zarr_format"
}  # fmt: skip


def read(path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """A tree of the structure of `like` from one checkpoint, every byte of it checked, and the caller's header.

    Raises Damaged where it is not whole, and UserError where it is another tree's.
    """
    content = read_header(path)
    leaves, hosts = parts(like)
    _check_same(path, content, leaves, hosts)
    wanted = [i for i, leaf in enumerate(leaves) if not leaf.empty]
    if check_layout(path / "arrays", leaves) != content["layout_sha256"]:
        raise Damaged("the description of its arrays does not match its checksum")
    arrays = read_arrays(path / "arrays", [f"{i:05d}" for i in wanted])
    for i in wanted:
        x, leaf = arrays[f"{i:05d}"], leaves[i]
        if x.shape != leaf.data_shape or x.dtype != leaf.data_dtype:
            raise Damaged(f"the array of {leaf.name} is {x.dtype}{x.shape}")
    with ThreadPoolExecutor(2) as pool:
        for i, digest in zip(wanted, pool.map(checksum, [arrays[f"{i:05d}"] for i in wanted]), strict=True):
            if digest != content["leaves"][i]["sha256"]:
                raise Damaged(f"the bytes of {leaves[i].name} do not match their checksum")
    values = [restored(leaf, arrays.get(f"{i:05d}")) for i, leaf in enumerate(leaves)]
    return rebuilt(like, values), content["header"]


# --------------------------------------------------------------------------------------------------------------- header
def read_header(path: Path) -> dict[str, Any]:
    """The header of one checkpoint: `format`, `operant` (version), `number`, `header` (the caller's), `leaves` (name,
    shape, dtype, sha256), `hosts` and `layout_sha256`. Raises UserError where it is missing or damaged."""
    try:
        data = files.read(Path(path) / "header.json")
    except FileNotFoundError:
        raise Damaged("it has no header.json") from None
    except (UserError, OSError) as error:
        raise Damaged(str(error)) from error
    try:
        content = files.from_text(_unsealed(data))
    except ValueError as error:
        raise Damaged(f"its header is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise Damaged("its header has no format")
    if content["format"] > FORMAT:
        raise UserError(
            f"{path} has the format {content['format']}, this version of Operant ({__version__}) reads up to {FORMAT}; "
            "pip install --upgrade operant"
        )
    _check_header(content)
    return content


def _check_header(content: dict[str, Any]) -> None:
    kinds = {
        "format": int, "operant": str, "number": int, "header": dict, "leaves": list, "hosts": list,
        "layout_sha256": str,
    }  # fmt: skip
    if set(content) != set(kinds):
        raise Damaged(f"its header has the keys {_list(content)}; expected {_list(kinds)}")
    for name, kind in kinds.items():
        if type(content[name]) is not kind:
            raise Damaged(f"its header's {name} is a {type(content[name]).__name__}; expected {kind.__name__}")
    for leaf in content["leaves"]:
        sound = isinstance(leaf, dict) and set(leaf) == {"name", "shape", "dtype", "sha256"}
        sound = sound and isinstance(leaf["name"], str) and isinstance(leaf["dtype"], str)
        sound = sound and isinstance(leaf["sha256"], (str, type(None)))
        sound = sound and isinstance(leaf["shape"], list) and all(type(n) is int and n >= 0 for n in leaf["shape"])
        if not sound:
            raise Damaged("its header describes a leaf in a form that is not known")
    if not all(isinstance(name, str) for name in content["hosts"]):
        raise Damaged("its header describes a host environment in a form that is not known")


def sealed(content: bytes) -> bytes:
    """The bytes of a header's file: its content behind a checksum."""
    return b'{"sha256": "%s", "content": %s}\n' % (hashlib.sha256(content).hexdigest().encode(), content)


def _unsealed(data: bytes) -> bytes:
    """The content of a header, after its checksum has been compared, before anything in it is looked at."""
    head, tail = b'{"sha256": "', b"}\n"
    between = b'", "content": '
    content = data[len(head) + 64 + len(between) : -len(tail)]
    if data != sealed(content):
        raise Damaged("its header does not match its checksum")
    return content


def _check_same(path: Path, content: dict[str, Any], leaves: list[Leaf], hosts: list[str]) -> None:
    """Names, shapes and dtypes in the header against those that are asked for, before anything is allocated."""
    saved = {leaf["name"]: leaf for leaf in content["leaves"]}
    expected = {leaf.name: leaf for leaf in leaves}
    for name, leaf in expected.items():
        if name not in saved:
            raise UserError(f"{path} does not fit: it has no {name}, expected {leaf.describe()}")
        found = describe(saved[name]["dtype"], saved[name]["shape"])
        if found != leaf.describe():
            raise UserError(f"{path} does not fit: {name} is {found}, expected {leaf.describe()}")
    for name, leaf in saved.items():
        if name not in expected:
            raise UserError(
                f"{path} does not fit: it has {name[:200]} ({describe(leaf['dtype'], leaf['shape'])}), "
                "expected no such array"
            )
    if [leaf["name"] for leaf in content["leaves"]] != [leaf.name for leaf in leaves]:
        raise UserError(f"{path} does not fit: its arrays stand in another order than expected")
    if content["hosts"] != hosts:
        raise UserError(
            f"{path} does not fit: it was saved with host environments at {_list(content['hosts']) or 'no place'}, "
            f"expected {_list(hosts) or 'none'}"
        )


def _list(names: Any) -> str:
    text = ", ".join(sorted(map(str, names)))
    return text if len(text) < 200 else text[:200] + "..."


# --------------------------------------------------------------------------------------------------------------- arrays
def check_layout(arrays: Path, leaves: list[Leaf]) -> str:
    """Compares the files of the arrays with what their leaves need, sizes included, reading only the small ones.

    Returns the SHA-256 of the small ones.  Raises Damaged for anything that is missing, too much, of another size, or
    would make the reader do more than copy bytes.
    """
    wanted = {f"{i:05d}": leaf for i, leaf in enumerate(leaves) if not leaf.empty}
    found = _scan(arrays)
    digest = hashlib.sha256()

    def take(name: str, limit: int) -> Any:
        if name not in found:
            raise Damaged(f"arrays/{name} is missing")
        if found.pop(name) > limit:
            raise Damaged(f"arrays/{name} has more than {limit:,} bytes")
        try:
            data = files.read(arrays / name, limit)
            digest.update(f"{name} {len(data)}\n".encode() + data)
            return files.from_text(data)
        except (UserError, OSError, ValueError) as error:
            raise Damaged(f"arrays/{name}: {error}") from error

    if wanted:
        _check_orbax_metadata(take("_METADATA", files.MAX_JSON), set(wanted))
    for key, leaf in wanted.items():
        chunks = _check_zarr(take(f"{key}/.zarray", 4096), leaf)
        size = math.prod(chunks) * leaf.data_dtype.itemsize
        counts = [-(-n // c) for n, c in zip(leaf.data_shape, chunks, strict=True)]
        if math.prod(counts) > MAX_FILES:
            raise Damaged(f"the array of {leaf.name} is cut into {math.prod(counts):,} files")
        for index in np.ndindex(*counts):
            name = f"{key}/" + (".".join(map(str, index)) or "0")
            if name not in found:
                raise Damaged(f"arrays/{name}, a part of {leaf.name}, is missing")
            if found[name] != size:
                raise Damaged(f"arrays/{name}, a part of {leaf.name}, has {found[name]:,} bytes; expected {size:,}")
            del found[name]
    if found:
        raise Damaged(f"it has files that do not belong to it, such as arrays/{ascii(min(found))[1:-1][:100]}")
    return digest.hexdigest()


def _scan(arrays: Path) -> dict[str, int]:
    """The size of each file by its path in `arrays`, two levels deep. Raises Damaged for links and the like."""
    found: dict[str, int] = {}

    def scan(folder: str, prefix: str, depth: int) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                about = entry.stat(follow_symlinks=False)
                shown = ascii(prefix + entry.name)[1:-1][:100]
                if stat.S_ISDIR(about.st_mode) and depth == 0:
                    scan(entry.path, f"{entry.name}/", 1)
                elif stat.S_ISREG(about.st_mode):
                    found[prefix + entry.name] = about.st_size
                else:
                    raise Damaged(f"arrays/{shown} is a link or no file that belongs here")
                if len(found) > MAX_FILES:
                    raise Damaged(f"it has more than {MAX_FILES:,} files")

    if arrays.is_symlink():
        raise Damaged("arrays is a symbolic link")
    try:
        scan(os.fspath(arrays), "", 0)
    except OSError as error:
        raise Damaged(f"arrays cannot be read: {error.strerror}") from error
    return found


def _check_orbax_metadata(data: Any, keys: set[str]) -> None:
    """Orbax reads by this file: it must name our arrays, as plain ones, in the layout that was checked."""
    try:
        entries = list(data["tree_metadata"].values())
        named = [entry["key_metadata"][0]["key"] for entry in entries]
        kinds = {(len(e["key_metadata"]), e["value_metadata"]["value_type"]) for e in entries}
        other_layout = bool(data.get("use_ocdbt")) or bool(data.get("use_zarr3"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Damaged("arrays/_METADATA has another form than expected") from error
    if sorted(map(str, named)) != sorted(keys) or kinds != {(1, "np.ndarray")} or other_layout:
        raise Damaged("arrays/_METADATA describes other arrays than expected")


def _check_zarr(data: Any, leaf: Leaf) -> list[int]:
    """The shape of an array's parts, if they are raw bytes in C order of the very shape and dtype that are expected."""
    if not isinstance(data, dict) or not set(data) <= _ZARR_KEYS:
        raise Damaged(f"the description of {leaf.name} has another form than expected")
    expected = {
        "zarr_format": 2, "shape": list(leaf.data_shape), "dtype": leaf.zarr_dtype, "order": "C", "compressor": None,
        "filters": None, "fill_value": None, "dimension_separator": ".",
    }  # fmt: skip
    for key, value in expected.items():
        if data.get(key) != value:
            raise Damaged(f"the description of {leaf.name} says {key} {str(data.get(key))[:100]}; expected {value}")
    chunks: Any = data.get("chunks")
    sound = isinstance(chunks, list) and len(chunks) == len(leaf.data_shape)
    if not sound or not all(type(c) is int and 1 <= c <= n for c, n in zip(chunks, leaf.data_shape, strict=True)):
        raise Damaged(f"the description of {leaf.name} cuts it into parts that do not fit")
    return chunks
