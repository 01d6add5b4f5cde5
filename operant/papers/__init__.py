"""The papers: the whole corpus as a list, and an executable card for each that is there.

corpus()      every paper of the corpus, whether it is there or not
names()       slugs of the executable cards
get(slug)     one card
"""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
from typing import NamedTuple

from operant.errors import UserError, near
from operant.papers import cards
from operant.papers.paper import FEWEST_SEEDS, METRICS, SCALES, Arm, Comparison, Paper, Scale

__all__ = [
    "FEWEST_SEEDS", "METRICS", "SCALES", "Arm", "Comparison", "Entry", "Paper", "Scale", "corpus", "get", "names",
]  # fmt: skip


class Entry(NamedTuple):
    """One paper of the corpus; `name` is short, `family` one of `operant.papers.listing.FAMILIES`."""

    slug: str
    name: str
    title: str
    authors: str
    venue: str
    arxiv: str
    family: str


@functools.cache
def corpus() -> dict[str, Entry]:
    """Every paper by slug, in the order of slugs: those with a card, and those that wait for one."""
    from importlib import resources

    text = resources.files(__name__).joinpath("corpus.json").read_text(encoding="utf-8")
    entries = {slug: Entry(slug=slug, **fields) for slug, fields in json.loads(text).items()}
    for slug in names():
        card = get(slug)
        entries.setdefault(
            slug, Entry(slug, card.name or slug, card.title, card.authors, card.venue, card.arxiv, card.family)
        )
    return dict(sorted(entries.items()))


@functools.cache
def names() -> tuple[str, ...]:
    """The slugs of the executable cards."""
    return tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(cards.__path__)))


def get(slug: str) -> Paper:
    """The card of that name. Raises UserError, with near matches, where there is none."""
    if slug in names():
        return importlib.import_module(f"{cards.__name__}.{slug.replace('-', '_')}").PAPER
    if slug in corpus():
        raise UserError(f"{slug} has no executable card yet; `operant papers` lists those that are there")
    raise UserError(f"there is no paper '{slug}'.{near(slug, corpus())} `operant papers` lists them")
