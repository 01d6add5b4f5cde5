"""Writes results/README.md from the JSON files beside it: `python results/table.py` (`--check`: is it current?)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """# Results

Every row is one committed file with every seed's numbers, the versions, the hardware and the date; the command is what
was run. Intervals are 95 %, Student's t over seeds unless said otherwise. `python results/learn.py NAME` repeats a row.

## Learning

| run | command | steps | seeds | return in evaluation | 95 % interval | goal for its lower end | | minutes |
|---|---|--:|--:|--:|:-:|--:|:-:|--:|
"""


def learning_row(data: dict) -> str:
    summary, goal = data["summary"], data["goal"]
    low, high = summary["return_ci"]
    interval = "one episode" if not isinstance(low, float) else f"{low:,.2f} to {high:,.2f}"
    over = "" if summary["ci_over"] == "seeds" or not isinstance(low, float) else " over episodes"
    verdict = "" if goal is None else "reached" if low >= goal else "not reached"
    return (
        f"| [{data['name']}](learning/{data['name']}.json) | `{data['command']}` | {summary['steps']:,} "
        f"| {summary['seeds']} | {summary['return_mean']:,.2f} | {interval}{over} "
        f"| {'' if goal is None else goal} | {verdict} | {summary['seconds'] / 60:.1f} |\n"
    )


def render() -> str:
    rows = [json.loads(path.read_text()) for path in sorted((HERE / "learning").glob("*.json"))]
    text = HEAD + "".join(learning_row(row) for row in rows)
    machines = {(m["cpu"] if "cpu" in m else m.get("processor"), m["cores"]) for m in (row["machine"] for row in rows)}
    text += f"\nHardware: {'; '.join(f'{cpu}, {cores} cores' for cpu, cores in sorted(machines, key=str))}. "
    text += "Minutes are wall clock on a machine that ran other work beside: they are not speeds; those are in "
    text += "[benchmarks](benchmarks/).\n"
    notes = HERE / "notes.md"
    return text + ("\n" + notes.read_text() if notes.exists() else "")


if __name__ == "__main__":
    path = HERE / "README.md"
    if "--check" in sys.argv:
        current = path.read_text() == render()
        raise SystemExit(0 if current else "results/README.md is not current: run results/table.py")
    path.write_text(render())
