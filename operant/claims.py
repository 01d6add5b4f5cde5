"""What an agent says that it takes, and whether a task asks for more.

The class attributes `actions` and `observations` name the kinds that an agent takes; one that says nothing takes all.
"""

from __future__ import annotations

from typing import Any

from operant import methods
from operant.agent import children
from operant.errors import UserError
from operant.types import Box, Dict, Discrete, MultiDiscrete, Space, Spec

ACTIONS = ("discrete", "multi-discrete", "continuous", "masked")
OBSERVATIONS = ("box", "discrete", "dict", "image")


def claims(agent: Any, what: str) -> tuple[str, ...]:
    """The kinds of `actions` or `observations` that an agent takes. A wrapper takes what its base agent takes."""
    own = getattr(type(agent), what, {"actions": ACTIONS, "observations": OBSERVATIONS}[what])
    base = children(agent).get("agent")
    return own if base is None else tuple(kind for kind in claims(base, what) if kind in own)


def kinds(spec: Spec, what: str) -> tuple[str, ...]:
    """The kinds of `actions` or `observations` that a task has."""
    if what == "actions":
        names = {Discrete: "discrete", MultiDiscrete: "multi-discrete", Box: "continuous", Dict: "dict"}
        kind = names[type(spec.action)]
        return (kind, "masked") if spec.action_mask else (kind,)
    return (_kind_of_observation(spec.observation),)


def _kind_of_observation(space: Space) -> str:
    match space:
        case Dict():
            return "dict"
        case Box(dtype="uint8", shape=(_, _, _)):
            return "image"
        case Box():
            return "box"
    return "discrete"


def check_task(agent: Any, spec: Spec) -> None:
    """Raises UserError where the task has actions or observations of a kind that the agent does not take."""
    for what in ("actions", "observations"):
        taken, asked = claims(agent, what), kinds(spec, what)
        if set(asked) <= set(taken):
            continue
        others = [entry.name for entry in methods.entries().values() if _could(entry, what, asked)]
        advice = f"choose one of {', '.join(others)}" if others else "no method of the library takes these"
        raise UserError(
            f"{_spoken(agent)} takes {what} that are {' or '.join(taken)}; in '{spec.name}' they are "
            f"{' and '.join(asked)}: {advice}"
        )


def _could(entry: methods.Entry, what: str, asked: tuple[str, ...]) -> bool:
    """Whether a method that is ready for some tasks takes all these kinds."""
    if entry.wraps or entry.family not in ("policy", "value"):
        return False
    agent = methods.load(entry.name)()
    return bool(agent.presets) and set(asked) <= set(claims(agent, what))


def _spoken(agent: Any) -> str:
    base = children(agent).get("agent")
    return agent.registered_name if base is None else f"{agent.registered_name}:{_spoken(base)}"
