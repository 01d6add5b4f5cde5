"""What the pages show of learning runs (`results/learning/NAME.json`): an agent in a task, every seed's evaluations."""

from __future__ import annotations

import itertools
import math
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from operant.scores import interquartile_mean
from operant.web.curves import Series, plain
from operant.web.results import Results

SCHEDULE = ("steps", "seeds", "seed", "eval-every", "eval-episodes")  # flags that change neither agent nor task
MOST = 500  # runs, and seeds of one, that are shown
LONGEST = 1000  # letters of a command
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
Row = dict[str, Any]


class Learning:
    """The learning runs below a directory of results."""

    def __init__(self, results: Path):
        self.folder = results / "learning"
        self._results = Results(_shown)

    def all(self) -> list[Row]:
        """Every run that can be shown, by task and method."""
        paths = sorted(p for p in self.folder.glob("*.json") if _NAME.fullmatch(p.stem))[:MOST]
        rows = [row for row in map(self._results.get, paths) if row is not None]
        return sorted(rows, key=lambda row: (row["task"].lower(), row["label"], row["name"]))

    def get(self, name: str) -> Row | None:
        """The run of that name, or None."""
        return self._results.get(self.folder / f"{name}.json") if _NAME.fullmatch(name) else None

    def of(self, methods: tuple[str, ...]) -> list[Row]:
        """The runs of some methods; an idea around an agent is a run of the idea."""
        return [row for row in self.all() if row["idea"] in methods]


def _shown(data: dict[str, Any], path: Path) -> Row:
    """A run with what a page computes from it. Raises one of several errors for what is no such run."""
    verb, method, env, flags = _command(str(data["command"]))
    if verb != "train":
        raise ValueError(f"{path} was not made by `operant train`")
    summary, machine, goal = data["summary"], data.get("machine"), data.get("goal")
    low, high = (_number(x) for x in summary["return_ci"])
    curve, last = Series(), []
    if evaluations := data["evaluations"]:
        steps = np.array([np.min(row["steps"]) for row in evaluations], np.float64)
        returns = np.array([row["returns"] for row in evaluations], np.float64)  # [T, seeds]
        curve.extend(steps, np.zeros(len(steps)), returns)
        last = returns[-1, :MOST].tolist()
    points = {name: column for name, column in curve.points().items() if name != "seconds"}
    options = " ".join(flags.pop("env-options", []))
    changes = ", ".join(" ".join([name, *values]) for name, values in flags.items() if name not in SCHEDULE)
    return {
        "name": path.stem,
        "method": method,
        "idea": method.partition(":")[0].partition("@")[0],
        "env": env,
        "options": options,
        "task": f"{env}, {options}" if options else env,
        "changes": changes,
        "label": f"{method}, {changes}" if changes else method,
        "command": str(data["command"]),
        "goal": None if goal is None else float(goal),
        "reached": None if goal is None else low >= goal,
        "steps": int(summary["steps"]),
        "seeds": int(summary["seeds"]),
        "mean": _number(summary["return_mean"]),
        "low": low,
        "high": high,
        "over": str(summary.get("ci_over", "seeds")),
        "seconds": float(summary["seconds"]),
        "machine": machine if isinstance(machine, dict) else {},
        "date": str(machine.get("date", ""))[:10] if isinstance(machine, dict) else "",
        "agent": data.get("agent"),
        "points": points,
        "last": last,
        "spark": spark(points),
    }


def _command(text: str) -> tuple[str, str, str, dict[str, list[str]]]:
    """Verb, method, environment and flags of a line for `operant`."""
    program, verb, method, env, *rest = shlex.split(text[:LONGEST])
    if program != "operant" or len(text) > LONGEST:
        raise ValueError(f"expected a command of operant in at most {LONGEST} letters")
    flags: dict[str, list[str]] = {}
    for word in rest:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags[name.replace("_", "-")] = [value] if value else []
        elif flags:
            flags[next(reversed(flags))].append(word)
    return verb, method, env, flags


def _number(x: Any) -> float:
    return math.nan if x is None else float(x)


# ------------------------------------------------------------------------------------------------------------- figures
def figure(row: Row) -> dict[str, Any]:
    """One run's curve, and the score of every seed at its end."""
    finite = [x for x in row["last"] if math.isfinite(x)]
    middle = plain(interquartile_mean(finite)) if finite else None
    score = {"name": row["label"], "colour": 0, "values": [plain(x) for x in row["last"]], "middle": middle}
    return _figure([{"title": row["task"], "series": [_series(row, 0)], "scores": [score]}])


def together(rows: list[Row]) -> dict[str, Any]:
    """One panel for each task that several runs are of, with all of their curves; a method keeps its colour."""
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row["task"], []).append(row)
    shared = {task: alike for task, alike in tasks.items() if len(alike) > 1}
    colours: dict[str, int] = {}
    for label in (row["label"] for alike in shared.values() for row in alike):
        # the first that no method has beside which this one is shown
        beside = {row["label"] for alike in shared.values() if label in [r["label"] for r in alike] for row in alike}
        taken = {colours.get(other) for other in beside - {label}}
        colours[label] = next(i for i in itertools.count() if i not in taken)
    return _figure(
        [
            {"title": task, "series": [_series(row, colours[row["label"]]) for row in alike]}
            for task, alike in shared.items()
        ]
    )


def _series(row: Row, colour: int) -> dict[str, Any]:
    return {"name": row["label"], "colour": colour, **row["points"]}


def _figure(panels: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "x_label": "environment steps",
        "y_label": "return in evaluation",
        "score_label": "return in the last evaluation",
        "panels": panels,
    }


def spark(points: dict[str, list[float | None]], width: float = 120.0, height: float = 32.0) -> dict[str, str]:
    """A curve and its band as the paths of a small picture."""
    there = [i for i, y in enumerate(points["mean"]) if y is not None]
    if len(there) < 2:
        return {"line": "", "band": ""}
    x, mean = (np.array([points[name][i] for i in there], np.float64) for name in ("x", "mean"))
    ends = [np.array([points.get(name, points["mean"])[i] for i in there], np.float64) for name in ("low", "high")]
    low, high = (np.where(np.isfinite(end), end, mean) for end in ends)
    # as in the large figures, an interval is cut where it would flatten the curve
    most = 0.6 * np.ptp(mean) or np.inf
    bottom, top = max(low.min(), mean.min() - most), min(high.max(), mean.max() + most)
    if bottom == top:
        bottom, top = bottom - 1.0, top + 1.0
    across = (x - x[0]) / (np.ptp(x) or 1.0) * width

    def path(values: np.ndarray, back: bool = False) -> str:
        down = 2.0 + (height - 4.0) * (top - np.clip(values, bottom, top)) / (top - bottom)
        places = [f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True)]
        return "L".join(reversed(places) if back else places)

    return {"line": f"M{path(mean)}", "band": f"M{path(high)}L{path(low, back=True)}Z"}
