"""EnvPool inside `jit`: the same numbers as its own Python loop, exact types, and what it says of episode ends."""

from __future__ import annotations

import envpool as library
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operant import envs
from operant.envs import envpool, wrappers
from operant.envs.base import Host
from operant.errors import UserError
from operant.types import Discrete, to_native

SEEDS = [7, 3, 11]


def play(env, actions):
    """Timesteps [T + 1, B, ...] for given actions [T, B, ...], from one jit and scan."""

    @jax.jit
    def run(keys, actions):
        state, timestep = env.reset(keys)

        def step(state, action):
            return env.step(state, action)

        _, rest = jax.lax.scan(step, state, actions)
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), timestep, rest)

    return jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(0), env.num_envs), actions))


def python_loop(name, actions, **options):
    pool = library.make_gymnasium(name, num_envs=len(SEEDS), env_seed=SEEDS, num_threads=1, **options)
    observation, _ = pool.reset()
    rows = [(observation, np.zeros(len(SEEDS)), np.zeros(len(SEEDS), bool), np.zeros(len(SEEDS), bool))]
    for action in actions:
        *row, _info = pool.step(action)
        rows.append(tuple(row))
    if isinstance(observation, dict):
        join = lambda o: np.concatenate([np.asarray(v).reshape(len(SEEDS), -1) for v in o.values()], -1)  # noqa: E731
        rows = [(join(o), *rest) for o, *rest in rows]
    return [np.stack(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize(
    "name, options, native, steps",
    [
        ("Pong-v5", {"time_limit": 20}, {"max_episode_steps": 20}, 50),
        ("envpool:CartPole-v1", {"time_limit": 15}, {"max_episode_steps": 15}, 80),
        ("Hopper-v4", {"time_limit": 15}, {"max_episode_steps": 15}, 60),
        ("CheetahRun-v1", {"time_limit": 15}, {"max_episode_steps": 15}, 40),
    ],
)
def test_same_trajectories_as_the_python_loop(name, options, native, steps):
    env = envs.make(name, len(SEEDS), SEEDS, **options)
    rng = np.random.default_rng(0)
    if isinstance(env.spec.action, Discrete):
        actions = rng.integers(0, env.spec.action.n, (steps, len(SEEDS))).astype(np.int32)
        given = actions
    else:
        actions = rng.uniform(-1, 1, (steps, len(SEEDS), *env.spec.action.shape)).astype(np.float32)
        given = np.asarray(to_native(actions, env.spec.action)).astype(np.float64)
    t = play(env, actions)
    observation, reward, terminated, truncated = python_loop(name.removeprefix("envpool:"), given, **native)
    if name == "Pong-v5":
        observation = np.moveaxis(observation, 2, -1)
    np.testing.assert_array_equal(t.observation, observation.astype(t.observation.dtype))
    np.testing.assert_array_equal(t.score, np.where(t.first, 0, reward))
    np.testing.assert_array_equal(t.last, terminated | truncated)
    np.testing.assert_array_equal(t.discount, 1.0 - terminated)
    assert truncated.any() and np.array_equal(t.first[1:], t.last[:-1])


def test_cartpole_terminates_with_discount_0_and_is_cut_with_1():
    env = envs.make("envpool:CartPole-v1", 8, time_limit=12)
    t = play(env, np.random.default_rng(0).integers(0, 2, (80, 8)).astype(np.int32))
    fell = np.abs(t.observation[..., 2]) > 0.2095
    elapsed = np.zeros_like(t.first, int)
    for i in range(1, len(elapsed)):
        elapsed[i] = np.where(t.first[i], 0, elapsed[i - 1] + 1)
    early = t.last & (elapsed < 12)
    assert early.any() and np.all(t.discount[early] == 0) and np.all(fell[early])
    cut = t.last & (elapsed == 12)
    assert cut.any() and np.all(t.discount[cut] == 1)
    assert np.all(t.discount[~t.last] == 1)


def test_float64_actions_are_exact():
    env = envs.make("Hopper-v4", 2, time_limit=20)
    declared = library.make_spec("Hopper-v4").action_array_spec["action"]
    assert declared.dtype == np.float64  # what makes this dangerous
    state, _ = jax.eval_shape(env.reset, jax.random.split(jax.random.key(0), 2))
    text = jax.jit(env.step).lower(state, jnp.zeros((2, 3), jnp.float32)).as_text()
    call = next(line for line in text.splitlines() if "custom_call" in line and "send" in line)
    assert "tensor<2x3xf64>" in call and "tensor<2x3xf32>" not in call
    # any number type may come in; what goes out is checked
    for dtype in (jnp.float32, jnp.bfloat16, jnp.int32):
        jax.eval_shape(env.step, state, jax.ShapeDtypeStruct((2, 3), dtype))
    with pytest.raises(UserError, match="action has the shape"):
        jax.eval_shape(env.step, state, jax.ShapeDtypeStruct((2, 4), jnp.float32))
    for wrong in (jnp.zeros((2, 3), jnp.float32), jnp.zeros((3, 3), jnp.float32), jnp.zeros((2, 2), jnp.float32)):
        with pytest.raises(TypeError, match="must be float64"):
            envpool._exactly(wrong, declared, 2, "action")
    with jax.enable_x64(True):
        right = jnp.zeros((2, 3), jnp.float64)
        assert envpool._exactly(right, declared, 2, "action") is right
    assert env.reset(jax.random.split(jax.random.key(0), 2))[1].observation.dtype == jnp.float32
    assert not jax.config.jax_enable_x64


def test_rows_are_in_the_order_of_the_environments():
    # Each environment's row depends on its own seed and actions only, whichever thread is done first.
    actions = np.random.default_rng(1).integers(0, 6, (30, 6)).astype(np.int32)
    many = play(envs.make("Pong-v5", 6, [1, 2, 3, 4, 5, 6], time_limit=12, num_threads=3), actions)
    for i in (0, 3, 5):
        alone = play(envs.make("Pong-v5", 1, [i + 1], time_limit=12), actions[:, i : i + 1])
        np.testing.assert_array_equal(many.observation[:, i], alone.observation[:, 0])


def test_first_observation_of_atari_holds_equal_frames():
    t = play(envs.make("Breakout-v5", 2, time_limit=6), np.ones((16, 2), np.int32))
    assert t.observation.shape == (17, 2, 84, 84, 4) and t.observation.dtype == np.uint8
    for frames in t.observation[t.first]:
        assert all(np.array_equal(frames[..., 0], frames[..., i]) for i in range(1, 4))


def test_atari_options():
    assert envs.make("Pong-v5", 1, frame_stack=2).spec.observation.shape == (84, 84, 2)
    assert envs.make("Pong-v5", 1, full_action_space=True).spec.action == Discrete(18)
    assert envs.make("Pong-v5", 1).spec.time_limit == 27000
    with pytest.raises(UserError, match="episodic_life.*noop_max"):
        envs.make("Pong-v5", 1, episodic_life=True)  # would falsify returns; life_loss_terminates is the way
    with pytest.raises(UserError, match="frame_skip"):
        envs.make("Pong-v5", 1, frame_skp=4)
    with pytest.raises(UserError, match="clock"):
        envs.make("Game2048-v1", 1, time_limit=5)
    with pytest.raises(UserError, match="seed"):
        envs.make("Pong-v5", 1, [-1])


def test_every_wrapper_is_at_hand():
    values = {"reward_clip": True, "sticky": 0.1, "previous_action_reward": True}
    for name in ("Hopper-v4", "Pong-v5"):
        for option in wrappers.OPTIONS:
            env = envs.make(name, 1, **{option: values.get(option, 2)})
            assert env.spec.num_envs == 1
            env.close()


def test_rewards_are_clipped_for_learning_only():
    # SpaceInvaders pays 5 to 30 points, and random shots hit something.
    actions = np.random.default_rng(0).integers(0, 6, (300, 2)).astype(np.int32)
    t = play(envs.make("SpaceInvaders-v5", 2), actions)
    assert t.score.max() >= 5
    np.testing.assert_array_equal(t.reward, t.score.clip(-1, 1))
    raw = play(envs.make("SpaceInvaders-v5", 2, reward_clip=False), actions)
    np.testing.assert_array_equal(raw.reward, raw.score)
    np.testing.assert_array_equal(raw.score, t.score)


def test_a_lost_life_terminates_learning_but_not_the_episode():
    # After FIRE the ball falls past a paddle that stands still: lives are lost one by one.
    actions = np.ones((160, 2), np.int32)
    plain = play(envs.make("Breakout-v5", 2), actions)
    t = play(envs.make("Breakout-v5", 2, life_loss_terminates=True), actions)
    np.testing.assert_array_equal(t.observation, plain.observation)
    np.testing.assert_array_equal(t.last, plain.last)
    lost = (t.discount == 0) & ~t.last
    assert lost.any() and np.all(plain.discount[lost] == 1)
    assert 1 <= lost[:, 0].sum() <= 5


def test_masks_come_with_the_timestep():
    env = envs.make("Game2048-v1", 2)
    t = play(env, np.zeros((6, 2), np.int32))
    assert env.spec.action_mask and t.action_mask.shape == (7, 2, 4) and t.action_mask.any(-1).all()


def test_dictionaries_of_vectors_are_flattened_where_the_field_does():
    assert envs.make("CheetahRun-v1", 1).spec.observation.shape == (17,)
    plain = envs.make("CheetahRun-v1", 1, flatten=False).spec.observation
    assert [name for name, _ in plain.items] == ["position", "velocity"]
    assert "image" in dict(envs.make("MiniGrid-Empty-5x5-v0", 1).spec.observation.items)


def test_reset_begins_again_and_close_ends():
    env = envs.make("envpool:CartPole-v1", 2, time_limit=50)
    keys = jax.random.split(jax.random.key(0), 2)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, t = reset(keys)
    assert isinstance(state, Host)
    for _ in range(5):
        state, t = step(state, jnp.zeros(2, jnp.int32))
        assert not t.first.any()
    state, t = reset(keys)
    assert t.first.all() and np.abs(t.observation).max() <= 0.05
    state, t = step(state, jnp.zeros(2, jnp.int32))
    assert not t.first.any() and np.all(t.reward == 1)
    env.close()
    with pytest.raises(UserError, match="closed"):
        env.reset(keys)


def test_it_cannot_be_mapped():
    env = envs.make("envpool:CartPole-v1", 2)
    state, _ = env.reset(jax.random.split(jax.random.key(0), 2))
    with pytest.raises(NotImplementedError):
        jax.vmap(lambda action: env.step(state, action)[1])(jnp.zeros((3, 2), jnp.int32))


def test_atari_stacks_are_rebuilt_from_single_frames():
    """What lets a memory keep each frame once: within an episode a stack is the last four observations' newest frames,
    and at its start the first one four times."""
    env = envs.make("Pong-v5", 2, [5, 6], time_limit=25)
    assert env.spec.observation.stack == 4
    actions = np.random.default_rng(0).integers(0, 6, (60, 2))
    t = play(env, actions)
    newest = t.observation[..., -1]
    assert t.first.sum() > 4
    for env_index in range(2):
        for row in range(61):
            at, frames = row, []
            for _ in range(4):
                frames.insert(0, newest[at, env_index])
                at = at if t.first[at, env_index] else at - 1
            np.testing.assert_array_equal(t.observation[row, env_index], np.stack(frames, -1))
    env.close()
