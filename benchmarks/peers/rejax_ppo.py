"""rejax's PPO on CartPole-v1, as near to T1 as its options allow.

    python benchmarks/peers/rejax_ppo.py [--agents 8] [--num-envs 4] [--steps 500000] [--devices 2]

Differs from T1: the learning rate is not annealed, gradients are clipped element by element (its `max_grad_norm` is no
norm), Adam's epsilon is 1e-8, actor and critic have an optimizer each. Evaluation is taken out of the timed run.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from measure import emit, record, repeat, versions
from rejax import PPO
from rejax.evaluate import evaluate

EVALUATION_EPISODES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=1, help="independent agents, trained at once under vmap")
    parser.add_argument("--num-envs", type=int, default=4, help="environments of each agent")
    parser.add_argument("--steps", type=int, default=500_000, help="environment steps of each agent")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices over which the agents are divided")
    parser.add_argument("--reps", type=int, default=5, help="timed runs after the warm-up")
    args = parser.parse_args()
    if args.agents % args.devices:
        parser.error(f"--agents {args.agents} cannot be divided evenly over --devices {args.devices}")
    if args.devices > 1:
        jax.config.update("jax_num_cpu_devices", args.devices)

    algorithm = PPO.create(
        env="CartPole-v1",
        num_envs=args.num_envs,
        num_steps=128,
        num_epochs=4,
        num_minibatches=4,
        learning_rate=2.5e-4,
        gamma=0.99,
        gae_lambda=0.95,
        clip_eps=0.2,
        ent_coef=0.01,
        vf_coef=0.5,
        max_grad_norm=0.5,
        total_timesteps=args.steps,
        eval_freq=args.steps,
        skip_initial_evaluation=True,
        agent_kwargs={"activation": "tanh"},
    ).replace(eval_callback=lambda algorithm, state, key: ())

    train = jax.vmap(lambda key: algorithm.train(key)[0])
    if args.devices > 1:
        # rejax has no option for this; dividing the agents by hand is what its users can do to keep all cores busy.
        # check_vma is off because its loops carry plain Python numbers beside per-device arrays.
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("agents",))
        agents = jax.sharding.PartitionSpec("agents")
        train = jax.shard_map(train, mesh=mesh, in_specs=agents, out_specs=agents, check_vma=False)

    def keys(seed: int) -> jax.Array:
        return jax.random.split(jax.random.PRNGKey(seed), args.agents)

    start = time.perf_counter()
    compiled = jax.jit(train).lower(keys(0)).compile()
    compile_seconds = time.perf_counter() - start
    inputs = jax.device_put([keys(seed) for seed in range(args.reps + 1)], compiled.input_shardings[0][0])
    jax.block_until_ready(inputs)

    _, seconds, states = repeat(lambda seed: jax.block_until_ready(compiled(inputs[seed])), args.reps)

    def mean_return(state, key):
        limit = algorithm.env_params.max_steps_in_episode
        act = algorithm.make_act(state)
        return evaluate(act, key, algorithm.env, algorithm.env_params, EVALUATION_EPISODES, limit)[1].mean()

    score = jax.jit(jax.vmap(mean_return))
    returns = np.concatenate([np.asarray(score(jax.device_get(s), keys(100 + i))) for i, s in enumerate(states)])
    emit(
        record(
            library="rejax",
            task="T1 PPO CartPole-v1",
            num_envs=args.num_envs,
            seeds=args.agents,
            steps=int(np.max(states[0].global_step)),
            seconds=seconds,
            compile_seconds=compile_seconds,
            returns=returns.tolist(),
            return_kind=f"{EVALUATION_EPISODES} evaluation episodes per agent, actions sampled",
            versions=versions("rejax", "gymnax", "jax", "jaxlib", "flax", "optax", "distrax"),
            device=str(jax.devices()[0].device_kind),
            devices=args.devices,
        )
    )


if __name__ == "__main__":
    main()
