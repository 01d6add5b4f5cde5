"""What a run's numbers and speed may depend on, written down beside them."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib import metadata
from typing import Any

from operant import __version__


def describe_machine() -> dict[str, Any]:
    """What a run's numbers and speed may depend on: versions, processor, memory, the working directory's commit.

    Keys: `date` (UTC, ISO 8601), `python`, `platform`, `cpu`, `cores`, `memory_bytes`, `packages` (name -> version) and
    `git` (`commit` and `dirty`, or None where the working directory is no repository).
    """
    now = datetime.datetime.now(datetime.UTC)
    return {
        "date": now.isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "packages": _versions(),
        "git": _git(),
    }


def _cpu() -> str | None:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or None
    return platform.processor() or platform.machine() or None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _versions() -> dict[str, str]:
    """Versions of Operant and of what it depends on, as far as they are installed."""
    try:
        wanted = [r for r in metadata.requires("operant") or [] if "extra ==" not in r]
    except metadata.PackageNotFoundError:  # run from its sources
        wanted = ["jax", "flax", "orbax-checkpoint", "numpy", "gymnasium", "gymnax", "envpool"]
    names = {re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0] for requirement in wanted} | {"jaxlib", "optax"}
    versions = {"operant": __version__}
    for name in sorted(names):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _git() -> dict[str, Any] | None:
    commit = _ask_git("rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _ask_git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _ask_git(*arguments: str) -> str | None:
    # a repository's own settings may name a program for fsmonitor, and reading the status would run it
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=2.0, stdin=subprocess.DEVNULL,
            env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
