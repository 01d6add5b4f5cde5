"""What `operant papers` and `operant reproduce` print: the corpus with its verdicts, and one result.

Only the latter needs JAX.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from operant.papers import SCALES, Paper, corpus, get, names
from operant.run import files

FAMILIES = {
    "online": "deep reinforcement learning",
    "meta": "meta-gradients and discovered algorithms",
    "sequence": "in-context learning and sequence models",
    "unsupervised": "unsupervised skills and representations",
    "offline": "offline reinforcement learning",
    "model-based": "world models",
    "imitation": "imitation",
    "preference": "learning from human preferences",
    "language": "language models",
    "generative": "diffusion and generative models",
    "perception": "attention and perception",
    "multi-agent": "many agents",
    "system": "systems and benchmarks",
}


def listing(results: Path, pattern: str = "") -> list[dict[str, Any]]:
    """One row for each paper: what it is, whether it has a card, and its verdict at the largest scale with a result."""
    rows = []
    for entry in corpus().values():
        if pattern.lower() not in f"{entry.slug} {entry.name} {entry.title} {entry.family}".lower():
            continue
        path = best_path(results, entry.slug)
        result = files.read_json(path) if path else None
        there = entry.slug in names()
        rows.append(
            {
                **entry._asdict(),
                "status": "executable" if there else "not there yet",
                "scales": list(get(entry.slug).scales) if there else [],
                "verdict": result["verdict"] if result else None,
                "scale": result["scale"] if result else None,
            }
        )
    return rows


def best_path(results: Path, slug: str) -> Path | None:
    """The result of a paper at the largest scale that was run (smoke apart, which measures nothing), or None."""
    paths = [Path(results) / slug / f"{scale}.json" for scale in reversed(SCALES) if scale != "smoke"]
    return next((path for path in paths if path.is_file()), None)


def show(rows: list[dict[str, Any]]) -> None:
    width = max(len(row["slug"]) for row in rows)
    for family, words in FAMILIES.items():
        inside = [row for row in rows if row["family"] == family]
        if not inside:
            continue
        print(f"{words}")
        for row in sorted(inside, key=lambda row: (row["status"] != "executable", row["slug"])):
            status = row["status"] if row["status"] != "executable" else f"{row['verdict'] or 'not run'}"
            status += f" ({row['scale']})" if row["scale"] else ""
            print(f"  {row['slug']:<{width}}  {status:<24}  {row['title']}")
    there = sum(row["status"] == "executable" for row in rows)
    print(f"\n{len(rows)} papers, {there} with an executable card: `operant reproduce PAPER`")


def show_result(paper: Paper, result: dict[str, Any], out: Path) -> None:
    """The arms, the comparisons and the verdict of one result, as tables."""
    from rich.console import Console
    from rich.table import Table

    from operant.scores import interquartile_mean

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
    arms = Table(box=None, pad_edge=False)
    for name in ("environment", "arm", "tuned", "seeds", "interquartile mean", "minutes"):
        arms.add_column(name, justify="right" if name in ("seeds", "interquartile mean", "minutes") else "left")
    for arm in result["arms"]:
        tuned = ", ".join(f"{name} {value:g}" for name, value in arm["tuned"].items())
        middle = f"{interquartile_mean(arm['scores']):,.2f}"
        minutes = f"{arm['seconds'] / 60:.1f}"
        arms.add_row(arm["env"], arm["arm"], tuned, str(len(arm["scores"])), middle, minutes)
    tests = Table(box=None, pad_edge=False)
    for name in ("environment", "comparison", "difference", "95 %", "P(better)", ""):
        tests.add_column(name)
    for c in result["comparisons"]:
        interval = "{:,.2f} to {:,.2f}".format(*c["interval"])
        says = {True: "holds", False: "refuted", None: "open"}[c["holds"]] + ("" if c["needed"] else " (beside)")
        pair = f"{c['better']} > {c['worse']}"
        tests.add_row(c["env"], pair, f"{c['difference']:,.2f}", interval, f"{c['probability']:.2f}", says)
    console.print(arms)
    console.print()
    console.print(tests)
    folder = out / paper.slug
    console.print(
        f"\n{paper.slug}, scale {result['scale']}: [bold]{result['verdict']}[/bold], in {result['seconds'] / 60:.1f} "
        f"minutes\n{folder / result['scale']}.json, {folder / result['scale']}.png"
    )
