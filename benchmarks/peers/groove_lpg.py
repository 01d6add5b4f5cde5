"""LPG's meta-training in GROOVE (Jackson et al. 2023), with the settings of ../meta.py's cell `discovery`.

    python groove_lpg.py --groove CHECKOUT [--meta-steps 10]

CHECKOUT is a clone of its repository (EmptyJackson/groove), run by an interpreter with what its `setup/` asks for (jax
0.4.13).  32 lifetimes x 16 environments, roll-outs of 20, 5 updates a meta step, a GRU of 64, gradients in one piece.
Steps are those of the agents' updates over all lifetimes; it plays one more roll-out to judge each.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
from measure import emit, spread, versions

LIVES, ENVS, LENGTH, UPDATES = 32, 16, 20, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groove", required=True, help="a clone of its repository")
    parser.add_argument("--meta-steps", type=int, default=10)
    parser.add_argument("--reps", type=int, default=3)
    args = parser.parse_args()
    ours = str(Path(__file__).resolve().parents[1])  # whose meta.py would hide its package of that name
    sys.path[:] = [args.groove, *(path for path in sys.path if path != ours)]
    from experiments.parse_args import parse_args
    from train import make_train

    settings = {
        "num_agents": LIVES, "env_workers": ENVS, "train_rollout_len": LENGTH, "num_agent_updates": UPDATES,
        "lpg_gru_width": 64, "num_mini_batches": 1, "buffer_size": 64, "train_steps": args.meta_steps,
    }  # fmt: skip
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    start = time.perf_counter()
    run = jax.jit(make_train(parse_args(flags))).lower(jax.random.PRNGKey(0)).compile()
    compile_seconds = time.perf_counter() - start
    speeds = []
    for seed in range(args.reps):
        start = time.perf_counter()
        jax.block_until_ready(run(jax.random.PRNGKey(seed)))
        speeds.append(args.meta_steps * LIVES * ENVS * LENGTH * UPDATES / (time.perf_counter() - start))
    packages = ("jax", "jaxlib", "flax", "gymnax")
    emit({"steps_per_second": spread(speeds), "compile_seconds": compile_seconds, "versions": versions(*packages)})


if __name__ == "__main__":
    main()
