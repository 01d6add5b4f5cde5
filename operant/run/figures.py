"""The pictures that a run leaves in its directory: returns, dials that it tuned, what it learned to learn by."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from operant.errors import UserError
from operant.run import files

COLOURS = ("#2f6fdd", "#d9592b", "#2a9d63", "#8b5cc9", "#c2414b", "#8a6d3b", "#2b8ca3", "#777777")


def look(number: int) -> dict[str, str]:
    """Colour and stroke of a figure's curve: after eight colours come the same with dashes, then with dots."""
    return {"color": COLOURS[number % len(COLOURS)], "ls": ("-", "--", ":")[number // len(COLOURS) % 3]}


def _pyplot() -> Any:
    """Matplotlib that needs no screen, imported when there is something to draw."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _steps(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: short_number(x)))


def _panels(number: int, columns: int, width: float, height: float, title: str) -> tuple[Any, list[Any]]:
    """A figure with so many panels, and their axes."""
    columns = min(number, columns)
    rows = math.ceil(number / columns)
    size = (max(7.0, width * columns), height * rows)
    figure, grid = _pyplot().subplots(rows, columns, figsize=size, dpi=150, layout="constrained", squeeze=False)
    for axes in grid.flat[number:]:
        axes.remove()
    for axes in grid.flat[:number]:
        _plain(axes)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure, list(grid.flat[:number])


def _save(figure: Any, path: Path) -> Path:
    """Puts a figure at `path` (PNG where its name has no ending). Raises UserError where it cannot be written."""
    path = path if path.suffix else path.with_name(f"{path.name}.png")
    kind, known = path.suffix[1:].lower(), sorted(figure.canvas.get_supported_filetypes())
    try:
        if kind not in known:
            raise UserError(f"{path}: no picture ends in .{kind}; expected one of {', '.join(known)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind)
        files.write(path, drawn.getvalue())
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        _pyplot().close(figure)
    return path


def draw_curves(curves: list[tuple[str, list[dict[str, Any]]]], path: Path, title: str = "") -> Path | None:
    """Evaluation returns over steps: the mean, its 95 % interval as a band. None where there is nothing to draw."""
    curves = [(name, [e for e in evaluations if math.isfinite(e["return_mean"])]) for name, evaluations in curves]
    if not any(evaluations for _, evaluations in curves):
        return None
    figure, axes = _pyplot().subplots(figsize=(7, 4), dpi=150, layout="constrained")
    over = set()
    for i, (name, evaluations) in enumerate(curves):
        stroke = look(i)
        steps = [e["steps"] for e in evaluations]
        axes.plot(steps, [e["return_mean"] for e in evaluations], **stroke, lw=1.8, marker="o", ms=3, label=name)
        band = [e["return_ci"] for e in evaluations]
        if band and all(math.isfinite(x) for pair in band for x in pair):
            axes.fill_between(steps, *zip(*band, strict=True), color=stroke["color"], alpha=0.18, lw=0)
            over |= {e["ci_over"] for e in evaluations}
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return in evaluation")
    _steps(axes)
    _plain(axes)
    if any(name for name, _ in curves):
        interval = f", 95 % interval over {' or '.join(sorted(over))}" if over else ""
        axes.legend(frameon=False, loc="best", title=f"mean{interval}", title_fontsize=8, fontsize=9)
    return _save(figure, path)


def draw_dials(directory: Any, path: Path, title: str = "") -> Path | None:
    """The course of the dials that a run tuned (its metrics `dial ...`), one panel each: all lanes, and their mean.

    None for a run that tuned none.
    """
    rows = [row for row in directory.metrics() if any(name.startswith("dial ") for name in row)]
    told = [name for name in (rows[0] if rows else {}) if name.startswith("dial ")]
    names = sorted(told, key=lambda name: (name.rstrip("0123456789"), len(name), name))  # "gamma 2" before "gamma 10"
    if not names:
        return None
    figure, panels = _panels(len(names), columns=3, width=2.8, height=2.4, title=title)
    for axes, name in zip(panels, names, strict=True):
        course = np.array([np.atleast_1d(row[name]) for row in rows])
        steps = [row["steps"] for row in rows]
        axes.plot(steps, course, color=COLOURS[0], lw=0.7, alpha=0.4 if course.shape[1] > 1 else 1.0)
        if course.shape[1] > 1:
            axes.plot(steps, course.mean(1), color=COLOURS[0], lw=1.8)
        axes.set_title(name.removeprefix("dial "), loc="left", fontsize=9)
        _steps(axes)
    figure.supxlabel("environment steps", fontsize=9)
    return _save(figure, path)


def draw_portrait(panels: list[Any], path: Path, title: str = "") -> Path:
    """The panels of an agent's portrait (`operant/portraits.py`)."""
    figure, grid = _panels(len(panels), columns=2, width=3.8, height=2.6, title=title)
    maps = [axes for axes, panel in zip(grid, panels, strict=True) if hasattr(panel, "values")]
    most = max([np.nanmax(np.abs(panel.values)) for panel in panels if hasattr(panel, "values")], default=0.0)
    for axes, panel in zip(grid, panels, strict=True):
        axes.set_title(panel.title, loc="left", fontsize=9)
        if axes in maps:  # one scale for all, so that they compare; white is nothing
            image = axes.imshow(panel.values, cmap="RdBu", vmin=-most, vmax=most)
            axes.set_facecolor("#888888")
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            continue
        for i, (name, line) in enumerate(panel.lines.items()):
            axes.plot(panel.x, line, color=COLOURS[i % len(COLOURS)], lw=1.4, label=name)
        axes.set_xlabel(panel.axis, fontsize=8)
        if any(not name.startswith("_") for name in panel.lines):
            axes.legend(frameon=False, fontsize=7)
    if maps:
        figure.colorbar(image, ax=maps, shrink=0.8).ax.tick_params(labelsize=8)
    return _save(figure, path)


def short_number(x: float) -> str:
    """A number of steps as axes show it: 200k, 1.5M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if abs(x) >= size:
            return f"{x / size:g}{unit}"
    return f"{x:g}"
