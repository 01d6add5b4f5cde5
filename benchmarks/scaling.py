"""How speed grows with environments, seeds and cores: `operant bench` over each of them, as one figure.

    python benchmarks/scaling.py [--method ppo] [--env CartPole-v1] [--out results/benchmarks/scaling]

Writes OUT.json and OUT.png.  Steps per second of learning, all seeds together.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

from measure import cores, cpu_model, last_json, versions

ENVS = (1, 4, 16, 64, 256, 1024)
SEEDS = (1, 2, 4, 8, 16, 32)


def measure(method: str, env: str, *flags: str) -> list[dict]:
    command = [sys.executable, "-m", "operant", "bench", "--method", method, "--env", env, "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return last_json(done.stdout)["rows"]


def draw(result: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), dpi=150, sharey=True, layout="constrained")
    left.plot(ENVS, [row["steps_per_second"] for row in result["envs"]], "o-", color="#2f6fdd")
    left.set_xlabel("environments of one agent")
    for rows, colour in zip(result["seeds"].values(), ("#2f6fdd", "#d9592b"), strict=False):
        devices = rows[0]["devices"]
        seeds = [row["seeds"] for row in rows]
        name = f"{devices} device{'s' if devices > 1 else ''}"
        right.plot(seeds, [row["steps_per_second"] for row in rows], "o-", color=colour, label=name)
    right.set_xlabel("seeds at once, 4 environments each")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.grid(alpha=0.25, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("steps per second")
    figure.suptitle(f"{result['method']} on {result['env']}, {result['device']}, {result['cores']} cores", fontsize=10)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="ppo")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--out", default="results/benchmarks/scaling")
    args = parser.parse_args()
    task = (args.method, args.env)
    result: dict = {
        "date": datetime.date.today().isoformat(), "method": args.method, "env": args.env, "device": cpu_model(),
        "cores": cores(), "versions": versions("jax", "jaxlib"),
        "envs": measure(*task, "--num-envs", *map(str, ENVS)), "seeds": {},
    }  # fmt: skip
    for devices in sorted({1, cores()}):
        several = [n for n in SEEDS if n % devices == 0]
        flags = lambda n, d=devices: ("--num-envs", "4", "--seeds", str(n), "--devices", str(d))  # noqa: E731
        result["seeds"][str(devices)] = [row for n in several for row in measure(*task, *flags(n))]
    Path(args.out + ".json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result, Path(args.out + ".png"))


if __name__ == "__main__":
    main()
