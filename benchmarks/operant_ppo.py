"""Operant's PPO on CartPole-v1 (T1), through the command that its users type.

    python benchmarks/operant_ppo.py [--num-envs 4] [--seeds 1] [--devices 1] [--steps 500000]

Every run is a process of its own; the command itself takes compilation out of its `steps_per_second`. The warm-up run
fills the compilation cache, and the compile time reported here is the warm-up's, whose cache is empty.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile

from measure import emit, last_json, record, versions

# T1's settings: PPO's own defaults, given in full since the preset for classic control differs
T1 = """--learning-rate 2.5e-4 --anneal 1 --gamma 0.99 --gae-lambda 0.95 --clip 0.2 --value-clip 0.2 --entropy-cost 0.01
--value-cost 0.5 --max-grad-norm 0.5 --rollout-length 128 --num-epochs 4 --num-minibatches 4 --network.hidden 64 64
--network.activation tanh --network.shared no --network.no-normalize-reward --eval-every 0 --chunks 10""".split()


def train(arguments: list[str], cache: str) -> dict:
    """Run `operant train ppo CartPole-v1 ... --json`, with its compilation cache in `cache`; the object it prints."""
    command = [sys.executable, "-m", "operant", "train", "ppo", "CartPole-v1", *arguments, "--json"]
    done = subprocess.run(command, env=os.environ | {"OPERANT_CACHE": cache}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-2_000:]}")
    return last_json(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--steps", type=int, default=500_000, help="environment steps of each seed")
    parser.add_argument("--reps", type=int, default=5, help="timed runs after the warm-up")
    args = parser.parse_args()

    arguments = ["--steps", str(args.steps), "--num-envs", str(args.num_envs), "--seeds", str(args.seeds)]
    arguments += ["--devices", str(args.devices), *T1]
    if args.devices > 1 and args.seeds == 1:
        arguments += ["--shard", "envs"]
    with tempfile.TemporaryDirectory() as cache:
        warm_up = train(arguments, cache)
        runs = [train(arguments, cache) for _ in range(args.reps)]
    emit(
        record(
            library="Operant",
            task="T1 PPO CartPole-v1",
            num_envs=args.num_envs,
            seeds=args.seeds,
            steps=args.steps,
            seconds=[args.seeds * args.steps / run["steps_per_second"] for run in runs],
            compile_seconds=warm_up["compile_seconds"],
            returns=[run["return_mean"] for run in runs],
            return_kind="as the command reports it, one mean over seeds per run",
            versions=versions("operant", "gymnax", "jax", "jaxlib", "flax", "optax"),
            device=os.environ.get("JAX_PLATFORMS", "default"),
            devices=args.devices,
        )
    )


if __name__ == "__main__":
    main()
