"""A trained policy outside of the library: the units of the environment, one observation or a batch."""

from __future__ import annotations

import warnings

import envpool as library
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operant as op
from operant import envs
from operant.errors import UserError
from operant.run.policy import Policy

spaces = gymnasium.spaces


def env_class(observation, action):
    class Plain(gymnasium.Env):
        """Shows samples of its space, and takes legal actions only."""

        observation_space, action_space = observation, action

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.observation_space.seed(seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            assert self.action_space.contains(action)
            return self.observation_space.sample(), 1.0, False, False, {}

    return Plain


class Sees:
    """An agent that acts by what `look` finds in its observation."""

    def __init__(self, look):
        self.look = look

    def start(self, state, width):
        return ()

    def act(self, state, timestep, carry, key, explore):
        return self.look(timestep.observation), carry, {}


ACTIONS = {
    "discrete": spaces.Discrete(2, start=5),
    "multi-discrete": spaces.MultiDiscrete([2, 3], start=[1, -4]),
    "multi-binary": spaces.MultiBinary(3),
    "integers": spaces.Box(np.array([[-3, 0], [2, 7]]), np.array([[-1, 0], [4, 9]]), (2, 2), np.int64),
    "float64": spaces.Box(-0.4, 0.4, (3,), np.float64),
    "one side": spaces.Box(0.0, np.inf, (2,), np.float32),
}


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("options", [{}, {"frame_stack": 2}, {"reward_clip": True}])
def test_actions_are_legal_in_the_environment(kind: str, options: dict):
    plain = env_class(spaces.Box(-1.0, 1.0, (3,), np.float64), ACTIONS[kind])
    env = envs.make(plain, 1, **options)
    agent = op.A2C(num_envs=1, network=op.A2C().network.replace(hidden=(4,)))
    policy = Policy(agent, agent.init(jax.random.key(0), env.spec), env.spec, env=env, stochastic=True)
    width = env.spec.observation.shape[0]
    own = plain()
    own.reset(seed=0)
    seen = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Gymnasium warns of what it has to cast
        for _ in range(8):
            action = policy(np.ones(width))
            assert own.action_space.contains(action)
            own.step(action)
            seen.add(np.asarray(action).tobytes())
    assert len(seen) > 1
    batch = policy(np.zeros((4, width)))
    assert batch.shape == (4, *own.action_space.shape) and all(own.action_space.contains(one) for one in batch)
    env.close()


def test_images_have_their_channels_where_the_environment_has_them():
    env = envs.make(env_class(spaces.Box(0, 255, (3, 8, 9), np.uint8), spaces.Discrete(256)), 1)
    policy = Policy(Sees(lambda x: x[:, 2, 5, 1].astype(jnp.int32)), (), env.spec, env=env)
    image = np.random.default_rng(0).integers(0, 256, (3, 8, 9)).astype(np.uint8)
    assert policy(image) == policy(np.moveaxis(image, 0, -1)) == image[1, 2, 5]
    batch = np.stack([image, 255 - image])
    for form in (batch, np.moveaxis(batch, 1, -1)):
        np.testing.assert_array_equal(policy(form), batch[:, 1, 2, 5])
    with pytest.raises(UserError, match=r"\(8, 3, 9\).*\(3, 8, 9\)"):
        policy(image.swapaxes(0, 1))
    stacked = envs.make(env_class(spaces.Box(0, 255, (3, 8, 9), np.uint8), spaces.Discrete(256)), 1, frame_stack=2)
    policy = Policy(Sees(lambda x: x[:, 2, 5, 4].astype(jnp.int32)), (), stacked.spec, env=stacked)
    image = np.moveaxis(image, 0, -1)
    assert policy(np.concatenate([image, 255 - image], -1)) == 255 - image[2, 5, 1]  # as the agent saw it


def test_numbers_are_counted_from_where_the_environment_counts():
    action = spaces.Discrete(9)
    for space, native, meant in [
        (spaces.Discrete(3, start=4), 6, 2),
        (spaces.MultiDiscrete([4, 9], start=[1, 1]), np.array([1, 6]), 5),
        (spaces.Dict({"a": spaces.Box(0, 1, (2,)), "b": spaces.Discrete(3, start=1)}), {"a": [0, 0], "b": 2}, 1),
    ]:
        env = envs.make(env_class(space, action), 1)
        look = lambda x: (x["b"] if isinstance(x, dict) else x.reshape(x.shape[0], -1)[:, -1]).astype(jnp.int32)  # noqa: E731
        policy = Policy(Sees(look), (), env.spec, env=env)
        assert policy(native) == meant
        batch = jax.tree.map(lambda *x: np.stack([np.asarray(i) for i in x]), native, native)
        assert policy(batch).tolist() == [meant, meant]
        env.close()


@pytest.mark.parametrize("name", ["Pong-v5", "CheetahRun-v1", "HumanoidStandup-v4", "MiniGrid-Empty-5x5-v0"])
def test_a_policy_plays_in_envpools_own_loop(name: str):
    env = envs.make(name, 2)
    state, timestep = env.reset(jax.random.split(jax.random.key(0), 2))
    scale = lambda x: sum(jnp.sum(leaf.astype(jnp.float32).reshape(2, -1) ** 2, -1) for leaf in jax.tree.leaves(x))  # noqa: E731
    shape = env.spec.action.shape
    policy = Policy(
        Sees(lambda x: jnp.ones((2, *shape)) * (scale(x) > 0).reshape(2, *[1] * len(shape))), (), env.spec, env=env
    )
    pool = library.make_gymnasium(name, num_envs=2, env_seed=[0, 1])
    observation, _ = pool.reset()
    seen = env.native.observe(observation)
    for mine, theirs in zip(jax.tree.leaves(seen), jax.tree.leaves(timestep.observation), strict=True):
        assert mine.shape == theirs.shape and mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    action = policy(observation)
    assert all(pool.action_space.contains(one) for one in action)
    np.testing.assert_array_equal(action, policy(jax.device_get(timestep.observation)))
    pool.step(action)
    env.close()


def test_a_functional_environment_is_as_it_was():
    env = envs.make("CartPole-v1", 1)
    policy = Policy(Sees(lambda x: (x[:, 2] > 0).astype(jnp.int32)), (), env.spec, env=env)
    assert policy([0.0, 0.0, 0.05, 0.0]) == 1 and isinstance(policy([0.0, 0.0, 0.05, 0.0]), int)
    assert policy(np.zeros((3, 4))).tolist() == [0, 0, 0]
    with pytest.raises(UserError, match=r"\(3,\).*\(4,\)"):
        policy(np.zeros(3))


def test_the_policy_of_a_run_knows_its_environment(tmp_path):
    observation, action = spaces.Box(0, 255, (1, 8, 8), np.uint8), spaces.Discrete(2, start=5)
    plain = env_class(observation, action)
    agent = op.A2C(num_envs=1, rollout_length=5, network=op.A2C().network.replace(hidden=(4,)))
    run = op.train(
        agent, plain, steps=5, chunks=1, quiet=True, run_dir=tmp_path / "run", eval_episodes=1,
        env_options={"time_limit": 3},
    )  # fmt: skip
    own = plain()
    first, _ = own.reset(seed=0)
    assert action.contains(run.policy(first))
    run.program.close()
