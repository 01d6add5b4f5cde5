"""Stable-Baselines3's DQN on Pong with the settings of ../pong_dqn.py: environment steps per second while it learns.

python sb3_dqn.py --steps 6000
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ale_py
import gymnasium
from measure import emit, spread, versions
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.vec_env import VecFrameStack

gymnasium.register_envs(ale_py)


class Stopwatch(BaseCallback):
    """When each 500 steps were done."""

    def __init__(self):
        super().__init__()
        self.laps: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        if not self.laps or self.num_timesteps - self.laps[-1][0] >= 500:
            self.laps.append((self.num_timesteps, time.perf_counter()))
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6_000)
    args = parser.parse_args()
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=8, seed=0), n_stack=4)
    model = DQN(
        "CnnPolicy", env, learning_rate=1e-4, buffer_size=20_000, learning_starts=1_000, batch_size=32, train_freq=4,
        gradient_steps=8, target_update_interval=1_000, exploration_fraction=0.1, verbose=0,
    )  # fmt: skip
    watch = Stopwatch()
    model.learn(args.steps, callback=watch)
    timed = [lap for lap in watch.laps if lap[0] >= 2_000]
    speeds = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(timed[:-1], timed[1:], strict=True)]
    packages = ("stable-baselines3", "torch", "gymnasium", "ale-py")
    emit({"steps_per_second": spread(speeds), "versions": versions(*packages)})


if __name__ == "__main__":
    main()
