"""The form of a method's file: what lets the hundredth be read, saved, swept and trusted as the first."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib
import inspect
import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operant import agent as contract
from operant import methods
from operant.agent import children, dial_field, dials, is_dial, strong, to_json, with_dials
from operant.errors import UserError
from operant.methods import from_json

pytestmark = pytest.mark.every_method

CITATION = re.compile(r"arXiv[: ]*\d{4}\.\d{4,5}|\([A-Z][^()]*\b(19|20)\d\d\b", re.S)
UNIT = {"gamma", "gae_lambda", "lam", "anneal", "tau", "epsilon"}
"""Dials that are shares wherever they occur."""


def path_of(name: str) -> Path:
    return Path(importlib.import_module(methods.entries()[name].module).__file__)


def parts(agent: Any, prefix: str = "") -> dict[str, Any]:
    """An agent and everything it holds, by dotted name."""
    found = {prefix: agent}
    for name, sub in children(agent).items():
        if dataclasses.is_dataclass(sub):
            found.update(parts(sub, f"{prefix}{name}."))
    return found


def fields(agent: Any) -> list[tuple[str, Any, dataclasses.Field]]:
    """(dotted name, owner, field) of all fields of an agent and its parts."""
    return [(p + f.name, owner, f) for p, owner in parts(agent).items() for f in dataclasses.fields(owner)]


def changed(agent: Any, name: str, value: Any) -> Any:
    return methods.apply(agent, {name: value})


# ----------------------------------------------------------------------------------------------------------- the file
def test_the_docstring_cites_and_says_what_differs(method: str):
    text = importlib.import_module(methods.entries()[method].module).__doc__
    head = text.split("\n\n")[0]
    assert CITATION.search(head), f"no citation (authors and year, or an arXiv number) in: {head}"
    assert "Differs from" in text
    assert "Symbols:" in text


def test_the_file_is_short_and_knows_no_runner(method: str):
    path = path_of(method)
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    imported = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            imported |= {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
        elif isinstance(node, ast.Import):
            imported |= {a.name for a in node.names}
    forbidden = ("operant.run", "operant.learner", "operant.envs", "operant.papers", "operant.cli", "operant.web")
    assert not [m for m in imported if m.startswith(forbidden)]
    assert not re.search(r"\bdone[s]?\b", _code(path)), "say `discount` and `valid`"


def test_the_class_says_what_it_is_in_one_line(method: str):
    cls = methods.load(method)
    first = inspect.getdoc(cls).splitlines()[0]
    assert first == methods.entries()[method].summary
    assert 20 <= len(first) <= 115 and first.endswith(".")
    assert cls.registered_name == method and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", method)


def test_every_field_has_a_help_text_and_every_dial_a_range(method: str):
    agent = methods.build(method)
    for name, _, f in fields(agent):
        assert len(f.metadata.get("help", "")) >= 8, f"{name} has no help text"
        if not is_dial(f):
            continue
        low, high = f.metadata["low"], f.metadata["high"]
        assert math.isfinite(low) or math.isfinite(high), f"{name} may be any number: give it a range"
        assert low < high and low <= f.default <= high, name
        if f.name in UNIT:
            assert (low, high) == (0.0, 1.0), f"{name} is a share, its range is [{low:g}, {high:g}]"
        if "learning_rate" in f.name or f.name.endswith(("_cost", "_norm")):
            assert low == 0.0, name


def test_presets_fit_their_method(method: str):
    cls = methods.load(method)
    for where, preset in cls.presets.items():
        assert preset.get("source"), f"the preset for {where} says no source"
        methods.apply(cls(), {name: value for name, value in preset.items() if name != "source"}).check()


# -------------------------------------------------------------------------------------------------------- near copies
@functools.cache
def _code(path: Path) -> str:
    """The code of a file without comments, docstrings, blank lines and imports, evenly spaced."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                node.body = body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def similarity(a: Path, b: Path, floor: float = 0.0) -> float:
    """The share of code lines that two files have in common, 0 to 1; 0 where it is surely below `floor`."""
    matcher = difflib.SequenceMatcher(None, _code(a).splitlines(), _code(b).splitlines(), autojunk=False)
    if matcher.real_quick_ratio() < floor or matcher.quick_ratio() < floor:
        return 0.0
    return matcher.ratio()


def test_no_two_files_are_near_copies(record_property):
    paths = sorted({path_of(name) for name in methods.entries()})
    pairs = itertools.combinations(paths, 2)
    highest, a, b = max((similarity(a, b, floor=0.3), a.stem, b.stem) for a, b in pairs)
    record_property("highest_similarity", f"{highest:.2f} ({a}, {b})")
    assert highest < 0.8, f"{a} and {b} have {highest:.0%} of their lines in common"


def test_similarity_sees_a_renamed_copy(tmp_path: Path):
    text = path_of("ppo").read_text(encoding="utf-8")
    copy = tmp_path / "copy.py"
    copy.write_text(text.replace("PPO", "Other").replace("# eq. 9", "").replace("clip:", "bound:"), encoding="utf-8")
    assert similarity(path_of("ppo"), copy) > 0.8 > similarity(path_of("ppo"), path_of("rnd"))
    assert "import" not in _code(copy) and "Proximal" not in _code(copy) and "#" not in _code(copy)


# ----------------------------------------------------------------------------------------------- dials and structure
def test_an_agent_survives_json_bit_for_bit(method: str):
    agent = methods.build(method)
    again = from_json(json.loads(json.dumps(to_json(agent), allow_nan=False)))
    assert again == agent and jax.tree.structure(again) == jax.tree.structure(agent)
    rng = np.random.default_rng(0)
    for draw in range(20):
        values = {}
        for name in dials(agent):
            field = dial_field(agent, name)
            low, high = field.metadata["low"], field.metadata["high"]
            low, high = max(low, -1e6), min(high, 1e6)
            values[name] = np.float32(rng.uniform(low, high) if draw % 2 else np.exp(rng.uniform(-60, 2)))
            if high == 1e6 and draw == 0:
                values[name] = np.float32(np.inf)
        drawn = strong(with_dials(agent, values))
        again = from_json(json.loads(json.dumps(to_json(drawn), allow_nan=False)))
        bits = lambda a: [np.asarray(x, np.float32).tobytes() for x in jax.tree.leaves(a)]  # noqa: E731
        assert bits(again) == bits(drawn)
        assert jax.tree.structure(again) == jax.tree.structure(drawn)
    lanes = jax.tree.map(lambda x: jnp.stack([x, x * 0.3]), strong(agent))
    assert bits(from_json(json.loads(json.dumps(to_json(lanes), allow_nan=False)))) == bits(lanes)


def test_json_of_strangers_is_refused(method: str):
    data = to_json(methods.build(method))
    with pytest.raises(UserError, match="no_such_field"):
        from_json({**data, "no_such_field": 1})
    with pytest.raises(UserError, match="unknown method"):
        from_json({**data, "class": "os.system"})
    with pytest.raises(UserError, match="os.system"):
        contract.from_json({**data, "class": "os.system"})
    assert contract.from_json(data) == methods.build(method)  # its module has been imported by now


def test_made_twice_it_is_the_same_structure(method: str):
    one, two = (jax.tree.structure(strong(methods.build(method))) for _ in range(2))
    assert one == two and hash(one) == hash(two)
    assert all(jnp.ndim(x) == 0 for x in jax.tree.leaves(methods.build(method)))
    assert len(jax.tree.leaves(methods.build(method))) == len(dials(methods.build(method)))
    # unflattening must accept anything: tracers, arrays with lanes, None
    assert jax.tree.map(lambda x: None, methods.build(method)) is not None


def test_check_refuses_what_is_out_of_range_and_names_it(method: str):
    agent = methods.build(method)
    agent.check()
    for name, _, f in fields(agent):
        low, high = f.metadata.get("low", -math.inf), f.metadata.get("high", math.inf)
        wrong: list[Any] = []
        if is_dial(f):
            wrong = [math.nan, "fast", None, np.float32([f.default, math.nan])]
            wrong += [low - 0.1] if math.isfinite(low) else []
            wrong += [high + 0.1] if math.isfinite(high) else []
        elif f.metadata.get("child"):
            wrong = ["ppo", 3]
        elif f.type in ("int", "bool", "str"):
            wrong = [None, ["x"], {"int": 1.5, "bool": 1, "str": 7}[f.type]]
            wrong += [True] if f.type == "int" else []
            wrong += [int(low) - 1] if math.isfinite(low) else []
            wrong += ["no such choice"] if f.metadata.get("choices") else []
        elif f.type.startswith("tuple[int"):
            wrong = [None, 64, (1.5,), ("64",), [64]]
            wrong += [(int(low) - 1,)] if math.isfinite(low) else []
        elif f.type.startswith("tuple[str"):
            wrong = [None, "gamma", (7,), ["gamma"]]
        else:
            raise AssertionError(f"{name}: {f.type} is neither a dial nor a plain structural type")
        for value in wrong:
            with pytest.raises(UserError) as refused:
                changed(agent, name, value).check()
            assert re.search(rf"\b{f.name}\b", str(refused.value)), f"{name}={value!r}: {refused.value}"


def test_minibatches_must_divide_the_rollout(method: str):
    agent = methods.build(method)
    cut = [name for name, _, f in fields(agent) if f.name == "num_minibatches"]
    if not cut:
        pytest.skip("learns from whole batches")
    for name in cut:
        with pytest.raises(UserError, match="num_minibatches"):
            changed(agent, name, 7919).check()  # a prime above any roll-out's factors
