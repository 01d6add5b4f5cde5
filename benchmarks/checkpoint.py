"""Seconds that the checkpoints of a large replay memory cost, and how much room they take.

    python benchmarks/checkpoint.py [--env Pong-v5] [--capacity 1000000] [--out FILE]

DQN's memory of so many transitions is made, full, and its rows are saved: all at once (the first checkpoint after it
filled), then what is new after 10,000 more (the usual checkpoint), and loaded.  The bytes are flushed to
the disk and have checksums, as in a run.  `peak` is the largest memory of the process itself in gigabytes, the replay
memory included (Linux).
"""

from __future__ import annotations

import argparse
import datetime
import json
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from measure import cores, cpu_model, versions

from operant import methods
from operant.run import rows
from operant.run.run import make_program
from operant.run.settings import Settings


def resident() -> float:
    """Gigabytes of this process that are not pages of files."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024 / 1e9
    raise RuntimeError("this system does not say how much memory a process has of its own")


def watched(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` returns, and its seconds and peak."""
    peak, over = [resident()], threading.Event()

    def watch():
        while not over.wait(0.02):
            peak[0] = max(peak[0], resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    began = time.perf_counter()
    made = jax.block_until_ready(work())
    seconds = time.perf_counter() - began
    over.set()
    thread.join()
    return made, {"seconds": seconds, "peak": peak[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pong-v5")
    parser.add_argument("--capacity", type=int, default=1_000_000)
    parser.add_argument("--out", default="")
    args = parser.parse_args()
    agent = methods.apply(methods.build("dqn", args.env), {"memory.capacity": args.capacity})
    program, _ = make_program(agent, args.env, Settings(steps=2 * args.capacity))
    memory = jax.block_until_ready(program.init().memory)
    written = lambda transitions: jnp.full_like(memory.written, transitions // agent.num_envs)  # noqa: E731
    cells = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        full = memory.replace(written=written(args.capacity))
        segments, cells["save all"] = watched(lambda: rows.save(Path(folder), full, []))
        more = memory.replace(written=written(args.capacity + 10_000))
        segments, cells["save 10,000 more"] = watched(lambda: rows.save(Path(folder), more, segments))
        del memory, full, more
        like = program.like().memory.replace(index=(), written=jnp.int32(segments[-1]["to"]))
        _, cells["load all"] = watched(lambda: rows.load(Path(folder), segments, like).rows)
    result = {"date": datetime.date.today().isoformat(), "device": cpu_model(), "cores": cores(),
              "versions": versions("jax", "jaxlib", "numpy"), "env": args.env, "transitions": args.capacity,
              "gigabytes": program.memory_bytes / 1e9, "cells": cells}  # fmt: skip
    print(f"a memory of {result['gigabytes']:.2f} GB")
    for name, cell in cells.items():
        print(f"{name}: {cell['seconds']:.2f} s, peak {cell['peak']:.1f} GB")
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
