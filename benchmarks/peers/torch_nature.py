"""One training step of DQN's network in PyTorch, channels last: see ../nature_update.py.

python torch_nature.py --batch 32
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from measure import emit, spread, versions  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    batch = parser.parse_args().batch
    steps = {32: 40, 256: 10}.get(batch, 10)
    network = nn.Sequential(
        nn.Conv2d(4, 32, 8, 4), nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    frames = torch.randint(0, 256, (1024, 4, 84, 84), dtype=torch.uint8).to(memory_format=torch.channels_last)

    def run() -> None:
        for i in range(steps):
            start = i * 13 % (1024 - batch)
            x = frames[start : start + batch].float() / 255.0
            loss = (network(x)[:, 0] - 1.0).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    run()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) / steps * 1e3)
    emit({"milliseconds": spread(times), "versions": versions("torch"), "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
