"""Every method learns a world whose optimum is known, and takes every kind of action and observation it claims."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK, differing, leaves, shrink

import operant as op
from operant import methods
from operant.agent import children, strong
from operant.claims import ACTIONS, OBSERVATIONS, check_task, claims
from operant.envs.base import batched
from operant.envs.worlds import Cells, Recall, Target
from operant.errors import UserError
from operant.learner import Online
from operant.rollout import play_episodes
from operant.types import Box, Dict, Discrete, MultiDiscrete, Spec

SEEDS = 3

_ACTOR_Q: dict[str, Any] = {
    "actor_learning_rate": 3e-3,
    "critic_learning_rate": 3e-3,
    "num_envs": 8,
    "rollout_length": 4,
    "random_steps": 200,
    "actor.hidden": (32,),
    "critic.hidden": (32,),
    "memory.capacity": 4_096,
    "memory.batch_size": 64,
    "memory.learning_starts": 200,
    "memory.updates_per_rollout": 4,
}
LEARNS: dict[str, tuple[dict[str, Any], int]] = {
    "d4pg": ({**_ACTOR_Q, "head.v_min": -30.0, "head.v_max": 0.0, "memory.n_step": 2}, 300),
    "ddpg": ({**_ACTOR_Q, "tau": 0.02}, 300),
    "mpo": ({**_ACTOR_Q, "memory.n_step": 2, "epsilon_mean": 0.05, "epsilon_std": 1e-3, "target_period": 20}, 400),
    "sac": ({**_ACTOR_Q, "alpha_learning_rate": 1e-2, "tau": 0.02, "entropy_share": 0.2}, 300),
    "td3": ({**_ACTOR_Q, "tau": 0.02}, 300),
    "r2d2": (
        {
            "learning_rate": 5e-3,
            "target_period": 500,
            "num_envs": 8,
            "rollout_length": 8,
            "network.hidden": (32,),
            "network.recurrent_size": 16,
            "memory.length": 12,
            "memory.burn_in": 4,
            "memory.capacity": 4_096,
            "memory.batch_size": 16,
            "memory.learning_starts": 500,
            "memory.updates_per_rollout": 2,
        },
        300,
    ),
}
"""Settings (dotted names) and number of updates with which a method surely learns; else those of `plan`."""


UNTAUGHT = {
    "lpg": "learns by a rule, which at first says nothing: tests/test_lpg.py",
    "discover": "learns a rule over lives, and has no policy of its own: tests/test_lpg.py",
    "pupil": "learns from a reward that was learned elsewhere: tests/test_lifetime_rewards.py",
    "lifetime-rewards": "learns a reward over lives, and has no policy of its own: tests/test_lifetime_rewards.py",
    "td": "predicts, and has no say in what is earned: tests/test_td.py",
}
"""Methods that cannot learn a world from nothing, and why."""


def plan(method: str) -> tuple[Any, int]:
    """An agent for tiny worlds, and how many updates it is given: far more than it needs."""
    if method in LEARNS:
        changes, updates = LEARNS[method]
        return methods.apply(methods.build(method), changes), updates
    small = {"num_envs": 8, "rollout_length": 32, "hidden": (32,), "features": 8, "num_epochs": 4, "num_minibatches": 4}
    agent = rates(shrink(methods.build(method), **small, normalize_observation=False, normalize_reward=False))
    return agent, 120


def rates(agent: Any) -> Any:
    """`agent` with a brisk step size, in its base agent too."""
    names = {f.name for f in dataclasses.fields(agent)}
    inner = {"agent": rates(agent.agent)} if "agent" in names else {}
    own = {"learning_rate": 5e-3} if "learning_rate" in names and "agent" not in names else {}
    return agent.replace(**own, **inner)


def train(agent: Any, world: Any, updates: int, seeds: int = SEEDS) -> np.ndarray:
    """Mean evaluation return of each seed after so many updates."""
    agent.check()
    agent, width = strong(agent), agent.num_envs
    env, eval_env = batched(world, seeds * width), batched(world, seeds * 32)
    spec = env.spec.replace(num_envs=width, total_steps=2 * updates * width * agent.rollout_length)
    learner = Online(env, spec, seeds)

    def run(agents, keys):
        run = learner.init(agents, learner.init_agents(agents, keys), keys)
        run, _ = jax.lax.scan(lambda run, _: learner.update(run), run, None, length=updates)
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 99))(keys)
        return run.health.frozen_at, play_episodes(agents, run.state, eval_env, keys, episodes=4, max_steps=200)

    agents = jax.tree.map(lambda x: jnp.stack([x] * seeds), agent)
    frozen_at, outcome = jax.jit(run, compiler_options=QUICK)(agents, jax.random.split(jax.random.key(0), seeds))
    assert (np.asarray(frozen_at) < 0).all() and np.asarray(outcome.finished).all()
    return np.asarray(outcome.returns).mean(1)


def test_it_learns_a_world_whose_optimum_is_known(method: str):
    if method in UNTAUGHT:
        pytest.skip(UNTAUGHT[method])
    agent, updates = plan(method)
    claimed = claims(agent, "actions")
    # where a method has a loss for each kind of action, it learns with each
    apart = "discrete" in claimed and "continuous" in claimed and method in LEARNS
    for world in [Cells(), Target()] if apart else [Cells() if "discrete" in claimed else Target()]:
        returns = train(agent, world, updates)
        # evaluations of 128 episodes: the starts are random, so the optimum itself is met within a few hundredths
        share = (returns - world.random_return) / (world.optimal_return - world.random_return)
        assert (share > 0.9).all(), f"{method} in {world}: {share} of the way from random to optimal"


# ------------------------------------------------------------------------------------------- actions and observations
SPACES = {
    "box": Box((3,), low=-1.0, high=1.0),
    "discrete": Discrete(5),
    "dict": Dict((("image", Box((5, 5, 2), "uint8", 0.0, 255.0)), ("place", Box((2,))), ("kind", Discrete(3)))),
    "image": Box((6, 6, 2), "uint8", 0.0, 255.0),
    "continuous": Box((2,), low=(-2.0, 0.0), high=(2.0, 1.0)),
    "multi-discrete": MultiDiscrete((2, 3)),
    "masked": Discrete(4),
    "masked multi-discrete": MultiDiscrete((2, 3)),
}
STANDS_FOR = {"dict": {"dict", "image"}, "masked multi-discrete": {"masked", "multi-discrete"}}


@dataclasses.dataclass(frozen=True)
class Menu:
    """Random observations of one kind and actions of one kind, rewards from both; episodes of three steps."""

    observation_kind: str
    action_kind: str

    time_limit = 3

    @property
    def observation(self):
        return SPACES[self.observation_kind]

    @property
    def action(self):
        return Discrete(3) if self.action_kind == "discrete" else SPACES[self.action_kind]

    def __post_init__(self):
        masks = {"masked": [True, False, True, False], "masked multi-discrete": [False, True, True, False, True]}
        if self.action_kind in masks:
            object.__setattr__(self, "action_mask", lambda state: jnp.array(masks[self.action_kind]))

    def reset(self, key):
        return jnp.zeros(()), self._draw(key, self.observation)

    def step(self, key, state, action):
        ok = {
            "discrete": lambda: (action >= 0) & (action < 3),
            "masked": lambda: (action == 0) | (action == 2),
            "masked multi-discrete": lambda: (action[0] == 1) & ((action[1] == 0) | (action[1] == 2)),
            "multi-discrete": lambda: ((action >= 0) & (action < jnp.array([2, 3]))).all(),
            "continuous": lambda: ((action >= jnp.array([-2.0, 0.0])) & (action <= jnp.array([2.0, 1.0]))).all(),
        }[self.action_kind]()
        # an action outside its space is a NaN, which no run survives
        reward = jnp.where(ok, jnp.sum(action), jnp.nan).astype(jnp.float32)
        return state, self._draw(key, self.observation), reward, False, False

    def _draw(self, key, space):
        if isinstance(space, Dict):
            keys = jax.random.split(key, len(space.items))
            return {name: self._draw(k, sub) for k, (name, sub) in zip(keys, space.items, strict=True)}
        if isinstance(space, Discrete):
            return jax.random.randint(key, (), 0, space.n)
        high = 255.0 if space.dtype == "uint8" else 1.0
        return jax.random.uniform(key, space.shape, maxval=high).astype(space.dtype)


def memories(agent: Any) -> tuple[str, ...]:
    """The kinds of recurrent network that an agent can be given; "" is one without."""
    base = children(agent).get("agent")
    if base is not None:
        return memories(base)
    network = children(agent).get("network")
    fields = {f.name: f for f in dataclasses.fields(network)} if dataclasses.is_dataclass(network) else {}
    return fields["recurrent"].metadata["choices"] if "recurrent" in fields else ("",)


def combinations(agent: Any) -> list[tuple[str, str, str]]:
    """A few (observation, action, recurrent) in which each claimed kind occurs: few, since each is compiled.

    One kind stands for several where that can be, and what the harness has already, a box and discrete actions without
    memory, is left out where others are claimed.
    """

    def worlds(claimed: tuple[str, ...], usual: str) -> list[str]:
        merged = [kind for kind, several in STANDS_FOR.items() if several <= set(claimed)]
        covered = {usual}.union(*(STANDS_FOR[kind] for kind in merged))
        return merged + [kind for kind in claimed if kind not in covered] or [usual]

    kinds = (
        worlds(claims(agent, "observations"), "box"),
        worlds(claims(agent, "actions"), "discrete"),
        worlds(memories(agent), ""),
    )
    turns = [itertools.cycle(several) for several in kinds]
    return [tuple(next(t) for t in turns) for _ in range(max(map(len, kinds)))]


def test_it_refuses_what_it_does_not_claim_to_take(method: str):
    agent = methods.build(method)
    for kind in set(ACTIONS) - set(claims(agent, "actions")):
        with pytest.raises(
            UserError, match=f"{agent.registered_name}.* takes actions .* in 'Menu' .*{kind}.*choose one"
        ):
            op.train(agent, Menu("box", kind), steps=100, quiet=True)
    spec = Spec(SPACES["box"], SPACES["dict"], name="Form")
    with pytest.raises(UserError, match="in 'Form' they are dict: no method"):
        check_task(agent, spec)


def test_the_combinations_have_every_kind_in_them(method: str):
    agent = methods.build(method)
    found = [set(kinds) for kinds in zip(*combinations(agent), ("box", "discrete", ""), strict=True)]
    claimed = [claims(agent, "observations"), claims(agent, "actions"), memories(agent)]
    for several, wanted, usual in zip(found, claimed, ("box", "discrete", ""), strict=True):
        assert set().union(*(STANDS_FOR.get(kind, {kind}) for kind in several)) == {*wanted, usual}
    assert set(claims(agent, "observations")) <= set(OBSERVATIONS) and set(claims(agent, "actions")) <= set(ACTIONS)


@pytest.mark.filterwarnings("error:jax.nn.one_hot")  # an integer that was normalised is no longer a name
def test_it_takes_what_it_claims_to_take(method: str):
    for observation, action, recurrent in combinations(methods.build(method)):
        agent = shrink(methods.build(method), rollout_length=5, num_epochs=1, recurrent=recurrent)
        agent.check()
        env = batched(Menu(observation, action), 2)
        learner = Online(env, env.spec.replace(total_steps=100), 1)

        def both(agents, keys, learner=learner):
            run = start = learner.init(agents, learner.init_agents(agents, keys), keys)
            run, metrics = jax.lax.scan(lambda run, _: learner.update(run), run, None, length=2)
            return start, run, metrics

        agents = jax.tree.map(lambda x: x[None], strong(agent))
        start, run, metrics = jax.jit(both, compiler_options=QUICK)(agents, jax.random.split(jax.random.key(0), 1))
        what = f"{observation} observations, {action} actions, recurrent '{recurrent}'"
        assert learner.diagnose(run) == [], what
        assert all(np.isfinite(x).all() for x in leaves((run.state, metrics)).values()), what
        moved = differing(start.state.params, run.state.params)
        assert moved, f"{what}: nothing was learned"


# -------------------------------------------------------------------------------------------------------------- memory
def test_only_a_recurrent_agent_recalls():
    network = {"network.hidden": (16,), "network.recurrent_size": 16}
    agent = methods.apply(op.PPO(num_envs=16, rollout_length=16, num_minibatches=2), network).replace(
        learning_rate=1e-2, anneal=0.0, value_clip=float("inf")
    )
    with_memory = train(methods.apply(agent, {"network.recurrent": "gru"}), Recall(), 80)
    without = train(agent, Recall(), 80)
    assert (with_memory > 0.95).all(), with_memory
    assert (np.abs(without) < 0.4).all(), without  # 128 episodes of +1 or -1: a deviation of 0.09


# ------------------------------------------------------------------------------------------------------- ends of lanes
def test_what_a_finished_lane_plays_on_is_no_part_of_its_training():
    agent = strong(op.A2C(num_envs=2, rollout_length=8))
    learner = Online(batched(Cells(), 4), batched(Cells(), 4).spec.replace(num_envs=2, total_steps=60), 2)
    agents = jax.tree.map(lambda x: jnp.stack([x] * 2), agent)
    keys = jax.random.split(jax.random.key(0), 2)
    run = learner.init(agents, learner.init_agents(agents, keys), keys)
    update, read = jax.jit(learner.update, compiler_options=QUICK), lambda run: run.stage.episodes.read()[1]
    course = []
    for _ in range(12):
        run, metrics = update(run)
        course.append((np.asarray(run.steps), *(np.asarray(read(run)[name]) for name in ("episodes", "return_sum"))))
    steps, episodes, returns = map(np.stack, zip(*course, strict=True))
    assert (steps[-1] >= 60).all() and (np.diff(episodes, axis=0).sum(0) > 0).all()
    for lane in range(2):
        ended = int(np.argmax(steps[:, lane] >= 60))
        assert ended < 8
        assert (episodes[ended:, lane] == episodes[ended, lane]).all()
        assert (returns[ended:, lane] == returns[ended, lane]).all() and returns[ended, lane] != 0
