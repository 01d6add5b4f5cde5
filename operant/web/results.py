"""Files of results, read again only where they have changed.

Other people may have written them: what does not fit is left out, and never breaks a page.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operant.errors import UserError
from operant.run import files

NOT_ONE = (UserError, OSError, KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)


class Results:
    """What `make(data, path)` makes of JSON files; it may raise any of `NOT_ONE` for what is no result."""

    def __init__(self, make: Callable[[dict[str, Any], Path], dict[str, Any]]):
        self._make = make
        self._lock = threading.Lock()
        self._known: dict[Path, tuple[tuple, dict[str, Any] | None]] = {}

    def get(self, path: Path) -> dict[str, Any] | None:
        """The result in a file; None where there is none, or it is no result."""
        try:
            about = os.lstat(path)
        except OSError:
            return None
        sign = (about.st_mtime_ns, about.st_size, about.st_ino)
        with self._lock:
            known = self._known.get(path)
        if known is None or known[0] != sign:
            try:
                known = sign, self._make(files.read_json(path), path)
            except NOT_ONE:
                known = sign, None
            with self._lock:
                self._known[path] = known
        return known[1]
