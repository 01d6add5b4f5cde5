"""Memories beside a plain Python list of everything that happened: what is sampled happened, and as it happened."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operant.errors import UserError
from operant.memory import EpisodicReplay, PrioritizedReplay, Replay, SequenceReplay, sum_tree
from operant.run import rows
from operant.types import Batch, Box, Dict, Discrete, Spec

STACK = 3
SHAPES = st.sampled_from([(1, 1, 1, 1), (3, 4, 3, STACK), (2, 3, 4, 1)])
"""Environments, rows of a rollout, n or length, frames of a stack: few, since each is compiled."""


class World:
    """Random episodes in B columns by the rule of next-step auto-reset, kept whole: what a memory is held against.

    Every frame is a number of its own, so a frame tells where it came from.
    """

    def __init__(self, seed: int, width: int, rollout: int, stack: int = 1):
        self.random = np.random.default_rng(seed)
        self.width, self.rollout, self.stack = width, rollout, stack
        box = Box((1, stack), "float32", stack=stack)
        self.spec = Spec(Dict((("seen", box), ("plain", Box((2,))))), Discrete(4), num_envs=width)
        self.frames, self.first = [self._frame(0)], [np.ones(width, bool)]
        self.action, self.reward, self.discount, self.valid = [], [], [], []
        self.over = np.zeros(width, bool)  # the episode has ended: the next row resets

    def begin_anew(self) -> None:
        """Breaks off the episodes, and begins others: where the last row led is not seen."""
        self.valid[-1], self.first[-1] = np.zeros(self.width, np.float32), np.ones(self.width, bool)
        self.over = np.zeros(self.width, bool)

    def _frame(self, row: int) -> np.ndarray:
        return (row * self.width + np.arange(self.width)).astype(np.float32)

    def step(self) -> None:
        row = len(self.reward)
        resets = self.over
        ends = (self.random.random(self.width) < 0.2) & ~resets
        terminal = ends & (self.random.random(self.width) < 0.5)
        self.action.append(self.random.integers(0, 4, self.width).astype(np.int32))
        self.reward.append(np.where(resets, 0, self.random.normal(size=self.width)).astype(np.float32))
        self.discount.append(np.where(terminal, 0, 1).astype(np.float32))
        self.valid.append(1.0 - resets.astype(np.float32))
        self.frames.append(self._frame(row + 1))
        self.first.append(resets.copy())
        self.over = ends

    def seen(self, row: int, env: int) -> np.ndarray:
        """The stacked observation at a row, [1, stack], oldest first."""
        frames, at = [], row
        for _ in range(self.stack):
            frames.append(self.frames[at][env])
            at = at if self.first[at][env] else at - 1
        return np.asarray(frames[::-1], np.float32)[None]

    def observation(self, row: int) -> dict:
        seen = np.stack([self.seen(row, env) for env in range(self.width)])
        plain = np.stack([self.frames[row], -self.frames[row]], axis=1)
        return {"seen": seen, "plain": plain}

    def collect(self) -> Batch:
        """The next rollout."""
        start = len(self.reward)
        for _ in range(self.rollout):
            self.step()
        rows = slice(start, start + self.rollout)
        stack = lambda items: jnp.asarray(np.stack(items))  # noqa: E731
        observations = [self.observation(t) for t in range(start, start + self.rollout + 1)]
        return Batch(
            observation=jax.tree.map(lambda *x: jnp.stack(x), *observations),
            first=stack(self.first[start : start + self.rollout + 1]),
            action=stack(self.action[rows]),
            reward=stack(self.reward[rows]),
            discount=stack(self.discount[rows]),
            valid=stack(self.valid[rows]),
            extras={"log_prob": stack(self.reward[rows]) * 2},
            carry=(jnp.full((self.width, 2), start, jnp.float32) + jnp.arange(self.width)[:, None],),
        )


def fill(memory, world: World, rollouts: int):
    memory.check()
    first = world.collect()
    stored = memory.init(jax.tree.map(jnp.zeros_like, first), world.spec)
    add = jax.jit(memory.add, static_argnums=2)
    stored = add(stored, first, world.spec)
    for _ in range(rollouts - 1):
        stored = add(stored, world.collect(), world.spec)
    return stored


def assert_window(world: World, batch: Batch, ticket, i: int, length: int, ends_only: bool) -> None:
    """Sample i of a batch is the `length` rows from its ticket on, to the end of the first episode within."""
    row, env = int(ticket.rows[i]), int(ticket.envs[i])
    inside = 0
    while inside < length and world.valid[row + inside][env]:
        inside += 1
    assert (np.asarray(batch.valid[:, i]) > 0).sum() == inside
    for t in range(inside):
        for name in ("action", "reward", "discount"):
            assert getattr(batch, name)[t, i] == getattr(world, name)[row + t][env], (name, t)
        assert batch.extras["log_prob"][t, i] == 2 * world.reward[row + t][env]
    places = [(0, 0), (-1, inside)] if ends_only else [(t, t) for t in range(inside + 1)]
    for at, t in places:
        np.testing.assert_array_equal(batch.observation["seen"][at, i], world.seen(row + t, env))
        assert batch.observation["plain"][at, i, 0] == world.frames[row + t][env]
        assert bool(batch.first[at, i]) == world.first[row + t][env]


@pytest.mark.parametrize("kind", [Replay, PrioritizedReplay])
@given(seed=st.integers(0, 10**6), rollouts=st.integers(4, 14), shape=SHAPES)
@settings(max_examples=8, deadline=None)
def test_every_transition_that_is_sampled_happened(kind, seed, rollouts, shape):
    width, rollout, n_step, stack = shape
    world = World(seed, width, rollout, stack)
    memory = kind(capacity=12 * width * rollout, batch_size=64, n_step=n_step, learning_starts=1)
    stored = fill(memory, world, rollouts)
    if not memory.ready(stored):
        assert len(world.reward) <= n_step
        return
    batch, ticket = jax.jit(memory.sample, static_argnums=2)(stored, jax.random.key(seed), world.spec)
    written, length = rollouts * rollout, stored.length
    for i in range(64):
        row, env = int(ticket.rows[i]), int(ticket.envs[i])
        assert max(written - length, 0) <= row <= written - 1 - n_step + 1 and row + n_step <= written
        assert world.valid[row][env] == 1
        assert_window(world, batch, ticket, i, n_step, ends_only=True)


@pytest.mark.parametrize("kind", [Replay, PrioritizedReplay, SequenceReplay])
def test_what_is_sampled_happened_where_environments_began_anew(kind):
    world = World(6, 3, 4, STACK)
    length = {"length": 6, "burn_in": 1} if kind is SequenceReplay else {"n_step": 3}
    memory = kind(capacity=144, batch_size=256, learning_starts=1, **length)
    stored, add = fill(memory, world, 4), jax.jit(memory.add, static_argnums=2)
    for rollouts in (1, 3):
        world.begin_anew()
        lane = jax.tree.map(lambda x: x[None] if x.ndim else x, stored)
        stored = jax.tree.map(lambda x: x[0] if x.ndim else x, rows.cut(lane, [int(stored.written) - 1]))
        for _ in range(rollouts):
            stored = add(stored, world.collect(), world.spec)
    batch, ticket = jax.jit(memory.sample, static_argnums=2)(stored, jax.random.key(0), world.spec)
    for i in range(256):
        row, env = int(ticket.rows[i]), int(ticket.envs[i])
        if kind is not SequenceReplay:
            assert world.valid[row][env] == 1
            assert_window(world, batch, ticket, i, 3, ends_only=True)
            continue
        assert all(batch.valid[t, i] == world.valid[row + t][env] for t in range(6))
        assert all(bool(batch.first[t, i]) == world.first[row + t][env] for t in range(7))
    if kind is SequenceReplay:
        assert any(row < cut < row + 5 for row in np.asarray(ticket.rows) for cut in (15, 19))


def test_uniform_replay_draws_every_transition_equally_often():
    world = World(1, 2, 4, STACK)
    memory = Replay(capacity=64, batch_size=4096, n_step=2, learning_starts=1)
    stored = fill(memory, world, 11)  # the ring has wrapped
    _, ticket = memory.sample(stored, jax.random.key(0), world.spec)
    counts = collections.Counter(zip(np.asarray(ticket.rows).tolist(), np.asarray(ticket.envs).tolist(), strict=True))
    rows = range(44 - 32 + STACK - 1, 44 - 2)
    drawable = {(row, env) for row in rows for env in range(2) if world.valid[row][env]}
    assert set(counts) == drawable
    expected = 4096 / len(drawable)
    assert max(abs(n - expected) for n in counts.values()) < 5 * expected**0.5


def test_priorities_decide_how_often_and_weights_take_it_back():
    world = World(2, 2, 4)
    memory = PrioritizedReplay(capacity=64, batch_size=8192, n_step=1, learning_starts=1, alpha=0.5, beta=1.0)
    stored = fill(memory, world, 10)
    _, ticket = memory.sample(stored, jax.random.key(0), world.spec)
    wanted = (ticket.places % 7 + 1).astype(jnp.float32)
    index = memory.update(stored.index, ticket, -wanted)  # an error of any sign
    stored = stored.replace(index=index)
    batch, ticket = memory.sample(stored, jax.random.key(1), world.spec)
    rows = range(40 - 32, 40 - 1)
    drawable = [(row % 32) * 2 + env for row in rows for env in range(2) if world.valid[row][env]]
    weights = {place: (place % 7 + 1) ** 0.5 for place in drawable}
    counts = collections.Counter(np.asarray(ticket.places).tolist())
    assert set(counts) == set(drawable)
    for place, weight in weights.items():
        expected = 8192 * weight / sum(weights.values())
        assert abs(counts[place] - expected) < 5 * expected**0.5 + 1
    # importance weights: proportional to 1 / P, the largest 1
    shown = {int(p): float(w) for p, w in zip(ticket.places, batch.weight[0], strict=True)}
    for place, weight in shown.items():
        assert weight == pytest.approx(min(weights.values()) / weights[place], rel=1e-4)


def test_the_exponent_of_the_weights_goes_from_beta_to_its_end():
    world = World(2, 2, 4)
    memory = PrioritizedReplay(
        capacity=64, batch_size=512, n_step=1, learning_starts=1, alpha=1.0, beta=0.2, beta_end=0.8
    )
    stored = fill(memory, world, 10)  # 80 rows
    _, ticket = memory.sample(stored, jax.random.key(0), world.spec)
    priority = (ticket.places % 3 + 1).astype(jnp.float32)
    stored = stored.replace(index=memory.update(stored.index, ticket, priority))
    for planned, beta in ((0, 0.2), (160, 0.5), (80, 0.8), (40, 0.8)):
        batch, ticket = memory.sample(stored, jax.random.key(1), world.spec.replace(total_steps=planned))
        weight = (np.asarray(ticket.places) % 3 + 1.0) ** -beta
        np.testing.assert_allclose(batch.weight[0], weight / weight.max(), rtol=1e-4)


def test_new_transitions_get_the_largest_priority():
    world = World(3, 1, 2)
    memory = PrioritizedReplay(capacity=32, batch_size=4, n_step=1, learning_starts=1, alpha=1.0)
    stored = fill(memory, world, 6)
    _, ticket = memory.sample(stored, jax.random.key(0), world.spec)
    stored = stored.replace(index=memory.update(stored.index, ticket, jnp.array([1.0, 9.0, 2.0, 3.0])))
    stored = memory.add(stored, world.collect(), world.spec)
    fresh = [row for row in (11, 12) if world.valid[row][0]]  # 14 rows written: 13 still waits for its end
    assert fresh and all(stored.index.tree[0][row % 32] == pytest.approx(9.0, abs=1e-3) for row in fresh)


@given(seed=st.integers(0, 10**6), rollouts=st.integers(6, 16), shape=SHAPES)
@settings(max_examples=8, deadline=None)
def test_sequences_come_with_the_carry_they_began_in(seed, rollouts, shape):
    width, rollout, length, stack = shape
    length += 2
    world = World(seed, width, rollout, stack)
    memory = SequenceReplay(capacity=14 * width * rollout, batch_size=32, length=length, burn_in=1, learning_starts=1)
    stored = fill(memory, world, rollouts)
    if not memory.ready(stored):
        return
    batch, ticket = jax.jit(memory.sample, static_argnums=2)(stored, jax.random.key(seed), world.spec)
    for i in range(32):
        row, env = int(ticket.rows[i]), int(ticket.envs[i])
        assert row % rollout == 0 and row + length < rollouts * rollout
        assert row >= max(rollouts * rollout - stored.length, 0)
        np.testing.assert_array_equal(batch.carry[0][i], np.full(2, row + env, np.float32))
        for t in range(length):
            assert batch.valid[t, i] == world.valid[row + t][env]
            assert batch.reward[t, i] == world.reward[row + t][env]
        for t in range(length + 1):
            np.testing.assert_array_equal(batch.observation["seen"][t, i], world.seen(row + t, env))
    index = memory.update(stored.index, ticket, jnp.full(32, 2.0))
    assert all(float(index.tree[0][p]) == pytest.approx((2.0 + 1e-6) ** 0.9, rel=1e-4) for p in ticket.places)


def test_every_whole_sequence_can_be_drawn():
    world = World(4, 2, 3)
    memory = SequenceReplay(capacity=60, batch_size=2048, length=5, burn_in=1, learning_starts=1)
    stored = fill(memory, world, 14)
    _, ticket = memory.sample(stored, jax.random.key(0), world.spec)
    starts = [row for row in range(42 - 30, 42) if row % 3 == 0 and row + 5 < 42]
    assert set(np.asarray(ticket.rows).tolist()) == set(starts)


@given(seed=st.integers(0, 10**6), rollouts=st.integers(4, 16), shape=SHAPES)
@settings(max_examples=8, deadline=None)
def test_episodes_are_whole(seed, rollouts, shape):
    width, rollout, _, stack = shape
    world = World(seed, width, rollout, stack)
    memory = EpisodicReplay(capacity=14 * width * rollout, batch_size=512, length=6, learning_starts=1)
    stored = fill(memory, world, rollouts)
    written = rollouts * rollout
    starts = set()
    for env in range(width):
        began = 0
        for row in range(written):
            if world.valid[row][env] == 0:
                if began >= written - stored.length and began < row:
                    starts.add((began, env))
                began = row + 1
    assert bool(memory.ready(stored)) == bool(starts)
    if not starts:
        return
    batch, ticket = jax.jit(memory.sample, static_argnums=2)(stored, jax.random.key(seed), world.spec)
    drawn = set(zip(np.asarray(ticket.rows).tolist(), np.asarray(ticket.envs).tolist(), strict=True))
    assert drawn <= starts
    assert len(starts) > 8 or drawn == starts  # 512 draws miss one of eight with a probability of 1e-29
    for i in range(32):
        assert_window(world, batch, ticket, i, 6, ends_only=False)


@given(st.sampled_from([2, 128, 129, 700]), st.integers(0, 10**6))
@settings(max_examples=12, deadline=None)
def test_the_sum_tree_finds_what_a_cumulative_sum_finds(size, seed):
    weights = np.random.default_rng(seed).integers(0, 6, size).astype(np.float32)
    weights[seed % len(weights)] = 1.0
    order = np.random.default_rng(seed).permutation(len(weights))
    tree = sum_tree.empty(len(weights))
    for part in np.array_split(order, 3):
        if len(part):
            tree = sum_tree.assign(tree, jnp.asarray(part), jnp.asarray(weights[part]))
    assert float(sum_tree.total(tree)) == weights.sum()
    units = int(weights.sum())
    share = np.full(6 * size, 0.5 / units)  # one length for all sizes of the sum
    share[:units] = (np.arange(units) + 0.5) / units  # each unit of weight once
    found = np.asarray(sum_tree.find(tree, jnp.asarray(share, jnp.float32)))[:units]
    np.testing.assert_array_equal(np.bincount(found, minlength=len(weights)), weights)


def test_a_million_frames_take_less_than_seven_and_a_half_gigabytes():
    box = Box((84, 84, 4), "uint8", 0.0, 255.0, stack=4)
    spec = Spec(box, Discrete(6), num_envs=1)
    blank = Batch(
        observation=jax.ShapeDtypeStruct((5, 1, 84, 84, 4), jnp.uint8),
        first=jax.ShapeDtypeStruct((5, 1), jnp.bool_),
        action=jax.ShapeDtypeStruct((4, 1), jnp.int32),
        reward=jax.ShapeDtypeStruct((4, 1), jnp.float32),
        discount=jax.ShapeDtypeStruct((4, 1), jnp.float32),
        valid=jax.ShapeDtypeStruct((4, 1), jnp.float32),
    )
    for memory in (Replay(capacity=1_000_000), PrioritizedReplay(capacity=1_000_000)):
        stored = jax.eval_shape(lambda blank, memory=memory: memory.init(blank, spec), blank)
        size = sum(np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(stored))
        assert 7.0e9 < size < 7.5e9


def test_a_memory_that_is_too_small_says_what_it_needs():
    world = World(0, 2, 4)
    with pytest.raises(UserError, match="raise the capacity to"):
        fill(Replay(capacity=16, n_step=12, learning_starts=1), world, 1)
    with pytest.raises(UserError, match="learning would never start"):
        Replay(capacity=100, learning_starts=200).check()
    with pytest.raises(UserError, match="nothing of length"):
        SequenceReplay(length=10, burn_in=10).check()
