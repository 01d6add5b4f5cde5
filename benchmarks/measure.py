"""What all benchmark scripts share: the stopwatch, the description of the machine, and the one line of JSON printed.

Only the standard library is imported, so that the scripts under `peers/` can use it from their own environments.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any


def cores() -> int:
    """How many cores this process may use (which can be fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.lower().startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:  # no /proc on this operating system: its own name for the processor has to do
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()


def versions(*packages: str) -> dict[str, str]:
    """Version of Python and of every named package that is installed here."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def repeat(run: Callable[[int], Any], reps: int) -> tuple[float, list[float], list[Any]]:
    """Wall-clock seconds of a warm-up and of `reps` runs, and what the runs returned.

    `run(seed)` must return only when its work is finished (JAX dispatches asynchronously: block in it). Seed 0 is the
    warm-up, seeds 1 .. reps are timed.

    Returns:
      (warm-up seconds, [reps] seconds, [reps] results)
    """
    if reps < 1:
        raise ValueError(f"reps is {reps}: at least one timed run is needed")
    start = time.perf_counter()
    run(0)
    warm_up = time.perf_counter() - start
    seconds, results = [], []
    for seed in range(1, reps + 1):
        start = time.perf_counter()
        results.append(run(seed))
        seconds.append(time.perf_counter() - start)
    return warm_up, seconds, results


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def record(
    *,
    library: str,
    task: str,
    num_envs: int,
    seeds: int,
    steps: int,
    seconds: list[float],
    compile_seconds: float | None,
    returns: list[float],
    versions: dict[str, str],
    device: str,
    **more: Any,
) -> dict[str, Any]:
    """The result of one benchmark process.

    Args:
      steps: environment steps that *one* seed really took in one run, over all its environments (libraries round a
        budget up to whole rollouts, so this is counted, not copied from the command line).
      seconds: [reps] wall-clock seconds of one run of all seeds.
      compile_seconds: seconds of compilation, which are not in `seconds`; None where nothing is compiled.
      returns: one mean return per trained agent, whose length and kind `more` should explain.
      more: anything else worth keeping.
    """
    return {
        "library": library,
        "task": task,
        "num_envs": num_envs,
        "seeds": seeds,
        "steps": steps,
        "compile_seconds": compile_seconds,
        "seconds": seconds,
        "steps_per_second": spread([seeds * steps / s for s in seconds]),
        "return_mean": statistics.fmean(returns) if returns else None,
        "return_min": min(returns, default=None),
        "return_max": max(returns, default=None),
        "versions": versions,
        "device": device,
        "cores": cores(),
        "peak_memory_mb": peak_memory_mb(),
        **more,
    }


def peak_memory_mb() -> float:
    """Largest resident memory so far, in MiB, of this process or of a child that has ended."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def side_by_side(commands: dict[str, list[str]], rounds: int, measured: str) -> dict[str, list[dict[str, Any]]]:
    """Runs every command once a round, in turn, each a process that emits a result; tells the median of `measured`.

    Returns:
      the results of each command, [rounds]
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{name} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
            found[name].append(last_json(done.stdout))
            print(f"{name}: {found[name][-1][measured]['median']:,.0f} {measured.replace('_', ' ')}", flush=True)
    return found


def emit(result: dict[str, Any]) -> None:
    """Print `result` as one line, the last of this process."""
    print(json.dumps(result), flush=True)


def last_json(output: str) -> dict[str, Any]:
    """The JSON object on the last line of a process's output that is not empty."""
    lines = [line for line in output.splitlines() if line.strip()]
    if not lines:
        raise ValueError("the process printed nothing, expected a JSON object on its last line")
    try:
        result = json.loads(lines[-1])
    except json.JSONDecodeError as error:
        raise ValueError(f"expected a JSON object on the last line, found {lines[-1][:200]!r}") from error
    if not isinstance(result, dict):
        raise ValueError(f"expected a JSON object on the last line, found {lines[-1][:200]!r}")
    return result
