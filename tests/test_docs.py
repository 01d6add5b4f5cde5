"""The examples of the documentation, run as they stand but for their sizes, page by page, in an empty directory.

Python blocks of a page share their names. A block with a title is a file. In console blocks the lines that begin with
`$ operant` are run. `<!-- needs: package -->` before a block means that it runs where the package is installed.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?:<!-- needs: (?P<needs>\w+) -->\n)?```(?P<language>\w+)(?: title=\"(?P<title>[\w.]+)\")?\n(?P<text>.*?)^```$",
    re.M | re.S,
)
SMALL = {"steps": 2000, "seeds": 2, "episodes": 16, "max-steps": 20, "sweep-draws": 2}
SIZE = re.compile(
    r"(?P<name>(?<![\w-])(?:--)?(?:steps|seeds|episodes|max-steps|sweep-draws))(?P<sign>[ =])(?P<number>[\d_]+)"
)


class Block(NamedTuple):
    language: str
    title: str | None
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        if match["needs"] and importlib.util.find_spec(match["needs"]) is None:
            continue
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(match["language"], match["title"], match["text"], line))
    return found


def smaller(text: str) -> str:
    """`text` with numbers of steps, seeds and episodes cut down."""

    def cut(match: re.Match) -> str:
        number = min(int(match["number"].replace("_", "")), SMALL[match["name"].lstrip("-")])
        return f"{match['name']}{match['sign']}{number}"

    return SIZE.sub(cut, text)


def commands(block: Block) -> list[list[str]]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [shlex.split(smaller(line), comments=True)[2:] for line in lines if line.startswith("$ operant ")]


_trained: set[tuple[str, ...]] = set()


def is_known(arguments: list[str]) -> bool:
    """Whether this training was run on another page (or is, from now on), and nothing later needs its run."""
    kept = "--run-dir" in arguments
    training = tuple(arguments[: arguments.index("--run-dir")] if kept else arguments)
    own_file = ".py:" in " ".join(training)
    if training[0] != "train" or own_file:
        return False
    known = training in _trained
    _trained.add(training)
    return known and not kept


def runnable(page: Path) -> list[Block]:
    return [b for b in blocks(page) if b.language == "python" or (b.language == "console" and commands(b))]


def label(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def quick_compilations(monkeypatch):
    """Compiles without optimising, which is where the time goes, and keeps to the tests' cache of compilations."""
    import jax

    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs",
             "persistent_cache_min_entry_size_bytes")  # fmt: skip
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    # this one has no attribute to be read by
    before["jax_disable_most_optimizations"] = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    monkeypatch.setenv("OPERANT_CACHE", jax.config.jax_compilation_cache_dir or "off")
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=label)
def test_examples_run(page, tmp_path, monkeypatch, capsys, quick_compilations):
    from operant import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    names: dict = {"__name__": "documentation"}
    for block in runnable(page):
        if block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            code = "\n" * (block.line - 1) + smaller(block.text)  # so that a traceback shows the line in the page
            exec(compile(code, str(page), "exec", dont_inherit=True), names)
        else:
            for arguments in commands(block):
                if is_known(arguments):
                    continue
                with pytest.raises(SystemExit) as end:
                    cli.main(arguments)
                assert end.value.code == 0, f"operant {shlex.join(arguments)}: {capsys.readouterr().err}"
    for name in set(sys.modules) - before:  # modules that were files of this page
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def test_every_verb_is_shown():
    from operant import cli

    text = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    verbs = re.findall(r"^  (\w+) ", cli.USAGE, re.M)
    assert len(verbs) >= 8
    assert [verb for verb in verbs if f"operant {verb}" not in text] == []


def test_tables_are_filled_from_the_code():
    tables = _tables()
    text = tables.fill((ROOT / "docs" / "methods" / "ppo.md").read_text(encoding="utf-8"))
    assert "| `gae_lambda` | dial | `0.95` | 0 to 1 | lambda of generalised advantage estimation |" in text
    for page in PAGES:
        filled = tables.fill(page.read_text(encoding="utf-8"))
        assert not re.search(r"<!-- (fields|presets|settings|methods)", filled), page


def test_every_method_has_a_page_in_the_navigation():
    from operant.methods import entries

    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [name for name in entries() if f"methods/{name}.md" not in navigation] == []


def test_json_fields_that_are_documented_are_there(tmp_path, capsys, quick_compilations):
    """docs/runs.md calls these fields stable."""
    import json

    from operant import cli

    text = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8").split("## `--json`")[1].split("## Exit")[0]
    run, figure = str(tmp_path / "run"), str(tmp_path / "compare.png")
    asked = {
        "`train`, `resume`": ["train", "reinforce", "operant:Cells-v0", "--steps", "2048", "--run-dir", run, "--quiet"],
        "`eval`": ["eval", run, "--episodes", "2"],
        "`runs`": ["runs", str(tmp_path)],
        "`compare`": ["compare", run, run, "--out", figure],
        "`envs`": ["envs", "CartPole-v1"],
        "`methods`": ["methods", "ppo"],
        "`papers`": ["papers", "dqn"],
    }
    for verb, arguments in asked.items():
        with pytest.raises(SystemExit) as end:
            cli.main([*arguments, "--json"])
        assert end.value.code == 0
        printed = json.loads(capsys.readouterr().out.splitlines()[-1])
        (row,) = re.findall(rf"^\| {re.escape(verb)} \| (.*) \|$", text, re.M)
        documented = set(re.findall(r"`(\w+)`", re.sub(r", and `problem`.*", "", row)))
        nested = next((v[0] for v in printed.values() if isinstance(v, list) and v and isinstance(v[0], dict)), {})
        assert documented == set(printed) | set(nested), verb


def _tables():
    spec = importlib.util.spec_from_file_location("docs_tables", ROOT / "scripts" / "docs_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
