"""The runs below a directory, by ids that are made from the listing: no path is made from what a request says."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from operant.errors import UserError
from operant.run.directory import MAX_RUNS, RunDirectory, find_runs, list_runs
from operant.web.curves import Curves

FRESH = 1.0  # seconds for which a listing is good
KEPT = 256  # runs whose curves are remembered
FILMS = {".mp4": "video/mp4", ".gif": "image/gif", ".webm": "video/webm"}
PICTURES = {
    "dials.png": "The course of the dials that it tuned",
    "portrait.png": "What it learned to learn by",
}
_WATCHED = ("config.json", "status.json", "summary.json", "metrics.jsonl")


def identity(text: str) -> str:
    """What a run or a film is called in addresses."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]


def printable(text: str) -> str:
    """A name from the file system, fit to be shown: any bytes may be in one."""
    return "".join(c if c.isprintable() else "?" for c in text)


class Runs:
    """What is known of every run; a run is described again only when one of its small files has changed."""

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)
        self.described = 0  # how often a run's files were read
        self._lock = threading.Lock()
        self._rows: dict[str, dict[str, Any]] = {}
        self._signs: dict[str, tuple] = {}
        self._looked = -FRESH
        self._curves: OrderedDict[str, Curves] = OrderedDict()

    # -------------------------------------------------------------------------------------------------------- listing
    def all(self) -> list[dict[str, Any]]:
        """Newest first. Each has the fields of `operant runs`, and `id`, `name` (its place below the root), `path`."""
        with self._lock:
            if time.monotonic() - self._looked >= FRESH:
                self._look()
                self._looked = time.monotonic()
            return list(self._rows.values())

    def get(self, run_id: str) -> dict[str, Any] | None:
        """The run with that id, or None."""
        row = self._rows.get(run_id)
        if row is None or time.monotonic() - self._looked >= FRESH:
            self.all()
            row = self._rows.get(run_id)
        return row

    def _look(self) -> None:
        found, signs = {}, {}
        for path in itertools.islice(find_runs(self.root), MAX_RUNS):
            name = path.relative_to(self.root).as_posix()
            run_id, sign = identity(name), _signature(path)
            old = self._rows.get(run_id)
            # that a process has died leaves no sign in any file
            if old is None or old["status"] == "running" or self._signs.get(run_id) != sign:
                self.described += 1
                shown = printable(path.name if name == "." else name)
                described = next(iter(list_runs(path)), None)
                if described is None:  # it is gone again
                    continue
                old = {**described, "id": run_id, "name": shown, "path": path}
            found[run_id], signs[run_id] = old, sign
        order = sorted(found.values(), key=lambda row: (row["date"] or "", row["name"]), reverse=True)
        self._rows, self._signs = {row["id"]: row for row in order}, signs

    # ---------------------------------------------------------------------------------------------------- one run
    def config(self, row: dict[str, Any]) -> dict[str, Any]:
        """What was asked for; empty where it cannot be read."""
        try:
            return RunDirectory(row["path"]).config
        except (UserError, OSError):
            return {}

    def summary(self, row: dict[str, Any]) -> dict[str, Any]:
        """How the run ended; empty where it has not, or that cannot be read."""
        try:
            return RunDirectory(row["path"]).summary or {}
        except (UserError, OSError):
            return {}

    def curves(self, row: dict[str, Any], limit: int = 8 << 20) -> Curves:
        """The run's curves, after up to `limit` bytes more of its metrics were read."""
        with self._lock:
            curves = self._curves.pop(row["id"], None) or Curves(self.config(row))
            self._curves[row["id"]] = curves
            while len(self._curves) > KEPT:
                self._curves.popitem(last=False)
        try:
            descriptor = open_below(row["path"], "metrics.jsonl")
        except OSError:
            return curves
        try:
            curves.advance(descriptor, limit)
        finally:
            os.close(descriptor)
        return curves

    def films(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """The films of a run, newest first: `id`, `name`, `kind` (a media type), `size`, `parts` of its path."""
        return self._files(row, "films", FILMS)

    def pictures(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """What else a run drew than its curve, as `films`, with the `words` that it is called by."""
        found = [file for file in self._files(row, "figures", {".png": "image/png"}) if file["name"] in PICTURES]
        return [{**file, "words": PICTURES[file["name"]]} for file in sorted(found, key=lambda file: file["name"])]

    def _files(self, row: dict[str, Any], place: str, kinds: dict[str, str]) -> list[dict[str, Any]]:
        """The regular files of these kinds, by their endings, in a folder of a run, newest first."""
        folder, found = row["path"] / place, []
        try:
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                return []
            with os.scandir(folder) as entries:
                for entry in entries:
                    kind = kinds.get(os.path.splitext(entry.name)[1].lower())
                    if kind and entry.name[0] != "." and entry.is_file(follow_symlinks=False):
                        about = entry.stat(follow_symlinks=False)
                        found.append((about.st_mtime, entry.name, kind, about.st_size))
        except OSError:
            return []
        return [
            {"id": identity(name), "name": printable(name), "kind": kind, "size": size, "parts": (place, name)}
            for _, name, kind, size in sorted(found, reverse=True)
        ]


def _signature(path: Path) -> tuple:
    """Changes when one of a run's small files does."""
    signs: list[Any] = []
    for name in _WATCHED:
        try:
            about = os.lstat(path / name)
            signs.append((about.st_mtime_ns, about.st_size, about.st_ino))
        except OSError:
            signs.append(None)
    return tuple(signs)


def open_below(root: Path, *parts: str) -> int:
    """A descriptor of a regular file below `root`, reached without following a link. Raises OSError."""
    no_link = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    if os.open in os.supports_dir_fd:
        here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | no_link, dir_fd=here)
                os.close(here)
                here = below
            # a pipe must not keep us waiting for its other end
            descriptor = os.open(parts[-1], os.O_RDONLY | os.O_NONBLOCK | no_link, dir_fd=here)
        finally:
            os.close(here)
    else:
        path = root
        for part in parts:
            path = path / part
            if path.is_symlink():
                raise OSError(f"{path} is a link")
        descriptor = os.open(path, os.O_RDONLY | no_link)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{parts[-1]} is no regular file")
    return descriptor
