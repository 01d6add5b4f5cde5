"""Which methods a run of the tests is about."""

from __future__ import annotations

import json

import pytest
import selection

from operant import methods


def name(path):
    return str(path.relative_to(selection.ROOT / "operant"))


def test_a_method_rests_on_what_its_imports_lead_to():
    ppo = {name(path) for path in selection.sources("ppo")}
    assert {"methods/policy/ppo.py", "actor_critic.py", "gradient.py", "ops/returns.py", "nn/heads.py"} <= ppo
    assert not {name for name in ppo if name.startswith(("run/", "web/", "memory/", "methods/value"))}
    assert "methods/policy/ppo.py" in {name(path) for path in selection.sources("rnd")}


def test_words_are_no_code(tmp_path):
    texts = ('"""One."""\ndef f(x):\n    """Two."""\n    return x  # three\n', "def f(x):\n\n    return (x)\n",
             "def f(x):\n    return -x\n")  # fmt: skip
    trees = []
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.py").write_text(text)
        trees.append(selection.words(tmp_path / f"{i}.py"))
    assert trees[0] == trees[1] != trees[2]


def test_what_passed_is_left_out_but_for_a_tenth(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "RECORD", tmp_path / "tested.json")
    every = set(methods.entries())
    assert selection.choose("changed") == every  # nothing has passed yet
    selection.record(every)
    assert selection.choose("changed") == selection.turn() < every
    known = json.loads(selection.RECORD.read_text())
    selection.RECORD.write_text(json.dumps({**known, "sac": "0" * 16}))
    assert selection.choose("changed") == selection.turn() | {"sac"}
    selection.record({"sac"})
    assert json.loads(selection.RECORD.read_text()) == known


def test_each_method_has_its_turn():
    names = sorted(methods.entries())
    turns = [set(names[start :: selection.SHARE]) for start in range(selection.SHARE)]
    assert set.union(*turns) == set(names) and selection.turn() in turns


def test_methods_are_asked_for_by_name():
    assert selection.choose("all") == set(methods.entries())
    assert selection.choose("ppo,a2c") == {"ppo", "a2c"}
    with pytest.raises(ValueError, match="unknown poo; expected all, changed"):
        selection.choose("poo,a2c")


def test_the_text_of_code_is_the_same_in_every_python():
    tree = selection.ast.parse("def f():\n    x = g(1)")
    call = "Call(func=Name(id='g', ctx=Load()), args=[Constant(value=1)])"
    body = f"[Assign(targets=[Name(id='x', ctx=Store())], value={call})]"
    assert selection.text(tree) == f"Module(body=[FunctionDef(name='f', args=arguments(), body={body})])"
