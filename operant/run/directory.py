"""A run's directory: what is in it, how one is made, found and listed. Imports nothing heavy.

    config.json      agent, environment, settings, versions, machine, git state
    metrics.jsonl    one line per chunk        tensorboard/   the same for TensorBoard
    checkpoints/     figures/     films/       status.json    summary.json
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
import secrets
import subprocess
from pathlib import Path
from typing import Any

from operant.errors import UserError

CONFIG_BYTES = 16 << 20


class RunDirectory:
    """Paths of a run, its configuration and its status."""

    def __init__(self, path: Path, config: dict[str, Any]):
        self.path, self.config = path, config
        self.checkpoints, self.figures, self.films = path / "checkpoints", path / "figures", path / "films"
        self.metrics = path / "metrics.jsonl"

    @staticmethod
    def create(path: Path, config: dict[str, Any]) -> RunDirectory:
        """A new run. Raises UserError if there is something at `path` already."""
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"{path} exists already: choose another --run-dir, or go on with `operant resume {path}`")
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / "config.json", config)
        except OSError as error:
            raise UserError(f"the run directory {path} cannot be made: {error.strerror}") from None
        run = RunDirectory(path, config)
        run.set_status("running")
        return run

    @staticmethod
    def open(path: Path) -> RunDirectory:
        """An existing run. Raises UserError if `path` is none, or its configuration is damaged."""
        path = Path(path)
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is no run: it has no config.json; `operant runs` lists runs")
        config = read_json(path / "config.json")
        missing = {"agent", "env", "settings", "devices"} - set(config)
        if missing:
            raise UserError(f"{path / 'config.json'} lacks {', '.join(sorted(missing))}")
        return RunDirectory(path, config)

    def set_status(self, status: str) -> None:
        """running, finished, interrupted or failed; with the process, so that a dead `running` can be told."""
        write_json(self.path / "status.json", {"status": status, "pid": os.getpid(), "time": now()})

    def finish(self, summary: dict[str, Any]) -> None:
        """The end of a run, or of its part before an interruption."""
        write_json(self.path / "summary.json", summary)
        frozen = bool(summary.get("frozen_lanes"))
        self.set_status("interrupted" if summary.get("interrupted") else "failed" if frozen else "finished")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_json(path: Path, data: dict[str, Any]) -> None:
    """A small JSON file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(data, indent=1), encoding="utf-8")
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError if the file is none, or is larger than any that is written here."""
    if path.stat().st_size > CONFIG_BYTES:
        raise UserError(f"{path} is larger than {CONFIG_BYTES >> 20} MB: not a file of a run")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is damaged ({str(error)[:100]})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} is damaged: expected a JSON object")
    return data


def default_path(method: str, env: str, seed: int) -> Path:
    """runs/ENV/METHOD-TIME-XXXX"""
    clean = lambda text: re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip(".") or "_"  # noqa: E731
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / clean(env) / f"{clean(method)}-{stamp}-{secrets.token_hex(2)}"


def list_runs(root: Path) -> list[dict[str, Any]]:
    """What is known of every run below `root`, oldest first. A damaged run is listed as such."""
    if not root.is_dir():
        raise UserError(f"{root} is no directory; runs are kept in ./runs unless --run-dir says otherwise")
    found = []
    for directory, children, files in os.walk(root):
        if "config.json" in files:
            children.clear()
            found.append(_describe_run(Path(directory)))
    return sorted(found, key=lambda run: run["modified"])


def _describe_run(path: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"run": str(path), "modified": (path / "config.json").stat().st_mtime}
    try:
        config = RunDirectory.open(path).config
        row |= {"method": config["agent"]["agent"], "env": config["env"], "planned_steps": config["settings"]["steps"]}
        status = read_json(path / "status.json") if (path / "status.json").is_file() else {}
        row["status"] = status.get("status", "unknown")
        if row["status"] == "running" and not _alive(status.get("pid")):
            row["status"] = "stopped"
        if (path / "summary.json").is_file():
            summary = read_json(path / "summary.json")
            row |= {k: summary.get(k) for k in ("steps", "seeds", "return_mean", "return_ci", "ci_over")}
    except (UserError, OSError, KeyError, TypeError) as error:
        row["status"] = f"damaged ({str(error)[:80]})"
    return row


def _alive(pid: Any) -> bool:
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


PACKAGES = ("operant", "jax", "jaxlib", "flax", "numpy", "orbax-checkpoint", "gymnasium", "gymnax", "envpool", "brax")


def describe_machine() -> dict[str, Any]:
    """Versions, hardware, date and the git state of the working directory, as they go with every result."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": now(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "versions": versions,
        "git": _git(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", info.read_text(errors="replace"), re.M)
        if match:
            return match[1].strip()
    return platform.processor()


def _git() -> dict[str, Any] | None:
    def run(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, timeout=2, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = run("rev-parse", "HEAD")
    return None if commit is None else {"commit": commit, "changed": bool(run("status", "--porcelain"))}
