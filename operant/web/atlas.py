"""What the pages show of papers: verdicts, results, figures, the source of methods.

Results come from files that other people may have written: what does not fit is told, and never breaks a page.
"""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from operant import methods
from operant.papers import SCALES, Entry, Paper, corpus, get, names
from operant.papers.listing import FAMILIES, listing
from operant.scores import interquartile_mean, mean_intervals
from operant.web.curves import plain
from operant.web.learning import Learning
from operant.web.results import Results

VERDICTS = {"reproduced": "good", "not reproduced": "bad", "inconclusive": "open"}
NOT_RUN, WAITS = "not run", "no card yet"


class Atlas:
    """The corpus, and the results below a directory. A result is read again when its file has changed."""

    def __init__(self, results: str | os.PathLike):
        self.folder = Path(results)
        self.learning = Learning(self.folder)
        self._results = Results(_shown)

    def rows(self) -> list[dict[str, Any]]:
        """One for each paper: the fields of `operant papers`, with `state` (the verdict, or why there is none) and
        `mark` (how it is coloured)."""
        rows = []
        for row in _papers():
            best = next((r for r in self.all_of(row["slug"]) if r["scale"] != "smoke"), None)
            verdict = best["verdict"] if best else None
            state = verdict or (NOT_RUN if row["status"] == "executable" else WAITS)
            mark = VERDICTS.get(state, "none" if state == WAITS else "todo")
            rows.append({**row, "verdict": verdict, "scale": best and best["scale"], "state": state, "mark": mark})
        return rows

    def all_of(self, slug: str) -> list[dict[str, Any]]:
        """The results of a paper that can be shown, the largest scale first."""
        found = (self.result(slug, scale) for scale in reversed(SCALES))
        return [result for result in found if result is not None]

    def result(self, slug: str, scale: str) -> dict[str, Any] | None:
        """A result as the pages need it; None where there is none, or it is no result."""
        if slug not in corpus() or scale not in SCALES:
            return None
        return self._results.get(self.folder / slug / f"{scale}.json")


@functools.cache
def _papers() -> tuple[dict[str, Any], ...]:
    order = list(FAMILIES)
    rows = listing(Path(os.devnull))  # without results: those are read here, with more suspicion
    return tuple(sorted(rows, key=lambda row: (order.index(row["family"]), row["status"] != "executable", row["name"])))


def paper(slug: str) -> tuple[Entry, Paper | None] | None:
    """A paper and its card, as far as they are there."""
    entry = corpus().get(slug)
    return None if entry is None else (entry, get(slug) if slug in names() else None)


# ------------------------------------------------------------------------------------------------------------- results
def _shown(result: dict[str, Any], path: Path) -> dict[str, Any]:
    """A result with what a page computes from it. Raises one of several errors for what is no result."""
    machine = result.get("machine") or {}
    arms = [_arm(arm) for arm in result["arms"]]
    tests = [_test(c) for c in result["comparisons"]]
    for test in tests:  # those of one environment share a scale
        alike = [t for t in tests if t["env"] == test["env"]]
        ends = [x for t in alike for x in (*t["interval"], t["difference"], 0.0) if math.isfinite(x)]
        low, high = min(ends), max(ends)
        test["axis"] = [low, high] if high > low else [low - 1.0, high + 1.0]
    verdict = str(result["verdict"])
    return {
        "scale": path.stem,
        "claim": str(result.get("claim", "")),
        "metric": str(result.get("metric", "")),
        "verdict": verdict,
        "mark": VERDICTS.get(verdict, "open"),
        "seconds": float(result["seconds"]),
        "date": str(machine.get("date", ""))[:10],
        "machine": machine if isinstance(machine, dict) else {},
        "arms": arms,
        "before": [_before(one) for one in result.get("before", [])],
        "comparisons": tests,
        "envs": list(dict.fromkeys(arm["env"] for arm in arms)),
    }


def _arm(arm: dict[str, Any]) -> dict[str, Any]:
    scores = [float(x) for x in arm["scores"]]
    finite = [x for x in scores if math.isfinite(x)]
    return {
        "env": str(arm["env"]),
        "arm": str(arm["arm"]),
        "method": str(arm["method"]),
        "tuned": {str(k): float(v) for k, v in arm.get("tuned", {}).items()},
        "steps": int(arm["steps"]),
        "scores": scores,
        "middle": interquartile_mean(finite) if finite else math.nan,
        "seconds": float(arm["seconds"]),
        "frozen": [str(line) for line in arm.get("frozen", [])],
        "curve_of": str(arm.get("curve_of", "evaluation")),
        "curve": [{"steps": int(p["steps"]), "returns": [float(x) for x in p["returns"]]} for p in arm["curve"]],
    }


def _before(one: dict[str, Any]) -> dict[str, Any]:
    """A run that arms begin from."""
    words = {key: str(one[key]) for key in ("name", "env", "method")}
    return {**words, "steps": int(one["steps"]), "seeds": len(one["seeds"]), "seconds": float(one["seconds"])}


def _test(c: dict[str, Any]) -> dict[str, Any]:
    low, high = (float(x) for x in c["interval"])
    holds = c["holds"] if c["holds"] in (True, False) else None
    return {
        "env": str(c["env"]),
        "better": str(c["better"]),
        "worse": str(c["worse"]),
        "margin": float(c["margin"]),
        "needed": bool(c["needed"]),
        "difference": float(c["difference"]),
        "interval": (low, high),
        "probability": float(c["probability"]),
        "holds": holds,
        "says": {True: "holds", False: "refuted", None: "open"}[holds],
        "mark": {True: "good", False: "bad", None: "open"}[holds],
    }


def figure(result: dict[str, Any]) -> dict[str, Any]:
    """The data of a result's figure: for each environment the arms' curves, and every seed's score."""
    colours = {name: i for i, name in enumerate(dict.fromkeys(arm["arm"] for arm in result["arms"]))}
    kinds = {arm["curve_of"] for arm in result["arms"]}
    panels = []
    for env in result["envs"]:
        arms = [arm for arm in result["arms"] if arm["env"] == env]
        series, scores = [], []
        for arm in arms:
            curve = [p for p in arm["curve"] if p["returns"]]
            mean, low, high = np.array([mean_intervals(np.array(p["returns"])) for p in curve]).reshape(-1, 3).T
            columns = {"x": [p["steps"] for p in curve], "mean": mean, "low": low, "high": high}
            plainly = {name: [plain(float(x)) for x in column] for name, column in columns.items()}
            series.append({"name": arm["arm"], "colour": colours[arm["arm"]], **plainly})
            values = [plain(x) for x in arm["scores"]]
            scores.append({"name": arm["arm"], "colour": colours[arm["arm"]], "values": values,
                           "middle": plain(arm["middle"])})  # fmt: skip
        title = f"{env}, in {arms[0]['curve_of']}" if len(kinds) > 1 else env
        panels.append({"title": title, "series": series, "scores": scores})
    return {
        "x_label": "environment steps",
        "y_label": f"return in {min(kinds)}" if len(kinds) == 1 else "return",
        "score_label": result["metric"],
        "panels": panels,
    }


# -------------------------------------------------------------------------------------------------------------- source
@functools.cache
def methods_of(slug: str) -> tuple[str, ...]:
    """The methods of a paper's arms, and of what these begin from, or the one with its name: those that are there."""
    card = get(slug) if slug in names() else None
    arms = [*card.arms.values(), *card.before.values()] if card else []
    words = [word for arm in arms for word in arm.method.split(":")] if card else [slug]
    known = dict.fromkeys(word.partition("@")[0] for word in words)
    return tuple(name for name in known if name in methods.entries())


@functools.cache
def papers_of(method: str) -> tuple[Entry, ...]:
    """The papers whose pages show a method, its own before those that compare with it."""
    found = [entry for slug, entry in corpus().items() if method in methods_of(slug)]
    return tuple(sorted(found, key=lambda entry: entry.slug != method))


@functools.cache
def sources(slug: str) -> tuple[tuple[str, str, str, str], ...]:
    """The methods of a paper, each with its summary, its file, and its text with coloured words (as HTML)."""
    shown = []
    for entry in map(methods.entries().__getitem__, methods_of(slug)):
        path = Path(methods.__file__).parent / entry.family / f"{entry.module.rpartition('.')[2]}.py"
        text = path.read_text(encoding="utf-8")
        shown.append((entry.name, entry.summary, f"operant/methods/{entry.family}/{path.name}", coloured(text)))
    return tuple(shown)


def coloured(text: str) -> str:
    """Python as HTML, escaped, with a class for each kind of word."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return highlight(text, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True, classprefix="py-"))
