"""A random policy on EnvPool: its own Python loop beside the same pool stepped from inside `jit` by `operant.envs`.

    python benchmarks/envpool_random.py [--env Pong-v5] [--num-envs 8] [--steps 4000] [--no-operant]

Both sides step the same number of environments with random actions and touch no pixels, so what differs is the way into
the pool. A step is one action of one environment (four frames in Atari). Runs of the two sides alternate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from measure import cores, cpu_model, emit, spread, versions

Side = Callable[[int], tuple[float, int]]


def python_loop(name: str, num_envs: int, steps: int) -> tuple[Side, float | None]:
    """EnvPool as its documentation steps it. Returns the run, which gives (seconds, episodes), and no compile time."""
    import envpool

    pool = envpool.make(name, env_type="gymnasium", num_envs=num_envs, seed=1)
    if not hasattr(pool.action_space, "n"):
        raise ValueError(f"{name} has the action space {pool.action_space}: only discrete actions are drawn here")
    pool.reset()

    def run(seed: int) -> tuple[float, int]:
        actions = np.random.default_rng(seed).integers(pool.action_space.n, size=(steps, num_envs), dtype=np.int32)
        episodes = 0
        start = time.perf_counter()
        for action in actions:
            _, _, terminated, truncated, _ = pool.step(action)
            episodes += int((terminated | truncated).sum())
        return time.perf_counter() - start, episodes

    return run, None


def inside_jit(name: str, num_envs: int, steps: int) -> tuple[Side, float | None]:
    """The pool inside a jitted scan. Returns the run, which gives (seconds, episodes), and seconds of compilation."""
    import jax
    import jax.numpy as jnp

    import operant.envs

    env = operant.envs.make(name, num_envs=num_envs, seeds=list(range(1, num_envs + 1)))
    state, timestep = env.reset(jax.random.split(jax.random.key(0), num_envs))
    space = env.spec.action

    def rollout(state, key):
        def body(carry, key):
            state, episodes = carry
            action = jax.random.randint(key, (num_envs,), 0, space.n, dtype=space.dtype)
            state, timestep = env.step(state, action)
            return (state, episodes + timestep.last.sum()), None

        (state, episodes), _ = jax.lax.scan(body, (state, jnp.int32(0)), jax.random.split(key, steps))
        return state, episodes

    start = time.perf_counter()
    compiled = jax.jit(rollout).lower(state, jax.random.key(0)).compile()
    compile_seconds = time.perf_counter() - start

    def run(seed: int) -> tuple[float, int]:
        nonlocal state
        key = jax.block_until_ready(jax.random.key(seed))
        start = time.perf_counter()
        state, episodes = jax.block_until_ready(compiled(state, key))
        return time.perf_counter() - start, int(episodes)

    return run, compile_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="Pong-v5")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4_000, help="steps of each environment in one run")
    parser.add_argument("--reps", type=int, default=5, help="timed runs of each side after the warm-up")
    parser.add_argument("--no-operant", action="store_true", help="time EnvPool's own loop alone")
    args = parser.parse_args()

    makers = {"EnvPool, Python loop": python_loop, "Operant, inside jit": inside_jit}
    if args.no_operant:
        del makers["Operant, inside jit"]
    sides = {side: make(args.env, args.num_envs, args.steps) for side, make in makers.items()}
    for run, _ in sides.values():
        run(0)
    results: dict[str, list[tuple[float, int]]] = {side: [] for side in sides}
    for seed in range(1, args.reps + 1):
        for side, (run, _) in sides.items():
            results[side].append(run(seed))

    total = args.steps * args.num_envs
    report: dict = {
        "task": f"random policy on {args.env}",
        "num_envs": args.num_envs,
        "steps": total,
        "versions": versions("operant", "envpool", "jax", "jaxlib", "numpy"),
        "device": "cpu",
        "cores": cores(),
        "cpu_model": cpu_model(),
        "sides": {
            side: {
                "compile_seconds": sides[side][1],
                "seconds": [seconds for seconds, _ in runs],
                "steps_per_second": spread([total / seconds for seconds, _ in runs]),
                # Nearly equal on both sides, or they did not play the same game.
                "episodes_per_run": statistics.fmean(episodes for _, episodes in runs),
            }
            for side, runs in results.items()
        },
    }
    if len(sides) == 2:
        reference, ours = results.values()
        report["ratio"] = spread([theirs[0] / mine[0] for theirs, mine in zip(reference, ours, strict=True)])
    emit(report)


if __name__ == "__main__":
    main()
