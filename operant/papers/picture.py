"""The figure of a result: learning curves of all arms above, every seed's score below, a column an environment."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from operant.papers.paper import METRICS, Paper
from operant.run.figures import look, short_number
from operant.scores import interquartile_mean, mean_interval


def draw(paper: Paper, result: dict[str, Any], path: Path) -> None:
    """Writes the figure of `result` (as `reproduce` returns it) to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    envs = list(dict.fromkeys(arm["env"] for arm in result["arms"]))
    names = list(dict.fromkeys(arm["arm"] for arm in result["arms"]))
    looks = {name: look(i) for i, name in enumerate(names)}
    height = 3.2 + 0.3 * len(names) + 0.6
    figure, grid = plt.subplots(
        2, len(envs), figsize=(max(6.5, 4.6 * len(envs)), height), dpi=150, layout="constrained", squeeze=False,
        height_ratios=(3.2, 0.3 * len(names) + 0.6),
    )  # fmt: skip
    for (above, below), env in zip(grid.T, envs, strict=True):
        arms = [arm for arm in result["arms"] if arm["env"] == env]
        for arm in arms:
            _curve(above, arm, looks[arm["arm"]])
        for place, arm in enumerate(arms):
            _scores(below, len(arms) - 1 - place, arm["scores"], looks[arm["arm"]])
        above.set_title(env, loc="left", fontsize=11, fontweight="bold")
        above.set_xlabel("environment steps")
        above.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))
        below.set_yticks(range(len(arms)), [arm["arm"] for arm in reversed(arms)])
        below.set_ylim(-0.6, len(arms) - 0.4)
        below.set_xlabel(textwrap.fill(METRICS[paper.metric_of(env)], 50), fontsize=8)
        what = arms[0].get("curve_of", "evaluation")
        above.set_ylabel(f"return in {what}\n(mean, 95 % interval over seeds)", fontsize=9)
        for axes in (above, below):
            axes.grid(alpha=0.25, lw=0.6, axis="both" if axes is above else "x")
            axes.spines[["top", "right"]].set_visible(False)
        for label, arm in zip(below.get_yticklabels(), reversed(arms), strict=True):
            label.set_color(looks[arm["arm"]]["color"])  # they are the legend: one above would lie on the curves
    figure.suptitle(f"{paper.slug}, scale {result['scale']}: {result['verdict']}", x=0.01, ha="left", fontsize=11)
    figure.savefig(path)
    plt.close(figure)


def _curve(axes: Any, arm: dict[str, Any], stroke: dict[str, str]) -> None:
    curve = [point for point in arm["curve"] if all(math.isfinite(x) for x in point["returns"])]
    steps, returns = [point["steps"] for point in curve], [np.array(point["returns"]) for point in curve]
    axes.plot(steps, [x.mean() for x in returns], **stroke, lw=1.8, label=arm["arm"])
    if returns and len(returns[0]) > 1:
        axes.fill_between(
            steps, *np.array([mean_interval(x) for x in returns]).T, color=stroke["color"], alpha=0.15, lw=0
        )


def _scores(axes: Any, place: int, scores: list[float], stroke: dict[str, str]) -> None:
    """Every seed as a dot, hollow where the curve is not solid; the interquartile mean as a stroke."""
    colour, solid = stroke["color"], stroke["ls"] == "-"
    spread = np.linspace(-0.14, 0.14, len(scores)) if len(scores) > 1 else [0.0]
    axes.plot(
        scores,
        place + np.asarray(spread),
        "o",
        ms=4,
        color=colour,
        alpha=0.55,
        mew=0 if solid else 0.8,
        mfc=colour if solid else "none",
    )
    axes.plot([interquartile_mean(np.asarray(scores))] * 2, [place - 0.32, place + 0.32], color=colour, lw=2.4)
