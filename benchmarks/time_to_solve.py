"""Seconds from the start of the process to an agent that solves CartPole-v1 (a return of 475), cold and warm.

    python benchmarks/time_to_solve.py [--reps 5]

Cold: an empty compilation cache. Warm: the cache of an earlier run. Everything is counted: Python's start, imports,
compilation, training, the final evaluation. Cold and warm runs alternate; run 0 only fills the warm cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

from measure import cores, cpu_model, emit, last_json, spread, versions


def solve(target: float, steps: int, seed: int, cache: str) -> dict:
    """One run from process start to process end: {seconds, return_mean, compile_seconds}."""
    command = [sys.executable, "-m", "operant", "train", "ppo", "CartPole-v1", "--steps", str(steps)]
    command += ["--stop-at-return", str(target), "--seed", str(seed), "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, env=os.environ | {"OPERANT_CACHE": cache}, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-2_000:]}")
    result = last_json(done.stdout)
    return {
        "seconds": seconds,
        "return_mean": result["return_mean"],
        "compile_seconds": result["compile_seconds"],
        "solved": result["return_mean"] >= target,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=float, default=475.0)
    parser.add_argument("--steps", type=int, default=500_000, help="budget of environment steps")
    parser.add_argument("--reps", type=int, default=5)
    args = parser.parse_args()

    runs: dict[str, list[dict]] = {"cold": [], "warm": []}
    with tempfile.TemporaryDirectory() as warm:
        solve(args.target, args.steps, 0, warm)
        for seed in range(1, args.reps + 1):
            with tempfile.TemporaryDirectory() as cold:
                runs["cold"].append(solve(args.target, args.steps, seed, cold))
            runs["warm"].append(solve(args.target, args.steps, seed, warm))

    emit(
        {
            "task": f"CartPole-v1 to a return of {args.target:g}",
            "library": "Operant",
            **{
                name: {
                    # A run that never got there has no time to solve: it is counted, and its seconds are left out.
                    "solved": sum(run["solved"] for run in results),
                    "of": len(results),
                    "seconds_to_solve": spread([r["seconds"] for r in results if r["solved"]])
                    if any(r["solved"] for r in results)
                    else None,
                    "runs": results,
                }
                for name, results in runs.items()
            },
            "versions": versions("operant", "gymnax", "jax", "jaxlib", "flax", "optax"),
            "device": os.environ.get("JAX_PLATFORMS", "default"),
            "cores": cores(),
            "cpu_model": cpu_model(),
        }
    )
    if not all(run["solved"] for results in runs.values() for run in results):
        sys.exit(f"not every run reached a return of {args.target:g} within {args.steps} steps")


if __name__ == "__main__":
    main()
