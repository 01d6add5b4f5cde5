"""SBX's SAC on Pendulum-v1 with the settings of ../sac.py: updates per second, alone and in the whole loop.

python sbx_sac.py --updates 2000
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from measure import emit, spread, versions
from sbx import SAC
from stable_baselines3.common.env_util import make_vec_env


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=2_000)
    parser.add_argument("--reps", type=int, default=3)
    args = parser.parse_args()
    model = SAC(
        "MlpPolicy", make_vec_env("Pendulum-v1", n_envs=4, seed=0), learning_rate=3e-4, buffer_size=100_000,
        learning_starts=1_000, batch_size=256, tau=0.005, gamma=0.99, train_freq=1, gradient_steps=4, verbose=0,
        policy_kwargs={"net_arch": [256, 256]},
    )  # fmt: skip
    model.learn(3_000)  # fills the memory and compiles
    alone, whole = [], []
    model.train(gradient_steps=64, batch_size=256)
    for _ in range(args.reps):
        began = time.perf_counter()
        for _ in range(args.updates // 64):
            model.train(gradient_steps=64, batch_size=256)
        alone.append(args.updates // 64 * 64 / (time.perf_counter() - began))
        began, before = time.perf_counter(), model._n_updates
        model.learn(args.updates, reset_num_timesteps=False)
        whole.append((model._n_updates - before) / (time.perf_counter() - began))
    packages = ("sbx-rl", "stable-baselines3", "jax", "jaxlib", "gymnasium")
    emit({"alone": spread(alone), "updates_per_second": spread(whole), "versions": versions(*packages)})


if __name__ == "__main__":
    main()
