"""The learning runs whose results are kept here: runs the commands below and writes one small JSON file for each.

    python results/learn.py [NAME ...]      all, or some by name

A run that was stopped (Ctrl-C) lies in `runs/learning/NAME`; the same command goes on with it.  Each file holds the
command, every evaluation of the run with every seed's mean, the versions, the hardware and the date.
`results/README.md` is made from them by `python results/table.py`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

RUNS = {
    "ppo-cartpole": ("train ppo CartPole-v1 --steps 200000 --seeds 8 --seed 1000", 475),
    "ppo-acrobot": ("train ppo Acrobot-v1 --steps 500000 --seeds 8 --seed 1000", -100),
    "ppo-pendulum": ("train ppo Pendulum-v1 --steps 500000 --seeds 8 --seed 1000", -250),
    "ppo-breakout-minatar": ("train ppo Breakout-MinAtar --steps 10000000 --seeds 8 --seed 1000", 20),
    "ppo-space-invaders-minatar": ("train ppo SpaceInvaders-MinAtar --steps 10000000 --seeds 8 --seed 1000", 100),
    "ppo-hopper": ("train ppo Hopper-v4 --steps 1000000 --seeds 5 --seed 1000", 2000),
    "ppo-memory-chain-lstm": (
        "train ppo MemoryChain-bsuite --steps 500000 --seeds 8 --seed 1000 --env-options memory_length=10 "
        "--network.recurrent lstm",
        None,
    ),
    "ppo-memory-chain-feed-forward": (
        "train ppo MemoryChain-bsuite --steps 500000 --seeds 8 --seed 1000 --env-options memory_length=10",
        None,
    ),
    "sac-pendulum": ("train sac Pendulum-v1 --steps 20000 --seeds 8 --seed 1000", -200),
    "sac-halfcheetah": ("train sac HalfCheetah-v4 --steps 300000 --seeds 3 --seed 1000", 5000),
    "sac-hopper": ("train sac Hopper-v4 --steps 300000 --seeds 3 --seed 1000", None),
    "td3-pendulum": ("train td3 Pendulum-v1 --steps 20000 --seeds 8 --seed 1000", -200),
    "td3-halfcheetah": ("train td3 HalfCheetah-v4 --steps 300000 --seeds 3 --seed 1000", 5000),
    "td3-hopper": ("train td3 Hopper-v4 --steps 300000 --seeds 3 --seed 1000", None),
    "r2d2-cartpole": ("train r2d2 CartPole-v1 --steps 100000 --seeds 4 --seed 1000", 400),
    "r2d2-memory-chain": (
        "train r2d2 MemoryChain-bsuite --steps 100000 --seeds 8 --seed 1000 --env-options memory_length=10",
        0.95,
    ),
    "r2d2-memory-chain-30-stored": (
        "train r2d2 MemoryChain-bsuite --steps 100000 --seeds 8 --seed 1000 --env-options memory_length=30",
        0.95,
    ),
    "r2d2-memory-chain-30-zero": (
        "train r2d2 MemoryChain-bsuite --steps 100000 --seeds 8 --seed 1000 --env-options memory_length=30 "
        "--start-state zero",
        None,
    ),
    "dqn-cartpole": ("train dqn CartPole-v1 --steps 400000 --seeds 8 --seed 1000", 475),
    "dqn-breakout-minatar": ("train dqn Breakout-MinAtar --steps 1000000 --seeds 3 --seed 1000", None),
    "dqn-asterix-minatar": ("train dqn Asterix-MinAtar --steps 1000000 --seeds 3 --seed 1000", None),
    "dqn-space-invaders-minatar": ("train dqn SpaceInvaders-MinAtar --steps 1000000 --seeds 3 --seed 1000", None),
    "rainbow-breakout-minatar": ("train rainbow Breakout-MinAtar --steps 1000000 --seeds 3 --seed 1000", None),
    "rainbow-asterix-minatar": ("train rainbow Asterix-MinAtar --steps 1000000 --seeds 3 --seed 1000", None),
    "rainbow-space-invaders-minatar": (
        "train rainbow SpaceInvaders-MinAtar --steps 1000000 --seeds 3 --seed 1000",
        None,
    ),
    "dqn-breakout-sticky": (
        "train dqn Breakout-MinAtar --steps 1000000 --seeds 3 --seed 1000 --env-options sticky=0.1",
        None,
    ),
    "dqn-asterix-sticky": (
        "train dqn Asterix-MinAtar --steps 1000000 --seeds 3 --seed 1000 --env-options sticky=0.1",
        None,
    ),
    "dqn-space-invaders-sticky": (
        "train dqn SpaceInvaders-MinAtar --steps 1000000 --seeds 3 --seed 1000 --env-options sticky=0.1",
        None,
    ),
    "rainbow-breakout-sticky": (
        "train rainbow Breakout-MinAtar --steps 1000000 --seeds 3 --seed 1000 --env-options sticky=0.1",
        None,
    ),
    "rainbow-asterix-sticky": (
        "train rainbow Asterix-MinAtar --steps 1000000 --seeds 3 --seed 1000 --env-options sticky=0.1",
        None,
    ),
    "rainbow-space-invaders-sticky": (
        "train rainbow SpaceInvaders-MinAtar --steps 1000000 --seeds 3 --seed 1000 --env-options sticky=0.1",
        None,
    ),
    "dqn-asterix-sticky-2m": (
        "train dqn Asterix-MinAtar --steps 2000000 --seeds 3 --seed 1000 --env-options sticky=0.1",
        None,
    ),
    "rainbow-asterix-sticky-2m": (
        "train rainbow Asterix-MinAtar --steps 2000000 --seeds 3 --seed 1000 --env-options sticky=0.1",
        None,
    ),
    "dqn-memory-chain": (
        "train dqn MemoryChain-bsuite --steps 100000 --seeds 8 --seed 1000 --env-options memory_length=10",
        None,
    ),
    "a2c-cartpole": ("train a2c CartPole-v1 --steps 500000 --seeds 8 --seed 1000", 475),
    "a2c-acrobot": ("train a2c Acrobot-v1 --steps 500000 --seeds 8 --seed 1000", -100),
    "a2c-breakout-minatar": ("train a2c Breakout-MinAtar --steps 2000000 --seeds 4 --seed 1000", 5),
    "impala-cartpole": ("train impala CartPole-v1 --steps 200000 --seeds 8 --seed 1000", 475),
    "reinforce-cartpole": ("train reinforce CartPole-v1 --steps 500000 --seeds 8 --seed 1000", 475),
    "ppo-pong": (
        "train ppo Pong-v5 --steps 3000000 --seed 1000 --stop-at-return 17 --network.torso nips --learning-rate 1e-3 "
        "--clip 0.2 --value-clip 0.2 --num-envs 16 --num-minibatches 8",
        15,
    ),
    "dqn-pong": (
        "train dqn Pong-v5 --steps 1000000 --seed 1000 --stop-at-return 17 --network.torso nips --network.hidden 256 "
        "--learning-rate 1e-4 --target-period 1000 --exploration.fraction 0.1 --memory.n-step 3 "
        "--memory.capacity 200000 --memory.learning-starts 10000",
        15,
    ),
    "ppo-pong-smoke": ("train ppo Pong-v5 --steps 50000 --seed 1000 --eval-every 25 --eval-episodes 1", None),
}
"""Name -> (arguments of `operant`, what the lower end of the 95 % interval was to reach).

What has no file yet has not been run to its end."""


def run(name: str) -> None:
    words, goal = RUNS[name]
    directory = HERE.parent / "runs" / "learning" / name
    if (directory / "checkpoints").exists():
        command = ["resume", str(directory)]
    else:
        shutil.rmtree(directory, ignore_errors=True)  # stopped before there was anything to go on with
        command = [*words.split(), "--run-dir", str(directory)]
    train = subprocess.Popen([sys.executable, "-m", "operant", *command, "--json"], stdout=subprocess.PIPE, text=True)
    try:
        told, _ = train.communicate()
    except KeyboardInterrupt:  # which the run was told too: it saves and ends
        train.wait()
    if train.returncode:
        raise SystemExit(f"{name}: stopped with code {train.returncode}")
    summary = json.loads(told.splitlines()[-1])
    config = json.loads((directory / "config.json").read_text())
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    summary.pop("run")
    evaluations = [{"steps": row["steps"], "returns": row["eval_return"]} for row in rows if "eval_return" in row]
    result = {"name": name, "command": f"operant {words}", "goal": goal, "summary": summary,
              "agent": config["agent"], "machine": config["machine"], "evaluations": evaluations}  # fmt: skip
    (HERE / "learning").mkdir(exist_ok=True)
    (HERE / "learning" / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(directory)
    low, high = summary["return_ci"]
    print(f"{name}: {summary['return_mean']:.2f} [{low:.2f}, {high:.2f}] in {summary['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(RUNS)
    for name in wanted:
        run(name)
