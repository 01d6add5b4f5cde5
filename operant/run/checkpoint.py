"""Checkpoints: a directory of directories, each one complete or absent, every byte of which is checked when loaded.

    checkpoints/
      000000120/header.json     format, the caller's header, and every leaf's name, shape, dtype and SHA-256
                arrays/         written by Orbax: one Zarr array per leaf, by the leaf's number, not compressed
      000000140/...
      latest                    the name of a checkpoint, and a checksum of that name
      best

A checkpoint is written beside the others under another name, flushed to the disk, and renamed: a process that is killed
at any moment leaves whole checkpoints only.  Nothing in a file is trusted: names in it are never paths, no class or
function is looked up by it, and the sizes of everything are compared with those of the tree that is asked for before
memory is taken.  The arrays are not compressed, since a small file that unpacks into a large one cannot be bounded.

Typed keys are kept as their data; empty arrays and host environments are not kept, they come from `like`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import logging
import math
import os
import re
import shutil
import stat
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operant import __version__
from operant.envs.base import Host
from operant.errors import UserError
from operant.run import files
from operant.types import PyTree

FORMAT = 1
CHUNK_BYTES = 64 << 20  # large arrays are cut into files of this size, so that reading one needs little besides it
MAX_FILES = 1_000_000

_NAME = re.compile(r"[0-9]{9,12}")
_REPLACED = ".replaced"  # a checkpoint on its way out, while a new one of the same number comes in
_PASSING = (".saving-", ".removing-")  # what a killed process may leave; never loaded
_LEAF = re.compile(r"[0-9]{5,7}")
_ZARR_KEYS = {
    "chunks", "compressor", "dimension_separator", "dtype", "fill_value", "filters", "order", "shape", "zarr_format"
}  # fmt: skip


class Damaged(UserError):
    """A checkpoint is incomplete, or its bytes are not those that were written."""


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
    leaves, hosts = _parts(tree)
    arrays = {i: _array(leaf) for i, leaf in enumerate(leaves) if not leaf.empty}
    with ThreadPoolExecutor(2) as pool:
        digests = pool.map(_digest, arrays.values())  # meanwhile the disk is busy
        _write_arrays(path / "arrays", {f"{i:05d}": x for i, x in arrays.items()})
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
        "layout_sha256": _check_layout(path / "arrays", leaves),
    }
    data = _sealed(files.to_text(content).encode())
    if len(data) > files.MAX_JSON:
        raise UserError(f"the header of checkpoint {number} has {len(data):,} bytes; at most {files.MAX_JSON:,} fit")
    (path / "header.json").write_bytes(data)


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    if not arrays:
        return
    import orbax.checkpoint as ocp

    save_args = {name: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES) for name in arrays}
    with _orbax() as handler:
        try:
            _apart(handler.save, path, args=ocp.args.PyTreeSave(arrays, save_args=save_args))
            _apart(handler.finalize, path)
        except OSError:
            raise
        except Exception as error:  # the disk's errors come out of Orbax as many kinds
            raise OSError(_first_line(error)) from error


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


def _pointer_text(name: str) -> str:
    # with one bit flipped, a number is another number
    return f"{name} {zlib.crc32(name.encode()):08x}\n"


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
            tree, header = _load_one(path, like)
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


def _list(names: Any) -> str:
    text = ", ".join(sorted(map(str, names)))
    return text if len(text) < 200 else text[:200] + "..."


def _candidates(directory: Path, which: str, warn: Callable[[str], None]) -> tuple[list[Path], list[tuple[str, str]]]:
    """Checkpoints in the order in which to try them, and what was wrong with the pointer to the first."""
    if which not in ("latest", "best"):
        raise UserError(f"which checkpoint is '{which}'; expected latest or best")
    entries = _entries(directory)[::-1]
    failures = []
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


def _load_one(path: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    content = read_header(path)
    leaves, hosts = _parts(like)
    _check_same(path, content, leaves, hosts)
    wanted = [i for i, leaf in enumerate(leaves) if not leaf.empty]
    if _check_layout(path / "arrays", leaves) != content["layout_sha256"]:
        raise Damaged("the description of its arrays does not match its checksum")
    arrays = _read_arrays(path / "arrays", [f"{i:05d}" for i in wanted])
    for i in wanted:
        x, leaf = arrays[f"{i:05d}"], leaves[i]
        if x.shape != leaf.data_shape or x.dtype != leaf.data_dtype:
            raise Damaged(f"the array of {leaf.name} is {x.dtype}{x.shape}")
    with ThreadPoolExecutor(2) as pool:
        for i, digest in zip(wanted, pool.map(_digest, [arrays[f"{i:05d}"] for i in wanted]), strict=True):
            if digest != content["leaves"][i]["sha256"]:
                raise Damaged(f"the bytes of {leaves[i].name} do not match their checksum")
    values = [_restored(leaf, arrays.get(f"{i:05d}")) for i, leaf in enumerate(leaves)]
    return _rebuilt(like, values), content["header"]


def _check_same(path: Path, content: dict[str, Any], leaves: list[_Leaf], hosts: list[str]) -> None:
    """Names, shapes and dtypes in the header against those that are asked for, before anything is allocated."""
    saved = {leaf["name"]: leaf for leaf in content["leaves"]}
    expected = {leaf.name: leaf for leaf in leaves}
    for name, leaf in expected.items():
        if name not in saved:
            raise UserError(f"{path} does not fit: it has no {name}, expected {leaf.describe()}")
        found = _describe(saved[name]["dtype"], saved[name]["shape"])
        if found != leaf.describe():
            raise UserError(f"{path} does not fit: {name} is {found}, expected {leaf.describe()}")
    for name, leaf in saved.items():
        if name not in expected:
            raise UserError(
                f"{path} does not fit: it has {name[:200]} ({_describe(leaf['dtype'], leaf['shape'])}), "
                "expected no such array"
            )
    if [leaf["name"] for leaf in content["leaves"]] != [leaf.name for leaf in leaves]:
        raise UserError(f"{path} does not fit: its arrays stand in another order than expected")
    if content["hosts"] != hosts:
        raise UserError(
            f"{path} does not fit: it was saved with host environments at {_list(content['hosts']) or 'no place'}, "
            f"expected {_list(hosts) or 'none'}"
        )


def _check_layout(arrays: Path, leaves: list[_Leaf]) -> str:
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


def _check_zarr(data: Any, leaf: _Leaf) -> list[int]:
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


def _read_arrays(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    if not names:
        return {}
    import orbax.checkpoint as ocp

    restore_args = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in names}
    with _orbax() as handler:
        try:
            return _apart(handler.restore, path, args=ocp.args.PyTreeRestore(restore_args=restore_args))
        except Exception as error:  # whatever Orbax stumbles over, this checkpoint is not to be used
            raise Damaged(f"its arrays cannot be read: {_first_line(error)}") from error


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """Orbax for plain arrays and nothing else: no file can make it build an object of another kind."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    logger = logging.getLogger("absl")
    quiet = lambda record: False  # noqa: E731  (it warns of features that are not used here; errors are raised as well)
    logger.addFilter(quiet)
    # the arrays are not changed while they are written, so they need not be copied first
    handlers = type_handlers.create_type_handler_registry(
        (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False))
    )
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_zarr3=False, use_compression=False, type_handler_registry=handlers
    )
    try:
        yield handler
    finally:
        handler.close()
        logger.removeFilter(quiet)


def _apart(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Calls in a thread of its own: Orbax starts an event loop, and in a notebook one runs already in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *arguments, **options).result()


def _first_line(error: Exception) -> str:
    if os.strerror(errno.ENOSPC) in str(error):  # the most frequent one, deep in a long line
        return os.strerror(errno.ENOSPC)
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _sealed(content: bytes) -> bytes:
    return b'{"sha256": "%s", "content": %s}\n' % (hashlib.sha256(content).hexdigest().encode(), content)


def _unsealed(data: bytes) -> bytes:
    """The content of a header, after its checksum has been compared, before anything in it is looked at."""
    head, tail = b'{"sha256": "', b"}\n"
    between = b'", "content": '
    content = data[len(head) + 64 + len(between) : -len(tail)]
    if data != _sealed(content):
        raise Damaged("its header does not match its checksum")
    return content


# ------------------------------------------------------------------------------------------------------------- leaves
@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One array of a tree: what it is, and how it lies on the disk (`data_...`; a key lies as its data)."""

    name: str
    value: Any
    shape: tuple[int, ...]
    dtype: str
    data_shape: tuple[int, ...]
    data_dtype: np.dtype
    key: Any = None  # the implementation, for typed keys

    @property
    def empty(self) -> bool:
        return 0 in self.data_shape

    @property
    def zarr_dtype(self) -> str:
        # kinds that NumPy does not know itself (bfloat16) are called by their names
        return self.data_dtype.name if self.data_dtype.kind == "V" else self.data_dtype.str

    def describe(self) -> str:
        return _describe(self.dtype, self.shape)


def _describe(dtype: str, shape: Any) -> str:
    return f"{dtype[:40]}[{','.join(map(str, shape))[:100]}]"


def _is_host(x: Any) -> bool:
    return isinstance(x, Host)


def _parts(tree: PyTree) -> tuple[list[_Leaf], list[str]]:
    """The leaves of a tree, and the names of the host environments in it."""
    leaves, hosts = [], []
    for path, value in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_host)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if _is_host(value):
            hosts.append(name)
        else:
            leaves.append(_leaf(name, value))
    names = [leaf.name for leaf in leaves]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two leaves of the tree are called {twice}")
    return leaves, hosts


def _leaf(name: str, value: Any) -> _Leaf:
    x = value if hasattr(value, "dtype") and hasattr(value, "shape") else np.asarray(value)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        implementation = []  # a shape has one too, but only says so while it is traced

        def look(keys):
            implementation.append(jax.random.key_impl(keys))
            return jax.random.key_data(keys)

        data = jax.eval_shape(look, x)
        shape, dtype = tuple(data.shape), np.dtype(data.dtype)
        return _Leaf(name, value, tuple(x.shape), str(x.dtype), shape, dtype, implementation[0])
    dtype = np.dtype(x.dtype)
    if dtype.kind not in "biufc" and not jnp.issubdtype(dtype, jnp.number):
        raise ValueError(f"{name} is a {dtype}; only numbers and booleans can be saved")
    # booleans lie as bytes: a reader that decodes them stumbles over a damaged one before its checksum is compared
    on_disk = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
    return _Leaf(name, value, tuple(x.shape), dtype.name, tuple(x.shape), on_disk)


def _array(leaf: _Leaf) -> np.ndarray:
    """A leaf's bytes on the host: without a copy where they are there already, and in one piece."""
    x = jax.random.key_data(leaf.value) if leaf.key is not None else leaf.value
    return np.asarray(jax.device_get(x), dtype=leaf.data_dtype, order="C")


def _digest(x: np.ndarray) -> str:
    return hashlib.sha256(x.reshape(-1).view(np.uint8)).hexdigest()


def _restored(leaf: _Leaf, x: np.ndarray | None) -> Any:
    if x is None:
        x = np.zeros(leaf.data_shape, leaf.data_dtype)
    if leaf.key is not None:
        return jax.random.wrap_key_data(jnp.asarray(x), impl=leaf.key)
    if leaf.dtype == "bool":
        if x.size and x.max() > 1:
            raise Damaged(f"{leaf.name} holds {x.max()}, which is no boolean")
        x = x.view(bool)
    return type(leaf.value)(x) if isinstance(leaf.value, (bool, int, float)) else x


def _rebuilt(like: PyTree, values: list[Any]) -> PyTree:
    found, structure = jax.tree.flatten(like, is_leaf=_is_host)
    rest = iter(values)
    return jax.tree.unflatten(structure, [x if _is_host(x) else next(rest) for x in found])
