"""rejax's DQN on CartPole-v1 with the settings of ../dqn.py.

python rejax_dqn.py --agents 8 --capacity 100000 --steps 50000
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from measure import emit, repeat, spread, versions
from rejax import DQN
from rejax.evaluate import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--capacity", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--reps", type=int, default=3)
    args = parser.parse_args()
    algorithm = DQN.create(
        env="CartPole-v1",
        num_envs=10,
        buffer_size=args.capacity,
        fill_buffer=1_000,
        batch_size=128,
        target_update_freq=500,
        learning_rate=5e-4,
        gamma=0.99,
        max_grad_norm=1e9,
        total_timesteps=args.steps,
        eval_freq=args.steps,
        skip_initial_evaluation=True,
        agent_kwargs={"activation": "relu"},
    ).replace(eval_callback=lambda algorithm, state, key: ())
    train = jax.jit(jax.vmap(lambda key: algorithm.train(key)[0]))

    def run(seed: int):
        return jax.block_until_ready(train(jax.random.split(jax.random.key(seed), args.agents)))

    _, seconds, states = repeat(run, args.reps)
    act = algorithm.make_act(jax.tree.map(lambda x: x[0], states[-1]))
    _, returns = evaluate(act, jax.random.key(0), algorithm.env, algorithm.env_params, 32)
    emit(
        {
            "steps_per_second": spread([args.agents * args.steps / s for s in seconds]),
            "return_mean": float(np.mean(returns)),
            "versions": versions("rejax", "gymnax", "jax", "jaxlib", "flax", "optax"),
        }
    )


if __name__ == "__main__":
    main()
