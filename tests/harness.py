"""One tiny compiled harness per method, run once, its trace shared by all promises.

A harness trains three lanes for six updates in a world of four cells, through two compilations: three lanes together,
and one alone.  Everything else (other seeds, other dials, poisoned lanes, resumed runs) goes through the same two, so
that a method costs seconds and any needless compilation is seen.

    python tests/harness.py ppo     prints the digest of that method's trace, a JSON list
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from operant import methods
from operant.agent import children, dial_field, dials, strong, tree_names, with_dials
from operant.claims import claims
from operant.envs.base import batched
from operant.learner import Online, RunState
from operant.types import Batch, Box, Discrete, Spec, Timestep, struct, zeros

LANES, WIDTH, LENGTH, UPDATES, SEEDS = 3, 2, 8, 6, (11, 12, 13)
PLANNED = 200  # steps: far enough that no lane finishes, near enough that what is annealed moves

SMALL: dict[str, Any] = {
    "num_envs": WIDTH,
    "rollout_length": LENGTH,
    "num_epochs": 2,
    "num_minibatches": 2,
    "hidden": (8,),
    "features": 8,
    "recurrent_size": 8,
    "batch_size": 8,
    "length": 4,
    "burn_in": 1,
    "capacity": 64,
    "learning_starts": 16,
    "random_steps": 8,
    "updates_per_rollout": 2,
    "inner_updates": 2,
    "size": 8,
    "m": 4,
    "lives": 2,
    "lifetime": 8,
    "normalize_observation": True,
    "normalize_reward": True,
}
"""What a field of that name is in a tiny agent, wherever it stands. Normalisers are on: they are state too."""

SMALL_OF: dict[str, dict[str, Any]] = {
    "d4pg": {"target_period": 2},  # so that the targets move
    "dqn": {"exploration.end": 0.5, "target_period": 16},  # so that random actions show it
    "rainbow": {"exploration.start": 1.0, "exploration.end": 0.5, "exploration.fraction": 0.9, "target_period": 16},
    "discover": {"agent.learning_rate": 1.0},  # 40 times a gradient is 40 times its rounding
    "impala": {"lag": 3},  # so that ratios differ from 1
    "lpg": {"learning_rate": 1.0},
    "mpo": {"target_period": 2},
    "stac": {"agent.lag": 3, "auxiliary_hidden": (8,)},
}
"""Further changes (dotted names) for one method."""

BONUS_OFF: dict[str, dict[str, float]] = {"lirpg": {"intrinsic_scale": 0.0}, "rnd": {"scale": 0.0}}
"""Dials that take away a method's own reward. A bonus for the observation arrived at is due for terminal observations
as well; without it nothing may depend on them, and value targets are those of the task's rewards."""

SEES_ENDS = ("lifetime-rewards", "pupil")
"""Methods whose reward network is shown the observation that an episode ends at, as all others: it pays for arriving
there, and remembers it for life."""

PREDICTS = ("td",)
"""Methods that say what will be earned, and do nothing about it."""

_ACTOR_Q = "learns action values: tests/test_actor_q.py computes its targets by hand"
OTHER_CRITIC: dict[str, str] = {
    "d4pg": _ACTOR_Q,
    "ddpg": _ACTOR_Q,
    "mpo": _ACTOR_Q,
    "sac": _ACTOR_Q,
    "td3": _ACTOR_Q,
    "frodo": "its values regress to a network's targets: tests/test_frodo.py",
    "lpg": "has predictions without a meaning: tests/test_lpg.py",
    "discover": "has its base agent's predictions: tests/test_lpg.py",
    "lifetime-rewards": "has a value of the whole life: tests/test_lifetime_rewards.py",
    "pupil": "has no critic",
    "dqn": "learns action values: tests/test_value.py computes its targets by hand",
    "online-q": "learns action values: tests/test_online_q.py computes its targets by hand",
    "rainbow": "learns action values: tests/test_value.py computes its targets by hand",
    "r2d2": "learns action values: tests/test_r2d2.py computes its targets by hand",
}
"""Methods whose metric `value_loss` is not the mean of (G - V)^2 / 2 with lambda-returns G, and why."""

JUDGED = ("entropy_cost", "policy_size_cost", "prediction.entropy_cost", "prediction.size_cost")
QUIET: dict[tuple[str, str], str] = {
    ("dqn", "evaluation_epsilon"): "only evaluation reads it",
    ("rainbow", "evaluation_epsilon"): "only evaluation reads it",
    ("mpo", "epsilon_std"): "only continuous actions have a deviation",
    ("sac", "entropy_per_dimension"): "only continuous actions have dimensions",
    **{("lpg", name): "only a rule's judgement reads it" for name in JUDGED},
    ("pupil", "bonus"): "only where it is taught by counts",
    ("lifetime-rewards", "agent.bonus"): "only where lives are taught by counts",
    ("discover", "collapse"): "only a policy that hardly explores ends a life",
    ("meta-gradient", "mu"): "only a trace that is accumulated decays",
    ("meta-gradient", "judge.learning_rate"): "the judge measures, it does not learn",
    ("meta-gradient", "judge.anneal"): "the judge measures, it does not learn",
    ("meta-gradient", "judge.max_grad_norm"): "the judge measures, it does not learn",
}
"""(method, dial) that changes nothing within four updates of a tiny agent, and why that is right."""

FAINT = ("discover", "lpg")
"""Methods whose rule, by which nothing was learned yet, hardly listens to the observation behind a time limit;
tests/test_lpg.py has one that does."""

QUICK = {"xla_backend_optimization_level": 0}
"""Compiling takes most of the time: the same program, with less effort spent on machine code that runs for moments."""


def assert_slopes(slopes, value, at, *, step: float = 1e-6, rtol: float = 1e-3, atol: float = 1e-9, least=0.0):
    """The largest entry of each tensor of `slopes` is the difference quotient of `value(at)` there, and above `least`.

    To be called with float64 numbers, under `enable_x64`.
    """
    leaves, tree = jax.tree.flatten(at)
    for i, (name, slope) in enumerate(zip(tree_names(at), jax.tree.leaves(slopes), strict=True)):
        assert slope.dtype == jnp.float64, name
        place = int(jnp.argmax(jnp.abs(slope)))
        nudge = jnp.zeros(slope.size).at[place].set(step).reshape(slope.shape)
        up, down = (
            float(value(tree.unflatten([*leaves[:i], leaves[i] + sign * nudge, *leaves[i + 1 :]]))) for sign in (1, -1)
        )
        np.testing.assert_allclose(slope.ravel()[place], (up - down) / (2 * step), rtol, atol, err_msg=name)
        assert abs(slope.ravel()[place]) > least, name


def shrink(agent: Any, **changes: Any) -> Any:
    """`agent` with everything in `SMALL` made small, in its parts and its base agent too, and then `changes`."""
    small = {**SMALL, **changes}
    names = {f.name for f in dataclasses.fields(agent)}
    parts = {name: shrink(part, **changes) for name, part in children(agent).items() if dataclasses.is_dataclass(part)}
    return agent.replace(**{name: value for name, value in small.items() if name in names}, **parts)


def tiny_agent(name: str, **changes: Any) -> Any:
    """The method of that name, small, checked, with strong dials."""
    agent = methods.apply(shrink(methods.build(name), **changes), SMALL_OF.get(name, {}))
    agent.check()
    return strong(agent)


# ------------------------------------------------------------------------------------------------------------- world
@struct
class ProbeState:
    position: jax.Array
    tint: jax.Array
    spoil_reward: jax.Array
    spoil_observation: jax.Array


@dataclasses.dataclass(frozen=True)
class Probe:
    """The corridor of four cells, cut after four steps, with a random tint per episode that shows whose keys these
    are.  What stands in `spoil_reward` and `spoil_observation` is added, so that a test can put a NaN there.

    drifting  chance moves, not the action
    """

    continuous: bool = False
    drifting: bool = False

    observation = Box((5,), low=0.0, high=1.0)
    time_limit = 4

    @property
    def action(self):
        return Box((1,), low=-1.0, high=1.0) if self.continuous else Discrete(2)

    def reset(self, key):
        place, tint = jax.random.split(key)
        nothing = jnp.zeros(())
        state = ProbeState(jax.random.randint(place, (), 0, 2), jax.random.uniform(tint), nothing, nothing)
        return state, self._observe(state)

    def step(self, key, state, action):
        right = action[0] > 0 if self.continuous else action == 1
        right = jax.random.bernoulli(key) if self.drifting else right
        position = jnp.clip(state.position + jnp.where(right, 1, -1), 0, 3)
        arrived = position == 3
        state = state.replace(position=position)
        return state, self._observe(state), arrived - 0.1 + state.spoil_reward, arrived, False

    def _observe(self, state):
        return jnp.append(jax.nn.one_hot(state.position, 4), state.tint) + state.spoil_observation


# ----------------------------------------------------------------------------------------------------------- harness
def course(agent: Any, world: Any, updates: int, keys: PRNGKeyArray | None = None) -> list[tuple[RunState, dict]]:
    """(run, metrics) after each of so many updates of a fresh run with a lane for each of the keys (one by default)."""
    keys = jax.random.split(jax.random.key(1), 1) if keys is None else keys
    lanes = len(keys)
    env = batched(world, agent.num_envs * lanes)
    online = Online(env, env.spec.replace(num_envs=agent.num_envs, total_steps=10_000), lanes)
    agents = jax.tree.map(lambda x: jnp.broadcast_to(x, (lanes, *x.shape)), strong(agent))

    def begin(agents, keys):
        return online.init(agents, online.init_agents(agents, keys), keys)

    run = jax.jit(begin, compiler_options=QUICK)(agents, keys)
    update, seen = jax.jit(online.update, compiler_options=QUICK), []
    for _ in range(updates):
        run, metrics = update(run)
        seen.append((run, metrics))
    return seen


class Harness:
    """A tiny agent in `Probe`, compiled for three lanes and for one. Attributes: agent, spec, learners, trace."""

    def __init__(self, name: str):
        self.name = name
        self.agent = tiny_agent(name)
        self.world = Probe(continuous="discrete" not in claims(self.agent, "actions"), drifting=name in PREDICTS)
        self.learners, self._init, self._update = {}, {}, {}
        for lanes in (LANES, 1):
            env = batched(self.world, lanes * WIDTH)
            self.spec: Spec = env.spec.replace(num_envs=WIDTH, total_steps=PLANNED)
            learner = Online(env, self.spec, lanes)

            def init(agents, keys, learner=learner):
                return learner.init(agents, learner.init_agents(agents, keys), keys)

            self.learners[lanes] = learner
            self._init[lanes] = jax.jit(init, compiler_options=QUICK)
            self._update[lanes] = jax.jit(learner.update, compiler_options=QUICK)

    def start(self, seeds: tuple[int, ...], agents: list[Any] | None = None) -> RunState:
        """A fresh run of as many lanes as there are seeds; `agents` (one a lane) differ in their dials only."""
        agents = [self.agent] * len(seeds) if agents is None else agents
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *agents)
        keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
        return self._init[len(seeds)](stacked, keys)

    def go_on(self, run: RunState, updates: int) -> tuple[RunState, dict]:
        """The run after so many updates, and the metrics of the last one."""
        metrics = {}
        for _ in range(updates):
            run, metrics = self._update[len(run.steps)](run)
        return run, metrics

    @functools.cached_property
    def trace(self) -> tuple[list[RunState], list[dict]]:
        """The run of `SEEDS` before and after each of its updates, and the metrics of each update."""
        runs, metrics = [self.start(SEEDS)], []
        for _ in range(UPDATES):
            run, row = self.go_on(runs[-1], 1)
            runs.append(run)
            metrics.append(row)
        return runs, metrics

    @functools.cached_property
    def alone(self) -> list[tuple[RunState, dict]]:
        """Each of `SEEDS` by itself, after all but one update."""
        return [self.go_on(self.start((seed,)), UPDATES - 1) for seed in SEEDS]

    def compilations(self) -> dict[str, int]:
        """How often each function was compiled so far."""
        return {
            f"{what}, {lanes} lanes": compiled[lanes]._cache_size()
            for what, compiled in (("init", self._init), ("update", self._update))
            for lanes in compiled
        }

    def digest(self) -> list[str]:
        runs, metrics = self.trace
        return [fingerprint(pair) for pair in zip(runs[1:], metrics, strict=True)]


@functools.cache
def of(name: str) -> Harness:
    return Harness(name)


# ------------------------------------------------------------------------------------------------- leaves and numbers
def leaves(tree: Any) -> dict[str, np.ndarray]:
    """All leaves by name, as NumPy arrays; keys as their bits."""

    def to_numpy(x):
        return np.asarray(jax.random.key_data(x) if is_key(x) else x)

    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): to_numpy(x) for path, x in paths}


def is_key(x: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(x).dtype, jax.dtypes.prng_key)


def from_leaves(arrays: dict[str, np.ndarray], like: Any) -> Any:
    """The tree of the form of `like` whose `leaves` these are."""
    flat, tree = jax.tree.flatten(like)
    loaded = [
        jax.random.wrap_key_data(a) if is_key(x) else jnp.asarray(a) for a, x in zip(arrays.values(), flat, strict=True)
    ]
    return jax.tree.unflatten(tree, loaded)


def fingerprint(tree: Any) -> str:
    """A digest of every bit of a tree, with the names, types and shapes of its leaves."""
    digest = hashlib.sha256()
    for name, x in leaves(tree).items():
        digest.update(f"{name} {x.dtype} {x.shape}".encode() + x.tobytes())
    return digest.hexdigest()


def differing(a: Any, b: Any) -> list[str]:
    """Names of the leaves that are not the same bit for bit (a NaN equals itself)."""
    first, second = leaves(a), leaves(b)
    assert first.keys() == second.keys()
    return [n for n, x in first.items() if x.dtype != second[n].dtype or x.tobytes() != second[n].tobytes()]


def largest_difference(a: Any, b: Any) -> tuple[float, str]:
    """The largest |x - y| / max(1, |y|) over all numbers of two trees, and the leaf it stands in."""
    first, second = leaves(a), leaves(b)
    assert first.keys() == second.keys()
    worst = (0.0, "")
    for name, x in first.items():
        x, y = x.astype(np.float64), second[name].astype(np.float64)
        assert x.shape == y.shape, name
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        error = np.where(same, 0.0, np.abs(x - y) / np.maximum(1.0, np.abs(y)))
        if error.size and not error.max() <= worst[0]:
            worst = (float(error.max()), name)
    return worst


def lane(run: RunState, i: int) -> dict[str, Any]:
    """What belongs to lane i of a run."""
    pick = lambda tree: jax.tree.map(lambda x: x[i], tree)  # noqa: E731
    env_state = jax.tree.map(lambda x: x[i * WIDTH : (i + 1) * WIDTH], run.stage.env_state)
    stage = run.stage
    return {
        "state": pick(run.state),
        "memory": jax.tree.map(lambda x: x[i] if x.ndim else x, run.memory),  # `written` is the same in all lanes
        "env_state": env_state,
        "stage": pick((stage.timestep, stage.carry, stage.episodes)),
        "key": pick(run.key),
        "steps": pick(run.steps),
    }


def learned(state: Any) -> Any:
    """An agent's state without the batches that some methods keep in it: those differ where their input did."""
    is_batch = lambda x: isinstance(x, Batch)  # noqa: E731
    return jax.tree.map(lambda x: () if is_batch(x) else x, state, is_leaf=is_batch)


def other_value(agent: Any, name: str) -> float:
    """Another value for a dial, within its range and far enough that it makes a difference."""
    field, value = dial_field(agent, name), float(dials(agent)[name])
    low, high = field.metadata.get("low", -math.inf), field.metadata.get("high", math.inf)
    if not math.isfinite(value):
        return max(low, 0.01)
    if value == 0.0:
        return min(high, 0.5)
    return value * 1e-3 if low <= value * 1e-3 <= high else (low + value) / 2


# -------------------------------------------------------------------------------------------------- hand-made batches
class Ends:
    """Two environments, five rows, all four cases of an episode's end, and what a method learns from them.

    Each environment has an episode of two steps, the pseudo-transition (row 2), and two steps of the next episode,
    which the end of the batch cuts.  In environment 0 the first episode terminates, in 1 a time limit ends it.
    Bonuses are off and normalisers are fresh, which change nothing yet, so that targets can be computed by hand.
    """

    def __init__(self, name: str, **changes: Any):
        agent = tiny_agent(name, rollout_length=5, **changes)
        if name in BONUS_OFF:
            agent = strong(with_dials(agent, BONUS_OFF[name]))
        self.agent, world = agent, Probe(continuous="discrete" not in claims(agent, "actions"))
        self.spec = batched(world, WIDTH).spec.replace(total_steps=PLANNED)
        self.state = jax.jit(lambda key: agent.init(key, self.spec), compiler_options=QUICK)(jax.random.key(3))
        self._act = jax.jit(agent.act, compiler_options=QUICK)
        self.learn = jax.jit(self._learn, compiler_options=QUICK)
        self.lesson = jax.jit(self._lesson, compiler_options=QUICK)
        rng = np.random.default_rng(0)
        self.observation = rng.normal(0, 2, (6, WIDTH, 5)).astype(np.float32)
        self.first = np.zeros((6, WIDTH), bool)
        self.first[[0, 3]] = True
        self.valid = np.ones((5, WIDTH), np.float32)
        self.valid[2] = 0
        self.discount = np.ones((5, WIDTH), np.float32)
        self.discount[1, 0] = 0
        self.reward = rng.normal(0, 1, (5, WIDTH)).astype(np.float32)
        self.reward[2] = 0

    def batch(self, observation: np.ndarray | None = None) -> tuple[Batch, dict]:
        """What acting on these observations gives; also the extras for all six observations, the last one included."""
        observation = self.observation if observation is None else observation
        carry = start = self.agent.start(self.state, WIDTH)
        rows, nothing = [], np.zeros(WIDTH, np.float32)
        for t in range(6):
            timestep = Timestep(
                observation=jnp.asarray(observation[t]),
                reward=jnp.asarray(self.reward[t - 1] if t else nothing),
                discount=jnp.asarray(self.discount[t - 1] if t else nothing + 1),
                first=jnp.asarray(self.first[t]),
                last=jnp.asarray(~self.first[t] & (t == 2)),
                score=jnp.asarray(self.reward[t - 1] if t else nothing),
                previous_action=rows[-1][0] if t else zeros(self.spec.action, (WIDTH,)),
                action_mask=None,
                env_index=jnp.arange(WIDTH),
            )
            action, carry, extras = self._act(self.state, timestep, carry, jax.random.fold_in(jax.random.key(5), t))
            rows.append((action, extras))
        action, extras = jax.tree.map(lambda *x: jnp.stack(x), *rows)
        cut = lambda tree: jax.tree.map(lambda x: x[:5], tree)  # noqa: E731
        made = Batch(
            observation=jnp.asarray(observation),
            first=jnp.asarray(self.first),
            action=cut(action),
            reward=jnp.asarray(self.reward),
            discount=jnp.asarray(self.discount),
            valid=jnp.asarray(self.valid),
            extras=cut(extras),
            carry=start,
        )
        return made, extras

    def _experience(self, batch, key):
        """What `learn` is handed for this roll-out: itself, or a sample of the agent's memory that holds it alone."""
        if self.agent.memory is None:
            return batch
        memory, spec = self.agent.memory, self.spec.replace(num_envs=WIDTH)
        stored = memory.init(jax.tree.map(jnp.zeros_like, batch), spec)
        return memory.sample(memory.add(stored, batch, spec), key, spec)[0]

    def _learn(self, state, batch, key):
        sample_key, learn_key = jax.random.split(key)
        new, metrics, _ = self.agent.learn(state, self._experience(batch, sample_key), learn_key)
        return learned(new), metrics

    def _lesson(self, state, batch, key):
        """The gradient of the loss and its metrics, or, where there is no loss, what `learn` makes of the state."""
        if not hasattr(self.agent, "loss"):
            return self._learn(state, batch, key)
        sample_key, loss_key = jax.random.split(key)
        sample = self._experience(batch, sample_key)
        return jax.grad(lambda params: self.agent.loss(params, state, sample, loss_key), has_aux=True)(state.params)


@functools.cache
def ends(name: str) -> Ends:
    return Ends(name)


# ------------------------------------------------------------------------------------------------- another process
def digest_elsewhere(name: str) -> list[str]:
    """The digest of a method's trace in a process of its own, which takes a compiled program only if it is the same."""
    cache = {} if jax.config.jax_compilation_cache_dir is None else {
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(jax.config.jax_persistent_cache_min_compile_time_secs),
    }  # fmt: skip
    command = [sys.executable, str(Path(__file__)), name]
    done = subprocess.run(command, env={**os.environ, **cache}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(of(sys.argv[1]).digest()))
