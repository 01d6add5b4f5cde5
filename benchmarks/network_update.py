"""Milliseconds of one training step of a network for images on a CPU: inside a fused loop, and PyTorch's beside it.

    python benchmarks/network_update.py --peers-torch PYTHON [--network nature] [--batch 32 256] [--out FILE]

A step is the forward and backward pass of a network on a batch of bytes, squared error on one of 6 outputs, and Adam:

    nature      32 8x8/4, 64 4x4/2, 64 3x3/1, 512 on 84 x 84 x 4 (Mnih et al. 2015)
    impala      three sections of a convolution, a pool and two residual blocks, 16, 32 and 32 wide, 256 on 84 x 84 x 4
                (Espeholt et al. 2018)
    minatar     16 3x3/1, 128 on 10 x 10 x 4 (Young and Tian 2019)

Cells, each a process of its own, in turn once a round:

    operant     the network inside `lax.scan`, as every fused agent has it
    xla         the same with XLA's own convolution inside `lax.scan`
    torch       the same network in PyTorch, channels last (an ordinary loop: PyTorch has no other)
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from measure import cores, cpu_model, emit, last_json, spread, versions

HERE = Path(__file__).resolve().parent
STEPS = {"nature": {32: 40, 256: 10}, "impala": {32: 10, 256: 2}, "minatar": {32: 400, 256: 100}}
SHAPES = {"nature": (84, 84, 4), "impala": (84, 84, 4), "minatar": (10, 10, 4)}


def jax_cell(name: str, batch: int, form: str) -> None:
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from operant.nn import torsos
    from operant.ops.optimizers import adam

    if form == "xla":

        def plain(x, kernel, stride=1, padding="VALID"):
            return jax.lax.conv_general_dilated(
                x.astype(kernel.dtype), kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        torsos.convolve = plain

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(6)(torsos.CONVOLUTIONAL[name]()(x))

    network, optimizer = Network(), adam(1e-4)
    slow = form == "xla" and name != "minatar"  # seconds for each
    steps = 2 if slow and (batch > 64 or name == "impala") else STEPS[name].get(batch, 10)
    frames = jax.random.randint(jax.random.key(0), (1024, *SHAPES[name]), 0, 256, jnp.uint8)
    params = network.init(jax.random.key(1), frames[:1])["params"]

    def loss(params, x):
        return jnp.mean(jnp.square(network.apply({"params": params}, x)[:, 0] - 1.0))

    def step(carried, start):
        params, state = carried
        gradients = jax.grad(loss)(params, jax.lax.dynamic_slice_in_dim(frames, start, batch))
        updates, state = optimizer.update(gradients, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    @jax.jit
    def run(params, state, starts):
        return jax.lax.scan(step, (params, state), starts)[0]

    starts = jnp.arange(steps) * 13 % (1024 - batch)
    args = (params, optimizer.init(params), starts)
    jax.block_until_ready(run(*args))
    times = []
    for _ in range(2 if steps == 2 else 5):
        began = time.perf_counter()
        jax.block_until_ready(run(*args))
        times.append((time.perf_counter() - began) / steps * 1e3)
    emit({"milliseconds": spread(times), "versions": versions("jax", "jaxlib", "flax")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-torch", default="", help="the interpreter of an environment with PyTorch")
    parser.add_argument("--network", default="nature", choices=tuple(STEPS))
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", default="")
    parser.add_argument("--cell", default="", help="run one cell only, in this process")
    args = parser.parse_args()
    if args.cell:
        jax_cell(args.network, args.batch[0], args.cell)
        return

    def command(cell: str, batch: int) -> list[str]:
        what = ["--network", args.network, "--batch", str(batch)]
        if cell == "torch":
            steps = str(STEPS[args.network].get(batch, 10))
            return [args.peers_torch, str(HERE / "peers" / "torch_network.py"), *what, "--steps", steps]
        return [sys.executable, str(HERE / "network_update.py"), "--cell", cell, *what]

    cells = ["operant", "xla", *(["torch"] if args.peers_torch else [])]
    found: dict[str, list[dict]] = {}
    for _ in range(args.rounds):
        for batch in args.batch:
            for cell in cells:
                done = subprocess.run(command(cell, batch), capture_output=True, text=True, env=os.environ.copy())
                if done.returncode:
                    raise RuntimeError(f"{cell}, batch {batch}, ended with code {done.returncode}:\n{done.stderr}")
                found.setdefault(f"{cell} {batch}", []).append(last_json(done.stdout))
                print(f"{cell} {batch}: {found[f'{cell} {batch}'][-1]['milliseconds']['median']:.1f} ms", flush=True)
    ratios = {}
    for batch in args.batch:
        for peer in cells[1:]:
            pairs = zip(found[f"operant {batch}"], found[f"{peer} {batch}"], strict=True)
            ratios[f"operant over {peer}, batch {batch}"] = spread(
                [ours["milliseconds"]["median"] / theirs["milliseconds"]["median"] for ours, theirs in pairs]
            )
    result = {"date": datetime.date.today().isoformat(), "device": cpu_model(), "cores": cores(),
              "network": args.network, "rounds": args.rounds, "ratios": ratios, "cells": found}  # fmt: skip
    for name, ratio in ratios.items():
        print(f"{name}: {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
