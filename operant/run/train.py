"""The one loop: chunks of a compiled scan; between them, on the host, metrics, evaluation, callbacks, checkpoint."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from operant import agent as contract
from operant.errors import UserError
from operant.learner import RunState
from operant.methods import build
from operant.run import checkpoint
from operant.run.directory import RunDirectory, default_path
from operant.run.display import Display, describe_return
from operant.run.machine import describe_machine
from operant.run.program import Program
from operant.run.run import Run, as_configured, load_run, make_program, make_room, save
from operant.run.settings import Settings
from operant.run.stop import deadline, interrupts
from operant.run.writers import Metrics, check_wandb

EXIT_NAN = 3

Callback = Callable[[Run, dict[str, Any]], bool | None]


# ------------------------------------------------------------------------------------------------------------- train
def train(
    agent: Any,
    env: Any,
    steps: int | None = None,
    *,
    run_dir: str | os.PathLike | None = None,
    init_from: str | os.PathLike | None = None,
    callback: Callback | None = None,
    quiet: bool = False,
    title: str = "",
    **settings: Any,
) -> Run:
    """Trains an agent in an environment and returns the run.

    agent      an agent, or a method's name, which is built with its preset for the environment
    env        a name (`operant envs`), or anything that `operant.register` takes
    steps      environment steps of each seed
    run_dir    where the run is kept; by default runs/<env>/<method>-<time>
    init_from  a run whose parameters are started from
    callback   called as `callback(run, row)` after every chunk; the run ends when it returns True
    title      what the display calls the run; by default the method and the environment
    settings   the fields of `operant.run.settings.Settings`: seeds=8, sweep=("learning_rate=1e-4,1e-3",) ...

    Raises UserError for everything that a user can mend.
    """
    began = time.perf_counter()
    if steps is not None:
        settings["steps"] = steps
    configured = Settings(**settings)
    configured.check()
    name = env if isinstance(env, str) else type(env).__name__
    if isinstance(agent, str):
        agent = build(agent, env)
    agent.check()
    source = None if init_from is None else load_run(init_from)  # before anything is made: it may not be there
    program, lanes = make_program(agent, env, configured)
    program.check()
    make_room(program, quiet)
    path = Path(run_dir) if run_dir is not None else default_path(agent.registered_name, name, configured.seed)
    config = {
        "agent": contract.to_json(agent),
        "env": name,
        "settings": configured.to_json(),
        "devices": program.devices_used(),
        "init_from": None if init_from is None else str(init_from),
        "machine": describe_machine(),
    }
    if source is not None:
        _check_start(program, source)
    check_wandb(configured.wandb)
    directory = RunDirectory.create(path, config)  # what a user can have got wrong is behind us: from here it is a run
    with _told_in(directory):
        run = Run(directory, agent, configured, program, _beginning(program, source), lanes)
        run.seconds = time.perf_counter() - began
        with closing(Metrics(directory.path, wandb=configured.wandb or None)) as metrics:
            return _loop(run, metrics, callback, quiet, title)


def resume(
    run_dir: str | os.PathLike,
    *,
    env: Any = None,
    callback: Callback | None = None,
    quiet: bool = False,
    title: str = "",
) -> Run:
    """Goes on with a run from its latest checkpoint, to the same end as if it had never stopped.

    In JAX environments the numbers are the same bit for bit (same machine, versions and number of devices).  Host
    environments restart their episodes.  `env` is needed only where the run was given an object, not a name.

    A run that was stopped before its first checkpoint begins anew, and one that is finished is returned as it is.
    Raises UserError for a run that another process is training.
    """
    directory = RunDirectory.open(Path(run_dir))
    if directory.status == "running":
        raise UserError(f"{run_dir} is being trained by another process: wait until it ends, or stop it (Ctrl-C there)")
    if checkpoint.checkpoints(directory.checkpoints):
        run = load_run(run_dir, env=env, with_memory=True, quiet=quiet)
        if run.steps >= run.settings.steps and directory.status == "finished":
            return run
        if run.program.env.host and not quiet:
            print("environments of this kind cannot be saved: they start new episodes", file=sys.stderr)
    else:
        run = _from_the_start(directory, env, quiet)
    check_wandb(run.settings.wandb)
    directory.set_status("running")
    with _told_in(directory):
        updates = int(run.state.updates)
        with closing(Metrics.resume(run.path, updates, wandb=run.settings.wandb or None)) as metrics:
            return _loop(run, metrics, callback, quiet, title)


def _from_the_start(directory: RunDirectory, env: Any, quiet: bool) -> Run:
    """A run that has no checkpoint yet, as it began."""
    if not quiet:
        print(f"{directory.path} has no checkpoint yet: it begins anew", file=sys.stderr)
    agent, settings, program, lanes = as_configured(directory, env)
    make_room(program, quiet)
    source = directory.config["init_from"]
    start = _beginning(program, None if source is None else load_run(source))
    return Run(directory, agent, settings, program, start, lanes)


def _beginning(program: Program, source: Run | None) -> RunState:
    """A fresh run, or one with what another has learned."""
    fresh = program.init()
    if source is None:
        return fresh
    return program.place(fresh.replace(state=_carried_over(fresh.state, program, source)))


def _check_start(program: Program, source: Run) -> None:
    """Raises UserError where what another run learned does not fit, before anything is made."""
    _carried_over(program.like().state, program, source)


def _carried_over(state: Any, program: Program, other: Run) -> Any:
    """The agents' states with what another run learned, lane by lane as far as they go, then from the first again."""
    pick = np.arange(program.lanes) % other.program.lanes
    take = lambda tree: jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[pick]), tree)  # noqa: E731
    shapes = lambda tree: (jax.tree.structure(tree), [x.shape[1:] for x in jax.tree.leaves(tree)])  # noqa: E731

    def carried(ours: Any, theirs: Any) -> Any:
        """Meta-parameters, or parameters with normalisers; an agent that learns by a rule takes only the rule."""
        fields = vars(ours)
        # a target network too, which would otherwise pull the parameters back to where it began
        names = ("eta",) if "eta" in fields else ("params", "norm", "target")
        changes = {}
        for name in (name for name in names if name in fields):
            found = getattr(theirs, name, None)
            if shapes(fields[name]) != shapes(found):
                raise UserError(f"--init-from {other.path}: its networks have other shapes than this agent's have here")
            changes[name] = take(found)
        if "agent" in fields:
            changes["agent"] = carried(ours.agent, getattr(theirs, "agent", None))
        return ours.replace(**changes)

    return carried(state, other.state.state)


# -------------------------------------------------------------------------------------------------------------- loop
@contextmanager
def _told_in(directory: RunDirectory) -> Iterator[None]:
    """A failure inside is written down: a run that died says why."""
    try:
        yield
    except BaseException as error:
        with suppress(UserError):  # a disk that is full has been told of by then
            directory.set_status("failed", f"{type(error).__name__}: {error}"[:500])
        raise


@contextmanager
def _environment_errors(program: Program) -> Iterator[None]:
    """What an environment raised inside compiled code, as it was raised."""
    try:
        yield
    except Exception as error:
        for env in (program.env, *program.eval_envs):
            if getattr(env, "error", None) is not None:
                raise env.error from error
        raise


def _loop(run: Run, metrics: Metrics, callback: Callback | None, quiet: bool, title: str) -> Run:
    settings, program = run.settings, run.program
    title = title or f"{run.agent.registered_name} on {run.directory.config['env']}"
    if program.lanes > 1:
        title += f" x {program.lanes}"
    patience = settings.deadline if program.env.host else math.inf
    began, seconds_before = time.perf_counter(), run.seconds
    saved_at, reported = time.perf_counter(), set()
    best = max((e["return_mean"] for e in run.evaluations), default=-math.inf)
    with Display(title, settings.steps, quiet) as display, interrupts(run.path) as interrupted:
        stopped = run.steps >= settings.steps
        while not stopped:
            chunk_began, compiled_before = time.perf_counter(), program.compile_seconds
            program.compile_chunk(run.state)
            with deadline(patience, run.path), _environment_errors(program):
                run.state, sums = program.chunk(run.state)
                sums = {name: np.asarray(x) for name, x in jax.device_get(sums).items()}
            run.directory.beat()
            took = time.perf_counter() - chunk_began - (program.compile_seconds - compiled_before)
            run.train_seconds += took
            run.seconds = seconds_before + time.perf_counter() - began
            row = _row(run, sums, took)
            metrics.write(row)
            display.update(run.steps, float(sums["new_steps"].sum() / took), *_return_and_spread(row))
            for line in run.diagnose():
                if line not in reported:
                    reported.add(line)
                    display.warn(line)
            done = run.steps >= settings.steps
            all_frozen = len(reported) == program.lanes
            chunk_number = int(run.state.updates) // program.chunk_updates
            improved = False
            due = done or (settings.eval_every and chunk_number % settings.eval_every == 0)
            if due and run.agent.playable:
                with deadline(patience, run.path, "evaluation"), _environment_errors(program):
                    evaluation = run.summarized(program.evaluate(run.state, int(run.state.updates)))
                evaluation = {"steps": run.steps, "update": int(run.state.updates), **evaluation}
                run.evaluations.append(evaluation)
                metrics.write({"update": evaluation["update"], "steps": row["steps"], "seconds": run.seconds,
                               "eval_return": evaluation["returns"]})  # fmt: skip
                mean = evaluation["return_mean"]
                improved, best = mean > best, max(mean, best) if math.isfinite(mean) else best
                done = done or mean >= settings.stop_at_return
                half = (evaluation["return_ci"][1] - evaluation["return_ci"][0]) / 2
                display.note(
                    f"{run.steps:>12,} steps  evaluation: {describe_return(mean, half)}"
                    + (f" (95 % over {evaluation['ci_over']})" if math.isfinite(half) else "")
                )
            run.interrupted = interrupted.is_set()
            asked = bool(callback and callback(run, row))
            stopped = done or asked or run.interrupted or all_frozen
            due = time.perf_counter() - saved_at >= settings.checkpoint_seconds
            if stopped or due or improved:
                metrics.sync()
                save(run, best=improved)
                saved_at = time.perf_counter()
        run.seconds = seconds_before + time.perf_counter() - began
        if run.interrupted:
            display.warn(f"interrupted and saved; go on with: operant resume {run.path}")
    run.directory.finish(run.summary())
    if run.diagnose():
        run.directory.set_status("failed", "; ".join(run.diagnose()))
    return run


def _row(run: Run, sums: dict[str, np.ndarray], took: float) -> dict[str, Any]:
    """One line of the metrics: everything but the times is a function of the run's state."""
    episodes = sums.pop("episodes")
    some = np.maximum(episodes, 1)
    mean = np.where(episodes > 0, sums.pop("return_sum") / some, np.nan)
    square = sums.pop("return_square_sum") / some
    learning = {name: x for name, x in sums.items() if name not in ("length_sum", "new_steps", "updates_done")}
    return {
        "update": int(run.state.updates),
        "steps": np.asarray(run.state.steps).tolist(),
        "seconds": run.seconds,
        "chunk_seconds": took,
        "episodes": episodes.tolist(),
        "train_return": mean.tolist(),
        "train_return_std": np.where(episodes > 0, np.sqrt(np.maximum(square - mean**2, 0.0)), np.nan).tolist(),
        "train_length": np.where(episodes > 0, sums["length_sum"] / some, np.nan).tolist(),
        **{name: x.tolist() for name, x in learning.items()},
    }


def _return_and_spread(row: dict[str, Any]) -> tuple[float | None, float | None]:
    means = np.array([x for x in row["train_return"] if np.isfinite(x)])
    if not len(means):
        return None, None
    return float(means.mean()), float(means.std()) if len(means) > 1 else None
