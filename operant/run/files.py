"""Small files that survive a crash and do not trust what they read.

Written to a temporary sibling, flushed to the disk, then renamed: a reader sees the old file or the new one, never a
part.  Read with a limit on their size, only where they are regular files, and only as standard JSON.  JSON has no NaN
and no infinity: they are kept as `{"float": "nan"}`, `{"float": "inf"}` and `{"float": "-inf"}`.
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from operant.errors import UserError

MAX_JSON = 16 << 20  # bytes; parsed, hostile JSON of this size stays below a gigabyte
TEMPORARY = ".writing-"  # what a file that is not finished is called at first


def to_text(data: Any) -> str:
    """`data` as one line of standard JSON. NumPy numbers and arrays become numbers and lists.

    Raises TypeError for what JSON cannot hold.
    """
    return json.dumps(_plain(data), allow_nan=False, separators=(",", ":"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"a key of a JSON object is {name!r}; expected a string")
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(float(value))}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value


def from_text(text: str | bytes) -> Any:
    """What `to_text` wrote. Raises ValueError for anything but standard JSON, and for JSON nested too deep."""
    try:
        return json.loads(text, object_hook=_number, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _number(value: dict[str, Any]) -> Any:
    if len(value) == 1 and value.get("float") in ("nan", "inf", "-inf"):
        return float(value["float"])
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# ------------------------------------------------------------------------------------------------------------ writing
def write(path: Path, data: bytes) -> None:
    """Puts `data` at `path`, all or nothing. Raises UserError where the disk refuses."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}-{os.urandom(2).hex()}")
    try:
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        flush_directory(path.parent)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from error


def write_json(path: Path, data: Any) -> None:
    """Puts `data` at `path` as JSON, indented for people to read. Raises UserError where the disk refuses."""
    text = json.dumps(_plain(data), allow_nan=False, indent=1)
    write(path, (text + "\n").encode())


def flush_directory(path: Path) -> None:
    """Makes renames inside a directory outlast a power cut."""
    if os.name == "nt":  # directories cannot be opened there; the file system orders renames itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------------------ reading
def read(path: Path, limit: int = MAX_JSON) -> bytes:
    """The bytes of a regular file. Raises FileNotFoundError, or UserError for a link, a pipe, or too many bytes."""
    try:
        # no links are followed, and a pipe does not keep us waiting for its other end
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        what = "is a symbolic link" if path.is_symlink() else f"cannot be read: {error.strerror}"
        raise UserError(f"{path} {what}") from error
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise UserError(f"{path} is no regular file")
        if about.st_size > limit:
            raise UserError(f"{path} has {about.st_size:,} bytes; expected at most {limit:,}")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise UserError(f"{path} has more than {limit:,} bytes")
    return data


def read_json(path: Path, limit: int = MAX_JSON) -> dict[str, Any]:
    """The JSON object in a file. Raises FileNotFoundError, or UserError saying what is wrong with it."""
    try:
        data = from_text(read(path, limit))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object")
    return data
