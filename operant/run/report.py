"""What the verbs print and draw."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from operant.errors import UserError
from operant.run import files
from operant.run.figures import draw_curves, draw_dials, draw_portrait


def to_json_line(data: dict[str, Any]) -> str:
    """One line of standard JSON: what is not finite becomes null."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(v) for v in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    return json.dumps(clean(data))


def finish_run(run: Any, *, json_line: bool) -> None:
    """The end of `train` and `resume`: the curve drawn, and a table or one line of JSON."""
    name, env, folder = run.agent.registered_name, run.directory.config["env"], run.directory.figures
    figure = _if_it_can(lambda: draw_curves([(name, run.evaluations)], folder / "curve.png", title=env))
    dials = _if_it_can(lambda: draw_dials(run.directory, folder / "dials.png", title=env))
    portrait = _if_it_can(lambda: _draw_portrait(run))
    summary = run.summary()
    if json_line:
        print(to_json_line(summary))
        return
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    if summary["return_mean"] is not None:
        table.add_row("return", f"{summary['return_mean']:,.1f}  ({describe_interval(summary)})")
    if summary["settings"] > 1:
        for text in settings_table(run):
            table.add_row("setting", text)
    table.add_row("steps", f"{summary['steps']:,} of each of {len(run.lanes)} lane(s)")
    if summary["steps_per_second"]:
        table.add_row(
            "speed", f"{summary['steps_per_second']:,.0f} steps/s, compiled in {summary['compile_seconds']:.1f} s"
        )
    if summary["peak_memory_bytes"]:
        table.add_row("memory", f"{summary['peak_memory_bytes'] / 1e6:,.0f} MB in the compiled chunk")
    if figure:
        table.add_row("curve", str(figure))
    if dials:
        table.add_row("dials", str(dials))
    if portrait:
        table.add_row("learned", str(portrait))
    table.add_row("run", str(run.path))
    if run.agent.playable:
        table.add_row("next", f"operant eval {run.path}   operant watch {run.path}")
    else:  # what it learned is for agents to come
        table.add_row("next", f"operant train METHOD ENV --init-from {run.path}")
    _console().print(table)
    for line in summary["frozen_lanes"]:
        print(f"operant: {line}", file=sys.stderr)


def _if_it_can(draw: Callable[[], Path | None]) -> Path | None:
    """A picture of a run that has ended: where the disk refuses it, the numbers are still told."""
    try:
        return draw()
    except (UserError, OSError) as error:
        print(f"operant: {error}", file=sys.stderr)
        return None


def _draw_portrait(run: Any) -> Path | None:
    """What the first lane learned to learn by, if its agent can tell; on a map, where its environment has one."""
    import jax

    from operant.rollout import task_keys

    if not hasattr(run.agent, "portrait"):
        return None
    agent, state = jax.tree.map(lambda x: x[0], (run.state.agent, run.state.state))
    env, seen = run.program.env, None
    if hasattr(env, "everywhere"):
        seen = env.everywhere(task_keys(run.program.keys())[0])
    panels = agent.portrait(state, seen)
    title = f"{run.directory.config['env']}: what {run.agent.registered_name} learned"
    return draw_portrait(panels, run.directory.figures / "portrait.png", title=title) if panels else None


def settings_table(run: Any) -> list[str]:
    """One line for each setting of a sweep, best first: its dials and its return over seeds."""
    from operant.scores import mean_interval

    seeds = run.settings.seeds
    settings = [
        ", ".join(f"{name}={value:.4g}" for name, value in lane.items() if name != "seed")
        for lane in run.lanes[::seeds]
    ]
    if not run.evaluations:  # stopped before the first, or of an agent that cannot be played
        return [f"{text}: not evaluated" for text in settings]
    returns = np.array(run.evaluations[-1]["returns"]).reshape(-1, seeds)
    lines = []
    for index in np.argsort(-returns.mean(1)):
        spread = ""
        if seeds > 1:
            low, high = mean_interval(returns[index])
            spread = f"  (95 % {low:,.1f} to {high:,.1f})"
        lines.append(f"{settings[index]}: {returns[index].mean():,.1f}{spread}")
    return lines


def _console() -> Any:
    """Standard output; where it is no terminal, nothing is wrapped, so that a path stays one word."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)


def describe_interval(result: dict[str, Any]) -> str:
    """The 95 % interval of an evaluation in words; one episode of one seed has none."""
    low, high = result["return_ci"]
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"no interval: too few {result['ci_over']}"
    return f"95 % {low:,.1f} to {high:,.1f}, over {result['ci_over']}"


def print_evaluation(run: Any, result: dict[str, Any], *, json_line: bool) -> None:
    if json_line:
        print(to_json_line({"run": str(run.path), "steps": run.steps, **result}))
        return
    print(
        f"return {result['return_mean']:,.2f}  ({describe_interval(result)}; "
        f"{result['seeds']} seed(s) x {result['episodes']} episodes, mean length {result['length_mean']:,.1f})"
    )
    if result["unfinished"]:
        print(
            f"{result['unfinished']} episode(s) were cut by the cap on steps; their returns count as far as they went"
        )


def print_runs(runs: list[dict[str, Any]], root: str, *, json_line: bool) -> None:
    if json_line:
        print(to_json_line({"runs": runs}))
        return
    if not runs:
        print(f"no runs under {root}; `operant train ppo CartPole-v1` makes one")
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("run", "method", "env", "status", "steps", "return", ""):
        table.add_column(name, justify="right" if name in ("steps", "return") else "left")
    for run in runs:
        mean = run.get("return_mean")
        table.add_row(
            *(escape(run.get(name) or "-") for name in ("run", "method", "env", "status")),
            f"{run['steps']:,}" if run.get("steps") is not None else "-",
            f"{mean:,.1f}" if isinstance(mean, (int, float)) else "-",
            escape(_why(run)),
        )
    _console().print(table)


def _why(run: dict[str, Any], most: int = 100) -> str:
    """What is wrong with a run that failed or is broken, in one short line."""
    why: Any = run.get("problem")
    if run.get("status") == "failed":
        try:
            status = files.read_json(Path(run["run"]) / "status.json")
        except (UserError, FileNotFoundError):
            status = {}
        why = "its process is gone" if status.get("status") == "running" else status.get("reason")
    text = "".join(c if c.isprintable() else " " for c in why) if isinstance(why, str) else ""
    return text if len(text) <= most else text[: most - 3] + "..."


# -------------------------------------------------------------------------------------------------------- comparing
def compare_runs(paths: list[Path], out: Path, *, json_line: bool) -> None:
    """Draws the runs' evaluations into one picture and prints their ends as a table.

    Each run is one curve, with its own interval: runs are not pooled, be they of one configuration.
    """
    from operant.run.directory import RunDirectory
    from operant.run.settings import Settings, check_config

    if len(paths) < 2:
        raise UserError("compare needs two runs or more")
    curves, rows = [], []
    for path in paths:
        directory = RunDirectory.open(path)
        config = directory.config
        check_config(config, path / "config.json", "agent", "env", "settings")
        seeds = Settings.from_json(config["settings"]).seeds
        rows_of_run = [row for row in directory.metrics() if "eval_return" in row]
        evaluations = [_evaluation(row, len(row["eval_return"]) // seeds) for row in rows_of_run]
        name = f"{config['agent']['class']} ({path.name})"
        curves.append((name, evaluations))
        last = {**evaluations[-1], **_end_of_one_seed(directory, evaluations[-1])} if evaluations else None
        keys = ("steps", "return_mean", "return_ci", "ci_over", "seeds")
        known = {key: last[key] for key in keys} if last else {}
        rows.append(
            {
                "run": str(path),
                "method": config["agent"]["class"],
                "env": config["env"],
                **known,
            }
        )
    envs = sorted({row["env"] for row in rows})
    figure = draw_curves(curves, out, title=", ".join(envs))
    if json_line:
        print(to_json_line({"figure": str(figure) if figure else None, "runs": rows}))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("run", "method", "env", "seeds", "steps", "return", "95 %"):
        table.add_column(name)
    for row in rows:
        if "steps" not in row:
            table.add_row(row["run"], row["method"], row["env"], "", "", "not evaluated yet", "")
            continue
        low, high = row["return_ci"]
        interval = f"{low:,.1f} to {high:,.1f} over {row['ci_over']}" if math.isfinite(low + high) else "no interval"
        table.add_row(row["run"], row["method"], row["env"], str(row["seeds"]), f"{row['steps']:,}",
                      f"{row['return_mean']:,.1f}", interval)  # fmt: skip
    console = _console()
    console.print(table)
    if len(envs) > 1:
        console.print(f"these runs are of different environments ({', '.join(envs)}): their returns cannot be compared")
    if figure:
        console.print(f"\n{figure}")


def _evaluation(row: dict[str, Any], settings: int) -> dict[str, Any]:
    """An evaluation as the metrics keep it: one mean per lane, so the interval is over seeds, and one seed has none.
    Of a sweep's settings it is the best."""
    from operant.run.evaluation import best_setting
    from operant.scores import mean_interval

    seeds = best_setting(np.array(row["eval_return"], float), settings)[1]
    returns = seeds[np.isfinite(seeds)]
    low, high = mean_interval(returns) if len(returns) > 1 else (math.nan, math.nan)
    return {
        "steps": min(row["steps"]),
        "return_mean": float(returns.mean()) if len(returns) else math.nan,
        "return_ci": [low, high],
        "ci_over": "seeds" if len(seeds) > 1 else "episodes",
        "seeds": len(seeds),
    }


def _end_of_one_seed(directory: Any, last: dict[str, Any]) -> dict[str, Any]:
    """The interval over the episodes of a single seed's last evaluation, which only the summary keeps."""
    summary = (directory.summary or {}) if last["seeds"] == 1 else {}
    mean, interval = summary.get("return_mean"), summary.get("return_ci")
    numbers = [mean, *interval] if isinstance(interval, list) else []
    if len(numbers) != 3 or not all(type(x) is float for x in numbers):
        return {}
    # a summary is out of date once the run goes on
    return {"return_ci": interval} if math.isclose(mean, last["return_mean"], rel_tol=1e-9, abs_tol=1e-12) else {}


# ------------------------------------------------------------------------------------------------- where time goes
def profile(run: Any, out: TextIO) -> None:
    """Prints how an update's time divides between environment, acting and learning, each measured on its own."""
    parts = time_parts(run.program, run.state)
    total = sum(parts.values())
    print("where an update's time goes (each part compiled and timed on its own):", file=out)
    for name, seconds in parts.items():
        print(f"  {name:<12} {seconds * 1e3:9.2f} ms  {100 * seconds / total:3.0f} %", file=out)


def time_parts(program: Any, run: Any, repeats: int = 5) -> dict[str, float]:
    """Seconds of one update's parts: stepping the environment with fixed actions, what acting and learning add."""
    import jax

    from operant.rollout import fold, rollout
    from operant.types import zeros

    learner, length = program.learner, run.agent.rollout_length
    if program.num_devices > 1:
        raise ValueError(f"parts are timed on one device, and the program has {program.num_devices}")
    action = zeros(program.spec.action, (program.lanes, run.agent.num_envs))

    def environment(run):
        def step(state, _):
            state, timestep = learner.env.step(state, fold(action))
            return state, timestep.reward

        return jax.lax.scan(step, run.stage.env_state, None, length=length)

    def acting(run):
        return rollout(run.agent, run.state, learner.env, run.stage, run.key, length)

    def median(function):
        compiled = jax.jit(function).lower(run).compile()
        jax.block_until_ready(compiled(run))
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            jax.block_until_ready(compiled(run))
            times.append(time.perf_counter() - began)
        return float(np.median(times))

    env_seconds, act_seconds, all_seconds = median(environment), median(acting), median(learner.update)
    return {
        "environment": env_seconds,
        "acting": max(act_seconds - env_seconds, 0.0),
        "learning": max(all_seconds - act_seconds, 0.0),
    }


def bench(
    env: str, method: str, num_envs: tuple[int, ...], seeds: int, devices: int, seconds: float, *, json_line: bool
) -> None:
    """Times the training loop itself, without evaluation, checkpoints or files."""
    import jax

    from operant.agent import strong
    from operant.methods import build
    from operant.run.program import Program

    rows = []
    for width in num_envs:
        agent = dataclasses.replace(build(method, env), num_envs=width)
        agent.check()
        agents = jax.tree.map(lambda x: np.full((seeds,), x, np.float32), strong(agent))
        updates = max(1, 16384 // (width * agent.rollout_length))
        program = Program(agents, env, {}, {}, np.arange(seeds), 0, updates, 1, devices=devices)
        state = program.init()
        state, _ = program.chunk(state)
        jax.block_until_ready(state)
        before, began = int(np.asarray(state.steps).sum()), time.perf_counter()
        while time.perf_counter() - began < seconds:
            state, _ = jax.block_until_ready(program.chunk(state))
        speed = (int(np.asarray(state.steps).sum()) - before) / (time.perf_counter() - began)
        parts = time_parts(program, state) if program.num_devices == 1 else {}
        rows.append({"num_envs": width, "seeds": seeds, "devices": program.num_devices, "steps_per_second": speed,
                     "compile_seconds": program.compile_seconds, "seconds_per_update": parts})  # fmt: skip
        program.close()
    if json_line:
        print(to_json_line({"method": method, "env": env, "device": jax.devices()[0].device_kind, "rows": rows}))
        return
    print(f"{method} on {env}, {jax.devices()[0].device_kind}, {seeds} seed(s)")
    for row in rows:
        total = sum(row["seconds_per_update"].values()) or 1.0
        shares = "  ".join(f"{k} {100 * v / total:.0f} %" for k, v in row["seconds_per_update"].items())
        print(f"  {row['num_envs']:>4} environments  {row['steps_per_second']:>12,.0f} steps/s  "
              f"compiled in {row['compile_seconds']:.1f} s  {shares}")  # fmt: skip
