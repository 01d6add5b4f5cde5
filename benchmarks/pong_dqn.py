"""A whole DQN agent on Pong beside Stable-Baselines3's: environment steps per second while it learns.

    python benchmarks/pong_dqn.py --peers-torch PYTHON [--rounds 3] [--out FILE]

Equal in both: 8 environments with the standard preprocessing, 4 steps of each and then 8 updates of batch 32, the
network of 2015, Adam 1e-4, a memory of 20,000 transitions, learning from 1,000 on.  What is timed begins 1,000 steps
later.  Each cell is a process of its own, in turn once a round; no evaluation and no checkpoint is timed.
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
STEPS = 6_000


def ours() -> None:
    import operant as op
    from operant import methods

    changes = {
        "num_envs": 8, "rollout_length": 4, "learning_rate": 1e-4, "target_period": 1_000,
        "memory.capacity": 20_000, "memory.batch_size": 32, "memory.learning_starts": 1_000,
        "memory.updates_per_rollout": 8,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        run = op.train(methods.apply(methods.build("dqn", "Pong-v5"), changes), "Pong-v5", steps=STEPS, quiet=True,
                       run_dir=f"{scratch}/run", eval_every=0, chunks=12, checkpoint_seconds=1e9,
                       checkpoint_memory=False)  # fmt: skip
        rows = [row for row in run.directory.metrics() if "chunk_seconds" in row]
    timed = [i for i, row in enumerate(rows) if row["steps"][0] >= 2_000]
    steps = [rows[i]["steps"][0] - rows[i - 1]["steps"][0] for i in timed[1:]]
    speeds = [number / rows[i]["chunk_seconds"] for number, i in zip(steps, timed[1:], strict=True)]
    emit({"steps_per_second": spread(speeds), "versions": versions("jax", "jaxlib", "envpool")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-torch", default="", help="the interpreter of an environment with Stable-Baselines3")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="")
    parser.add_argument("--cell", action="store_true", help="run Operant's part only, in this process")
    args = parser.parse_args()
    if args.cell:
        ours()
        return
    commands = {"operant": [sys.executable, str(HERE / "pong_dqn.py"), "--cell"]}
    if args.peers_torch:
        commands["sb3"] = [args.peers_torch, str(HERE / "peers" / "sb3_dqn.py"), "--steps", str(STEPS)]
    found = side_by_side(commands, args.rounds, "steps_per_second")
    ratio = None
    if args.peers_torch:
        pairs = zip(found["operant"], found["sb3"], strict=True)
        ratio = spread([a["steps_per_second"]["median"] / b["steps_per_second"]["median"] for a, b in pairs])
        print(f"operant over sb3: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    if args.out:
        result = {"date": datetime.date.today().isoformat(), "device": cpu_model(), "cores": cores(),
                  "rounds": args.rounds, "ratio": ratio, "cells": found}  # fmt: skip
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
