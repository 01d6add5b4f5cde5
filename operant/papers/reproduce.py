"""Runs a card: tunes its arms alike, trains them on fresh seeds, writes the result, draws it, and gives the verdict.

Every stage of every arm is an ordinary run in a directory of its own, so that what is interrupted goes on, exactly,
when the same command is given again, and each of them can be watched, evaluated and compared like any other.

    DIR/<slug>/<scale>/before/<name>          what arms begin from, where the card has such runs
    DIR/<slug>/<scale>/<env>/<arm>/tuning     the search, where the scale has one
    DIR/<slug>/<scale>/<env>/<arm>/seeds      the seeds that the verdict rests on
    OUT/<slug>/<scale>.json, .png             the result
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from operant import agent as contract
from operant.errors import UserError
from operant.methods import apply, build
from operant.papers.paper import Arm, Paper, Scale
from operant.papers.verdict import judge
from operant.run import files
from operant.run.directory import RunDirectory, safe_name
from operant.run.machine import describe_machine
from operant.run.run import Run, load_run
from operant.run.settings import Settings
from operant.run.train import resume, train

FIRST_SEED = 0  # of those that the verdict rests on
TUNING_SEED = 100_000  # the search has seeds of its own
IN_TRAINING = ("final", "share")  # metrics that are taken from the episodes of training


class Interrupted(Exception):
    """A person stopped it; what was done is kept."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One run of one arm."""

    env: str
    arm: str
    kind: str  # before, tuning or seeds
    agent: Any
    settings: Settings
    path: Path
    begins: Path | None = None  # the run whose parameters it begins with


def reproduce(
    paper: Paper, scale_name: str = "laptop", *, runs: Path, out: Path, devices: int = 0, quiet: bool = False
) -> dict[str, Any]:
    """The result of a card at a scale, as it stands in OUT/<slug>/<scale>.json.

    Raises UserError for a scale that is not there, or runs that were made by another version of the card, and
    Interrupted where a person stopped it: the same call goes on.
    """
    scale = paper.scale(scale_name)
    root = Path(runs) / paper.slug / scale_name
    told = _Told(paper, scale, quiet)
    scores: dict[str, dict[str, list[float]]] = {}
    arms: list[dict[str, Any]] = []
    before: list[dict[str, Any]] = []
    begun = {"": None} | {name: root / "before" / safe_name(name) for name in paper.before}
    for name, arm in paper.before_of(scale).items():
        (env,) = arm.envs
        settings = _settings(scale, arm, *scale.before, FIRST_SEED, (), devices)
        stage = Stage(env, name, "before", _agent(env, arm, scale.before_changes), settings, begun[name])
        run = _run(stage, told)
        before.append({"name": name, "env": env, "env_options": settings.env_options, "method": arm.method,
                       "agent": contract.to_json(stage.agent), "steps": run.steps, "frozen": run.diagnose(),
                       "seeds": [lane["seed"] for lane in run.lanes], "seconds": run.seconds})  # fmt: skip
    for env, name, arm in paper.pairs_of(scale):
        directory = root / safe_name(env) / safe_name(name)
        begins = begun[arm.begins]
        plain, seconds = _agent(env, arm, scale.changes), 0.0
        chosen: dict[str, float] = {}
        tried: list[dict[str, Any]] = []
        if scale.tuning is not None:
            settings = _settings(scale, arm, *scale.tuning, TUNING_SEED, _sweep(paper.tune_of(arm)), devices)
            run = _run(Stage(env, name, "tuning", plain, settings, directory / "tuning", begins), told)
            chosen, tried = _best(scored(run, paper.metric_of(env)))
            seconds += run.seconds
        settings = _settings(scale, arm, scale.steps, scale.seeds, FIRST_SEED, (), devices)
        stage = Stage(env, name, "seeds", contract.with_dials(plain, chosen), settings, directory / "seeds", begins)
        run = _run(stage, told)
        seconds += run.seconds
        counted = scored(run, paper.metric_of(env))
        values = [value for _, value in counted]
        scores.setdefault(env, {})[name] = values
        arms.append(
            {
                "env": env,
                "arm": name,
                "method": arm.method,
                "changes": arm.changes,
                "env_options": settings.env_options,
                "tuned": chosen,
                "tuning": tried,
                "agent": contract.to_json(stage.agent),
                "steps": run.steps,
                "scores": values,
                "seeds": [lane["seed"] for lane, _ in counted],
                "frozen": run.diagnose(),
                "seconds": seconds,
                "curve": list(_course(run.directory, paper.metric_of(env))),
                "curve_of": "training" if paper.metric_of(env) in IN_TRAINING else "evaluation",
            }
        )
    verdict, outcomes = judge(scores, paper.comparisons_of(scale))
    result = {
        "slug": paper.slug, "scale": scale_name, "claim": paper.claim, "metric": paper.measured,
        "verdict": verdict, "comparisons": [outcome.to_json() for outcome in outcomes], "arms": arms, "before": before,
        "seconds": sum(one["seconds"] for one in (*arms, *before)), "machine": describe_machine(),
    }  # fmt: skip
    folder = Path(out) / paper.slug
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / f"{scale_name}.json", result)
    from operant.papers.picture import draw

    draw(paper, result, folder / f"{scale_name}.png")
    return result


# -------------------------------------------------------------------------------------------------------------- stages
def _agent(env: str, arm: Arm, changes: dict[str, Any]) -> Any:
    """The arm's agent for an environment: its preset, the scale's changes, and then what the arm is about."""
    agent = apply(apply(build(arm.method, env), changes), arm.changes)
    agent.check()
    return agent


def _sweep(tune: dict[str, tuple[float, ...]]) -> tuple[str, ...]:
    return tuple(f"{name}={','.join(repr(float(v)) for v in values)}" for name, values in tune.items())


def _settings(
    scale: Scale, arm: Arm, steps: int, seeds: int, seed: int, sweep: tuple[str, ...], devices: int
) -> Settings:
    return Settings(
        steps=steps, seeds=seeds, seed=seed, sweep=sweep, env_options={**scale.env_options, **arm.env_options},
        devices=devices, keep=1, checkpoint_seconds=120.0,
    )  # fmt: skip


def _run(stage: Stage, told: _Told) -> Run:
    """The run of a stage, finished: as it was found, or gone on with, or made."""
    wanted = {
        "agent": files.from_text(files.to_text(contract.to_json(stage.agent))),
        "settings": files.from_text(files.to_text(stage.settings.to_json())),
    }
    title = told.begin(stage)
    if (stage.path / "config.json").exists():
        directory = RunDirectory.open(stage.path)
        wanted |= {"env": stage.env, "init_from": None if stage.begins is None else str(stage.begins)}
        if {name: directory.config[name] for name in wanted} != wanted:
            raise UserError(
                f"{stage.path} was made with other settings than the card has now: remove it, or name another directory"
                " with --run-dir"
            )
        status = directory.status
        if status == "running":
            raise UserError(f"{stage.path} is being trained by another process")
        if status == "finished":
            return told.end(stage, load_run(stage.path))
        if any(directory.checkpoints.glob("*")):
            return told.end(stage, resume(stage.path, quiet=told.quiet, title=title))
        shutil.rmtree(stage.path)  # stopped before its first checkpoint: there is nothing to go on from
    settings = {f.name: getattr(stage.settings, f.name) for f in dataclasses.fields(stage.settings)}
    run = train(
        stage.agent, stage.env, run_dir=stage.path, init_from=stage.begins, quiet=told.quiet, title=title, **settings
    )
    return told.end(stage, run)


class _Told:
    """What is shown: which run of how many, and, from the first one's speed on, how long the rest will take."""

    def __init__(self, paper: Paper, scale: Scale, quiet: bool):
        self.paper, self.quiet = paper, quiet
        steps, seeds = scale.tuning or (0, 0)
        pairs = paper.pairs_of(scale)
        settings = sum(math.prod(len(values) for values in paper.tune_of(arm).values()) for _, _, arm in pairs)
        self.lane_steps_left = steps * seeds * settings + len(pairs) * scale.steps * scale.seeds
        before = len(paper.before_of(scale))
        self.lane_steps_left += before * math.prod(scale.before)
        self.number, self.total = 0, before + len(pairs) * (1 if scale.tuning is None else 2)
        self.done_steps, self.done_seconds = 0, 0.0
        if not quiet:
            print(f"{paper.slug}: {paper.claim}", file=sys.stderr)

    def begin(self, stage: Stage) -> str:
        self.number += 1
        what = "tuning" if stage.kind == "tuning" else f"{stage.settings.seeds} seeds"
        what = f"{what}, to begin from" if stage.kind == "before" else what
        return f"{self.number}/{self.total} {self.paper.slug}, {stage.arm} on {stage.env}, {what}"

    def end(self, stage: Stage, run: Run) -> Run:
        """Raises Interrupted where the run was."""
        if run.interrupted:
            raise Interrupted
        shutil.rmtree(run.directory.rows, ignore_errors=True)  # a replay memory is large, and this one has served
        steps = stage.settings.steps * len(run.lanes)
        self.lane_steps_left -= steps
        self.done_steps += steps
        self.done_seconds += run.seconds
        if not self.quiet and self.number < self.total:
            left = self.lane_steps_left * self.done_seconds / self.done_steps
            print(f"about {_minutes(left)} left, by the speed so far", file=sys.stderr, flush=True)
        return run


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


# -------------------------------------------------------------------------------------------------------------- scores
def scored(run: Run, metric: str) -> list[tuple[dict[str, Any], float]]:
    """The lanes of a run, each with its score.  Of a task in which there is nothing to earn there is no share: its lane
    is left out, whatever came of it.  Raises UserError for shares of the best where nobody knows the best.
    """
    pairs = zip(run.lanes, score(run.directory, metric), strict=True)
    if metric != "share":
        return list(pairs)
    return [(lane, x / best) for (lane, x), best in zip(pairs, best_returns(run).tolist(), strict=True) if best > 0.0]


def score(directory: RunDirectory, metric: str) -> list[float]:
    """One number for each lane of a run, as `METRICS` describe them, but for what a share is of.

    A lane that a NaN stopped has what it had reached until then: failing is part of its score.
    """
    if metric in IN_TRAINING:
        return _final(list(directory.metrics()))
    returns = np.array([row["returns"] for row in _curve(directory)])
    return (returns[-1] if metric == "evaluation" else returns.mean(0)).tolist()


def best_returns(run: Run) -> np.ndarray:
    """[K] The best expected return of an episode in the task of each lane; UserError where it is not known."""
    import jax

    from operant.rollout import task_keys

    best = getattr(run.program.env, "best_return", lambda key: None)
    known = jax.jit(jax.vmap(best))(task_keys(run.program.keys()))
    if known is None:
        raise UserError(f"nobody knows the best expected return in {run.directory.config['env']}: it has no `share`")
    return np.asarray(known)


def _curve(directory: RunDirectory) -> Iterator[dict[str, Any]]:
    for row in directory.metrics():
        if "eval_return" in row:
            yield {"steps": min(row["steps"]), "returns": row["eval_return"]}


def _course(directory: RunDirectory, metric: str) -> Iterator[dict[str, Any]]:
    """The curve that a metric is of: returns in training for `final`, in evaluation for the others."""
    if metric not in IN_TRAINING:
        yield from _curve(directory)
        return
    for row in directory.metrics():
        if "train_return" in row and min(row["episodes"]) > 0:
            yield {"steps": min(row["steps"]), "returns": row["train_return"]}


def _final(rows: list[dict[str, Any]]) -> list[float]:
    rows = [row for row in rows if "train_return" in row]
    steps = np.array([row["steps"] for row in rows])
    episodes = np.array([row["episodes"] for row in rows], np.float64)
    means = np.array([row["train_return"] for row in rows], np.float64)
    found = []
    for lane in range(steps.shape[1]):
        some = episodes[:, lane] > 0
        if not some.any():
            raise UserError("no episode ended in training: this scale is too short for the metric `final`")
        late = some & (steps[:, lane] > 0.9 * steps[-1].max())
        late = late if late.any() else np.arange(len(some)) == np.flatnonzero(some)[-1]
        found.append(float(np.average(means[late, lane], weights=episodes[late, lane])))
    return found


def _best(counted: list[tuple[dict[str, Any], float]]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The setting with the best mean score over the search's seeds, and all of them with their scores."""
    groups: dict[tuple, list[float]] = {}
    for lane, value in counted:
        groups.setdefault(tuple((k, v) for k, v in lane.items() if k != "seed"), []).append(value)
    best = max(groups, key=lambda setting: sum(groups[setting]) / len(groups[setting]))
    return dict(best), [{"setting": dict(setting), "scores": found} for setting, found in groups.items()]
