"""PPO of Stable-Baselines3 (PyTorch) or of SBX (its port to JAX) on CartPole-v1, as near to T1 as they allow.

    python benchmarks/peers/sb3_ppo.py --lib sb3 [--num-envs 4] [--steps 50000] [--device cpu]
    python benchmarks/peers/sb3_ppo.py --lib sbx

The default of 50,000 steps is a tenth of T1, for patience: the speed of these loops does not depend on their length.
Compare returns only at equal steps (`--steps 500000`). Differs from T1: environments are stepped one after the other in
Python; SBX has no value clipping and an optimizer each for actor and critic.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from measure import emit, record, versions
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

EVALUATION_EPISODES = 20
ROLLOUT_LENGTH = 128
NUM_MINIBATCHES = 4


def make(lib: str, num_envs: int, seed: int, device: str):
    common = dict(
        env=make_vec_env("CartPole-v1", n_envs=num_envs, seed=seed),
        n_steps=ROLLOUT_LENGTH,
        batch_size=num_envs * ROLLOUT_LENGTH // NUM_MINIBATCHES,
        n_epochs=4,
        gamma=0.99,
        gae_lambda=0.95,
        clip_range=0.2,
        ent_coef=0.01,
        vf_coef=0.25,  # T1 has 0.5 on half the squared error; both libraries weigh the whole squared error
        max_grad_norm=0.5,
        learning_rate=lambda remaining: 2.5e-4 * remaining,
        seed=seed,
        verbose=0,
    )
    net_arch = dict(pi=[64, 64], vf=[64, 64])
    if lib == "sb3":
        from stable_baselines3 import PPO

        policy_kwargs = dict(net_arch=net_arch, activation_fn=torch.nn.Tanh)
        return PPO("MlpPolicy", clip_range_vf=0.2, device=device, policy_kwargs=policy_kwargs, **common)
    import flax.linen
    from sbx import PPO

    policy_kwargs = dict(net_arch=net_arch, activation_fn=flax.linen.tanh, ortho_init=True)
    return PPO("MlpPolicy", policy_kwargs=policy_kwargs, **common)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", choices=("sb3", "sbx"), required=True)
    parser.add_argument("--num-envs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--device", default="cpu", help="torch's device, for sb3; JAX_PLATFORMS says it for sbx")
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; 0 leaves its own choice")
    parser.add_argument("--reps", type=int, default=5, help="timed runs after the warm-up")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)

    if args.lib == "sbx":
        # Every new SBX model compiles again, so one model serves all runs and gets its first parameters back.
        shared = make("sbx", args.num_envs, 0, args.device)
        fresh = shared.policy.actor_state, shared.policy.vf_state

    scores: list[float] = []

    def model_for(seed: int):
        if args.lib == "sb3":
            return make("sb3", args.num_envs, seed, args.device)
        shared.policy.actor_state, shared.policy.vf_state = fresh
        shared.set_random_seed(seed)
        return shared

    def run(seed: int) -> tuple[float, int]:
        model = model_for(seed)
        start = time.perf_counter()
        model.learn(args.steps)
        elapsed = time.perf_counter() - start
        if seed:  # not the warm-up
            episodes = dict(n_eval_episodes=EVALUATION_EPISODES, deterministic=False, warn=False)
            evaluation = make_vec_env("CartPole-v1", n_envs=4, seed=1_000 + seed)
            scores.append(float(evaluate_policy(model, evaluation, **episodes)[0]))
        return elapsed, int(model.num_timesteps)

    warm_up, _ = run(0)
    results = [run(seed) for seed in range(1, args.reps + 1)]
    seconds = [elapsed for elapsed, _ in results]
    emit(
        record(
            library={"sb3": "Stable-Baselines3", "sbx": "SBX"}[args.lib],
            task="T1 PPO CartPole-v1",
            num_envs=args.num_envs,
            seeds=1,
            steps=results[0][1],
            seconds=seconds,
            compile_seconds=max(0.0, warm_up - statistics.median(seconds)) if args.lib == "sbx" else None,
            returns=scores,
            return_kind=f"{EVALUATION_EPISODES} evaluation episodes per agent, actions sampled",
            versions=versions("stable-baselines3", "sbx-rl", "torch", "jax", "jaxlib", "gymnasium", "numpy"),
            device=args.device,
            devices=1,
            torch_threads=torch.get_num_threads(),
        )
    )


if __name__ == "__main__":
    main()
