"""What a run shows while it trains: a live line on a terminal, plain lines elsewhere, nothing where it is told to be
quiet. Results go to standard output only at the end; everything here goes to standard error."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def describe_return(mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "return -"
    known = spread is not None and math.isfinite(spread)
    return f"return {mean:,.1f}" + (f" ± {spread:,.1f}" if known else "")


class Display:
    """`update` after every chunk; `note` for single events (an evaluation, a checkpoint, a warning)."""

    def __init__(self, title: str, total_steps: int, quiet: bool = False):
        self.console = Console(stderr=True, highlight=False)
        self.total, self.quiet = total_steps, quiet
        self.live = self.console.is_terminal and not quiet
        self._last_line = 0.0
        self._progress: Progress | None = None
        if self.live:
            self._progress = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:3.0f}%  {task.fields[speed]}  {task.fields[result]}"),
                TimeRemainingColumn(compact=True),
                console=self.console,
                refresh_per_second=5,
            )
            self._task = self._progress.add_task(title, total=total_steps, speed="compiling", result="")
        elif not quiet:
            print(f"{title}: {total_steps:,} steps; compiling", file=sys.stderr, flush=True)

    def __enter__(self) -> Display:
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, steps: int, speed: float, mean: float | None, spread: float | None) -> None:
        """steps: of one lane, for the bar; speed: steps per second over all lanes."""
        result = describe_return(mean, spread)
        if self._progress is not None:
            self._progress.update(
                self._task, completed=min(steps, self.total), speed=f"{speed:,.0f} steps/s", result=result
            )
        elif not self.quiet and time.monotonic() - self._last_line >= 10.0:
            self._last_line = time.monotonic()
            print(f"{steps:>12,} / {self.total:,} steps  {speed:,.0f} steps/s  {result}", file=sys.stderr, flush=True)

    def note(self, text: str, style: str = "") -> None:
        if self.quiet:
            return
        if self.live:
            self.console.print(text, style=style or None, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """Shown even when quiet."""
        if self.live:
            self.console.print(text, style="yellow", markup=False)
        else:
            print(text, file=sys.stderr, flush=True)
