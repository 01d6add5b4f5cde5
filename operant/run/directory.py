"""A run's directory, and what is known of a run without starting JAX.

    config.json      what was asked for, and on what machine; written once
    status.json      running, finished, interrupted or failed; which process, and when it last gave a sign of life
    metrics.jsonl    one line of numbers after every chunk (`operant.run.writers`)
    summary.json     how it ended
    checkpoints/     `operant.run.checkpoint`
    figures/, films/, tensorboard/

Everything here is small, and read with suspicion: directories come from other people too.
"""

from __future__ import annotations

import math
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from operant.errors import UserError
from operant.run import files

STATUSES = ("running", "finished", "interrupted", "failed")
SILENT_SECONDS = 600.0  # a run on another machine that gave no sign of life for so long has failed
BEAT_SECONDS = 5.0
MAX_RUNS = 100_000
DEPTH = 8  # levels below which no run is looked for: those behind papers lie at six


class RunDirectory:
    """The directory of one run. Make one with `create` or `open`."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._config: dict[str, Any] | None = None
        self._last_beat = -math.inf

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @staticmethod
    def create(path: str | os.PathLike, config: dict[str, Any]) -> RunDirectory:
        """A new run, with its configuration, running in this process.

        Raises UserError where something is there already: a run is never begun anew over another.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            taken = [name for name in os.listdir(path) if not name.startswith(files.TEMPORARY)]
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{path} is not a directory: choose another --run-dir") from None
        except OSError as error:
            raise UserError(f"{path} cannot be made: {error.strerror}: choose another --run-dir") from error
        if taken:
            if "config.json" in taken:
                raise UserError(f"{path} holds a run: choose another --run-dir, or go on with: operant resume {path}")
            raise UserError(f"{path} is not empty: choose another --run-dir")
        directory = RunDirectory(path)
        files.write_json(path / "config.json", config)
        directory.set_status("running")
        return directory

    @staticmethod
    def open(path: str | os.PathLike) -> RunDirectory:
        """A run that is there. Raises UserError where there is none, or its configuration cannot be read."""
        directory = RunDirectory(path)
        if not directory.path.is_dir():
            raise UserError(f"there is no run at {path}; `operant runs` lists them")
        try:
            directory._config = files.read_json(directory.path / "config.json")
        except FileNotFoundError:
            raise UserError(f"{path} holds no run: it has no config.json; `operant runs` lists runs") from None
        return directory

    @property
    def config(self) -> dict[str, Any]:
        """What was asked for. Raises UserError where it cannot be read."""
        if self._config is None:
            try:
                self._config = files.read_json(self.path / "config.json")
            except FileNotFoundError:
                raise UserError(f"{self.path} holds no run: it has no config.json") from None
        return self._config

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rows(self) -> Path:
        """Where the rows of a replay memory are."""
        return self.path / "rows"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def films(self) -> Path:
        return self.path / "films"

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The rows of the run's metrics, in order."""
        from operant.run.writers import read_metrics

        return read_metrics(self.path / "metrics.jsonl")

    @property
    def summary(self) -> dict[str, Any] | None:
        """How the run ended, or None."""
        try:
            return files.read_json(self.path / "summary.json")
        except FileNotFoundError:
            return None

    def finish(self, summary: dict[str, Any]) -> None:
        """Writes the summary; the run's status is then `interrupted` if the summary says so, else `finished`."""
        files.write_json(self.path / "summary.json", summary)
        self.set_status("interrupted" if summary.get("interrupted") else "finished")

    # ---------------------------------------------------------------------------------------------------------- status
    def set_status(self, status: str, reason: str | None = None) -> None:
        """Says how the run is doing: running (in this process), finished, interrupted or failed (with its reason)."""
        if status not in STATUSES:
            raise ValueError(f"status is {status!r}; expected one of {', '.join(STATUSES)}")
        data = {
            "status": status,
            "pid": os.getpid(),
            "process_started": _process_started(os.getpid()),
            "host": socket.gethostname(),
            "heartbeat": time.time(),
        }
        if reason is not None:
            data["reason"] = reason
        files.write_json(self.path / "status.json", data)
        self._last_beat = time.monotonic()

    def beat(self) -> None:
        """A sign of life from the process that runs this run; call it as often as you like."""
        if time.monotonic() - self._last_beat >= BEAT_SECONDS:
            self.set_status("running")

    @property
    def status(self) -> str:
        """running, finished, interrupted or failed. A run whose process is gone without a word has failed."""
        try:
            data = files.read_json(self.path / "status.json")
        except FileNotFoundError:
            return "failed"
        status = data.get("status")
        if status not in STATUSES:
            raise UserError(f"{self.path / 'status.json'} has no status that is known")
        if status == "running" and not self._lives(data):
            return "failed"
        return status

    def _lives(self, data: dict[str, Any]) -> bool:
        if data.get("host") == socket.gethostname():
            pid = data.get("pid")
            return type(pid) is int and _is_alive(pid, data.get("process_started"))
        signs = [data.get("heartbeat")]
        try:
            signs.append(os.stat(self.path / "metrics.jsonl").st_mtime)
        except FileNotFoundError:
            signs.append(None)
        last = max((s for s in signs if isinstance(s, (int, float))), default=-math.inf)
        return time.time() - last < SILENT_SECONDS


def _is_alive(pid: int, started: Any) -> bool:
    """Whether a process lives, and is the one that was meant: numbers of processes come round again."""
    if not 0 < pid < 2**31:
        return False
    if os.name == "nt":  # there, signal 0 would end the process
        import psutil

        return psutil.pid_exists(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    now = _process_started(pid)
    return started is None or now is None or now == started


def _process_started(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


# ------------------------------------------------------------------------------------------------------------- naming
def default_path(method: str, env: str, seed: int = 0) -> Path:
    """`runs/<env>/<method>-<date>-<time>-<four random digits>`; a first seed other than 0 is named after the method."""
    name = safe_name(method) + (f"-s{seed}" if seed else "")
    return Path("runs") / safe_name(env) / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(2).hex()}"


def safe_name(text: str) -> str:
    """`text` as one part of a path that every file system takes."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:80].strip(".-")
    reserved = re.fullmatch(r"(?i)(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", name)
    return f"{name}-" if reserved else name or "unnamed"


# ------------------------------------------------------------------------------------------------------------ listing
def list_runs(root: str | os.PathLike) -> list[dict[str, Any]]:
    """What is known of every run under `root`, oldest first; runs that are broken are listed with the reason.

    Each has `run`, `status` (one of RunDirectory's, or `broken`), `method`, `env`, `seeds`, `steps`, `return_mean`,
    `seconds`, `date`; None for what is not known, and `problem` where it is broken. Links are not followed.
    """
    return sorted((_describe(path) for path in find_runs(Path(root))), key=lambda run: (run["date"] or "", run["run"]))


def find_runs(root: Path) -> Iterator[Path]:
    """Directories that hold a run, or what is left of one. Links are not followed.

    Raises UserError beyond MAX_RUNS of them.
    """
    waiting, found = [(root, 0)], 0
    while waiting:
        path, depth = waiting.pop()
        try:
            with os.scandir(path) as entries:
                inside = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except OSError:
            if depth == 0 and not path.exists():
                return
            yield path  # what cannot be read is listed as broken
            continue
        if any(name in inside for name in ("config.json", "metrics.jsonl", "status.json", "checkpoints")):
            found += 1
            if found > MAX_RUNS:
                raise UserError(f"there are more than {MAX_RUNS:,} runs under {root}: name a directory further down")
            yield path
        elif depth < DEPTH:
            waiting += [(path / name, depth + 1) for name, is_dir in inside.items() if is_dir and name[0] != "."]


def _describe(path: Path) -> dict[str, Any]:
    run: dict[str, Any] = {"run": str(path), "status": "broken"}
    run |= dict.fromkeys(("method", "env", "seeds", "steps", "return_mean", "seconds", "date"))
    try:
        directory = RunDirectory.open(path)
        config = directory.config
        agent, machine = _table(config.get("agent")), _table(config.get("machine"))
        run["method"] = _line(agent.get("class"))
        run["env"] = _line(config.get("env"))
        run["seeds"] = _number(_table(config.get("settings")).get("seeds"), whole=True)
        run["date"] = _line(machine.get("date"))
        run["status"] = directory.status
        # an older summary is out of date once the run goes on
        summary = directory.summary if run["status"] in ("finished", "interrupted") else None
        run |= _progress(path / "metrics.jsonl") if summary is None else {
            "steps": _number(summary.get("steps"), whole=True),
            "seconds": _number(summary.get("seconds")),
            "return_mean": _number(summary.get("return_mean")),
        }  # fmt: skip
    except (UserError, OSError) as error:
        # Files are named from the run on: its path, told again, could leave no room for what is wrong.
        run |= {"status": "broken", "problem": _line(str(error).replace(f"{path}/", ""))}
    return run


def _progress(path: Path, window: int = 1 << 16) -> dict[str, Any]:
    """Steps, seconds and the last evaluation's mean return from the end of a run's metrics."""
    from operant.run.writers import row_from_text

    known: dict[str, Any] = {}
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):  # a pipe would keep us waiting
            return known
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - window))
            lines = file.read(window).split(b"\n")
    except FileNotFoundError:
        return known
    for line in reversed(lines[:-1]):  # what follows the last newline is still being written
        try:
            row = row_from_text(line)
        except ValueError:
            continue  # the first line of the window may be cut
        known.setdefault("steps", _number(_mean(row.get("steps"), min), whole=True))
        known.setdefault("seconds", _number(row.get("seconds")))
        if "eval_return" in row:
            known["return_mean"] = _number(_mean(row["eval_return"]))
            break
    return known


def _mean(value: Any, reduce: Any = None) -> Any:
    if not isinstance(value, list):
        return value
    finite = [x for x in value if _number(x) is not None]
    if not finite:
        return None
    return reduce(finite) if reduce else sum(finite) / len(finite)


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any, whole: bool = False) -> Any:
    """A finite number, or None."""
    if type(value) is int and abs(value) < 2**63:
        return value
    if type(value) is float and math.isfinite(value):
        return int(value) if whole else value
    return None


def _line(value: Any) -> str | None:
    """Text from a file, fit to be shown on a terminal: without control characters, and short."""
    if not isinstance(value, str):
        return None
    shown = "".join(c if c.isprintable() else "?" for c in value[:300])
    return shown if len(value) <= 300 else shown + "..."
