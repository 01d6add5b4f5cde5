"""One training step of a network for images in PyTorch, channels last: see ../network_update.py.

python torch_network.py --network nature --batch 32 --steps 40
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


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def impala() -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, width in ((4, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
        layers += [Residual(width), Residual(width)]
    return [*layers, nn.ReLU(), nn.Flatten(), nn.Linear(32 * 11 * 11, 256), nn.ReLU(), nn.Linear(256, 6)]


def layers_of(name: str) -> list[nn.Module]:
    if name == "impala":
        return impala()
    if name == "minatar":
        return [nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 6)]
    return [
        nn.Conv2d(4, 32, 8, 4), nn.ReLU(),
        nn.Conv2d(32, 64, 4, 2), nn.ReLU(),
        nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 6),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="nature", choices=("nature", "impala", "minatar"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="training steps that are timed together")
    args = parser.parse_args()
    batch, steps = args.batch, args.steps
    network = nn.Sequential(*layers_of(args.network)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    size = 10 if args.network == "minatar" else 84
    frames = torch.randint(0, 256, (1024, 4, size, size), dtype=torch.uint8).to(memory_format=torch.channels_last)

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
