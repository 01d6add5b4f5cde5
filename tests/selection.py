"""Which methods a run of the tests is about: those whose code changed since they last passed, and a tenth of the rest.

What a method's code is, is read from its imports, file by file: the text without comments and docstrings.  The codes
with which the methods passed are kept in `tested.json`; `./test --record` brings it up to date.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from pathlib import Path

from operant import methods

ROOT = Path(__file__).parent.parent
RECORD = Path(__file__).parent / "tested.json"
SHARE = 10


@functools.cache
def program(path: Path) -> ast.Module:
    """A file's syntax tree without docstrings, which (with comments) are no code."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree


@functools.cache
def imports(path: Path) -> frozenset[Path]:
    """The files of the library that a file names in its imports."""
    names: set[str] = set()
    for node in ast.walk(program(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    places = (ROOT.joinpath(*name.split(".")) for name in names if name.startswith("operant."))
    found = {file for place in places for file in (place.with_suffix(".py"), place / "__init__.py") if file.exists()}
    return frozenset(found - {ROOT / "operant" / "methods" / "__init__.py"})  # it lists the methods, and imports none


def text(node: object) -> str:
    """A syntax tree in words that every version of Python has for it: `ast.dump` tells more or fewer empty fields."""
    if isinstance(node, list):
        return f"[{', '.join(map(text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [f"{name}={text(value)}" for name, value in ast.iter_fields(node) if value is not None and value != []]
    return f"{type(node).__name__}({', '.join(fields)})"


@functools.cache
def words(path: Path) -> str:
    """A file's code as text, without comments and docstrings."""
    return text(program(path))


def sources(method: str) -> set[Path]:
    """The files that a method's behaviour rests on."""
    entry = methods.entries()[method]
    found, ahead = set(), [ROOT.joinpath(*entry.module.split(".")).with_suffix(".py")]
    while ahead:
        path = ahead.pop()
        if path not in found:
            found.add(path)
            ahead.extend(imports(path))
    return found


@functools.cache
def code(method: str) -> str:
    """A digest of all that a method rests on."""
    digest = hashlib.sha256()
    for path in sorted(sources(method)):
        digest.update(f"{path.relative_to(ROOT)}\n{words(path)}\n".encode())
    return digest.hexdigest()[:16]


def changed() -> set[str]:
    """The methods whose code is not the one that the record says has passed."""
    passed = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return {method for method in methods.entries() if passed.get(method) != code(method)}


def turn() -> set[str]:
    """A tenth of the methods: another one for another state of the library, the same on every machine."""
    names = sorted(methods.entries())
    state = hashlib.sha256("".join(map(code, names)).encode() + (ROOT / "tests" / "harness.py").read_bytes())
    return set(names[int(state.hexdigest(), 16) % SHARE :: SHARE])


def choose(wanted: str) -> set[str]:
    """The methods that `--methods` asks for: `all`, `changed` (and a tenth of the others), or names with commas."""
    every = set(methods.entries())
    if wanted == "all":
        return every
    if wanted == "changed":
        return changed() | turn()
    names = {name for name in wanted.split(",") if name}
    if unknown := names - every:
        raise ValueError(f"unknown {', '.join(sorted(unknown))}; expected all, changed, or names with commas between")
    return names


def record(passed: set[str]) -> None:
    """Notes that these methods have passed with the code that they have now."""
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    known = {name: known.get(name) for name in methods.entries()} | {name: code(name) for name in passed}
    RECORD.write_text(json.dumps({name: known[name] for name in sorted(known)}, indent=1) + "\n")
