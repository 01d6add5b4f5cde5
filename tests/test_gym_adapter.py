"""Any Gymnasium environment, including those that raise, hang and crash."""

from __future__ import annotations

import functools
import os
import threading
import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operant as op
from operant import envs
from operant.errors import EnvironmentFailure, UserError
from operant.run.policy import Policy
from operant.types import Box, Dict, Discrete, MultiDiscrete


class Counter(gymnasium.Env):
    """Shows how many steps its episode has had, and a number drawn at reset; terminates after `length`."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(2, start=5)

    def __init__(self, length=4, bad_action_at=None, trouble=""):
        self.length, self.bad_at, self.trouble = length, bad_action_at, trouble

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.mark = 0, self.np_random.uniform()
        if self.trouble == "reset":
            raise ValueError("no luck")
        return np.array([0.0, self.mark]), {}

    def step(self, action):
        assert action in (5, 6)
        self.time += 1
        if self.bad_at == self.time and action == 6:
            if self.trouble == "raise":
                raise ValueError("the game broke")
            if self.trouble == "hang":
                time.sleep(60)
            if self.trouble == "crash":
                os._exit(3)
        return np.array([self.time, self.mark]), 1.0, self.time == self.length, False, {}


class Masks(Counter):
    def _info(self):
        return {"action_mask": np.array([1, self.time % 2], np.int8)}

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, self._info()

    def step(self, action):
        *rest, _ = super().step(action)
        return *rest, self._info()


class Spaces(Counter):
    """Odd spaces: a dictionary with an image that has its channels in front, and a float64 action with bounds."""

    observation_space = gymnasium.spaces.Dict(
        {
            "image": gymnasium.spaces.Box(0, 255, (3, 8, 8), np.uint8),
            "kind": gymnasium.spaces.Discrete(3, start=1),
            "grid": gymnasium.spaces.MultiDiscrete([4, 5]),
        }
    )
    action_space = gymnasium.spaces.Box(np.array([-1.0, 0.0]), np.array([1.0, 4.0]), (2,), np.float64)

    def _observe(self):
        image = np.zeros((3, 8, 8), np.uint8)
        image[1, 2, 3] = 9
        return {"image": image, "kind": np.int64(2), "grid": np.array([3, 4])}

    def reset(self, *, seed=None, options=None):
        return self._observe(), {}

    def step(self, action):
        assert action.dtype == np.float64 and self.action_space.contains(action)
        return self._observe(), float(action[1]), False, False, {}


def play(env, actions):
    """Timesteps [T + 1, B, ...] for given actions [T, B, ...], from one jit and scan."""

    @jax.jit
    def run(keys, actions):
        state, timestep = env.reset(keys)
        _, rest = jax.lax.scan(env.step, state, actions)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), timestep, rest)

    return jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(0), env.num_envs), actions))


def zeros(steps, num_envs=2):
    return np.zeros((steps, num_envs), np.int32)


def test_steps_resets_and_types():
    env = envs.make(Counter, 2, length=3)
    assert env.spec.observation == Box((2,)) and env.spec.action == Discrete(2) and env.spec.name == "Counter"
    t = play(env, zeros(9))
    assert t.observation[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert t.first[:, 0].tolist() == [True, False, False, False, True, False, False, False, True, False]
    assert t.discount[:, 1].tolist() == [1, 1, 1, 0, 1, 1, 1, 0, 1, 1]
    assert t.reward[:, 1].tolist() == [0, 1, 1, 1, 0, 1, 1, 1, 0, 1]
    assert env.failures == 0
    env.close()


def test_same_as_gymnasium_itself():
    env = envs.make("gym:Pendulum-v1", 2, [5, 9], time_limit=6)
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 2, 1)).astype(np.float32)
    t = play(env, actions)
    for i, seed in enumerate([5, 9]):
        plain = gymnasium.make("Pendulum-v1", max_episode_steps=6)
        observation, _ = plain.reset(seed=seed)
        np.testing.assert_allclose(t.observation[0, i], observation, rtol=1e-6)
        for step in range(6):
            observation, reward, terminated, truncated, _ = plain.step(2 * actions[step, i])
            np.testing.assert_allclose(t.observation[step + 1, i], observation, rtol=1e-5)
            assert t.reward[step + 1, i] == pytest.approx(reward, rel=1e-5)
        assert truncated and t.last[6, i] and t.discount[6, i] == 1


def test_time_limit_of_a_callable_keeps_discount_1():
    t = play(envs.make(lambda: Counter(length=9), 2, time_limit=3), zeros(7))
    assert t.last[:, 0].tolist() == [False, False, False, True, False, False, False, True]
    assert np.all(t.discount == 1)


def test_spaces_of_all_kinds():
    env = envs.make(Spaces, 2)
    assert isinstance(env.spec.observation, Dict)
    assert dict(env.spec.observation.items) == {
        "image": Box((8, 8, 3), "uint8", 0.0, 255.0),
        "kind": Discrete(3),
        "grid": Box((2,), "float32", 0.0, (3.0, 4.0)),
    }
    assert env.spec.action == Box((2,), "float32", (-1.0, 0.0), (1.0, 4.0))
    t = play(env, np.full((3, 2, 2), 0.5, np.float32))
    assert t.observation["image"].shape == (4, 2, 8, 8, 3) and t.observation["image"][0, 0, 2, 3, 1] == 9
    assert np.all(t.observation["kind"] == 1) and np.all(t.observation["grid"] == [3, 4])
    np.testing.assert_allclose(t.reward[1:], 3.0)

    class Words(Counter):
        observation_space = gymnasium.spaces.Text(5)

    with pytest.raises(UserError, match="Text"):
        envs.make(Words, 1)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (gymnasium.spaces.Box(0, 1, (6, 6, 4), np.uint8), Box((6, 6, 4), "uint8", 0.0, 1.0)),
        (gymnasium.spaces.Box(0, 1, (4, 6, 6), np.uint8), Box((6, 6, 4), "uint8", 0.0, 1.0)),
        (gymnasium.spaces.Box(2, 9, (5,), np.uint8), Box((5,), "uint8", 2.0, 9.0)),
        (gymnasium.spaces.Box(0, 255, (5,), np.uint8), Box((5,), "uint8", 0.0, 255.0)),
        (
            gymnasium.spaces.Box(0, np.arange(18, dtype=np.uint8).reshape(2, 3, 3), (2, 3, 3), np.uint8),
            Box((3, 3, 2), "uint8", 0.0, tuple(float(c * 9 + i) for i in range(9) for c in range(2))),
        ),
    ],
)
def test_bytes_keep_their_bounds(space: gymnasium.Space, expected: Box):
    class Bytes(Counter):
        observation_space = space

        def reset(self, *, seed=None, options=None):
            return space.high, {}

    env = envs.make(Bytes, 1)
    assert env.spec.observation == expected
    _, timestep = env.reset(jax.random.split(jax.random.key(0), 1))
    assert timestep.observation.dtype == np.uint8
    np.testing.assert_array_equal(np.ravel(timestep.observation), np.broadcast_to(expected.high, space.shape).ravel()
                                  if np.ndim(expected.high) == 0 else expected.high)  # fmt: skip
    env.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_tuple_is_a_dictionary_of_numbered_parts(asynchronous: bool):
    env = envs.make("gym:Blackjack-v1", 2, [3, 4], asynchronous=asynchronous)
    assert env.spec.observation == Dict((("0", Discrete(32)), ("1", Discrete(11)), ("2", Discrete(2))))
    t = play(env, zeros(4))
    for i, seed in enumerate([3, 4]):
        hand, _ = gymnasium.make("Blackjack-v1").reset(seed=seed)
        assert tuple(int(t.observation[part][0, i]) for part in "012") == hand
    env.close()


class Pairs(Counter):
    """An image with its channels in front beside a pair of numbers."""

    observation_space = gymnasium.spaces.Tuple(
        (
            gymnasium.spaces.Box(0, 255, (3, 8, 8), np.uint8),
            gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(3, start=1), gymnasium.spaces.Box(-1.0, 1.0, ()))),
        )
    )

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}


def test_tuples_in_tuples_and_their_policy():
    env = envs.make(Pairs, 2)
    numbers = Dict((("0", Discrete(3)), ("1", Box((), low=-1.0, high=1.0))))
    assert env.spec.observation == Dict((("0", Box((8, 8, 3), "uint8", 0.0, 255.0)), ("1", numbers)))
    state, t = env.reset(jax.random.split(jax.random.key(0), 2))
    assert t.observation["0"].shape == (2, 8, 8, 3) and set(t.observation["1"]["0"].tolist()) <= {0, 1, 2}
    agent = op.A2C(num_envs=1, network=op.A2C().network.replace(hidden=(4,)))
    policy = Policy(agent, agent.init(jax.random.key(0), env.spec), env.spec, env=env)
    own = Pairs()
    observation, _ = own.reset()
    assert own.action_space.contains(policy(observation))
    assert policy(jax.tree.map(lambda x: np.stack([x, x]), observation)).shape == (2,)
    with pytest.raises(UserError, match="observation has shape"):
        policy(observation[:1])
    env.close()


def test_multi_discrete_actions():
    class Many(Counter):
        action_space = gymnasium.spaces.MultiDiscrete([2, 3])

        def step(self, action):
            return np.array([0.0, 0.0]), float(action @ [10, 1]), False, False, {}

    env = envs.make(Many, 2)
    assert env.spec.action == MultiDiscrete((2, 3))
    assert np.all(play(env, np.tile([1, 2], (2, 2, 1)).astype(np.int32)).reward[1:] == 12)


def test_action_masks():
    env = envs.make(Masks, 2, length=3)
    t = play(env, zeros(5))
    assert env.spec.action_mask
    assert t.action_mask[:, 0].tolist() == [[True, bool(x % 2)] for x in (0, 1, 2, 3, 0, 1)]


class PartMasks(Counter):
    """Masks for an action of two parts, in the form that is asked for."""

    def __init__(self, form, nvec=(2, 3)):
        super().__init__(length=3)
        self.form, self.action_space = form, gymnasium.spaces.MultiDiscrete(nvec)

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, {"action_mask": self.form(self.time % 2)}

    def step(self, action):
        observation, *rest, _ = super().step(5)
        return observation, *rest, {"action_mask": self.form(self.time % 2)}


PART_MASKS = {
    "side by side": (lambda odd: np.array([1, odd, 0, 1, odd], np.int8), (2, 3)),
    "tuple": (lambda odd: (np.array([1, odd], np.int8), np.array([0, 1, odd], np.int8)), (2, 3)),
    "list": (lambda odd: [[1, odd], [0, 1, odd]], (2, 3)),
    "rows": (lambda odd: np.array([[1, odd, 1], [0, 1, odd]], bool), (3, 3)),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("form", PART_MASKS)
def test_masks_of_actions_with_parts(form: str, asynchronous: bool):
    give, nvec = PART_MASKS[form]
    if asynchronous and form != "tuple":
        return
    env = envs.make(functools.partial(PartMasks, give, nvec), 2, asynchronous=asynchronous)
    assert env.spec.action_mask and env.spec.action == MultiDiscrete(nvec)
    t = play(env, np.zeros((5, 2, 2), np.int32))
    flat = [np.concatenate([np.ravel(part) for part in give(odd)] if form != "side by side" else [give(odd)])
            for odd in (0, 1, 0, 1, 0, 1)]  # fmt: skip
    np.testing.assert_array_equal(t.action_mask, np.stack([flat, flat], 1).astype(bool))
    agent = op.A2C(num_envs=1, network=op.A2C().network.replace(hidden=(4,)))
    policy = Policy(agent, agent.init(jax.random.key(0), env.spec), env.spec, env=env, stochastic=True)
    for _ in range(5):
        chosen = policy(np.zeros(2), action_mask=give(0))
        assert flat[0][chosen[0]] and flat[0][nvec[0] + chosen[1]]
    assert policy(np.zeros((2, 2)), action_mask=np.stack([flat[0]] * 2)).shape == (2, 2)
    with pytest.raises(UserError, match=r"shape \(4,\)"):
        policy(np.zeros(2), action_mask=np.ones(4))
    env.close()


@pytest.mark.parametrize(
    ("wrong", "shape"),
    [(np.ones(4), r"\(4,\)"), (np.ones((2, 3)), r"\(2, 3\)"), ((np.ones(3), np.ones(2)), r"\(\(3,\), \(2,\)\)")],
)
def test_masks_of_another_shape_are_refused(wrong, shape: str):
    with pytest.raises(UserError, match=f"mask of shape {shape}; expected 5 flags.*of 2, 3"):
        envs.make(lambda: PartMasks(lambda odd: wrong), 2)
    one = gymnasium.spaces.Discrete(2)

    class Narrow(Masks):
        action_space = one

        def _info(self):
            return {"action_mask": np.ones(1, np.int8)}

    with pytest.raises(UserError, match=r"mask of shape \(1,\)"):
        envs.make(Narrow, 1)


def test_a_raising_environment_is_made_again_and_the_others_go_on():
    env = envs.make(lambda: Counter(length=6, bad_action_at=2, trouble="raise"), 3)
    actions = zeros(8, 3)
    actions[1, 1] = 1  # the second environment raises at its second step
    t = play(env, actions)
    assert env.failures == 1
    assert t.observation[:, 1, 0].tolist() == [0, 1, 0, 1, 2, 3, 4, 5, 6]
    assert t.first[:, 1].tolist() == [True, False, True] + [False] * 6
    assert not t.last[:3, 1].any() and t.reward[2, 1] == 0 and t.discount[2, 1] == 1
    assert t.observation[:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 1]
    assert t.observation[0, 1, 1] != t.observation[2, 1, 1]  # another seed


def test_failures_are_bounded():
    env = envs.make(lambda: Counter(bad_action_at=1, trouble="raise"), 2, max_failures=3)
    with pytest.raises(Exception, match="the game broke"):
        play(env, zeros(20) + 1)
    assert isinstance(env.error, EnvironmentFailure) and "max_failures=3" in str(env.error)
    with pytest.raises(Exception, match="max_failures=3"):
        play(env, zeros(1))


def test_an_environment_that_cannot_start_is_refused():
    with pytest.raises(UserError, match="no luck"):
        envs.make(lambda: Counter(trouble="reset"), 1)


def test_a_hanging_environment_is_given_up():
    env = envs.make(lambda: Counter(length=50, bad_action_at=3, trouble="hang"), 2, step_timeout=0.5)
    actions = zeros(6)
    actions[2, 0] = 1
    t = play(env, actions)
    assert env.failures == 1
    assert t.observation[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 3] == t.observation[:, 1, 0].tolist()
    assert t.first[3].all() and not t.last.any()
    always = envs.make(lambda: Counter(bad_action_at=1, trouble="hang"), 1, step_timeout=0.2, max_failures=1)
    with pytest.raises(Exception, match="no answer within 0.2 s"):
        play(always, zeros(5, 1) + 1)
    assert isinstance(always.error, EnvironmentFailure)


def test_a_crash_costs_the_batch_its_episodes():
    env = envs.make(Counter, 2, asynchronous=True, length=50, bad_action_at=3, trouble="crash")
    actions = zeros(6)
    actions[2, 1] = 1
    t = play(env, actions)
    assert env.failures == 1
    assert t.observation[:, 0, 0].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert t.first[3].all() and not t.last.any()
    env.close()


def test_bad_requests_are_refused():
    with pytest.raises(UserError, match="length"):
        envs.make(Counter, 1, lenght=3)
    with pytest.raises(UserError, match="step_timeout"):
        envs.make(Counter, 1, step_timeout=0)
    with pytest.raises(UserError, match="Gymnasium cannot make"):
        envs.make("gym:NoSuchThing-v3", 1)
    env = envs.make(Counter, 1)
    env.close()
    with pytest.raises(Exception, match="closed"):
        play(env, zeros(1, 1))


class Locked(Counter):
    """One that cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Halved(gymnasium.Wrapper):
    """A wrapper that Gymnasium cannot make again: it does not say what it was made with."""

    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return observation, reward / 2, *rest


def test_an_instance_is_a_pattern_and_is_not_played_in():
    instance = Counter(length=3)
    before = dict(vars(instance))
    env = envs.make(instance, 2, [3, 4])
    t = play(env, zeros(6))
    assert env.spec.name == "Counter"
    assert t.observation[:, 0, 0].tolist() == [0, 1, 2, 3, 0, 1, 2] == t.observation[:, 1, 0].tolist()
    assert t.observation[0, 0, 1] != t.observation[0, 1, 1]
    assert vars(instance) == before
    assert envs.make(Counter(length=9), 1, time_limit=4).spec.time_limit == 4
    with pytest.raises(UserError, match="length"):
        envs.make(instance, 1, length=4)  # it is made already
    with pytest.raises(UserError, match="Locked.*callable") as caught:
        envs.make(Locked(), 1)
    assert "\n" not in str(caught.value)


def test_an_instance_with_an_id_is_made_again_from_it():
    instance = gymnasium.wrappers.TransformReward(gymnasium.make("Pendulum-v1", max_episode_steps=6), lambda r: 2 * r)
    env, plain = envs.make(instance, 2, [5, 9]), envs.make("gym:Pendulum-v1", 2, [5, 9], time_limit=6)
    assert env.spec.time_limit == 6 and env.spec.name == "Pendulum-v1"
    actions = np.zeros((6, 2, 1), np.float32)
    t, reference = play(env, actions), play(plain, actions)
    np.testing.assert_array_equal(t.observation, reference.observation)
    np.testing.assert_allclose(t.reward, 2 * reference.reward, rtol=1e-6)
    assert envs.make(instance, 1, time_limit=9).spec.time_limit == 9
    halved = envs.make(Halved(gymnasium.make("Pendulum-v1", max_episode_steps=6)), 2, [5, 9])
    assert halved.spec.time_limit == 6
    np.testing.assert_allclose(play(halved, actions).reward, reference.reward / 2, rtol=1e-6)


@pytest.mark.parametrize("eval_episodes", [1, 4])
def test_training_in_an_instance_and_in_a_finished_environment(eval_episodes: int, tmp_path):
    instance, finished = Counter(length=3), envs.make(Counter, 2, length=3)
    for index, (env, width) in enumerate([(instance, 1), (instance, 2), (finished, 2), (finished, 1)]):
        agent = op.A2C(num_envs=width, rollout_length=5, network=op.A2C().network.replace(hidden=(4,)))
        run = op.train(
            agent, env, steps=40, chunks=2, quiet=True, run_dir=tmp_path / str(index), eval_every=1,
            eval_episodes=eval_episodes,
        )  # fmt: skip
        assert run.steps >= 40 and run.curve[-1]["return_mean"] == 3
        run.program.close()
    assert not hasattr(instance, "time")
    assert play(finished, zeros(4)).reward[:, 0].tolist() == [0, 1, 1, 1, 0]  # still open, and where it was


def test_registered_in_gymnasium_or_here():
    gymnasium.register("OperantCounter-v0", Counter, max_episode_steps=3)
    env = envs.make("OperantCounter-v0", 2)
    assert env.spec.time_limit == 3
    envs.register("Count-v0", Counter, length=2)
    t = play(envs.make("Count-v0", 2), zeros(3))
    assert t.discount[2, 0] == 0
