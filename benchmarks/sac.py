"""SAC on Pendulum-v1 beside SBX's (T5): gradient steps per second, acting and environment included.

    python benchmarks/sac.py --peers-torch PYTHON [--rounds 3] [--out FILE]

Equal in both: 4 environments, 4 updates of batch 256 after each step of them, two critics and a policy of 256-256 relu,
learned temperature, targets moved by 0.005 after each update, a memory of 100,000.  SBX's updates are also timed
without its loop, 64 in one compiled call.  Each cell is a process of its own, in turn once a round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from pathlib import Path

from measure import cores, cpu_model, emit, side_by_side, spread, versions

HERE = Path(__file__).resolve().parent
STEPS = 12_000


def ours(reps: int) -> None:
    import operant as op
    from operant import methods

    changes = {
        "num_envs": 4, "rollout_length": 1, "random_steps": 1_000, "actor.hidden": (256, 256),
        "critic.hidden": (256, 256), "memory.capacity": 100_000, "memory.batch_size": 256,
        "memory.learning_starts": 1_000, "memory.updates_per_rollout": 4,
    }  # fmt: skip
    speeds = []
    for seed in range(reps):
        with tempfile.TemporaryDirectory() as scratch:
            run = op.train(methods.apply(op.SAC(), changes), "Pendulum-v1", steps=STEPS, seed=seed, quiet=True,
                           run_dir=f"{scratch}/run", eval_every=0, chunks=12, checkpoint_seconds=1e9,
                           checkpoint_memory=False)  # fmt: skip
            rows = [row for row in run.directory.metrics() if "chunk_seconds" in row]
            seconds = sum(row["chunk_seconds"] for row in rows[2:])  # the first chunks wait for the memory to fill
            speeds.append((rows[-1]["steps"][0] - rows[1]["steps"][0]) / seconds)  # one update a step
    emit({"updates_per_second": spread(speeds), "versions": versions("jax", "jaxlib", "gymnax")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-torch", default="", help="the interpreter of an environment with SBX")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--out", default="")
    parser.add_argument("--cell", action="store_true", help="run Operant's part only, in this process")
    args = parser.parse_args()
    if args.cell:
        ours(args.reps)
        return
    commands = {"operant": [sys.executable, str(HERE / "sac.py"), "--cell", "--reps", str(args.reps)]}
    if args.peers_torch:
        commands["sbx"] = [args.peers_torch, str(HERE / "peers" / "sbx_sac.py"), "--reps", str(args.reps)]
    found = side_by_side(commands, args.rounds, "updates_per_second")
    ratios = {}
    for what in ("updates_per_second", "alone") if args.peers_torch else ():
        pairs = zip(found["operant"], found["sbx"], strict=True)
        ratios[what] = spread([a["updates_per_second"]["median"] / b[what]["median"] for a, b in pairs])
        print(f"operant over sbx, {what.replace('_', ' ')}: {ratios[what]['median']:.2f}")
    if args.out:
        result = {"date": datetime.date.today().isoformat(), "device": cpu_model(), "cores": cores(),
                  "rounds": args.rounds, "ratios": ratios, "cells": found}  # fmt: skip
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
