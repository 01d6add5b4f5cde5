"""What Operant promises, held against every method: one tiny harness each (`harness.py`), shared by all promises."""

from __future__ import annotations

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import (
    BONUS_OFF,
    FAINT,
    LANES,
    OTHER_CRITIC,
    QUIET,
    SEEDS,
    SEES_ENDS,
    UPDATES,
    WIDTH,
    Harness,
    differing,
    digest_elsewhere,
    ends,
    from_leaves,
    lane,
    largest_difference,
    learned,
    leaves,
    other_value,
)

from operant.agent import dials, strong, with_dials
from operant.types import Batch

KEY = jax.random.key(8)


# -------------------------------------------------------------------------------------------------------- determinism
def test_every_environment_and_lane_has_random_numbers_of_its_own(tiny: Harness):
    runs, _ = tiny.trace
    for run in runs:
        tint = np.asarray(run.stage.timestep.observation[..., 4])
        assert np.unique(tint).size == LANES * WIDTH  # one per episode, from the environment's key


def test_different_seeds_learn_differently_from_the_first_update_on(tiny: Harness):
    runs, _ = tiny.trace
    for run in runs:
        flat = [np.concatenate([x[i].ravel() for x in leaves(run.state.params).values()]) for i in range(LANES)]
        for i in range(LANES):
            for j in range(i):
                assert np.mean(flat[i] != flat[j]) > 0.2
    updated = leaves(runs[1].state.params)
    started = leaves(runs[0].state.params)
    assert any((updated[name] != started[name]).any() for name in started) or tiny.agent.memory is not None


def test_the_trace_sees_both_ends_of_an_episode(tiny: Harness):
    """Else the other promises would hold for want of an occasion."""
    runs, _ = tiny.trace
    finished = sum(float(run.stage.episodes.finished.sum()) for run in runs[-1:])
    assert finished >= 2 * LANES * WIDTH
    discount = np.stack([run.stage.timestep.discount for run in runs])
    last = np.stack([run.stage.timestep.last for run in runs])
    assert last.any() and ((discount == 1) & last).any()
    assert float(np.asarray(runs[-1].stage.episodes.finished_return).max()) > 0  # some episode reached the goal


# ------------------------------------------------------------------------------------------------------- exact resume
def test_a_run_resumed_from_its_saved_state_equals_the_run_that_was_not(tiny: Harness):
    runs, metrics = tiny.trace
    half = runs[UPDATES // 2]
    file = io.BytesIO()
    np.savez(file, **leaves(half))
    file.seek(0)
    with np.load(file, allow_pickle=False) as saved:
        arrays = {name: saved[name] for name in saved.files}
    assert list(arrays) == list(leaves(half))
    resumed, row = tiny.go_on(from_leaves(arrays, half), UPDATES - UPDATES // 2)
    assert differing(resumed, runs[-1]) == []
    assert differing(row, metrics[-1]) == []


# -------------------------------------------------------------------------------------------------------------- lanes
def test_a_seed_among_others_equals_the_seed_alone(tiny: Harness):
    runs, metrics = tiny.trace
    for i in range(len(SEEDS)):
        run, row = tiny.alone[i]
        among, alone = lane(runs[UPDATES - 1], i), lane(run, 0)
        error, name = largest_difference(among, alone)
        assert error <= 1e-6, f"{name} differs by {error:g}"
        error, name = largest_difference({n: x[i] for n, x in metrics[UPDATES - 2].items()},
                                         {n: x[0] for n, x in row.items()})  # fmt: skip
        assert error <= 1e-5, f"metric {name} differs by {error:g}"


def test_every_dial_is_swept_in_one_compilation_and_equals_separate_runs(tiny: Harness):
    names = list(dials(tiny.agent))
    settings = [strong(with_dials(tiny.agent, {name: other_value(tiny.agent, name)})) for name in names]
    plain, _ = tiny.go_on(tiny.start(SEEDS[:1]), 4)
    for at in range(0, len(names), LANES):
        group = settings[at : at + LANES]
        swept, _ = tiny.go_on(tiny.start(SEEDS[:1] * LANES, (group * LANES)[:LANES]), 4)
        for i, (name, agent) in enumerate(zip(names[at : at + LANES], group, strict=True)):
            separate, _ = tiny.go_on(tiny.start(SEEDS[:1], [agent]), 4)
            error, leaf = largest_difference(lane(swept, i), lane(separate, 0))
            assert error <= 1e-5, f"{name}: {leaf} differs by {error:g}"
            acts = bool(differing(learned(separate.state), learned(plain.state)))
            assert acts != ((tiny.name, name) in QUIET), f"{name} has {'an' if acts else 'no'} effect"
    assert set(tiny.compilations().values()) == {1}, tiny.compilations()


# ------------------------------------------------------------------------------------------------------- episode ends
def changed(batch: Batch, row: int, column: int, **values) -> Batch:
    """`batch` with one entry of some of its fields replaced."""
    place = lambda x, v: jnp.asarray(x).at[row, column].set(v)  # noqa: E731
    fields = {name: place(getattr(batch, name), value) for name, value in values.items()}
    return batch.replace(**fields)


def other_action(action: np.ndarray) -> np.ndarray:
    return 1 - action if np.issubdtype(action.dtype, np.integer) else -action - 0.5


def test_the_step_across_a_boundary_is_no_experience(method: str):
    """Whatever reward, action and extras stand in its row, the same is learned."""
    case = ends(method)
    batch, _ = case.batch()
    reference = case.learn(case.state, batch, KEY)
    assert differing(reference[0], learned(case.state))  # something was learned
    rubbish = batch
    for column in range(WIDTH):
        rubbish = changed(rubbish, 2, column, reward=100.0, action=other_action(np.asarray(batch.action[2, column])))
    # after a termination the extras mean nothing either (but for the reward that came with the terminal observation);
    # after a time limit they may hold the value to bootstrap from
    meant = {name: x for name, x in rubbish.extras.items() if name == "discounted_return"}
    moved = jax.tree.map(lambda x: x.at[2, 0].add(1.5) if jnp.issubdtype(x.dtype, jnp.floating) else x, rubbish.extras)
    rubbish = rubbish.replace(extras={**moved, **meant})
    if method not in {*BONUS_OFF, *SEES_ENDS}:
        rubbish = rubbish.replace(observation=rubbish.observation.at[2, 0].add(0.7))
    error, name = largest_difference(case.learn(case.state, rubbish, KEY), reference)
    assert error <= 1e-6, f"{name} moved by {error:g}"
    # the same rubbish in a row of experience is noticed
    real = changed(batch, 1, 1, reward=100.0)
    assert differing(case.learn(case.state, real, KEY), reference)


def test_only_a_time_limit_looks_at_its_last_observation(method: str):
    """The observation that a termination arrives at has no part in what is learned; a time limit's is bootstrapped
    from, and it is the true last one, not the first of the next episode."""
    case = ends(method)
    reference = case.lesson(case.state, case.batch()[0], KEY)

    def lesson(row, column):
        observation = case.observation.copy()
        observation[row, column] += 0.7
        batch, _ = case.batch(observation)
        kept, _ = case.batch()
        batch = batch.replace(action=kept.action)  # another observation may have led to another action
        return case.lesson(case.state, batch, KEY)

    if method not in SEES_ENDS:
        error, name = largest_difference(lesson(2, 0), reference)
        assert error <= 1e-6, f"a terminal observation moved {name} by {error:g}"
    if method not in FAINT:
        assert largest_difference(lesson(2, 1), reference)[0] > 1e-5


def test_a_time_limit_within_a_batch_is_learned_from_as_a_batchs_end(method: str):
    """The same four episodes side by side, with no boundary inside, give the same gradient."""
    case = ends(method)
    if case.agent.memory is not None:
        pytest.skip("a memory decides what stands side by side")
    if not case.agent.playable or method in SEES_ENDS:
        pytest.skip("a life has environments of its own, which are remembered")
    batch, _ = case.batch()
    beside = lambda x: jnp.concatenate([x[0:2], x[3:5]], axis=1)  # noqa: E731
    ended = lambda x: jnp.concatenate([x[0:3], x[3:6]], axis=1)  # noqa: E731
    apart = Batch(
        observation=ended(batch.observation),
        first=ended(batch.first),
        action=jax.tree.map(beside, batch.action),
        reward=beside(batch.reward),
        discount=beside(batch.discount),
        valid=beside(batch.valid),
        extras=jax.tree.map(beside, batch.extras),
        carry=case.agent.start(case.state, 2 * WIDTH),
    )
    assert np.asarray(apart.valid).all() and np.asarray(apart.discount).sum() == 7
    error, name = largest_difference(case.lesson(case.state, apart, KEY), case.lesson(case.state, batch, KEY))
    assert error <= 2e-6, f"{name} differs by {error:g}"


def lambda_return(rewards, values, terminated, gamma, lam) -> list[float]:
    """One episode's lambda-returns; values has one more entry, of the observation arrived at last."""
    returns, following = [], 0.0 if terminated else values[-1]
    for t in reversed(range(len(rewards))):
        end = t == len(rewards) - 1
        next_value = 0.0 if end and terminated else values[t + 1]
        following = rewards[t] + gamma * ((1 - lam) * next_value + lam * following)
        returns.append(following)
    return returns[::-1]


def test_the_value_target_equals_the_one_computed_by_hand(method: str):
    """In all four cases: goes on, terminated, time limit, first after a reset."""
    if method in OTHER_CRITIC:
        pytest.skip(OTHER_CRITIC[method])
    case = ends(method)
    batch, extras = case.batch()
    _, metrics = case.lesson(case.state, batch, KEY)
    assert "value_loss" in metrics, "a method with another critic is listed in OTHER_CRITIC, with the reason"
    agent, state = case.agent, case.state
    now = agent.current(state) if hasattr(agent, "current") else dials(agent)
    # a wrapper's own dials come first, those of the base agent, which are meant, after them
    now = {name.rpartition(".")[2]: float(value) for name, value in now.items()}
    gamma, lam = now["gamma"], now.get("gae_lambda", now.get("td_lambda", 1.0))
    value = np.asarray(extras["value"], np.float64)

    def loss(limit_is_death: bool, limit_leads_to: int) -> float:
        errors = []
        for column in range(WIDTH):
            for begin, end, ended in ((0, 2, column == 0 or limit_is_death), (3, 5, False)):
                values = np.append(value[begin:end, column], value[limit_leads_to if end == 2 else end, column])
                target = lambda_return(case.reward[begin:end, column].astype(np.float64), values, ended, gamma, lam)
                errors += list(np.asarray(target) - values[:-1])
        return float(np.mean(np.square(errors)) / 2)

    by_hand = loss(limit_is_death=False, limit_leads_to=2)
    np.testing.assert_allclose(float(metrics["value_loss"]), by_hand, rtol=1e-4)
    # the mistakes would show: a time limit taken for a termination, or bootstrapped from the next episode's first
    assert abs(loss(True, 2) / by_hand - 1) > 1e-3 and abs(loss(False, 3) / by_hand - 1) > 1e-3


# ---------------------------------------------------------------------------------------------------------------- NaN
def spoil(tiny: Harness, what: str):
    """The trace's third state with a NaN put into lane 1."""
    run = tiny.trace[0][2]
    if what in ("reward", "observation"):
        alive = WIDTH + np.flatnonzero(~np.asarray(run.stage.env_state.over)[WIDTH : 2 * WIDTH])[:1]
        assert alive.size == 1, "no environment of lane 1 is within an episode"
        world = run.stage.env_state.world
        field = f"spoil_{what}"
        world = world.replace(**{field: getattr(world, field).at[alive[0]].set(jnp.nan)})
        return run.replace(stage=run.stage.replace(env_state=run.stage.env_state.replace(world=world)))
    if what == "dials":
        return run.replace(agent=jax.tree.map(lambda x: x.at[1].set(jnp.nan), run.agent))
    flat, tree = jax.tree.flatten(run.state)
    at = next(i for i, x in enumerate(flat) if jnp.issubdtype(x.dtype, jnp.floating))
    flat[at] = flat[at].at[(1, *[0] * (flat[at].ndim - 1))].set(jnp.nan)
    return run.replace(state=jax.tree.unflatten(tree, flat))


@pytest.mark.parametrize("what", ["reward", "observation", "parameters", "dials"])
def test_a_nan_freezes_its_lane_names_the_tensor_and_leaves_the_others_alone(tiny: Harness, what: str):
    runs, metrics = tiny.trace
    spoiled = spoil(tiny, what)
    once, row = tiny.go_on(spoiled, 1)
    more, _ = tiny.go_on(once, 2)
    learner = tiny.learners[LANES]
    assert np.asarray(once.health.frozen_at).tolist() == [-1, 2, -1]
    (line,) = learner.diagnose(once)
    first_tensor = next(name for name in learner.suspects(once) if name.startswith("learned"))
    culprit = {
        "reward": "environment reward",
        "observation": "environment observation",
        "parameters": first_tensor,
        "dials": "learned ",
    }[what]
    assert line.startswith("lane 1: ") and culprit in line and "at update 2" in line
    # frozen: what it had stands, bit for bit, and for good
    pick = lambda run: jax.tree.map(lambda x: x[1], run.state)  # noqa: E731
    assert differing(pick(once), pick(spoiled)) == [] and differing(pick(more), pick(spoiled)) == []
    if what != "parameters":
        assert all(np.isfinite(x).all() for x in leaves(pick(more)).values())
    assert np.asarray(row["learning"]).tolist() == [1, 0, 1]
    # the others do not notice
    for i in (0, 2):
        assert differing(lane(more, i), lane(runs[5], i)) == []
        assert differing({n: x[i] for n, x in row.items()}, {n: x[i] for n, x in metrics[2].items()}) == []
    assert max(tiny.compilations().values()) == 1


# --------------------------------------------------------------------------------------- the promise that takes a while
def test_two_processes_give_the_same_bits(tiny: Harness):
    assert digest_elsewhere(tiny.name) == tiny.digest()


def test_a_digest_sees_every_bit(tiny: Harness):
    runs, _ = tiny.trace
    flipped = dataclasses.replace(runs[-1], updates=runs[-1].updates + 1)
    assert differing(flipped, runs[-1]) == ["updates"]
    assert len(set(tiny.digest())) == UPDATES
