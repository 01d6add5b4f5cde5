"""Writes results/README.md from the JSON files beside it: `python results/table.py` (`--check`: is it current?)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from operant.papers import corpus
from operant.papers.listing import best_path
from operant.scores import interquartile_mean

HERE = Path(__file__).parent
PAPERS = """# Results

## Papers

Claims of papers, each tested against its own baseline by `operant reproduce PAPER`: the difference of interquartile
means over seeds with its 95 % interval (bootstrap stratified by arm), and how often a seed of the first beats one of
the second. A claim is reproduced where every difference that it needs lies above its margin by its whole interval. Each
arm's settings were searched alike, on other seeds.

| paper | scale | claim | comparison | environment | first | second | difference | P(better) | verdict | minutes |
|---|---|---|---|---|--:|--:|:-:|:-:|---|--:|
"""
HEAD = """
## Learning

Every row is one committed file with every seed's numbers, the versions, the hardware and the date; the command is what
was run. Intervals are 95 %, Student's t over seeds unless said otherwise. `python results/learn.py NAME` repeats a row.

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


def paper_rows(path: Path) -> str:
    """One line for each comparison; what stands for the whole paper is on its first."""
    data, text = json.loads(path.read_text()), ""
    scores = {(arm["env"], arm["arm"]): interquartile_mean(arm["scores"]) for arm in data["arms"]}
    link = f"[{data['slug']}]({path.relative_to(HERE).as_posix()})"
    whole = (link, data["scale"], data["claim"]), (f"**{data['verdict']}**", f"{data['seconds'] / 60:.0f}")
    for c in data["comparisons"]:
        (name, scale, claim), (verdict, minutes) = whole
        pair = f"{c['better']} > {c['worse']}" + ("" if c["needed"] else " (beside)")
        low, high = c["interval"]
        text += (
            f"| {name} | {scale} | {claim} | {pair} | {c['env']} "
            f"| {scores[c['env'], c['better']]:,.2f} | {scores[c['env'], c['worse']]:,.2f} "
            f"| {c['difference']:,.2f} [{low:,.2f}, {high:,.2f}] | {c['probability']:.2f} | {verdict} | {minutes} |\n"
        )
        whole = ("", "", ""), ("", "")
    return text


def render() -> str:
    papers = [path for slug in corpus() for path in [best_path(HERE, slug)] if path is not None]
    rows = [json.loads(path.read_text()) for path in sorted((HERE / "learning").glob("*.json"))]
    text = (PAPERS + "".join(map(paper_rows, papers)) if papers else "# Results\n") + HEAD
    text += "".join(learning_row(row) for row in rows)
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
