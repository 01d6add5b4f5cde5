"""Writes `index.json`, which lets environments be listed without importing what makes them.

    python -m operant.envs.index

needs every suite installed. An environment that cannot be described keeps no entry, and the reason is recorded.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import sys
import tempfile
import warnings
from typing import Any

import gymnax as gymnax_library

from operant.envs import brax, envpool, gymnax
from operant.envs.base import describe
from operant.envs.worlds import WORLDS, from_world
from operant.errors import UserError
from operant.types import Spec

PATH = pathlib.Path(__file__).resolve().with_name("index.json")


def build() -> dict[str, dict[str, Any]]:
    """{"environments": {name: entry}, "left_out": {name: reason}}"""
    found: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = dict(gymnax.LEFT_OUT)
    for name, world in WORLDS.items():
        known = {key: getattr(world(), key, None) for key in ("optimal_return", "random_return")}
        returns = {key: value for key, value in known.items() if value is not None}  # of tasks they differ
        found[name] = _entry(from_world(world, 1, name).spec, "operant", "operant") | returns
    for name in gymnax_library.registered_envs:
        if name not in left_out:
            found[name] = _entry(gymnax.make(name, 1, [0]).spec, gymnax_suite(name), "gymnax")
    for name in brax.names():
        found[f"brax:{name}"] = _entry(brax.make(name, 1, [0]).spec, "brax", "brax")
    for name in envpool_names():
        listed = f"envpool:{name}" if name in found else name
        try:
            found[listed] = envpool_entry(name)
        except UserError as error:
            left_out[listed] = str(error)
    return {"environments": dict(sorted(found.items())), "left_out": dict(sorted(left_out.items()))}


def gymnax_suite(name: str) -> str:
    """The family that Gymnax's name ends in; classic control has none."""
    suffix = name.rpartition("-")[2]
    return suffix.lower() if suffix in ("MinAtar", "bsuite", "misc") else "classic_control"


def envpool_names() -> list[str]:
    """All of EnvPool's ids."""
    import envpool as library

    return library.list_all_envs()


def envpool_entry(name: str) -> dict[str, Any]:
    """The index's entry for one of EnvPool's ids; UserError with the reason if agents here cannot use it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _entry(envpool.spec_of(name), envpool.suite(name), "envpool")


def _entry(spec: Spec, suite: str, adapter: str) -> dict[str, Any]:
    return {
        "suite": suite,
        "adapter": adapter,
        "observation": describe(spec.observation),
        "action": describe(spec.action),
        "time_limit": spec.time_limit,
    } | ({"action_mask": True} if spec.action_mask else {})


def write(index: dict[str, dict[str, Any]], path: pathlib.Path = PATH) -> None:
    """One line an environment, so that changes can be read."""
    parts = []
    for section, rows in index.items():
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
        parts.append(f"{json.dumps(section)}: {{\n{lines}\n}}")
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # simulators leave logs where they stand
        result = build()
    write(result)
    print(f"{len(result['environments'])} environments, {len(result['left_out'])} left out: {PATH}", file=sys.stderr)
