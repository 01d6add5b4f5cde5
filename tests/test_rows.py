"""A run with a replay memory goes on as if it had never stopped, and its checkpoints cost what is new."""

from __future__ import annotations

import types
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

import operant as op
from operant import methods
from operant.errors import UserError
from operant.memory import PrioritizedReplay, Replay, SequenceReplay
from operant.memory.replay import Ticket
from operant.run import checkpoint, rows
from operant.run import run as run_module
from operant.run.leaves import Damaged
from operant.run.program import Program
from operant.types import Batch, Box, Discrete, Spec


def stored(memory, rollouts: int, rollout: int = 4, lanes: int = 2):
    """Lanes of a memory with so many rollouts in it, every entry a number of its own."""
    spec = Spec(Box((3,)), Discrete(2), num_envs=2)

    def batch(i: int) -> Batch:
        number = i * rollout + jnp.arange(rollout + 1.0)[:, None] + jnp.array([0.0, 0.5])
        return Batch(
            observation=jnp.broadcast_to(number[..., None], (rollout + 1, 2, 3)),
            first=jnp.zeros((rollout + 1, 2), bool),
            action=jnp.zeros((rollout, 2), jnp.int32),
            reward=number[:-1],
            discount=jnp.ones((rollout, 2)),
            valid=jnp.ones((rollout, 2)),
            carry=jnp.full((2, 5), float(i)),
        )

    made = memory.init(jax.tree.map(jnp.zeros_like, batch(0)), spec)
    states = [made]
    for i in range(rollouts):
        made = memory.add(made, batch(i), spec)
        states.append(made)
    spread = lambda x: jnp.stack([x + lane if x.dtype == jnp.float32 else x for lane in range(lanes)])  # noqa: E731
    spread_out = lambda s: s.replace(rows=jax.tree.map(spread, s.rows), carries=jax.tree.map(spread, s.carries))  # noqa: E731
    return [spread_out(s) for s in states], made.slots


def same(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.parametrize("block", [1 << 26, 100])
@pytest.mark.parametrize(
    "memory", [Replay(capacity=40), SequenceReplay(capacity=48, length=6, burn_in=1)], ids=["replay", "sequences"]
)
def test_what_segments_hold_is_what_the_memory_holds(tmp_path: Path, memory, block: int, monkeypatch):
    """Copied whole, or in blocks of a row or two."""
    monkeypatch.setattr(rows, "BLOCK", block)
    (states, slots), segments = stored(memory, 19), []
    for number in (0, 1, 3, 4, 4, 9, 12, 19):  # the ring of five or six rollouts goes around; once nothing is new
        state = states[number]
        segments = rows.save(tmp_path, state, segments)
        rows.remove_unused(tmp_path, [segments])
        again = rows.load(tmp_path, segments, state.replace(rows=jax.tree.map(jnp.zeros_like, state.rows)))
        if number >= slots:  # before that, lane 1's zeros are ones here, and never written
            assert same(again, state)
        names = {f"{s['from']:012d}-{s['to']:012d}" for s in segments}
        assert {p.name for p in tmp_path.iterdir()} == names
    assert (
        sum(s["to"] - s["from"] for s in segments) <= (slots + 7) * 4
    )  # the ring, and what of the oldest segment is over


def test_a_damaged_or_missing_segment_is_seen(tmp_path: Path):
    state = stored(Replay(capacity=40), 5)[0][-1]
    segments = rows.save(tmp_path, state, [])
    file = next(tmp_path.glob("*/1.npy"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(Damaged, match=r"1\.npy of the replay memory is damaged"):
        rows.load(tmp_path, segments, state)
    file.unlink()
    with pytest.raises(Damaged, match="cannot be read"):
        rows.load(tmp_path, segments, state)


SETTINGS = {"steps": 4_000, "seeds": 2, "chunks": 10, "checkpoint_seconds": 0.0, "eval_every": 0, "quiet": True}


def agent(name: str):
    small = {"memory.capacity": 1024, "memory.learning_starts": 400, "network.hidden": (16,)}
    return methods.apply(methods.build(name), small)


def stop_after(chunks: int):
    return lambda run, row: int(run.state.updates) >= chunks * run.program.chunk_updates


@pytest.mark.parametrize("name", ["dqn", pytest.param("rainbow", marks=pytest.mark.of("rainbow"))])
def test_resuming_with_a_full_memory_equals_not_stopping(tmp_path: Path, name: str, capsys):
    whole = op.train(agent(name), "CartPole-v1", run_dir=tmp_path / "whole", **SETTINGS)
    op.train(agent(name), "CartPole-v1", run_dir=tmp_path / "cut", callback=stop_after(6), **SETTINGS)
    again = op.resume(tmp_path / "cut", quiet=True)
    assert int(whole.state.memory.written) * 8 > 1024  # the memory had gone around
    keys = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    assert same(jax.tree.map(keys, whole.state), jax.tree.map(keys, again.state))

    # a damaged segment: said, and the run goes on with an empty memory
    op.train(agent(name), "CartPole-v1", run_dir=tmp_path / "hurt", callback=stop_after(2), **SETTINGS)
    file = min((tmp_path / "hurt" / "rows").glob("*/0.npy"))
    file.write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    hurt = op.resume(tmp_path / "hurt", callback=stop_after(3), quiet=True)
    assert "is damaged" in capsys.readouterr().err
    assert int(hurt.state.memory.written) == hurt.program.chunk_updates * hurt.agent.rollout_length
    # what was collected since is kept apart from what was damaged
    kept = op.load_run(tmp_path / "hurt", with_memory=True)
    assert "damaged" not in capsys.readouterr().err and same(kept.state.memory, hurt.state.memory)
    assert op.resume(tmp_path / "hurt", quiet=True).steps >= 4_000


class Marked(gymnasium.Env):
    """Shows which of its episodes this is, by a number drawn for it, and how far it has come: episodes of 17 steps."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def seen(self):
        return np.array([self.mark, self.time], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.mark, self.time = self.np_random.uniform(), 0
        return self.seen(), {}

    def step(self, action):
        self.time += 1
        return self.seen(), 1.0, self.time == 17, False, {}


@pytest.mark.parametrize("kind", [Replay, PrioritizedReplay])
def test_where_a_host_environment_began_anew_nothing_is_learned_that_did_not_happen(tmp_path: Path, kind, monkeypatch):
    learner = agent("dqn").replace(memory=kind(capacity=1024, learning_starts=400, n_step=3), num_envs=4)
    settings = {**SETTINGS, "steps": 2_000, "env": Marked, "run_dir": tmp_path / "run"}
    op.train(learner, callback=stop_after(1), **settings)
    first = op.resume(tmp_path / "run", env=Marked, callback=stop_after(2), quiet=True)
    run = op.resume(tmp_path / "run", env=Marked, callback=stop_after(3), quiet=True)
    memory, stored = run.agent.memory, run.state.memory
    assert len(run.cuts) == 2 and run.cuts[:1] == first.cuts
    for lane in range(2):
        alone = jax.tree.map(lambda x, lane=lane: x[lane] if x.ndim else x, stored)
        places = np.arange((int(stored.written) - 3) * 4)  # of all that could be drawn: the ring has not gone around
        if kind is PrioritizedReplay:
            places = places[np.asarray(alone.index.tree[0])[places] > 0]
        ticket = Ticket.of(alone, jnp.asarray(places // 4), jnp.asarray(places % 4))
        batch = memory.transitions(alone, ticket, run.program.spec)
        valid, (mark, time) = np.asarray(batch.valid) > 0, np.moveaxis(np.asarray(batch.observation), -1, 0)
        drawn = valid[0]
        assert drawn.all() if kind is PrioritizedReplay else 0 < drawn.sum() < len(drawn)
        assert (mark[0] == mark[1])[drawn].all() and np.array_equal((time[1] - time[0])[drawn], valid.sum(0)[drawn])

    # what the ring holds no more is forgotten, and so is all with the memory; older checkpoints knew of none
    for written, cuts in ((256, run.cuts), (256 + run.cuts[0], run.cuts), (257 + run.cuts[0], run.cuts[1:]), (0, [])):
        assert run_module._cuts(stored.replace(written=np.int32(written)), run.cuts, host=False) == cuts
    save = checkpoint.save
    old = lambda directory, tree, header, **rest: save(  # noqa: E731
        directory, tree, {k: v for k, v in header.items() if k != "cuts"}, **rest
    )
    monkeypatch.setattr(checkpoint, "save", old)
    run_module.save(run, best=False)
    again = op.load_run(tmp_path / "run", env=Marked, with_memory=True)
    assert again.cuts == [int(stored.written) - 1]


def test_the_memory_can_be_left_out(tmp_path: Path, capsys):
    settings = {**SETTINGS, "checkpoint_memory": False}
    op.train(agent("dqn"), "CartPole-v1", run_dir=tmp_path / "run", callback=stop_after(6), **settings)
    assert not (tmp_path / "run" / "rows").exists()
    run = op.resume(tmp_path / "run", quiet=True)
    assert "keeps no replay memory" in capsys.readouterr().err and run.steps >= 4_000


def test_the_size_of_the_memory_is_told_before_it_is_made(tmp_path: Path, monkeypatch, capsys):
    told: list[str] = []

    def made(self):
        told.append(capsys.readouterr().err)
        raise InterruptedError

    monkeypatch.setattr(Program, "init", made)
    for number, quiet in enumerate((False, True)):
        with pytest.raises(InterruptedError):
            op.train(agent("dqn"), "CartPole-v1", run_dir=tmp_path / str(number), **{**SETTINGS, "quiet": quiet})
    assert told == ["replay memory: 0.00 GB\n", ""]

    monkeypatch.undo()
    op.train(agent("dqn"), "CartPole-v1", run_dir=tmp_path / "run", callback=stop_after(1), **SETTINGS)
    monkeypatch.setattr(rows, "load", lambda *_: made(None))
    with pytest.raises(InterruptedError):
        op.resume(tmp_path / "run")
    assert told[2] == told[0]


def test_a_memory_that_does_not_fit_is_refused_with_its_size(tmp_path: Path):
    huge = methods.apply(agent("dqn"), {"memory.capacity": 10**12})
    with pytest.raises(UserError, match=r"takes [\d,.]+ GB for 1 lane.*lower --memory.capacity"):
        op.train(huge, "CartPole-v1", steps=1000, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_was_learned_is_used_without_room_for_the_memory(tmp_path: Path, monkeypatch):
    large = methods.apply(agent("dqn"), {"memory.capacity": 100_000})
    op.train(large, Marked, run_dir=tmp_path / "run", callback=stop_after(1), **SETTINGS)
    monkeypatch.setattr(Program, "init", lambda self: pytest.fail("a whole run is made"))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=1 << 20))
    run = op.load_run(tmp_path / "run", env=Marked)
    assert run.policy(np.zeros(2, np.float32)) in (0, 1)
    needs = run.program._compiled["stage"].memory_analysis()
    assert needs.output_size_in_bytes + needs.temp_size_in_bytes < 1e5 < 5e6 < run.program.memory_bytes
    with pytest.raises(UserError, match=r"takes [\d,.]+ GB for 2 lane"):
        op.resume(tmp_path / "run", env=Marked)
    monkeypatch.undo()
    monkeypatch.setattr(Program, "init", lambda self: pytest.fail("a second memory is made"))
    assert op.resume(tmp_path / "run", env=Marked, callback=stop_after(2), quiet=True).steps > run.steps
