"""The contract of environments, held against one environment of each adapter and against every world."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operant import envs
from operant.envs import index, wrappers
from operant.envs.base import Batched, Environment, batched, describe
from operant.envs.options import like
from operant.envs.worlds import WORLDS, Cells, Recall, Target
from operant.errors import UserError
from operant.types import Box, Dict, Discrete, MultiDiscrete, to_native

# name, options, how its episodes end under random actions within a few steps
CASES = [
    ("operant:Cells-v0", {}, {"terminated", "limit"}),
    ("operant:Dict-v0", {}, {"terminated", "limit"}),
    ("operant:Masked-v0", {}, {"terminated"}),
    ("operant:Pair-v0", {}, {"terminated"}),
    ("operant:Pixels-v0", {}, {"limit"}),
    ("operant:Recall-v0", {}, {"terminated"}),
    ("operant:Target-v0", {}, {"limit"}),
    ("operant:Grid-sparse-v0", {"collect": True}, {"limit"}),
    ("operant:RandomGrid-small-v0", {"time_limit": 9, "frame_stack": 2, "sticky": 0.2}, {"limit"}),
    ("operant:Chain-distractor-v0", {"longest": 9}, {"terminated"}),
    ("operant:RandomABC-v0", {"extended": True}, {"terminated", "limit"}),
    ("CartPole-v1", {"time_limit": 14}, {"terminated", "limit"}),
    ("Pendulum-v1", {"time_limit": 7}, {"limit"}),
    ("Breakout-MinAtar", {"sticky": 0.1}, {"terminated"}),
    ("FourRooms-misc", {"time_limit": 7}, {"limit"}),
    ("brax:inverted_pendulum", {"time_limit": 4, "backend": "spring"}, {"limit"}),
    ("envpool:CartPole-v1", {"time_limit": 14}, {"terminated", "limit"}),
    ("Hopper-v4", {"time_limit": 20}, {"limit"}),
    ("Pong-v5", {"time_limit": 9}, {"limit"}),
    ("CheetahRun-v1", {"time_limit": 9}, {"limit"}),
    ("MiniGrid-Empty-5x5-v0", {"time_limit": 9}, {"limit"}),
    ("Game2048-v1", {}, set()),
    ("gym:CartPole-v1", {"time_limit": 14}, {"terminated", "limit"}),
    ("operant:Cells-v0", {"frame_stack": 3, "previous_action_reward": True}, {"terminated", "limit"}),
    ("gym:Pendulum-v1", {"time_limit": 7, "frame_stack": 2, "sticky": 0.2, "reward_clip": True}, {"limit"}),
]
WIDTH, LENGTH = 4, 60


def random_action(space, key, num_envs, mask=None):
    if isinstance(space, Discrete):
        logits = jnp.zeros((num_envs, space.n)) if mask is None else jnp.where(mask, 0.0, -jnp.inf)
        return jax.random.categorical(key, logits)
    if isinstance(space, MultiDiscrete):
        return jax.random.randint(key, (num_envs, len(space.nvec)), 0, jnp.array(space.nvec))
    return jax.random.uniform(key, (num_envs, *space.shape), minval=-1.0, maxval=1.0)


def play(env, length=LENGTH, key=0, policy=None):
    """Timesteps [length + 1, B, ...] and actions [length, B, ...] of a policy, or random ones: one jit and scan."""
    timesteps, actions = runner(env, length, policy)(*jax.random.split(jax.random.key(key)))
    return jax.tree.map(np.asarray, (timesteps, actions))


@functools.cache  # equal environments are compiled once
def runner(env, length, policy):
    def step(carry, key):
        state, timestep = carry
        if policy is None:
            action = random_action(env.spec.action, key, env.num_envs, timestep.action_mask)
        else:
            action = policy(timestep)
        carry = env.step(state, action)
        return carry, (carry[1], action)

    @jax.jit
    def run(start, acting):
        state, timestep = env.reset(jax.random.split(start, env.num_envs))
        _, (rest, actions) = jax.lax.scan(step, (state, timestep), jax.random.split(acting, length))
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), timestep, rest), actions

    return run


def belongs(value, space, batch):
    if isinstance(space, Dict):
        return set(value) == {n for n, _ in space.items} and all(belongs(value[n], s, batch) for n, s in space.items)
    if value.shape != (*batch, *space.shape) or str(value.dtype) != space.dtype:
        return False
    if isinstance(space, Discrete):
        return bool(np.all((value >= 0) & (value < space.n)))
    return bool(np.all(np.isfinite(value.astype(np.float64))))


@pytest.fixture(scope="module", params=CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def played(request):
    name, options, ends = request.param
    env = envs.make(name, WIDTH, **options)
    timesteps, actions = play(env)
    yield env, timesteps, actions, ends, options
    env.close()


def test_contract(played):
    env, t, actions, ends, options = played
    batch = (LENGTH + 1, WIDTH)
    hash(env)
    assert isinstance(env, Environment) and env.spec.num_envs == WIDTH and env.spec.total_steps == 0
    # spaces agree with what comes out
    assert belongs(t.observation, env.spec.observation, batch)
    assert belongs(t.previous_action, env.spec.action, batch)
    for part in (t.reward, t.discount, t.score):
        assert part.shape == batch and part.dtype == np.float32 and np.all(np.isfinite(part))
    assert np.array_equal(t.env_index, np.broadcast_to(np.arange(WIDTH), batch))
    if env.spec.action_mask:
        assert t.action_mask.shape == (*batch, env.spec.action.n) and t.action_mask.dtype == bool
    else:
        assert t.action_mask is None
    # next-step auto-reset: a `first` at the start and after each `last`, nowhere else
    assert t.first[0].all() and not t.last[0].any()
    assert np.array_equal(t.first[1:], t.last[:-1])
    assert np.all(t.reward[t.first] == 0) and np.all(t.score[t.first] == 0) and np.all(t.discount[t.first] == 1)
    # an episode ends by termination (discount 0) or by time limit (discount 1)
    assert set(np.unique(t.discount)) <= {0.0, 1.0}
    assert np.all(t.last[t.discount == 0])
    elapsed = steps_of_the_episode(t)
    limit = env.spec.time_limit
    if limit is not None:
        assert elapsed.max() <= limit
        assert np.all(t.last[elapsed == limit])
    cut = t.last & (t.discount == 1)
    assert np.all(elapsed[cut] == limit)
    seen = {kind for kind, where in (("terminated", t.discount == 0), ("limit", cut)) if where.any()}
    assert seen >= ends
    # the action that led here, in the agent's units; none at a first step
    for i in range(1, LENGTH + 1):
        expected = np.where(t.first[i].reshape((WIDTH,) + (1,) * (actions.ndim - 2)), 0, actions[i - 1])
        np.testing.assert_array_equal(t.previous_action[i], expected.astype(t.previous_action.dtype))


def steps_of_the_episode(t):
    elapsed = np.zeros(t.first.shape, int)
    for i in range(1, len(elapsed)):
        elapsed[i] = np.where(t.first[i], 0, elapsed[i - 1] + 1)
    return elapsed


def leaves_differ(a, b):
    return any(not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("name", ["operant:Cells-v0", "CartPole-v1", "Breakout-MinAtar", "operant:Dict-v0"])
def test_functional_worlds_are_functions_of_their_keys(name):
    a, b, c = (play(envs.make(name, WIDTH), key=key)[0] for key in (0, 0, 1))
    assert not leaves_differ(a, b)
    assert leaves_differ(a.observation, c.observation)
    # and environments of one batch differ among themselves
    assert any((x[:, 0] != x[:, 1]).any() for x in jax.tree.leaves(a.observation))


@pytest.mark.parametrize("name", ["envpool:CartPole-v1", "Hopper-v4", "gym:CartPole-v1"])
def test_host_environments_follow_their_seeds(name):
    options = {"time_limit": 8}
    first = [play(envs.make(name, 2, seeds, **options))[0] for seeds in ([3, 4], [3, 4], [3, 5], [5, 4])]
    assert not leaves_differ(first[0], first[1])
    assert np.array_equal(first[0].observation[:, 0], first[2].observation[:, 0])  # each has its own seed
    assert leaves_differ(first[0].observation[:, 1], first[2].observation[:, 1])
    assert leaves_differ(first[0].observation[:, 0], first[3].observation[:, 0])


def test_observation_after_last_is_fresh():
    t, _ = play(envs.make("operant:Recall-v0", WIDTH))
    cue_shown = t.observation[..., :2].sum(-1) == 1
    assert np.array_equal(cue_shown, t.first)


def test_one_environment_does_not_depend_on_its_neighbours():
    env, keys = envs.make("CartPole-v1", 3), jax.random.split(jax.random.key(5), 3)
    alone = envs.make("CartPole-v1", 1)
    action = lambda t: (t.observation[:, 2] > 0.02).astype(jnp.int32)  # noqa: E731

    def run(env, keys):
        def step(carry, _):
            carry = env.step(carry[0], action(carry[1]))
            return carry, carry[1].observation

        return jax.lax.scan(step, env.reset(keys), None, 80)[1]

    np.testing.assert_allclose(jax.jit(run, static_argnums=0)(env, keys)[:, 1:2], run(alone, keys[1:2]), atol=1e-6)


def test_no_reset_is_computed_while_no_episode_ends():
    calls = []

    class Counting(Cells):
        def reset(self, key):
            jax.debug.callback(lambda: calls.append(1))
            return super().reset(key)

    env = batched(Counting(), 1, time_limit=4)
    play(env, length=3, policy=lambda t: jnp.zeros(1, jnp.int32))
    jax.effects_barrier()
    assert len(calls) == 1
    play(env, length=5, policy=lambda t: jnp.zeros(1, jnp.int32))
    jax.effects_barrier()
    assert len(calls) == 3


def test_equal_environments_share_a_compilation():
    assert envs.make("CartPole-v1", 4, gravity=9.0) == envs.make("CartPole-v1", 4, gravity=9.0)
    assert envs.make("CartPole-v1", 4) != envs.make("CartPole-v1", 4, gravity=9.0)
    assert hash(envs.make("operant:Recall-v0", 4)) == hash(envs.make("operant:Recall-v0", 4))


BEST = {
    "operant:Cells-v0": lambda t: jnp.ones(t.first.shape, jnp.int32),
    "operant:Dict-v0": lambda t: (t.observation["goal"] > t.observation["position"].argmax(-1)).astype(jnp.int32),
    "operant:Masked-v0": lambda t: jnp.where(
        t.observation[:, 0] == 1, t.action_mask.argmax(-1), 3 - t.action_mask[:, ::-1].argmax(-1)
    ),
    "operant:NoisyChain-v0": lambda t: jnp.maximum(0.5 - 0.1 * t.observation, 0.0)[:, None],
    "operant:Pair-v0": lambda t: jnp.stack([t.observation[:, :2].argmax(-1), t.observation[:, 2:].argmax(-1)], -1),
    "operant:Pixels-v0": lambda t: (t.observation.max((1, 3)).argmax(-1) // 5).astype(jnp.int32),
    "operant:RandomWalk-v0": lambda t: ((t.observation - 2.0) / 3.0)[:, None],
    "operant:Target-v0": lambda t: t.observation / 2.0,  # [-1, 1] means [-2, 2] there
}


@pytest.mark.parametrize("name", sorted(name for name in WORLDS if not hasattr(WORLDS[name](), "draw")))
def test_known_returns_of_the_worlds(name):
    def mean_return(policy):
        t, _ = play(envs.make(name, 256), length=400, policy=policy)  # long, as short episodes end sooner
        ends = np.cumsum(t.last, 0)
        whole = ends < ends[-1]  # steps of finished episodes
        whole[1:] |= t.last[1:] & (ends[1:] == ends[-1])
        return (t.score * whole).sum() / t.last.sum()

    info = envs.info(name)
    if name in BEST:
        assert mean_return(BEST[name]) == pytest.approx(info.optimal_return, abs=0.02)
    assert mean_return(None) == pytest.approx(info.random_return, abs=0.15)


def test_recall_can_be_answered_from_memory():
    t, actions = play(envs.make("operant:Recall-v0", 64), length=4)
    cue = t.observation[0, :, :2].argmax(-1)
    assert np.array_equal(t.reward[4], np.where(actions[3] == cue, 1.0, -1.0))


def test_actions_are_stretched_to_the_bounds():
    native = to_native(jnp.array([[-1.0], [0.5], [3.0]]), Target.action)
    np.testing.assert_allclose(native, [[-2.0], [1.0], [2.0]])
    t, _ = play(envs.make("operant:Target-v0", 2), policy=lambda t: jnp.full((2, 1), 0.5), length=3)
    np.testing.assert_allclose(t.reward[1], -((1.0 - t.observation[0, :, 0]) ** 2), rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------ wrappers
def test_frame_stack_does_not_reach_over_resets():
    n = 3
    plain, _ = play(envs.make("operant:Pixels-v0", WIDTH))
    stacked, _ = play(envs.make("operant:Pixels-v0", WIDTH, frame_stack=n))
    frames = stacked.observation.reshape(*stacked.observation.shape[:-1], n, 3)
    age = 0
    for i in range(LENGTH + 1):
        age = 0 if plain.first[i, 0] else age + 1
        for back in range(n):
            source = plain.observation[i - min(back, age), 0]
            assert np.array_equal(frames[i, 0, ..., n - 1 - back, :], source)


def test_clipped_reward_keeps_the_score():
    t, _ = play(envs.make("operant:Target-v0", WIDTH, reward_clip=True))
    assert t.score.min() < -1.5 and t.reward.min() == -1.0
    np.testing.assert_array_equal(t.reward, t.score.clip(-1, 1))


def test_sticky_actions_repeat_within_an_episode_only():
    env = envs.make("operant:Pair-v0", 512, sticky=0.25)
    t, actions = play(env, length=12)
    plain, _ = play(envs.make("operant:Pair-v0", 512), length=12)
    cue = np.stack([t.observation[..., :2].argmax(-1), t.observation[..., 2:].argmax(-1)], -1)
    expected = (actions == cue[:-1]).mean(-1)
    live = ~t.first[1:]
    same = t.reward[1:] == expected
    assert np.array_equal(t.observation, plain.observation)
    assert same[0].all()  # the first action of an episode is executed
    # 0.25 of the rest repeat the action before; by chance that pays the same in 5/12 + 1/36 of the cases
    assert 0.8 < same[1:][live[1:]].mean() < 0.97


def test_time_limit_as_a_wrapper():
    inner = envs.make("operant:Cells-v0", WIDTH)
    env = envs.make(inner, WIDTH, time_limit=3)
    t, _ = play(env)
    assert env.spec.time_limit == 3
    assert np.array_equal(t.first[1:], t.last[:-1])
    elapsed = steps_of_the_episode(t)
    assert np.array_equal(t.last, (elapsed == 3) | (t.discount == 0))
    assert (elapsed[t.discount == 0] == 2).any() and (t.last & (t.discount == 1)).any()
    begins = t.observation[t.first]
    assert np.all(begins[:, :2].sum(-1) == 1)  # Cells starts in cell 0 or 1
    assert len({tuple(row) for row in begins}) == 2
    with pytest.raises(UserError, match="time_limit="):
        wrappers.TimeLimit(envs.make("gym:CartPole-v1", 1), 3)


def test_previous_action_and_reward_in_the_observation():
    t, actions = play(envs.make("operant:Cells-v0", WIDTH, previous_action_reward=True))
    np.testing.assert_array_equal(t.observation["previous_reward"], t.reward)
    live = ~t.first[1:]
    np.testing.assert_array_equal(t.observation["previous_action"][1:][live], actions[live])


# ------------------------------------------------------------------------------------------------------------ registry
def test_every_gymnax_environment_keeps_its_time_limit():
    for name in [n for n in envs.names() if envs.info(n).adapter == "gymnax"]:
        env = envs.make(name, 2, time_limit=3)
        state, t = jax.eval_shape(env.reset, jax.random.split(jax.random.key(0), 2))
        after, t2 = jax.eval_shape(env.step, state, t.previous_action)
        same = jax.tree.map(lambda a, b: a.shape == b.shape and a.dtype == b.dtype, (state, t), (after, t2))
        assert all(jax.tree.leaves(same)), name
        assert env.spec.time_limit == 3


def test_unknown_names_list_near_matches():
    pairs = [("CartPol-v1", "CartPole-v1"), ("brakout-minatar", "Breakout-MinAtar"), ("Pong-v4", "Pong-v5")]
    for wrong, right in pairs:
        with pytest.raises(UserError, match=right) as caught:
            envs.make(wrong, 1)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="brax:ant|ant"):
        envs.make("brax:antt", 1)
    with pytest.raises(UserError, match="left out"):
        envs.make("MNISTBandit-bsuite", 1)
    with pytest.raises(UserError, match="several players"):
        envs.make("Go9x9-v1", 1)


@pytest.mark.parametrize("name", ["CartPole-v1", "Pong-v5", "operant:Recall-v0", "brax:ant", "Hopper-v4"])
def test_unknown_options_list_the_valid_ones(name):
    with pytest.raises(UserError, match="time_limit"):
        envs.make(name, 1, tiem_limit=3)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("Breakout-MinAtar", {"sticky": "often"}, "probability"),
        ("Breakout-MinAtar", {"time_limit": "long"}, "whole number above 0"),
        ("Breakout-MinAtar", {"time_limit": float("inf")}, "whole number above 0"),
        ("Breakout-MinAtar", {"frame_stack": None}, "whole number above 0"),
        ("Breakout-MinAtar", {"reward_clip": "no"}, "true or false"),
        ("Breakout-MinAtar", {"use_minimal_action_set": "no"}, "true or false"),
        ("CartPole-v1", {"gravity": "low"}, "a number"),
        ("CartPole-v1", {"live_bonus": float("nan")}, "a number"),
        ("Catch-bsuite", {"rows": 2.5}, "whole number"),
        ("operant:Recall-v0", {"delay": "short"}, "whole number"),
        ("operant:NoisyChain-v0", {"pay": "well"}, "a number"),
        ("Pong-v5", {"frame_skip": 0}, "whole number above 0"),
        ("Pong-v5", {"noop_max": "few"}, "whole number"),
        ("Pong-v5", {"full_action_space": "no"}, "true or false"),
        ("Hopper-v4", {"time_limit": "long"}, "whole number above 0"),
        ("FetchReach-v4", {"reward_type": True}, "a text"),
        ("gym:CartPole-v1", {"asynchronous": "no"}, "true or false"),
        ("gym:CartPole-v1", {"step_timeout": "long"}, "a number"),
        ("gym:CartPole-v1", {"no_such_option": 1}, "no_such_option"),
        ("DeepSea-bsuite", {"size": 0}, "Gymnax cannot play"),
        ("Catch-bsuite", {"rows": -2}, "Gymnax cannot play"),
        ("MetaMaze-misc", {"maze_size": 2}, "Gymnax cannot play"),
        ("FrozenLake-misc", {"success_rate": 7}, "between 0 and 1"),
        ("operant:RandomWalk-v0", {"places": 0}, "at least 1"),
        ("operant:Recall-v0", {"delay": -1}, "at least 0"),
        ("operant:NoisyChain-v0", {"signals": 0}, "at least 1"),
        ("operant:SmallGrid-v0", {"smallest": -4}, "1 <= smallest"),
    ],
)
def test_an_option_of_another_kind_is_told_with_what_was_expected(name, options, expected):
    with pytest.raises(UserError, match=expected) as caught:
        envs.make(name, 1, **options)
    assert next(iter(options)) in str(caught.value) and "\n" not in str(caught.value)


def test_an_option_is_taken_in_the_type_of_its_default():
    assert envs.make("CartPole-v1", 1, time_limit=7.0).spec.time_limit == 7
    assert envs.make("Breakout-MinAtar", 1, use_minimal_action_set=0).spec.action == Discrete(6)
    for value in (4, "4"):
        taken = like("map", value, "4x4")
        assert taken == "4" and isinstance(taken, str)
    assert isinstance(like("gravity", 9, 9.8), float) and like("seen", 1, False) is True
    assert like("place", (1, 2), None) == (1, 2)


def test_bad_numbers_are_refused():
    for bad in (0, -1, 2.5, True):
        with pytest.raises(UserError, match="num_envs"):
            envs.make("CartPole-v1", bad)
    with pytest.raises(UserError, match="seeds"):
        envs.make("CartPole-v1", 2, [1])
    with pytest.raises(UserError, match="no observations with these options"):
        envs.make("FrozenLake-v1", 1, size=0)
    with pytest.raises(UserError, match="sticky"):
        envs.make("CartPole-v1", 2, sticky=1.5)
    with pytest.raises(UserError, match="time_limit"):
        envs.make("CartPole-v1", 2, time_limit=0)
    with pytest.raises(UserError, match="one key"):
        envs.make("CartPole-v1", 2).reset(jax.random.split(jax.random.key(0), 3))
    with pytest.raises(UserError, match="action has the shape"):
        env = envs.make("operant:Target-v0", 2)
        env.step(env.reset(jax.random.split(jax.random.key(0), 2))[0], jnp.zeros(2))


def test_names_prefixes_and_aliases():
    assert envs.info("CartPole-v1").adapter == "gymnax"
    assert envs.info("envpool:CartPole-v1").adapter == "envpool"
    assert envs.info("gymnax:CartPole-v1") == envs.info("CartPole-v1")
    assert envs.info("envpool:Pong-v5") == envs.info("Pong-v5")
    assert envs.info("MinAtar/Breakout-v1").name == "Breakout-MinAtar"
    assert isinstance(envs.make("gymnax:CartPole-v1", 1), Batched)
    assert envs.make("envpool:CartPole-v1", 1).host
    assert "Pong-v5" in envs.names("pong") and "Pong-v5" in envs.names("P?ng-*") and "Pong-v5" not in envs.names("cart")


def test_an_environment_of_ones_own():
    envs.register("Own-v0", Recall, delay=1)
    assert "Own-v0" in envs.names()
    env = envs.make("Own-v0", 2)
    t, _ = play(env, length=4)
    assert env.spec.name == "Own-v0" and t.last[2].all()
    envs.register("Own-v1", lambda num_envs, seeds, **options: envs.make("operant:Pair-v0", num_envs, seeds, **options))
    assert envs.make("Own-v1", 3).spec.action == MultiDiscrete((2, 3))
    envs.register("Own-v2", "operant:Pair-v0")
    assert envs.make("Own-v2", 3).spec.name == "operant:Pair-v0"
    assert envs.make(Cells(), 3, time_limit=5).spec.time_limit == 5
    with pytest.raises(UserError, match="taken"):
        envs.register("Pong-v5", Recall)
    with pytest.raises(UserError, match="no environment"):
        envs.make(3, 1)


class Bare:
    """A finished environment that cannot be made again."""

    def __init__(self, env, host):
        self.spec, self.num_envs, self.host = env.spec, env.num_envs, host
        self.reset, self.step, self.close = env.reset, env.step, env.close


def test_a_finished_environment_has_any_width():
    for name, options in [
        ("operant:Pair-v0", {}),
        ("CartPole-v1", {"frame_stack": 2, "time_limit": 5, "sticky": 0.1}),
        ("envpool:CartPole-v1", {"time_limit": 5, "reward_delay": 2}),
        ("gym:CartPole-v1", {"time_limit": 5, "previous_action_reward": True}),
    ]:
        finished = envs.make(name, 2, **options)
        for width in (2, 3):
            env, same = envs.make(finished, width, range(width)), envs.make(name, width, range(width), **options)
            assert env.spec == same.spec and env.spec.num_envs == width
            assert (env is not finished) or not env.host
            assert not leaves_differ(play(env, 12), play(same, 12))
            env.close()
        play(finished, 3)  # closing the other did not close it
        finished.close()
    inner = envs.make("CartPole-v1", 2)
    assert envs.make(Bare(inner, False), 2).spec == inner.spec
    with pytest.raises(UserError, match="num_envs=2.*callable"):
        envs.make(Bare(inner, False), 3)
    with pytest.raises(UserError, match="callable"):
        envs.make(wrappers.ClipReward(Bare(inner, True)), 2)


def test_describe():
    assert describe(Dict((("a", Discrete(3)), ("b", Box((2,), low=-1.0, high=1.0))))) == (
        "{a: Discrete(3), b: float32[2] in [-1, 1]}"
    )
    assert describe(MultiDiscrete((5,) * 10)) == "MultiDiscrete(5 x 10)"


def test_listing_imports_nothing_heavy():
    code = (
        "import sys; from operant import envs; assert envs.names('Pong') and envs.info('Pong-v5').time_limit == 27000;"
        "heavy = {'jax', 'numpy', 'envpool', 'gymnax', 'gymnasium', 'brax'} & set(sys.modules); assert not heavy, heavy"
    )
    root = pathlib.Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


def test_the_index_is_current(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings to a file where it stands
    listed = json.loads(index.PATH.read_text())
    known, left_out = listed["environments"], listed["left_out"]
    pool = index.envpool_names()
    for name in pool:
        assert name in known or name in left_out or f"envpool:{name}" in known, name
    for name in [*pool[::40], "Pong-v5", "CheetahRun-v1", "D1Basic-v1", "Taxi-v3"]:
        entry = known.get(f"envpool:{name}", known.get(name))
        if entry is not None and entry["adapter"] == "envpool" and entry["suite"] != "procgen":
            assert entry == index.envpool_entry(name), name
    for name in WORLDS:
        spec = envs.make(name, 1).spec
        assert known[name]["observation"] == describe(spec.observation) and known[name]["time_limit"] == spec.time_limit
        assert known[name].get("optimal_return") == getattr(WORLDS[name](), "optimal_return", None)
    for name, entry in known.items():
        if entry["adapter"] == "gymnax" and entry["suite"] in ("minatar", "classic_control"):
            spec = envs.make(name, 1).spec
            assert (describe(spec.observation), describe(spec.action)) == (entry["observation"], entry["action"])
            assert spec.time_limit == entry["time_limit"]
