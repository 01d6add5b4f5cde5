"""Operant: learning agents in JAX.

    import operant as op
    run = op.train(op.PPO(), "CartPole-v1", steps=200_000, seeds=8)
    run.evaluate()

Names are looked up when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_homes = {
    "dial": "operant.agent",
    "option": "operant.agent",
    "child": "operant.agent",
    "part": "operant.agent",
    "to_json": "operant.agent",
    "from_json": "operant.methods",
    "Batch": "operant.types",
    "Spec": "operant.types",
    "Timestep": "operant.types",
    "Box": "operant.types",
    "Dict": "operant.types",
    "Discrete": "operant.types",
    "MultiDiscrete": "operant.types",
    "State": "operant.gradient",
    "gradient_step": "operant.gradient",
    "transitions": "operant.types",
    "count_steps": "operant.gradient",
    "ActorCritic": "operant.actor_critic",
    "Online": "operant.learner",
    "UserError": "operant.errors",
    "make": "operant.envs.registry",
    "register": "operant.envs.registry",
    "build": "operant.methods",
    "train": "operant.run.train",
    "resume": "operant.run.train",
    "Run": "operant.run.run",
    "load_run": "operant.run.run",
    "Policy": "operant.run.policy",
}
_modules = ("agent", "ops", "nn", "envs", "methods", "memory")

if TYPE_CHECKING:
    from operant.actor_critic import ActorCritic as ActorCritic
    from operant.agent import agent as agent
    from operant.agent import child as child
    from operant.agent import dial as dial
    from operant.agent import option as option
    from operant.agent import part as part
    from operant.agent import to_json as to_json
    from operant.errors import UserError as UserError
    from operant.gradient import State as State
    from operant.gradient import count_steps as count_steps
    from operant.gradient import gradient_step as gradient_step
    from operant.methods import build as build
    from operant.methods import from_json as from_json
    from operant.run.train import resume as resume
    from operant.run.train import train as train
    from operant.types import Batch as Batch
    from operant.types import Spec as Spec
    from operant.types import Timestep as Timestep
    from operant.types import transitions as transitions


def __getattr__(name: str) -> Any:
    if name in _homes:
        return getattr(importlib.import_module(_homes[name]), name)
    if name in _modules:
        return importlib.import_module(f"operant.{name}")
    from operant.methods import entries

    for entry in entries().values():  # op.PPO
        if entry.cls == name:
            return getattr(importlib.import_module(entry.module), name)
    raise AttributeError(f"module 'operant' has no attribute '{name}'")


def __dir__() -> list[str]:
    from operant.methods import entries

    return sorted([*_homes, *_modules, *(entry.cls for entry in entries().values()), "__version__"])
