"""T1 (PPO on CartPole-v1) side by side: Operant, rejax, Stable-Baselines3 and SBX in turn, each a process of its own.

    python benchmarks/run.py --peers-jax PYTHON --peers-torch PYTHON [--quick] [--out results/benchmarks/cpu.json]

PYTHON is the interpreter of an environment made from `peers/requirements-*.txt`; a peer without one is left out. All
cells run once per round, so that a machine that grows slower grows slower for everyone, and ratios are taken within a
round. See README.md for what is equal between the cells and what is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from measure import cores, cpu_model, last_json, spread
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


@dataclasses.dataclass(frozen=True)
class Cell:
    """One program with its settings. `python` names the interpreter: operant, jax or torch."""

    name: str
    python: str
    script: str
    arguments: tuple[str, ...]
    steps: int

    def command(self, pythons: dict[str, str], steps: int | None, reps: int) -> list[str]:
        script = [pythons[self.python], str(HERE / self.script), *self.arguments]
        return [*script, "--steps", str(min(steps or self.steps, self.steps)), "--reps", str(reps)]


def operant(name: str, *arguments: str) -> Cell:
    return Cell(f"operant {name}", "operant", "operant_ppo.py", arguments, 500_000)


def rejax(name: str, *arguments: str) -> Cell:
    return Cell(f"rejax {name}", "jax", "peers/rejax_ppo.py", arguments, 500_000)


CELLS = (
    operant("4 envs", "--num-envs", "4"),
    rejax("4 envs", "--num-envs", "4"),
    Cell("sb3 4 envs", "torch", "peers/sb3_ppo.py", ("--lib", "sb3", "--num-envs", "4"), 50_000),
    Cell("sbx 4 envs", "torch", "peers/sb3_ppo.py", ("--lib", "sbx", "--num-envs", "4"), 50_000),
    operant("64 envs", "--num-envs", "64"),
    rejax("64 envs", "--num-envs", "64"),
    operant("64 envs, 2 devices", "--num-envs", "64", "--devices", "2"),
    operant("8 seeds", "--num-envs", "4", "--seeds", "8"),
    rejax("8 seeds", "--num-envs", "4", "--agents", "8"),
    operant("8 seeds, 2 devices", "--num-envs", "4", "--seeds", "8", "--devices", "2"),
    rejax("8 seeds, 2 devices", "--num-envs", "4", "--agents", "8", "--devices", "2"),
)

# Ours over theirs. Equal work in each pair; where devices differ, the name of the cell says so.
PAIRS = (
    ("operant 4 envs", "rejax 4 envs"),
    ("operant 4 envs", "sb3 4 envs"),
    ("operant 4 envs", "sbx 4 envs"),
    ("operant 64 envs", "rejax 64 envs"),
    ("operant 64 envs, 2 devices", "rejax 64 envs"),
    ("operant 8 seeds", "rejax 8 seeds"),
    ("operant 8 seeds, 2 devices", "rejax 8 seeds"),
    ("operant 8 seeds, 2 devices", "rejax 8 seeds, 2 devices"),
)


def run_cell(command: list[str], environment: dict[str, str], timeout: float) -> dict:
    """The record that the process prints, or {"error": why there is none}."""
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {timeout:g} seconds"}
    except OSError as error:
        return {"error": f"could not start: {error}"}
    if done.returncode:
        return {"error": f"ended with code {done.returncode}: {done.stderr.strip()[-1_000:]}"}
    try:
        return last_json(done.stdout)
    except ValueError as error:
        return {"error": str(error)}


def summarise(records: list[dict]) -> dict:
    """A cell over its rounds: medians over all timed runs, and what does not change between rounds."""
    good = [r for r in records if "error" not in r]
    errors = [r["error"] for r in records if "error" in r]
    if not good:
        return {"errors": errors, "rounds": []}
    speeds = [r["seeds"] * r["steps"] / s for r in good for s in r["seconds"]]
    compiles = [r["compile_seconds"] for r in good if r["compile_seconds"] is not None]
    returns = [r["return_mean"] for r in good if r["return_mean"] is not None]
    same = ("library", "task", "num_envs", "seeds", "steps", "devices", "versions", "device", "cores", "return_kind")
    return {
        **{key: good[0].get(key) for key in same},
        "steps_per_second": spread(speeds),
        "compile_seconds": statistics.median(compiles) if compiles else None,
        "return_mean": statistics.fmean(returns) if returns else None,
        "peak_memory_mb": max(r["peak_memory_mb"] for r in good),
        "errors": errors,
        "rounds": records,
    }


def ratios(cells: dict[str, dict]) -> list[dict]:
    """Steps per second of the first over the second of each pair that has both, round by round."""
    found = []
    for ours, theirs in PAIRS:
        rounds = zip(cells.get(ours, {}).get("rounds", []), cells.get(theirs, {}).get("rounds", []), strict=False)
        values = [
            a["steps_per_second"]["median"] / b["steps_per_second"]["median"]
            for a, b in rounds
            if "error" not in a and "error" not in b
        ]
        if values:
            found.append({"ours": ours, "theirs": theirs, **spread(values), "rounds": values})
    return found


def memory_gib() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def show(report: dict, console: Console) -> None:
    hardware = report["hardware"]
    console.print(f"\n{hardware['cpu_model']}, {hardware['cores']} cores, {report['date']}, {report['protocol']}")
    table = Table(title="T1: PPO on CartPole-v1")
    for heading in ("cell", "steps/s", "min - max", "compile s", "steps per seed", "return"):
        table.add_column(heading, justify="left" if heading == "cell" else "right")
    for name, cell in report["cells"].items():
        if "steps_per_second" not in cell:
            table.add_row(name, "[red]failed")
            continue
        speed = cell["steps_per_second"]
        table.add_row(
            name,
            f"{speed['median']:,.0f}",
            f"{speed['min']:,.0f} - {speed['max']:,.0f}",
            "-" if cell["compile_seconds"] is None else f"{cell['compile_seconds']:.1f}",
            f"{cell['steps']:,}",
            "-" if cell["return_mean"] is None else f"{cell['return_mean']:.0f}",
        )
    console.print(table)
    if report["ratios"]:
        table = Table(title="Operant over peer, steps/s")
        for heading in ("ours", "theirs", "ratio", "over rounds"):
            table.add_column(heading, justify="right" if heading.startswith(("r", "ov")) else "left")
        for r in report["ratios"]:
            table.add_row(r["ours"], r["theirs"], f"{r['median']:.2f}", f"{r['min']:.2f} - {r['max']:.2f}")
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-jax", metavar="PYTHON", help="interpreter with peers/requirements-jax.txt")
    parser.add_argument("--peers-torch", metavar="PYTHON", help="interpreter with peers/requirements-torch.txt")
    parser.add_argument("--quick", action="store_true", help="one round, two short runs: does everything work?")
    parser.add_argument("--rounds", type=int, default=3, help="times that every cell is run")
    parser.add_argument("--reps", type=int, default=5, help="timed runs of a cell in a round")
    parser.add_argument("--only", default="", help="only cells whose name contains this")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that one cell may take in one round")
    parser.add_argument("--out", type=Path, default=ROOT / "results/benchmarks/cpu.json")
    args = parser.parse_args()

    rounds, reps, steps = (1, 2, 10_000) if args.quick else (args.rounds, args.reps, None)
    pythons = {"operant": sys.executable, "jax": args.peers_jax, "torch": args.peers_torch}
    cells = [cell for cell in CELLS if pythons[cell.python] and args.only in cell.name]
    if not cells:
        parser.error(f"no cell has {args.only!r} in its name and an interpreter; cells: {[c.name for c in CELLS]}")

    environment = dict(os.environ)
    for name in (
        "XLA_FLAGS",
        "JAX_COMPILATION_CACHE_DIR",
    ):  # a cache would hide compile times
        environment.pop(name, None)
    environment.setdefault("JAX_PLATFORMS", "cpu")
    environment.setdefault("OMP_NUM_THREADS", str(cores()))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))

    console = Console(width=None if sys.stdout.isatty() else 120)
    load = os.getloadavg()
    records: dict[str, list[dict]] = {cell.name: [] for cell in cells}
    for number in range(rounds):
        for cell in cells:
            console.print(f"round {number + 1}/{rounds}: {cell.name}", style="dim")
            result = run_cell(cell.command(pythons, steps, reps), environment, args.timeout)
            if "error" in result:
                console.print(f"  {result['error']}", style="red", markup=False)
            records[cell.name].append(result)

    summaries = {name: summarise(found) for name, found in records.items()}
    report = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "protocol": f"{rounds} rounds of 1 warm-up and {reps} timed runs, wall clock" + (", quick" * args.quick),
        "hardware": {
            "cpu_model": cpu_model(),
            "cores": cores(),
            "memory_gib": memory_gib(),
            "system": platform.platform(),
            "jax_platforms": environment["JAX_PLATFORMS"],
            "omp_num_threads": environment["OMP_NUM_THREADS"],
            "load_average_before": load,
        },
        "cells": summaries,
        "ratios": ratios(summaries),
    }
    show(report, console)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {args.out}")
    if any(cell["errors"] for cell in summaries.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
