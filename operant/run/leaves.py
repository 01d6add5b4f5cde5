"""The arrays of a tree on the disk: what they are called, how they lie there, and Orbax, which writes and reads them.

Each leaf of a tree is one Zarr array, by the leaf's number, not compressed.  Typed keys lie as their data, booleans as
bytes; empty arrays and host environments do not lie there at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operant.envs.base import Host
from operant.errors import UserError
from operant.types import PyTree

CHUNK_BYTES = 64 << 20  # large arrays are cut into files of this size, so that reading one needs little besides it


class Damaged(UserError):
    """A checkpoint is incomplete, or its bytes are not those that were written."""


@dataclasses.dataclass(frozen=True)
class Leaf:
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
        return describe(self.dtype, self.shape)


def describe(dtype: str, shape: Any) -> str:
    """`float32[2,3]`, and short whatever a file says."""
    return f"{dtype[:40]}[{','.join(map(str, shape))[:100]}]"


def _is_host(x: Any) -> bool:
    return isinstance(x, Host)


def parts(tree: PyTree) -> tuple[list[Leaf], list[str]]:
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


def _leaf(name: str, value: Any) -> Leaf:
    x = value if hasattr(value, "dtype") and hasattr(value, "shape") else np.asarray(value)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        implementation = []  # a shape has one too, but only says so while it is traced

        def look(keys):
            implementation.append(jax.random.key_impl(keys))
            return jax.random.key_data(keys)

        data = jax.eval_shape(look, x)
        shape, dtype = tuple(data.shape), np.dtype(data.dtype)
        return Leaf(name, value, tuple(x.shape), str(x.dtype), shape, dtype, implementation[0])
    dtype = np.dtype(x.dtype)
    if dtype.kind not in "biufc" and not jnp.issubdtype(dtype, jnp.number):
        raise ValueError(f"{name} is a {dtype}; only numbers and booleans can be saved")
    # booleans lie as bytes: a reader that decodes them stumbles over a damaged one before its checksum is compared
    on_disk = np.dtype(np.uint8) if dtype.kind == "b" else dtype.newbyteorder("=")
    return Leaf(name, value, tuple(x.shape), dtype.name, tuple(x.shape), on_disk)


def on_host(leaf: Leaf) -> np.ndarray:
    """A leaf's bytes on the host: without a copy where they are there already, and in one piece."""
    x = jax.random.key_data(leaf.value) if leaf.key is not None else leaf.value
    return np.asarray(jax.device_get(x), dtype=leaf.data_dtype, order="C")


def checksum(x: np.ndarray) -> str:
    """SHA-256 of an array's bytes."""
    return hashlib.sha256(x.reshape(-1).view(np.uint8)).hexdigest()


def restored(leaf: Leaf, x: np.ndarray | None) -> Any:
    """What `on_host` made of a leaf, as the leaf was; of an empty one (None), an empty array."""
    if x is None:
        x = np.zeros(leaf.data_shape, leaf.data_dtype)
    if leaf.key is not None:
        return jax.random.wrap_key_data(jnp.asarray(x), impl=leaf.key)
    if leaf.dtype == "bool":
        if x.size and x.max() > 1:
            raise Damaged(f"{leaf.name} holds {x.max()}, which is no boolean")
        x = x.view(bool)
    return type(leaf.value)(x) if isinstance(leaf.value, (bool, int, float)) else x


def rebuilt(like: PyTree, values: list[Any]) -> PyTree:
    """The tree of `like` with the values of its leaves; its host environments stay."""
    found, structure = jax.tree.flatten(like, is_leaf=_is_host)
    rest = iter(values)
    return jax.tree.unflatten(structure, [x if _is_host(x) else next(rest) for x in found])


# -------------------------------------------------------------------------------------------------------------- Orbax
def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays by name. Raises OSError, whatever Orbax stumbles over."""
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


def read_arrays(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Reads arrays by name, in whatever shape they are. Raises Damaged where they cannot be read."""
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
