"""R2D2: recurrent states of replayed sequences, rescaled n-step targets and priorities, computed by hand."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK, differing, largest_difference, leaves

import operant as op
from operant import action_value as av
from operant.agent import strong
from operant.envs.base import batched
from operant.envs.wrappers import PreviousActionReward
from operant.errors import UserError
from operant.memory import Replay, SequenceReplay
from operant.rollout import begin, blank_batch, environment_keys, rollout
from operant.types import Batch, Box, Discrete, Spec

pytestmark = pytest.mark.of("r2d2")

KEY = jax.random.key(0)


def tiny(recurrent: str = "lstm", burn_in: int = 3, length: int = 9, **changes) -> op.R2D2:
    network = av.RecurrentQNetwork(hidden=(8, 8), recurrent=recurrent, recurrent_size=8)
    memory = SequenceReplay(capacity=200, batch_size=16, length=length, burn_in=burn_in, learning_starts=1)
    agent = op.R2D2(num_envs=4, rollout_length=4, network=network, memory=memory).replace(**changes)
    agent.check()
    return strong(agent)


def louder(tree, by: float = 2.0):
    """Parameters whose recurrent state matters."""
    return jax.tree.map(lambda x: by * x, tree)


# --------------------------------------------------------------------------------------------------- recurrent states
@dataclasses.dataclass(frozen=True)
class Short:
    """Episodes of 1 to 5 steps, some terminated, some cut; the observation is random."""

    observation = Box((3,))
    action = Discrete(3)
    time_limit = 5

    def reset(self, key):
        return jnp.zeros(()), jax.random.normal(key, (3,))

    def step(self, key, state, action):
        end = jax.random.uniform(key)
        return state, jax.random.normal(key, (3,)), end, end < 0.15, end > 0.85


class Recording(op.R2D2):
    """R2D2 that hands over the action values it acted on, as extras."""

    def act(self, state, timestep, carry, key, explore=True):
        action, after, extras = super().act(state, timestep, carry, key, explore)
        observation, first = jax.tree.map(lambda x: x[None], (timestep.observation, timestep.first))
        q, _ = self.network.unroll(state.params, state.spec, self.head, observation, carry, first)
        return action, after, {**extras, "q": q[0]}


jax.tree_util.register_dataclass(
    Recording,
    [f.name for f in dataclasses.fields(op.R2D2) if f.type == "float" or f.metadata.get("child")],
    [f.name for f in dataclasses.fields(op.R2D2) if not (f.type == "float" or f.metadata.get("child"))],
)


@pytest.mark.parametrize("recurrent", ["lstm", "gru"])
def test_learning_sees_the_action_values_of_acting(recurrent: str):
    """While parameters do not change, at every step that is learned from, whatever episodes the sequence has in it."""
    plain = tiny(recurrent)
    agent = Recording(**{f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)})
    env = PreviousActionReward(batched(Short(), 4))
    spec = env.spec

    @functools.partial(jax.jit, compiler_options=QUICK)
    def play(key):
        state = agent.init(key, spec)
        state = state.replace(params=louder(state.params))
        one = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)  # noqa: E731
        stage = begin(one(agent), one(state), env, environment_keys(key, 4), 1)
        stored = agent.memory.init(blank_batch(agent, state, spec, agent.rollout_length), spec)

        def once(carried, key):
            stage, stored = carried
            stage, batch = rollout(one(agent), one(state), env, stage, key[None], agent.rollout_length)
            carry = jax.tree.map(lambda x: x[0], batch.carry)
            batch = jax.tree.map(lambda x: x[:, 0], batch.replace(carry=())).replace(carry=carry)
            return (stage, agent.memory.add(stored, batch, spec)), None

        (_, stored), _ = jax.lax.scan(once, (stage, stored), jax.random.split(key, 30))  # the ring has wrapped
        return state, agent.memory.sample(stored, key, spec)[0]

    state, batch = play(KEY)
    burn_in, acted = agent.memory.burn_in, np.asarray(batch.extras["q"])
    inside = np.asarray(batch.first)
    assert inside[1:burn_in].any() and inside[burn_in + 1 :].any() and not inside[0].all()

    def learned(agent, batch):
        return np.asarray(agent.values(state.params, spec, batch, None))[:-1]

    assert acted[burn_in:].std() > 0.1
    np.testing.assert_allclose(learned(agent, batch), acted[burn_in:], rtol=1e-4, atol=1e-5)
    # without burn-in the stored state is that of acting as well
    whole = agent.replace(memory=agent.memory.replace(burn_in=0))
    np.testing.assert_allclose(learned(whole, batch), acted, rtol=1e-4, atol=1e-5)
    # the test would see a state, or a reset, that was missed
    running = ~inside[: burn_in + 1].any(0)
    for wrong in (
        learned(agent.replace(start_state="zero"), batch),
        learned(agent, batch.replace(carry=jax.tree.map(lambda x: x[::-1], batch.carry))),
    ):
        assert np.abs(wrong - acted[burn_in:])[0, running].max() > 1e-3
        np.testing.assert_allclose(wrong[0, ~running], acted[burn_in, ~running], rtol=1e-4, atol=1e-5)
    missed = learned(agent, batch.replace(first=batch.first.at[1:].set(False)))
    assert np.abs(missed - acted[burn_in:]).max() > 1e-3


# ------------------------------------------------------------------------------------------------------------ targets
LENGTH, BURN_IN, WIDTH, ACTIONS = 9, 2, 3, 4
SPEC = Spec(Box((3,)), Discrete(ACTIONS), num_envs=4, total_steps=1000)


def sequences(mask: bool = False) -> Batch:
    """Three sequences of nine rows, two to burn in: one goes on, in one an episode terminates on arriving at row 5, in
    one a time limit cuts it there; the row after is the pseudo-transition, and the next episode begins at row 6."""
    rng = np.random.default_rng(0)
    first = np.zeros((LENGTH + 1, WIDTH), bool)
    valid, discount = np.ones((LENGTH, WIDTH), np.float32), np.ones((LENGTH, WIDTH), np.float32)
    first[6, 1:] = True
    valid[5, 1:] = 0
    discount[4, 1] = 0
    reward = rng.normal(0, 1, (LENGTH, WIDTH)).astype(np.float32) * valid
    masks = rng.random((LENGTH + 1, WIDTH, ACTIONS)) < 0.6
    masks[..., 0] = True
    return Batch(
        observation=jnp.asarray(rng.normal(0, 2, (LENGTH + 1, WIDTH, 3)), jnp.float32),
        first=jnp.asarray(first),
        action=jnp.asarray(rng.integers(0, ACTIONS, (LENGTH, WIDTH)), jnp.int32),
        reward=jnp.asarray(reward),
        discount=jnp.asarray(discount),
        valid=jnp.asarray(valid),
        carry=tuple(jnp.asarray(rng.normal(0, 0.5, (WIDTH, 8)), jnp.float32) for _ in range(2)),
        action_mask=jnp.asarray(masks) if mask else None,
        weight=jnp.asarray([[0.5, 1.0, 0.8]]),
    )


def two_networks(agent):
    """A state whose target network is another one."""
    state, other = (agent.init(jax.random.key(seed), SPEC) for seed in (1, 2))
    return state.replace(params=louder(state.params), target=louder(other.params, 3.0))


def h(x, e):
    return np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + e * x


def h_inverse(x, e):
    """Proposition A.2 of Pohlen et al. 2018."""
    return np.sign(x) * (((np.sqrt(1 + 4 * e * (np.abs(x) + 1 + e)) - 1) / (2 * e)) ** 2 - 1)


@functools.partial(jax.jit, compiler_options=QUICK)
def one_step(agent, params, observation, carry, first):
    carry = jax.tree.map(lambda x: jnp.where(first[:, None], 0.0, x), carry)
    never = jnp.zeros((1, WIDTH), bool)
    q, carry = agent.network.unroll(params, SPEC, agent.head, observation[None], carry, never)
    return q[0], carry


def one_by_one(agent, params, batch) -> np.ndarray:
    """Action values of every observation, computed step by step from the stored state."""
    carry, rows = batch.carry, []
    for observation, first in zip(batch.observation, batch.first, strict=True):
        q, carry = one_step(agent, params, observation, carry, first)
        rows.append(np.asarray(q, np.float64))
    return np.stack(rows)


def errors_by_hand(agent, state, batch, cut_is_death: bool = False, cross: bool = False) -> np.ndarray:
    """delta of each row after the burn-in, NaN where it is no experience."""
    q, target_q = one_by_one(agent, state.params, batch), one_by_one(agent, state.target, batch)
    mask = np.ones(q.shape, bool) if batch.action_mask is None else np.asarray(batch.action_mask)
    gamma, e = float(agent.gamma), float(agent.linear)
    reward, discount, valid, action = (np.asarray(x) for x in (batch.reward, batch.discount, batch.valid, batch.action))
    errors = np.full((LENGTH, WIDTH), np.nan)
    for i in range(WIDTH):
        for t in range(BURN_IN, LENGTH):
            if not valid[t, i]:
                continue
            total, factor, at = 0.0, 1.0, t
            while at < min(t + agent.n_step, LENGTH) and (valid[at, i] or cross) and factor:
                total += factor * float(reward[at, i])
                cut = cut_is_death and at + 1 < LENGTH and not valid[at + 1, i]
                factor *= gamma * float(discount[at, i]) * (not cut)
                at += 1
            if factor:
                best = np.where(mask[at, i], q[at, i], -np.inf).argmax()
                total += factor * h_inverse(target_q[at, i, best], e)
            errors[t, i] = h(total, e) - q[t, i, action[t, i]]
    return errors[BURN_IN:]


def loss_by_hand(errors: np.ndarray, weight) -> float:
    return float(np.nanmean(np.asarray(weight, np.float64) * errors**2 / 2))


@pytest.mark.parametrize("n_step, mask", [(1, False), (3, True), (5, False)])
def test_the_loss_and_the_priorities_equal_those_computed_by_hand(n_step: int, mask: bool):
    agent = tiny(burn_in=BURN_IN, length=LENGTH, n_step=n_step, linear=0.01, gamma=0.9, eta=0.7)
    batch = sequences(mask)
    state = two_networks(agent)
    (loss, metrics), _ = jax.jit(jax.value_and_grad(agent.loss, has_aux=True), compiler_options=QUICK)(
        state.params, state, batch, KEY
    )
    errors = errors_by_hand(agent, state, batch)
    assert np.isnan(errors).sum() == 2 and np.abs(errors[~np.isnan(errors)]).min() > 1e-3
    by_hand = loss_by_hand(errors, batch.weight)
    np.testing.assert_allclose(float(loss), by_hand, rtol=1e-4)
    sizes = np.abs(errors)
    np.testing.assert_allclose(metrics["priority"], 0.7 * np.nanmax(sizes, 0) + 0.3 * np.nanmean(sizes, 0), rtol=1e-4)
    np.testing.assert_allclose(float(metrics["error"]), np.nanmean(sizes), rtol=1e-4)
    # the mistakes would show
    same_network = errors_by_hand(agent, state.replace(target=state.params), batch)
    wrong = [errors_by_hand(agent, state, batch, cut_is_death=True), same_network, errors * 1.01]
    wrong += [errors_by_hand(agent, state, batch, cross=True)] if n_step > 1 else []
    assert [abs(loss_by_hand(x, batch.weight) / by_hand - 1) > 1e-3 for x in wrong] == [True] * len(wrong)
    # the priorities are what `learn` gives back to the memory
    if n_step == 5:
        feedback = jax.jit(agent.learn, compiler_options=QUICK)(state, batch, KEY)[2]
        np.testing.assert_allclose(feedback, metrics["priority"], rtol=1e-5)


def test_no_gradient_passes_through_the_burn_in():
    agent, batch = tiny(burn_in=BURN_IN, length=LENGTH), sequences()
    state = two_networks(agent)
    whole = agent.replace(memory=agent.memory.replace(burn_in=0))

    @functools.partial(jax.jit, compiler_options=QUICK)
    def lesson(agent, batch, state):
        (loss, _), gradient = jax.value_and_grad(agent.loss, has_aux=True)(state.params, state, batch, KEY)
        return loss, gradient

    loss, gradient = lesson(agent, batch, state)
    # rows that are not learned from but are not burnt in either: the same loss, and a gradient that goes back further
    masked = batch.replace(valid=batch.valid.at[:BURN_IN].set(0.0))
    same, further = lesson(whole, masked, state)
    np.testing.assert_allclose(loss, same, rtol=1e-5)
    assert largest_difference(gradient, further)[0] > 1e-3

    # a sequence that begins after the burn-in, in the state it leads to (of one network: a batch has one carry)
    alike = state.replace(target=state.params)
    seen = (batch.observation[:BURN_IN], batch.carry, batch.first[:BURN_IN])
    _, carry = agent.network.unroll(state.params, SPEC, agent.head, *seen)
    later = jax.tree.map(lambda x: x[BURN_IN:], batch.replace(carry=(), weight=None))
    later = later.replace(carry=carry, weight=batch.weight)
    error, name = largest_difference(lesson(agent, batch, alike), lesson(whole, later, alike))
    assert error < 1e-5, f"{name} differs by {error:g}"


def test_without_a_target_network_the_online_one_takes_its_place():
    agent, batch = tiny(burn_in=BURN_IN, length=LENGTH, target_period=0), sequences()
    state = two_networks(agent)
    loss, _ = jax.jit(agent.loss, compiler_options=QUICK)(state.params, state, batch, KEY)
    errors = errors_by_hand(agent, state.replace(target=state.params), batch)
    np.testing.assert_allclose(float(loss), loss_by_hand(errors, batch.weight), rtol=1e-4)


def test_values_after_a_boundary_do_not_depend_on_what_came_before_it():
    agent, batch = tiny(burn_in=BURN_IN, length=LENGTH), sequences()
    state = two_networks(agent)
    values = jax.jit(lambda batch: agent.values(state.params, SPEC, batch, None)[6 - BURN_IN :], compiler_options=QUICK)
    before, after = values(batch), values(batch.replace(observation=batch.observation.at[:6].add(1.0)))
    assert differing(before[:, 1:], after[:, 1:]) == []
    assert differing(before[:, 0], after[:, 0])


# -------------------------------------------------------------------------------------------------------------- acting
def test_evaluation_is_greedy_and_environments_explore_by_their_number():
    agent = tiny()
    env = batched(Short(), 4)
    state = agent.init(KEY, env.spec)
    _, timestep = env.reset(jax.random.split(KEY, 4))
    carry = agent.start(state, 4)
    assert {x.shape for x in leaves(carry).values()} == {(4, 8)} and not any(x.any() for x in leaves(carry).values())
    keys = jax.random.split(KEY, 3000)

    def act(keys, explore):
        return jax.jit(jax.vmap(lambda key: agent.act(state, timestep, carry, key, explore)[0]))(keys)

    greedy = np.asarray(act(keys, False))
    assert (greedy == greedy[0]).all()
    shares = (np.asarray(act(keys, True)) != greedy[0]).mean(0) * 3 / 2  # a random action is the greedy one in 3
    expected = 0.4 ** (1 + 7 * np.arange(4) / 3)
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(0.4 * 1.5 / 3000))


# -------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    "field, value, said",
    [
        ("memory", None, "memory is None; expected sequences"),
        ("memory", Replay(), "memory is replay; expected sequences"),
        ("network", av.QNetwork(), "network is q-network; expected recurrent-q-network"),
        ("head", av.Categorical(), "head is categorical; expected plain"),
    ],
)
def test_parts_that_do_not_fit_are_refused(field, value, said):
    with pytest.raises(UserError, match=f"r2d2: {said}"):
        op.R2D2().replace(**{field: value}).check()
