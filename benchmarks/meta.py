"""What learning to learn costs: meta-gradient steps beside plain ones, discovery's throughput, memory with and without
rematerialisation.

    python benchmarks/meta.py [--rounds 3] [--out FILE]
    python benchmarks/meta.py --groove CHECKOUT --peers-groove PYTHON [--rounds 2] [--out FILE]

The second form runs discovery beside the public implementation of LPG instead: see `peers/groove_lpg.py`.

Steps per second are those of whole runs (roll-out and learning) after compilation, medians over alternating rounds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import cores, cpu_model, emit, last_json, side_by_side, spread, versions

HERE = Path(__file__).resolve().parent
SEGMENTS = {"num_envs": 16, "rollout_length": 16}
INNER = {f"agent.{name}": value for name, value in SEGMENTS.items()}
STAC = {**SEGMENTS, "network.shared": "yes"}
INNER_STAC = {f"agent.{name}": value for name, value in STAC.items()}
CELLS: dict[str, tuple[str, str, dict, int]] = {
    "a2c": ("a2c", "CartPole-v1", SEGMENTS, 400_000),
    "MGRL, forward": ("meta-gradient:a2c", "CartPole-v1", INNER, 400_000),
    "MGRL, reverse": ("meta-gradient:a2c", "CartPole-v1", {**INNER, "mode": "reverse"}, 400_000),
    "FRODO": ("frodo:a2c", "CartPole-v1", INNER, 200_000),
    "impala": ("impala", "CartPole-v1", STAC, 400_000),
    "STAC": ("stac", "CartPole-v1", {**INNER_STAC, "auxiliary_heads": 0}, 200_000),
    "STACX": ("stac", "CartPole-v1", {**INNER_STAC, "auxiliary_heads": 2}, 200_000),
    "discovery": ("discover:lpg", "operant:SmallGrid-v0", {"lives": 32, "inner_updates": 5}, 3_000_000),
}
"""Name -> (method, environment, changes, steps). Discovery: 32 lives x 16 environments, roll-outs of 20, GRU of 64."""
RATIOS = {"MGRL, forward": "a2c", "MGRL, reverse": "a2c", "FRODO": "a2c", "STAC": "impala", "STACX": "impala"}


def cell(name: str) -> None:
    import operant as op
    from operant import methods

    method, env, changes, steps = CELLS[name]
    agent = methods.apply(methods.build(method, env), changes)
    with tempfile.TemporaryDirectory() as scratch:
        run = op.train(agent, env, steps=steps, quiet=True, eval_every=0, run_dir=f"{scratch}/run", chunks=5,
                       checkpoint_seconds=1e9)  # fmt: skip
        seconds = [(row["steps"], row["chunk_seconds"]) for row in run.directory.metrics() if "chunk_seconds" in row]
    one = lambda steps: float(steps[0]) if isinstance(steps, list) else float(steps)  # noqa: E731
    speeds = [(one(b[0]) - one(a[0])) / b[1] for a, b in zip(seconds, seconds[1:], strict=False)]
    emit({"steps_per_second": spread(speeds), "versions": versions("jax", "jaxlib")})


def memory(updates: int = 20) -> dict[str, float]:
    """Bytes of temporary memory that one meta step of discovery and of FRODO need, over `updates` inner updates."""
    import jax

    from operant import methods
    from operant.agent import strong
    from operant.envs import registry
    from operant.rollout import blank_batch

    found = {}
    for method, env, changes in (
        ("discover:lpg", "operant:SmallGrid-v0", {"lives": 32}),
        ("frodo:a2c", "Breakout-MinAtar", {"agent.num_envs": 32, "agent.rollout_length": 20}),
    ):
        for remat in (True, False):
            agent = methods.build(method, env)
            agent = strong(methods.apply(agent, {**changes, "inner_updates": updates, "remat": remat}))
            spec = registry.make(env, agent.num_envs).spec
            state = jax.eval_shape(lambda key, a=agent, p=spec: a.init(key, p), jax.random.key(0))
            batch = jax.eval_shape(lambda s, a=agent, p=spec: blank_batch(a, s, p, a.rollout_length), state)
            step = jax.jit(lambda s, b, k, a=agent: a.meta_learn(s, b, k))
            compiled = step.lower(state, batch, jax.random.key(0)).compile()
            found[f"{method}, {'with' if remat else 'without'} remat"] = compiled.memory_analysis().temp_size_in_bytes
    return found


def beside_groove(checkout: str, python: str, rounds: int) -> dict:
    """Discovery's throughput over GROOVE's, the processes in turn."""
    commands = {
        "groove": [python, str(HERE / "peers" / "groove_lpg.py"), "--groove", checkout, "--meta-steps", "20",
                   "--reps", "1"],
        "discovery": [sys.executable, str(HERE / "meta.py"), "--cell", "discovery"],
    }  # fmt: skip
    found = side_by_side(commands, rounds, "steps_per_second")
    pairs = zip(found["discovery"], found["groove"], strict=True)
    ratio = spread([a["steps_per_second"]["median"] / b["steps_per_second"]["median"] for a, b in pairs])
    print(f"discovery over groove: {ratio['median']:.1f}")
    return {"date": datetime.date.today().isoformat(), "device": cpu_model(), "cores": cores(), "rounds": rounds,
            "ratio": ratio, "cells": found}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cells with this in their name")
    parser.add_argument("--out", default="")
    parser.add_argument("--cell", default="", help="run one cell in this process")
    parser.add_argument("--groove", default="", help="a clone of GROOVE's repository")
    parser.add_argument("--peers-groove", default="", help="the interpreter of an environment for it")
    args = parser.parse_args()
    if args.cell:
        cell(args.cell)
        return
    if args.groove:
        result = beside_groove(args.groove, args.peers_groove, args.rounds)
        if args.out:
            Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
        return
    names = [name for name in CELLS if args.only in name]
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(args.rounds):
        for name in names:
            done = subprocess.run(
                [sys.executable, str(HERE / "meta.py"), "--cell", name], capture_output=True, text=True
            )
            if done.returncode:
                raise RuntimeError(f"{name} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
            speeds[name].append(last_json(done.stdout)["steps_per_second"]["median"])
            print(f"{name}: {speeds[name][-1]:,.0f} steps/s", flush=True)
    table = {name: {"steps_per_second": spread(values)} for name, values in speeds.items()}
    for name, plain in RATIOS.items():
        if name in table and plain in table:
            ratios = [b / a for a, b in zip(speeds[name], speeds[plain], strict=True)]
            table[name]["cost"] = spread(ratios)
            print(f"{name} costs {spread(ratios)['median']:.2f} x {plain}")
    bytes_needed = memory()
    for name, number in bytes_needed.items():
        print(f"{name}: {number / 1e6:,.1f} MB for a meta step over 20 updates")
    if args.out:
        result = {"date": datetime.date.today().isoformat(), "device": cpu_model(), "cores": cores(),
                  "versions": versions("jax", "jaxlib"), "table": table, "meta_step_bytes": bytes_needed}  # fmt: skip
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
