"""A run: where it stands, what can be done with what it has learned, and how it is loaded and saved."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operant import agent as contract
from operant.errors import UserError
from operant.learner import RunState
from operant.memory import Stored
from operant.methods import from_json
from operant.rollout import Outcome
from operant.run import checkpoint, rows, sweep
from operant.run.directory import RunDirectory
from operant.run.evaluation import summarize
from operant.run.leaves import Damaged
from operant.run.policy import Policy
from operant.run.program import Program
from operant.run.settings import Settings, check_config


@dataclasses.dataclass
class Run:
    """A run: its directory, where it stands, and what can be done with what it has learned."""

    directory: RunDirectory
    agent: Any
    settings: Settings
    program: Program
    state: RunState
    lanes: list[dict[str, Any]]
    evaluations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    train_seconds: float = 0.0
    interrupted: bool = False
    segments: rows.Segments | None = None  # of the replay memory, in the last checkpoint
    cuts: list[int] = dataclasses.field(default_factory=list)  # rows of it after which host environments began anew

    @property
    def path(self) -> Path:
        return self.directory.path

    @property
    def steps(self) -> int:
        """Steps that every lane has reached."""
        return int(np.asarray(self.state.steps).min())

    @property
    def curve(self) -> list[dict[str, Any]]:
        """The evaluations so far: steps, return_mean, return_ci, returns (one mean per lane)."""
        return self.evaluations

    def evaluate(self, episodes: int | None = None, *, stochastic: bool | None = None, stream: int = 1 << 20) -> dict:
        """Plays whole episodes with every lane in environments of its own, without learning.

        Returns `return_mean`, `return_ci` (95 %), `ci_over`, `episodes`, `seeds`, `returns` [K] (each lane's mean) and
        `unfinished`; in a sweep the first five are of the setting that did best, whose number is `setting`.
        """
        return self.summarized(self.program.evaluate(self.state, stream, episodes, stochastic))

    def summarized(self, outcome: Outcome) -> dict[str, Any]:
        """The numbers of an evaluation of all lanes."""
        return summarize(outcome, self.num_settings)

    @property
    def num_settings(self) -> int:
        """How many settings of a sweep there are; 1 without one."""
        return len(self.lanes) // self.settings.seeds

    @property
    def policy(self) -> Policy:
        """The policy of the lane that did best in the last evaluation (the first, where there was none)."""
        best = int(np.argmax(self.evaluations[-1]["returns"])) if self.evaluations else 0
        return self.policy_of(best)

    def policy_of(self, lane: int, *, stochastic: bool = False) -> Policy:
        """The policy of one lane. Raises UserError where the agent has none of its own."""
        self.program.check_playable()
        pick = lambda tree: jax.tree.map(lambda x: x[lane], tree)  # noqa: E731
        return Policy(
            pick(self.state.agent),
            pick(self.state.state),
            self.program.spec,
            env=self.program.env,
            seed=lane,
            stochastic=stochastic,
        )

    def diagnose(self) -> list[str]:
        """One line for each lane that a NaN or an infinity froze."""
        return self.program.learner.diagnose(self.state)

    def summary(self) -> dict[str, Any]:
        """What `operant train --json` prints."""
        last = self.evaluations[-1] if self.evaluations else {}
        total = int(np.asarray(self.state.steps).sum())
        return {
            "run": str(self.path),
            "steps": self.steps,
            "seeds": self.settings.seeds,
            "settings": self.num_settings,
            "steps_per_second": total / self.train_seconds if self.train_seconds else None,
            "compile_seconds": self.program.compile_seconds,
            "seconds": self.seconds,
            "peak_memory_bytes": self.program.peak_memory(),
            "return_mean": last.get("return_mean"),
            "return_ci": last.get("return_ci"),
            "ci_over": last.get("ci_over"),
            "frozen_lanes": self.diagnose(),
            "interrupted": self.interrupted,
            **({"best_setting": self._dials_of(last["setting"])} if "setting" in last else {}),
        }

    def _dials_of(self, setting: int) -> dict[str, Any]:
        lane = self.lanes[setting * self.settings.seeds]
        return {name: value for name, value in lane.items() if name != "seed"}


# ------------------------------------------------------------------------------------------------------ load and save
def load_run(
    run_dir: str | os.PathLike,
    *,
    env: Any = None,
    which: str = "latest",
    with_memory: bool = False,
    quiet: bool = True,
) -> Run:
    """A run as its `latest` or `best` checkpoint left it, to evaluate, watch or use its policy; with its replay memory
    where it is to learn on, whose size is told first unless it is to be quiet."""
    directory = RunDirectory.open(Path(run_dir))
    agent, settings, program, lanes = as_configured(directory, env)
    if with_memory:
        make_room(program, quiet)
    like = program.like()
    state, header = checkpoint.load(directory.checkpoints, _without_rows(like), which)
    segments, cuts = header["rows"], []
    if with_memory and state.memory != ():
        state, segments = _with_memory(state, like, header, directory, program)
        cuts = _cuts(state.memory, header.get("cuts", []), program.env.host)
        # segments are never written again: what they hold is cut after every load
        state = state.replace(memory=rows.cut(state.memory, cuts))
    if program.env.host:  # a simulator's memory cannot be loaded: its part is that of a fresh start
        state = state.replace(stage=program.stage(state.agent, state.state))
    state = program.place(state)
    run = Run(directory, agent, settings, program, state, lanes)
    run.evaluations, run.segments, run.cuts = list(header["evaluations"]), segments, cuts
    run.seconds, run.train_seconds = header["seconds"], header["train_seconds"]
    return run


def as_configured(directory: RunDirectory, env: Any) -> tuple[Any, Settings, Program, list[dict[str, Any]]]:
    """What a run's configuration asks for: its agent, settings, compiled side and lanes."""
    config = directory.config
    check_config(config, directory.path / "config.json")
    agent = from_json(config["agent"])
    agent.check()
    settings = Settings.from_json(config["settings"])
    program, lanes = make_program(agent, config["env"] if env is None else env, settings)
    made_on, now = config["devices"], program.devices_used()
    if made_on != now:
        print(
            f"this run was made on {made_on['number']} device(s), {made_on.get('kind')}, now it has {now['number']}, "
            f"{now['kind']}: it goes on, but its numbers may differ in the last bits",
            file=sys.stderr,
        )
    return agent, settings, program, lanes


def _without_rows(state: RunState) -> RunState:
    return state.replace(memory=rows.without_rows(state.memory)) if state.memory != () else state


def _with_memory(
    state: RunState, like: RunState, header: dict[str, Any], directory: RunDirectory, program: Program
) -> tuple[RunState, rows.Segments | None]:
    """The state with its replay memory, and the segments that hold it: as the checkpoint had it, or, where that was not
    kept or is damaged, empty."""
    kept = like.memory.replace(index=state.memory.index, written=state.memory.written)
    reason = "this run keeps no replay memory in its checkpoints"
    if header["rows"] is not None:
        try:
            return state.replace(memory=rows.load(directory.rows, header["rows"], kept)), header["rows"]
        except Damaged as error:
            reason = str(error)
    # only here: an exception that is being handled holds what was loaded until then
    print(f"operant: {reason}; the replay memory is empty, and learning waits until it has filled", file=sys.stderr)
    return state.replace(memory=program.init().memory), None


def _cuts(memory: Stored, before: list[int], host: bool) -> list[int]:
    """The rows of a loaded memory that its next row does not go on from: those before, and in a simulator the last."""
    written = int(memory.written)
    last = [written - 1] if host else []
    return [row for row in dict.fromkeys([*before, *last]) if rows.oldest(memory) <= row < written]


def make_program(agent: Any, env: Any, settings: Settings) -> tuple[Program, list[dict[str, Any]]]:
    """The compiled side of a run, and what each of its lanes is (its dials and its seed)."""
    # also where it is as it was: an earlier run of this process may have had another
    jax.config.update("jax_default_matmul_precision", None if settings.precision == "float32" else settings.precision)
    points = sweep.parse(settings.sweep, settings.sweep_draws, settings.seed)
    sweep.check(agent, points)
    lanes = [{**point, "seed": settings.seed + s} for point in points for s in range(settings.seeds)]
    one = [contract.strong(contract.with_dials(agent, point)) for point in points for _ in range(settings.seeds)]
    agents = jax.tree.map(lambda *x: jnp.stack(x), *one)
    options = dict(settings.env_options)
    updates = -(-settings.steps // (agent.num_envs * agent.rollout_length))
    program = Program(
        agents=agents,
        env_name=env,
        env_options=options,
        eval_options={**options, **evaluation_options(options)},
        seeds=np.array([lane["seed"] for lane in lanes]),
        total_steps=settings.steps,
        chunk_updates=-(-updates // settings.chunks),
        eval_episodes=settings.eval_episodes,
        eval_stochastic=settings.eval_stochastic,
        devices=settings.devices,
        shard=settings.shard,
    )
    return program, lanes


def make_room(program: Program, quiet: bool) -> None:
    """Tells how large the replay memory will be, before it is made. Raises UserError where it does not fit."""
    program.check_room()
    if program.memory_bytes and not quiet:
        print(f"replay memory: {program.memory_bytes / 1e9:,.2f} GB", file=sys.stderr, flush=True)


def evaluation_options(options: dict[str, Any]) -> dict[str, Any]:
    """What differs in evaluation: true rewards and whole games (`score` is true already; a life lost is no end)."""
    return {"life_loss_terminates": False} if "life_loss_terminates" in options else {}


def save(run: Run, *, best: bool) -> None:
    """Writes a checkpoint: the state, and apart from it what is new in the replay memory."""
    keeps = run.settings.checkpoint_memory and run.state.memory != ()
    run.segments = rows.save(run.directory.rows, run.state.memory, run.segments or []) if keeps else None
    header = {
        "rows": run.segments,
        "cuts": run.cuts,
        "agent": contract.to_json(run.agent),
        "updates": int(run.state.updates),
        "steps": np.asarray(run.state.steps).tolist(),
        "seconds": run.seconds,
        "train_seconds": run.train_seconds,
        "evaluations": run.evaluations,
    }
    # a lane that a NaN froze holds its last finite state, so what is saved is always finite
    checkpoint.save(
        run.directory.checkpoints,
        _without_rows(run.state),
        header,
        number=int(run.state.updates),
        keep=run.settings.keep,
        best=best,
    )
    if run.segments is not None:
        rows.remove_unused(run.directory.rows, [run.segments, *_segments_of(run.directory.checkpoints)])


def _segments_of(directory: Path) -> Iterator[rows.Segments]:
    """What each checkpoint needs of the replay memory; one whose header cannot be read needs nothing any more."""
    for path in checkpoint.checkpoints(directory):
        with suppress(UserError):
            yield checkpoint.read_header(path)["header"]["rows"] or []
