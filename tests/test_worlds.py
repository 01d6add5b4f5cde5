"""Worlds with tasks: grids, chains and lifetimes against plain Python, exact values, and who shares a task."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import operant as op
from operant import envs
from operant.actor_critic import ActorCritic
from operant.agent import strong
from operant.envs import wrappers
from operant.envs.base import batched
from operant.envs.planning import optimal_return, optimal_values, random_return, random_values
from operant.envs.worlds import (
    WORLDS,
    Chain,
    EmptyRooms,
    Grid,
    KeyBox,
    NonStationaryABC,
    RandomABC,
    RandomGrid,
    SmallGrid,
)
from operant.envs.worlds.grids import COLUMNS, ROWS, distinct, uniform, vacant
from operant.envs.worlds.lifetimes import four_rooms
from operant.envs.worlds.mazes import GRIDS, RANDOM_GRIDS
from operant.errors import UserError
from operant.run import draw, scenes, video
from operant.run.program import Program
from operant.types import Box, Discrete, struct


def numpy(tree):
    return jax.tree.map(np.asarray, tree)


def keys(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


def lived(world, length, task_seed=0, seed=1):
    """One life without resets under random actions: task, states [T+1], observations [T+1], and per step: key, action,
    reward, terminated, truncated."""

    @jax.jit
    def run():
        task = world.draw(jax.random.key(task_seed))
        first = world.reset(jax.random.key(seed), task)

        def step(state, key):
            action = jax.random.randint(jax.random.fold_in(key, 0), (), 0, world.action.n)
            state, observation, *rest = world.step(key, state, action)
            return state, ((state, observation), (key, action, *rest))

        _, (seen, steps) = jax.lax.scan(step, first[0], keys(length, seed))
        return task, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, seen), steps

    task, (states, observations), (step_keys, *steps) = run()
    return numpy(task), numpy(states), numpy(observations), step_keys, *numpy(steps)


def at(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


# ----------------------------------------------------------------------------------------------------------- numbers
def test_different_numbers_are_drawn_evenly():
    drawn = numpy(jax.jit(jax.vmap(lambda key: distinct(uniform(key, 3), 4)))(keys(48_000)))
    counts = np.unique(drawn, axis=0, return_counts=True)
    assert {tuple(row) for row in counts[0]} == set(itertools.permutations(range(4), 3))
    assert np.all(np.abs(counts[1] - 2000) < 5 * np.sqrt(2000))
    # who draws nothing takes nothing from the others
    two = jnp.array([False, True, True])
    some = numpy(jax.jit(jax.vmap(lambda key: distinct(uniform(key, 3), 4, two)))(keys(48_000)))[:, 1:]
    counts = np.unique(some, axis=0, return_counts=True)
    assert {tuple(row) for row in counts[0]} == set(itertools.permutations(range(4), 2))
    assert np.all(np.abs(counts[1] - 4000) < 5 * np.sqrt(4000))


def test_ranks_among_vacant_cells():
    rng = np.random.default_rng(0)
    for _ in range(20):
        occupied = rng.permutation(12)[:5]
        given = np.append(occupied, [-1, -1])[rng.permutation(7)]
        free = [cell for cell in range(12) if cell not in occupied]
        np.testing.assert_array_equal(vacant(jnp.arange(7), jnp.asarray(given)), free)


# --------------------------------------------------------------------------------------------------- the plain model
def plain_move(cell, direction, wall):
    """(where one arrives, whether the way was open)"""
    height, width = wall.shape
    row, column = cell // width + ROWS[direction], cell % width + COLUMNS[direction]
    if 0 <= row < height and 0 <= column < width and not wall[row, column]:
        return row * width + column, True
    return cell, False


def plain_collect(task, cell, cells, present, action, collect):
    """After moving and collecting: cell, the object that was taken or None."""
    target, is_open = plain_move(cell, action % 9, task.wall)
    taken = None
    if not collect or (action >= 9 and is_open):
        taken = next((i for i in range(len(cells)) if present[i] and cells[i] == target), None)
    return (target if action < 9 else cell), taken


GRID_CASES = {
    "small": SmallGrid(),
    "small, collecting": SmallGrid(smallest=3, largest=4, walls=2, collect=True),
    "longer": Grid(*GRIDS["longer"]),
    "dense, collecting": Grid((".#..", "....", ".#.."), GRIDS["dense"][1], 500, collect=True),
    "random": RandomGrid(*RANDOM_GRIDS["small"]),
    "random, collecting": RandomGrid(("...", ".#.", "..."), RANDOM_GRIDS["small"][1], 500, collect=True),
}


@pytest.mark.parametrize("name", GRID_CASES)
def test_grids_are_the_plain_model(name):
    world, length = GRID_CASES[name], 400
    task, states, observations, step_keys, actions, rewards, terminated, truncated = lived(world, length)
    chances = numpy(jax.vmap(lambda key: uniform(key, world.number + 1))(step_keys))
    size, moves, events = task.wall.size, set(), 0
    assert states.cell[0] == task.start
    for t in range(length):
        old, new = at(states, t), at(states, t + 1)
        cell, taken = plain_collect(task, old.cell, old.cells, old.present, actions[t], world.collect)
        present = [bool(there or chances[t][1 + i] < task.respawn[i]) for i, there in enumerate(old.present)]
        if taken is not None:
            present[taken] = False  # not back in the step in which it was taken
        assert new.cell == cell and list(new.present) == present and new.time == t + 1
        assert rewards[t] == (0 if taken is None else task.reward[taken])
        assert terminated[t] == (taken is not None and chances[t][0] < task.end[taken])
        assert truncated[t] == (t + 1 >= task.cap)
        moves.add(new.cell - old.cell)
        events += taken is not None
        if isinstance(world, RandomGrid):
            back = np.array(present) & ~old.present
            np.testing.assert_array_equal(new.cells[~back], old.cells[~back])
            there = [c for c, p in zip(new.cells, present, strict=True) if p]
            assert len(set(there)) == len(there) and not task.wall.ravel()[there].any()
            assert new.cell not in new.cells[back]
            expected, plane = np.zeros((size, observations.shape[-1]), np.uint8), 1
            expected[new.cell, 0] = 1
            kinds = np.repeat(np.arange(len(world.objects)), [kind[0] for kind in world.objects])
            for i in np.flatnonzero(present):
                expected[new.cells[i], plane + kinds[i]] = 1
            np.testing.assert_array_equal(observations[t + 1].reshape(size, -1), expected)
        else:
            np.testing.assert_array_equal(new.cells, task.cells)
            assert observations[t + 1] == cell + size * sum(2**i for i, there in enumerate(present) if there)
    assert len(moves) == 9 and events > 3


def test_ends_and_returns_have_their_probabilities():
    world = Grid(("...",), ((1, 1.0, 0.3, 0.2),), 500)
    task = world.draw(jax.random.key(0)).replace(start=jnp.int32(0), cells=jnp.array([1]))
    n, right = 20_000, 4

    def life(key):
        first, second = jax.random.split(key)
        state, _, reward, ended, _ = world.step(first, world.reset(key, task)[0], right)
        after, _, _, _, _ = world.step(second, state, right)
        return reward, ended, state.present[0], after.present[0]

    reward, ended, at_once, later = numpy(jax.jit(jax.vmap(life))(keys(n)))
    assert np.all(reward == 1) and not at_once.any()
    close = lambda share, p: abs(share - p) < 4 * np.sqrt(p * (1 - p) / n)  # noqa: E731
    assert close(ended.mean(), 0.3) and close(later.mean(), 0.2)
    assert close((ended & later).mean(), 0.06)  # independent of each other


def test_random_grids_put_objects_anywhere_that_is_free():
    world = RandomGrid(("..#", "..."), ((2, 1.0, 0.0, 0.05),), 50)
    task = world.draw(jax.random.key(0)).replace(start=jnp.int32(0))
    free, n = {1, 3, 4, 5}, 24_000
    placed = numpy(jax.jit(jax.vmap(lambda key: world.reset(key, task)[0].cells))(keys(n)))
    pairs, counts = np.unique(placed, axis=0, return_counts=True)
    assert {tuple(p) for p in pairs} == set(itertools.permutations(free, 2))
    assert np.all(np.abs(counts - n / 12) < 5 * np.sqrt(n / 12))
    # both are gone and come back with little chance: where they do, the place is as good as any
    state = world.reset(jax.random.key(0), task)[0].replace(present=jnp.zeros(2, bool))
    many = 100_000
    after = numpy(jax.jit(jax.vmap(lambda key: world.step(key, state, 0)[0]))(keys(many)))
    share = after.present.mean(0)
    assert np.all(np.abs(share - 0.05) < 5 * np.sqrt(0.05 * 0.95 / many))
    for i in range(2):
        cells, counts = np.unique(after.cells[after.present[:, i], i], return_counts=True)
        expected = counts.sum() / 4
        assert set(cells) == free and np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
    both = after.cells[after.present.all(1)]
    assert len(both) > 150 and np.all(both[:, 0] != both[:, 1])


def test_small_grids_are_drawn_as_they_say():
    world = SmallGrid(smallest=4, largest=6)
    tasks = numpy(jax.jit(jax.vmap(world.draw))(keys(4000)))
    sizes, walls = [], []
    for i in range(4000):
        task = at(tasks, i)
        open_cells = ~task.wall
        size = int(max(np.flatnonzero(open_cells.any(0)).max(), np.flatnonzero(open_cells.any(1)).max())) + 1
        there = task.cells[task.cells >= 0]
        assert len({task.start, *there}) == 1 + len(there) and not task.wall.ravel()[[task.start, *there]].any()
        assert np.all(task.respawn[task.cells < 0] == 0)
        sizes.append(size)
        walls.append(36 - open_cells.sum() - (36 - size**2))
    assert set(sizes) == {4, 5, 6} and np.all(np.abs(np.bincount(sizes)[4:] - 1333) < 160)
    assert min(walls) == 0 and max(walls) == 7
    number = (tasks.cells >= 0).sum(1)
    assert np.all(np.abs(np.bincount(number)[1:] - 1333) < 160) and np.all(tasks.cells[:, 0] >= 0)
    assert tasks.cap.min() == 20 and tasks.cap.max() == 100
    assert tasks.reward[:, 0].min() >= 0 and abs(tasks.reward[:, 0].mean() - 0.5) < 0.03
    assert -1 <= tasks.reward[:, 1:].min() < -0.98 and abs(tasks.reward[:, 1:].mean()) < 0.03
    for values, low, high in ((tasks.end[:, 0], 0.01, 1.0), (tasks.respawn[:, 0], 0.001, 0.1)):
        assert low * 0.999 <= values.min() and values.max() <= high * 1.001
        assert abs(np.log(values / low).mean() / np.log(high / low) - 0.5) < 0.03  # log-uniform


# ------------------------------------------------------------------------------------------------------------- values
def brute_force(world, task, gamma, best):
    """{state: value} by the definition: a mean over everything that can happen, step by step."""
    n, size = len(task.cells), task.wall.size
    over = max if best else lambda values: sum(values) / len(values)

    @functools.cache
    def value(cell, bits, steps):
        if steps == 0:
            return 0.0
        present = [bool(bits >> i & 1) for i in range(n)]

        def of(action):
            arrived, taken = plain_collect(task, cell, task.cells, present, action, world.collect)
            total = 0.0
            absent = [i for i in range(n) if not present[i]]  # without the one that is taken now
            for back in itertools.product((False, True), repeat=len(absent)):
                chance, after = 1.0, [there and i != taken for i, there in enumerate(present)]
                for i, returns in zip(absent, back, strict=True):
                    chance *= task.respawn[i] if returns else 1 - task.respawn[i]
                    after[i] = returns
                if chance > 0:
                    total += chance * value(arrived, sum(2**i for i in range(n) if after[i]), steps - 1)
            ends = 0.0 if taken is None else task.end[taken]
            return (0.0 if taken is None else task.reward[taken]) + gamma * (1 - ends) * total

        return over([of(action) for action in range(world.action.n)])

    open_cells = np.flatnonzero(~task.wall.ravel())
    return {c + size * bits: value(c, bits, int(task.cap)) for c in open_cells for bits in range(2**n)}


@pytest.mark.parametrize(("seed", "collect", "gamma"), [(0, False, 1.0), (3, False, 0.9), (1, True, 0.9)])
def test_values_are_those_of_brute_force(seed, collect, gamma):
    world = SmallGrid(smallest=3, largest=3, walls=seed, collect=collect)
    task = world.draw(jax.random.key(seed))
    task = task.replace(cap=jnp.int32(4), respawn=task.respawn * 5, end=jnp.minimum(task.end * 3, 1.0))
    for planned, best in ((optimal_values, True), (random_values, False)):
        values = numpy(jax.jit(functools.partial(planned, world, gamma=gamma))(task))
        expected = brute_force(world, numpy(task), gamma, best)
        assert np.ptp(list(expected.values())) > 0.1
        np.testing.assert_allclose([values[s] for s in expected], list(expected.values()), atol=1e-5)


def test_values_by_hand():
    def of(maze, objects, cap, start, cell, gamma=1.0):
        world = Grid(maze, objects, cap)
        task = world.draw(jax.random.key(0)).replace(start=jnp.int32(start), cells=jnp.array([cell]))
        return float(optimal_return(world, task, gamma)), float(random_return(world, task, gamma))

    once = ((1, 1.0, 1.0, 0.0),)
    assert of(("....",), once, 5, 0, 3, gamma=0.5)[0] == pytest.approx(0.25)  # three steps away
    assert of(("....",), once, 2, 0, 3) == (0.0, 0.0)  # and out of reach in two
    assert of(("..",), once, 1, 0, 1)[1] == pytest.approx(1 / 9)  # one move of nine
    assert of(("..",), once, 2, 0, 1)[1] == pytest.approx(1 / 9 + 8 / 81)
    # it is back a step after the one in which it was taken, under the agent: every other step pays
    assert of(("..",), ((1, 1.0, 0.0, 1.0),), 5, 0, 1)[0] == pytest.approx(3.0)
    assert of(("..",), ((1, 1.0, 0.5, 1.0),), 3, 0, 1)[0] == pytest.approx(1.5)
    assert of(("..",), ((1, -1.0, 0.0, 1.0),), 9, 0, 1)[0] == 0.0  # better left alone
    assert of((".#.",), once, 9, 0, 2) == (0.0, 0.0)  # behind a wall


def test_an_environment_knows_its_best_return_where_it_can_be_known():
    def best(name, seed=0, **options):
        return jax.jit(envs.make(name, 2, seeds=[0, 1], **options).best_return)(jax.random.key(seed))

    world = SmallGrid()
    planned = jax.jit(lambda key: optimal_return(world, world.draw(key)))
    expected = [float(planned(jax.random.key(seed))) for seed in (0, 7)]
    assert [float(best("operant:SmallGrid-v0", seed)) for seed in (0, 7)] == pytest.approx(expected)
    assert float(best("operant:SmallGrid-v0", 0, task=7)) == pytest.approx(expected[1])  # all lanes have this task
    assert float(best("operant:SmallGrid-v0", 7, reward_clip=True)) == pytest.approx(expected[1])  # returns sum scores
    assert float(best("operant:Cells-v0")) == WORLDS["operant:Cells-v0"].optimal_return
    for other in ({"sticky": 0.25}, {"time_limit": 10}):
        assert best("operant:SmallGrid-v0", **other) is None
    assert best("operant:Cells-v0", time_limit=2) is None
    assert best("operant:RandomGrid-small-v0") is None


def test_random_return_is_what_random_agents_get():
    world, number = SmallGrid(task=5), 4096
    env = batched(world, number)
    task = world.draw(jax.random.key(5))

    @jax.jit
    def play(key):
        def step(carry, key):
            state, total, alive = carry
            state, t = env.step(state, jax.random.randint(key, (number,), 0, 9))
            return (state, total + alive * t.score, alive & ~t.last), None

        start = (env.reset(jax.random.split(key, number))[0], jnp.zeros(number), jnp.ones(number, bool))
        return jax.lax.scan(step, start, jax.random.split(key, 100))[0][1:]

    totals, alive = numpy(play(jax.random.key(0)))
    assert not alive.any()
    expected = float(random_return(world, task))
    assert abs(expected) > 0.02
    assert abs(totals.mean() - expected) < 4 * totals.std() / np.sqrt(number)


# -------------------------------------------------------------------------------------------------------------- tasks
@struct
class WageState:
    paid: jax.Array
    task: jax.Array


@dataclasses.dataclass(frozen=True)
class Wage:
    """Each of two steps pays what the task says, whatever is done."""

    task: int = -1

    observation = Box((1,))
    action = Discrete(2)
    time_limit = 2

    def draw(self, key):
        return jax.random.uniform(key)

    def reset(self, key, task):
        return WageState(jnp.int32(0), task), jnp.zeros(1)

    def step(self, key, state, action):
        return state.replace(paid=state.paid + 1), jnp.zeros(1), state.task, False, False


SETTINGS = {"steps": 96, "chunks": 3, "eval_every": 1, "eval_episodes": 4, "quiet": True, "devices": 1}


def a2c():
    return op.A2C(num_envs=4, rollout_length=4, network=ActorCritic(hidden=(4,)))


def tasks_of(run):
    """[lanes, envs of a lane]"""
    state = run.state.stage.env_state
    while isinstance(state, wrappers.Wrapped):
        state = state.inner
    return np.asarray(state.world.task).reshape(run.program.lanes, -1)


def test_a_lane_has_one_task_wherever_it_plays(tmp_path):
    run = op.train(a2c(), Wage, seeds=3, run_dir=tmp_path / "run", **SETTINGS)
    tasks = tasks_of(run)
    assert np.all(tasks == tasks[:, :1]) and len(set(tasks[:, 0])) == 3  # after many episodes
    for evaluation in run.evaluations:
        np.testing.assert_allclose(evaluation["returns"], 2 * tasks[:, 0], rtol=1e-6)
    # alone, or wrapped: the seed decides
    wrapped = {"frame_stack": 2, "sticky": 0.1, "previous_action_reward": True}
    assert np.all(begun([1], **wrapped) == tasks[1, 0])
    # films too
    seen = []
    env = envs.make(Wage, 1)
    play = video.play(run, 2, env, lambda executed, timestep, world: seen.append(float(world.task)), False)
    list(itertools.islice(play, 4))
    np.testing.assert_allclose(seen, tasks[2, 0])
    # and all of it goes on where it stopped
    op.train(a2c(), Wage, seeds=3, run_dir=tmp_path / "cut", **SETTINGS, callback=lambda run, row: True)
    resumed = op.resume(tmp_path / "cut", env=Wage, quiet=True)
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    for a, b in zip(*(jax.tree.leaves(jax.tree.map(plain, r.state)) for r in (run, resumed)), strict=True):
        np.testing.assert_array_equal(a, b)


def begun(seeds, devices=1, shard="lanes", **options):
    """The tasks of a run at its start."""
    agents = jax.tree.map(lambda x: jnp.full(len(seeds), x), strong(a2c()))
    program = Program(agents, Wage, options, options, np.array(seeds), 96, 1, 4, devices=devices, shard=shard)
    assert program.num_devices == devices
    return tasks_of(types.SimpleNamespace(program=program, state=program.init()))


def test_equal_seeds_are_equal_tasks():
    tasks = begun([0, 1, 0, 1])  # as in a sweep
    assert np.all(tasks == tasks[:, :1]) and tasks[0, 0] == tasks[2, 0] != tasks[1, 0] == tasks[3, 0]


def test_the_environments_of_one_lane_share_its_task_over_devices():
    script = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from test_worlds import begun
one, two = begun([0], 2, "envs"), begun([0, 1], 2)
assert one.shape == (1, 4) and np.all(one == two[0, 0]) and np.all(two == two[:, :1]) and two[0, 0] != two[1, 0]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120, env={**os.environ, "JAX_PLATFORMS": "cpu"})


def test_the_option_task_is_one_task_for_all():
    task = lambda env, *given: numpy(env.reset(keys(4), *given)[0].world.task)  # noqa: E731
    own = task(batched(Wage(), 4))
    assert len(set(own)) == 4  # without lanes, each its own
    shared = keys(4)[jnp.array([0, 0, 1, 1])]
    by_key = task(batched(Wage(), 4), shared)
    assert by_key[0] == by_key[1] != by_key[2] == by_key[3]
    fixed = task(envs.make(Wage, 4, task=7), shared)
    assert np.all(fixed == np.asarray(Wage().draw(jax.random.key(7))))
    grids = [numpy(envs.make("operant:Grid-dense-v0", 2, task=s).reset(keys(2))[0].world.task) for s in (0, 0, 1)]
    assert np.array_equal(grids[0].cells, grids[1].cells) and not np.array_equal(grids[0].cells, grids[2].cells)
    for wrong in (-2, True, 0.5):
        with pytest.raises(UserError, match="task is"):
            envs.make("operant:Grid-dense-v0", 2, task=wrong)
    with pytest.raises(UserError, match="expects one key"):
        batched(Wage(), 4).reset(keys(4), keys(3))
    with pytest.raises(UserError, match="time_limit="):
        wrappers.TimeLimit(batched(Wage(), 4), 3)


def test_the_task_is_not_copied_at_each_step():
    """What a life never changes goes through a step as it came: no operation has it as a result."""
    env = envs.make("operant:Grid-dense-v0", 4)
    state, timestep = env.reset(keys(4))
    closed = jax.make_jaxpr(env.step)(state, timestep.previous_action)
    inside = jax.tree.leaves(jax.tree.map(lambda x: x is None, state.world.task, is_leaf=lambda x: x is None))
    first = len(jax.tree.leaves(state.world)) - len(inside)
    assert closed.jaxpr.outvars[first : first + len(inside)] == closed.jaxpr.invars[first : first + len(inside)]


# ------------------------------------------------------------------------------------------------------------- chains
@pytest.mark.parametrize(
    "chain",
    [
        Chain(),
        Chain(longest=50, noisy=True),
        Chain(redraw=True),
        Chain(redraw=True, distractors=20),
        Chain(distractors=3),
    ],
    ids=str,
)
def test_chains(chain):
    number, length = 64, 120
    env = batched(chain, number)

    def step(carry, key):
        action = jax.random.randint(key, (number,), 0, 2)
        after = env.step(carry[0], action)
        return after, (carry, after[1], action)

    before, after, actions = numpy(
        jax.tree.map(
            lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x,
            jax.jit(lambda: jax.lax.scan(step, env.reset(keys(number)), keys(length, 1))[1])(),
        )
    )
    states, timesteps = before
    task, noise, firsts = states.world.task, [], []
    assert task.length.min() >= 5 and task.length.max() <= chain.longest and len(set(task.length[0])) > 15
    assert np.all(task.length == task.length[0]) and np.all(task.good == task.good[0])
    assert 0.2 < task.good[0].mean() < 0.8
    for b in range(number):
        time, branch, good = 0, 0, None
        for t in range(length):
            if timesteps.last[t, b]:
                time = 0
                continue
            if time == 0:
                good, branch = states.world.good[t, b], actions[t, b]
                firsts.append((task.good[t, b], good))
                if not chain.distractors:
                    assert timesteps.observation[t, b] == (good if chain.redraw else 0)
            time += 1
            seen, ends = after.observation[t, b], time == task.length[t, b]
            if chain.distractors:
                assert seen[0] == timesteps.observation[t, b][0] == good and seen[1] == (branch == good)
            else:
                assert seen == (2 if chain.redraw else 1) + branch * chain.longest + time - 1
            assert after.last[t, b] == ends and after.discount[t, b] == 1 - ends
            if ends:
                assert after.reward[t, b] == (1 if branch == good else -1)
            else:
                noise.append(after.reward[t, b])
    assert set(noise) == ({-1.0, 1.0} if chain.noisy else {0.0}) and abs(np.mean(noise)) < 0.05
    same = np.mean([a == b for a, b in firsts])
    assert (0.4 < same < 0.6) if chain.redraw else same == 1
    if chain.distractors:
        bits = timesteps.observation[..., 2:]
        assert set(np.unique(bits)) == {0, 1} and np.all(np.abs(bits.mean((0, 1)) - 0.5) < 0.03)
        assert np.all(np.abs(np.corrcoef(bits.reshape(-1, bits.shape[-1]).T) - np.eye(bits.shape[-1])) < 0.06)


def test_chains_that_cannot_be():
    for wrong, words in (({"distractors": 31}, "distractors"), ({"shortest": 9, "longest": 8}, "shortest")):
        with pytest.raises(UserError, match=words):
            Chain(**wrong)


# ---------------------------------------------------------------------------------------------------------- lifetimes
UP, DOWN, LEFT, RIGHT = range(4)


def walk(world, task, actions, state=None):
    """The states, rewards and ends of these actions from a first episode's start."""
    state = world.reset(jax.random.key(0), task)[0] if state is None else state
    told = []
    for action in actions:
        state, observation, reward, ended, _ = world.step(jax.random.key(0), state, jnp.int32(action))
        told.append((int(state.cell), round(float(reward), 4), bool(ended), np.asarray(observation)))
    return state, told


@pytest.mark.parametrize("world", [EmptyRooms(), EmptyRooms(small=True)], ids=["13", "9"])
def test_empty_rooms(world):
    wall, start = four_rooms(world.size), (world.size // 4) * (world.size + 1)
    goals = set(numpy(jax.jit(jax.vmap(world.draw))(keys(3000))).tolist())
    assert goals == set(np.flatnonzero(~wall)) - {start}
    # all cells can be reached, and within the limit
    reached, edge = {start: 0}, [start]
    for cell in edge:
        for direction in range(1, 5):
            after, _ = plain_move(cell, direction, wall)
            if after not in reached:
                reached[after] = reached[cell] + 1
                edge.append(after)
    assert set(reached) == goals | {start} and max(reached.values()) <= world.time_limit / 2
    goal = start + 1
    _, told = walk(world, jnp.int32(goal), [UP, DOWN, RIGHT])
    assert [t[:3] for t in told] == [(start - world.size, 0, False), (start, 0, False), (goal, 1, True)]
    assert told[0][3].sum() == 1 and told[0][3].reshape(-1)[start - world.size] == 1
    assert (world.time_limit, world.lifetime) == ((100, 200) if world.size == 13 else (40, 100))


def test_random_abc():
    world, rewards = RandomABC(), jnp.array([0.75, -0.25, 0.5])
    drawn = numpy(jax.jit(jax.vmap(world.draw))(keys(4000)))
    np.testing.assert_allclose(drawn.mean(0), [0, -0.25, 0.25], atol=0.04)
    np.testing.assert_allclose(np.ptp(drawn, axis=0), [2, 0.5, 0.5], atol=0.01)
    corners = {
        0: ([UP, UP, RIGHT, RIGHT], 0.75),
        1: ([DOWN, DOWN, LEFT, LEFT], -0.25),
        2: ([DOWN, DOWN, RIGHT, RIGHT], 0.5),
    }
    for letter, (path, pay) in corners.items():
        _, told = walk(world, rewards, path)
        assert [t[1:3] for t in told] == [(0, False)] * 3 + [(pay, True)]
        assert told[0][3].shape == (5, 5, 4) and np.all(told[0][3].sum((0, 1)) == 1)
        assert np.argwhere(told[-1][3][..., 0])[0].tolist() == np.argwhere(told[-1][3][..., 1 + letter])[0].tolist()
    assert not any(t[2] or t[1] for t in walk(world, rewards, [UP, UP, LEFT, LEFT])[1])  # the fourth corner is empty
    assert (world.time_limit, world.lifetime) == (10, 50)


def test_key_box():
    world, rewards = KeyBox(), jnp.array([0.75, -0.25, 0.5])
    to_key, to_a = [UP, UP, LEFT, LEFT], [RIGHT] * 4
    _, told = walk(world, rewards, [UP, UP, RIGHT, RIGHT])
    assert not any(t[1] or t[2] for t in told) and told[-1][3][0, 0, 4] == 1  # without the key nothing happens
    state, told = walk(world, rewards, [*to_key, *to_a])
    assert [t[1] for t in told] == [0, 0, 0, -0.1, 0, 0, 0, 0.75] and [t[2] for t in told] == [False] * 7 + [True]
    assert told[3][3][..., 4].sum() == 0
    fresh, observation = world.again(jax.random.key(0), state)
    assert not fresh.open and observation[0, 0, 4] == 1 and fresh.episode == 1
    assert world.lifetime == 5000


def test_non_stationary_abc_swaps():
    world = NonStationaryABC()
    signs = numpy(jax.jit(jax.vmap(world.draw))(keys(200)))
    assert {tuple(s) for s in signs} == {(1.0, -0.5, -1.0), (-1.0, -0.5, 1.0)}
    env = batched(world, 2)
    path = jnp.array([UP, UP, RIGHT, RIGHT, UP])  # to A, and the step of the reset

    def step(state, t):
        state, timestep = env.step(state, jnp.full(2, path[t % 5]))
        return state, (timestep.reward, timestep.last)

    state = env.reset(keys(2), keys(2))[0]
    reward, last = numpy(jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(5 * 800))[1])(state))
    paid = reward[last[:, 0]]
    assert paid.shape == (800, 2)
    sign = np.where(np.arange(800) // 250 % 2 == 0, 1, -1)
    np.testing.assert_array_equal(paid, sign[:, None] * np.asarray(state.world.task)[None, :, 0])


def test_action_sets_to_transfer_to():
    rewards, start = jnp.array([0.75, -0.25, 0.5]), 12
    cells = lambda world: [walk(world, rewards, [a])[1][0][0] - start for a in range(world.action.n)]  # noqa: E731
    assert cells(RandomABC()) == [-5, 5, -1, 1]
    assert cells(RandomABC(permuted=True)) == [5, -5, 1, -1]
    assert cells(RandomABC(extended=True)) == [-5, 5, -1, 1, -6, -4, 4, 6]
    assert cells(RandomABC(extended=True, permuted=True)) == [5, -5, 1, -1, 6, 4, -4, -6]
    assert envs.make("operant:KeyBox-v0", 1, extended=True).spec.action == Discrete(8)
    assert envs.make("operant:EmptyRooms-v0", 1, small=True).spec.observation.shape == (9, 9, 1)


# ------------------------------------------------------------------------------------------------------------ registry
def test_names_have_the_sizes_of_the_paper():
    observed = lambda name: envs.make(f"operant:{name}-v0", 1).spec.observation  # noqa: E731
    assert observed("Grid-dense") == Discrete(121 * 16) and observed("Grid-sparse") == Discrete(169 * 4)
    assert observed("Grid-longer") == Discrete(63 * 128) and observed("Grid-long_dense") == Discrete(121 * 16)
    assert observed("SmallGrid") == Discrete(36 * 8) and observed("Chain-distractor").shape == (22,)
    assert observed("RandomGrid-small").shape == (5, 7, 3) and observed("RandomGrid-very_dense").shape == (11, 11, 2)
    longer, four = (np.array([list(row) for row in GRIDS[name][0]]) == "#" for name in ("longer", "long_dense"))
    assert longer.shape == (7, 9) and set(zip(*np.nonzero(longer), strict=True)) == {
        (r, 4) for r in range(7) if r not in (1, 5)
    } | {(3, 3), (3, 5)}
    assert four.shape == (11, 11) and set(zip(*np.nonzero(four), strict=True)) == {
        (r, 5) for r in range(11) if r not in (0, 7)
    } | {(4, c) for c in range(11) if c not in (2, 8)}
    assert envs.make("operant:Grid-dense-v0", 1, collect=True).spec.action == Discrete(18)
    with pytest.raises(UserError, match="room for the walls"):
        envs.make("operant:SmallGrid-v0", 1, walls=13)
    with pytest.raises(UserError, match="collect"):
        envs.make("operant:Grid-dense-v0", 1, colect=True)


@pytest.mark.parametrize("name", sorted(name for name in WORLDS if hasattr(WORLDS[name](), "draw")))
def test_all_of_them_can_be_drawn(name):
    env = envs.make(name, 2)
    state, timestep = jax.jit(env.reset)(keys(2))
    render = draw.renderer_for(name, env.spec)
    first = lambda tree: jax.tree.map(lambda x: np.asarray(x[0]), tree)  # noqa: E731
    frame = render(first(state.world), first(timestep))
    assert frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.std() > 1


@pytest.mark.parametrize("name", [n for n in WORLDS if any(w in n for w in ("Grid", "Rooms", "ABC", "Key"))])
def test_a_map_shows_what_is_seen_from_each_cell(name):
    env, key = envs.make(name, 5), jax.random.key(3)
    seen, is_open = numpy(env.everywhere(key))
    tasks = jnp.broadcast_to(key, (5,))
    state, timestep = jax.jit(env.reset)(keys(5), tasks)
    step = jax.jit(env.step)
    start, visited = numpy(state.world), set()
    others = [x for x in ("present", "open") if hasattr(start, x)]  # what may have changed besides the agent's cell
    for action in np.random.default_rng(0).integers(0, env.spec.action.n, (60, 5)):
        world = numpy(state.world)
        for i, cell in enumerate(world.cell):
            place = np.divmod(cell, is_open.shape[1])
            assert is_open[place]
            if all(np.array_equal(getattr(world, x)[i], getattr(start, x)[i]) for x in others):
                planes = slice(1) if "RandomGrid" in name else slice(None)  # there objects differ between episodes
                observation, expected = np.atleast_1d(timestep.observation[i], seen[place])
                np.testing.assert_array_equal(observation[..., planes], expected[..., planes])
                visited.add(int(cell))
        state, timestep = step(state, jnp.asarray(action))
    assert len(visited) > 1


def test_maps_pass_wrappers_that_they_can_pass():
    name, key = "operant:EmptyRooms-v0", jax.random.key(0)
    plain, is_open = envs.make(name, 2).everywhere(key)
    assert plain.shape == (13, 13, 13, 13, 1) and plain.sum() == 169
    stacked, _ = envs.make(name, 2, frame_stack=2, reward_delay=3).everywhere(key)
    np.testing.assert_array_equal(stacked, np.concatenate([plain, plain], -1))
    assert envs.make(name, 2, previous_action_reward=True).everywhere(key) is None
    assert envs.make("operant:Cells-v0", 2).everywhere(key) is None


def test_a_maze_is_drawn_where_things_are():
    task = types.SimpleNamespace(wall=np.array([[False, True], [False, False]]), reward=np.array([1.0, -1.0, 1.0]))
    state = types.SimpleNamespace(task=task, cell=2, cells=np.array([0, 3, 3]), present=np.array([True, True, False]))
    frame = scenes.maze(state, None)
    color = lambda row, column: tuple(frame[200 * row + 100, 200 * column + 60])  # noqa: E731
    assert frame.shape == (400, 400, 3)
    assert [color(0, 0), color(0, 1), color(1, 0), color(1, 1)] == [
        scenes.GREEN,
        scenes.INK,
        scenes.BLUE,
        scenes.ORANGE,
    ]
