"""DQN on CartPole-v1 beside rejax's (T4): one agent, then 8 and 50 under `vmap` with memories of 1e5 and 1e6.

    python benchmarks/dqn.py --peers-jax PYTHON [--agents 1 8 50] [--capacity 100000 1000000] [--out FILE]

Equal in both: 10 environments, one update of batch 128 after each step of them, 64-64 relu, double targets copied every
500 steps, squared error, Adam 5e-4, learning from 1,000 steps on.  rejax also clips gradients element by element (at a
bound that does nothing here).  Each cell is a process of its own; compilation is apart; no evaluation is timed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from measure import cores, cpu_model, emit, last_json, spread, versions

HERE = Path(__file__).resolve().parent


def steps_for(agents: int) -> int:
    """Environment steps of each agent: enough to be past the start, few enough that fifty end in minutes."""
    return {1: 50_000, 8: 20_000}.get(agents, 10_000)


def ours(agents: int, capacity: int, reps: int, devices: int) -> None:
    import jax

    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)
    import operant as op
    from operant import methods

    changes = {
        "num_envs": 10, "rollout_length": 1, "learning_rate": 5e-4, "target_period": 500, "target": "double",
        "head.huber": float("inf"), "network.hidden": (64, 64), "memory.capacity": capacity,
        "memory.batch_size": 128, "memory.learning_starts": 1_000, "memory.updates_per_rollout": 1,
    }  # fmt: skip
    agent, speeds, steps = methods.apply(op.DQN(), changes), [], steps_for(agents)
    for seed in range(reps):
        with tempfile.TemporaryDirectory() as scratch:
            run = op.train(agent, "CartPole-v1", steps=steps, seeds=agents, seed=seed * agents, quiet=True,
                           run_dir=f"{scratch}/run", eval_every=0, chunks=10, checkpoint_seconds=1e9,
                           checkpoint_memory=False, devices=devices)  # fmt: skip
            speeds.append(run.summary()["steps_per_second"])
    emit({"steps_per_second": spread(speeds), "return_mean": run.summary()["return_mean"],
          "versions": versions("jax", "jaxlib", "gymnax")})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-jax", default="", help="the interpreter of an environment with rejax")
    parser.add_argument("--agents", type=int, nargs="+", default=[1, 8, 50])
    parser.add_argument("--capacity", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--devices", type=int, default=1, help="devices that Operant divides its agents over")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--out", default="")
    parser.add_argument("--cell", action="store_true", help="run Operant's part only, in this process")
    args = parser.parse_args()
    if args.cell:
        ours(args.agents[0], args.capacity[0], args.reps, args.devices)
        return
    table = []
    for capacity in args.capacity:
        for agents in args.agents:
            common = ["--agents", str(agents), "--capacity", str(capacity), "--reps", str(args.reps)]
            devices = args.devices if agents % args.devices == 0 else 1
            commands = {"operant": [sys.executable, str(HERE / "dqn.py"), "--cell", "--devices", str(devices), *common]}
            if args.peers_jax:
                steps = ["--steps", str(steps_for(agents))]
                commands["rejax"] = [args.peers_jax, str(HERE / "peers" / "rejax_dqn.py"), *common, *steps]
            row: dict = {"agents": agents, "capacity": capacity, "devices": devices}
            for library, command in commands.items():
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
                row[library] = last_json(done.stdout)
            speeds = {library: row[library]["steps_per_second"]["median"] for library in commands}
            row["ratio"] = speeds["operant"] / speeds["rejax"] if "rejax" in speeds else None
            told = ", ".join(f"{library} {speed:,.0f} steps/s" for library, speed in speeds.items())
            print(f"{agents} agents, memory {capacity:,}: {told}, ratio {row['ratio'] or float('nan'):.2f}", flush=True)
            table.append(row)
            if args.out:  # after each row: with rejax the large memories take a quarter of an hour each
                result = {"date": datetime.date.today().isoformat(), "device": cpu_model(), "cores": cores(),
                          "table": table}  # fmt: skip
                Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
