"""The contract: an agent is a frozen dataclass that is a pytree, with a few pure functions.

    init(key, spec)                                -> state                      what learning changes
    start(state, batch_size)                       -> carry                      recurrent state; () unless it remembers
    act(state, timestep, carry, key, explore=True) -> action, carry, extras      batched over environments [B]
    learn(state, batch, key)                       -> state, metrics, feedback   feedback returns to the memory
    observe(state, batch)                          -> state                      with a memory: sees each rollout once
    meta_learn(state, batch, key)                  -> state                      before each `meta_period`-th learn
    new_tasks(state)                               -> which [B], keys [B]        environments to begin in new tasks

and, for methods that descend a gradient, `loss(params, state, batch, key) -> scalar, metrics`.

`float` fields are *dials*: pytree leaves, so that they can be swept by `vmap` and differentiated by `grad`.  Fields
that hold agents (or memories, which follow the same rules) are subtrees.  Everything else is *structure*: static.
Checks live in `check()`, called at the edges, never in a constructor: unflattening must accept tracers.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from operant.errors import UserError
from operant.types import PyTree

T = TypeVar("T")

_classes: dict[str, type] = {}  # every class made by @agent or @part, by its registered name


def dial(default: float, help: str, *, low: float = -math.inf, high: float = math.inf) -> Any:
    """A float field with its help text and closed range. The range also boxes the dial when it is meta-learned."""
    return dataclasses.field(default=float(default), metadata={"help": help, "low": low, "high": high})


def option(default: Any, help: str, *, low: float = -math.inf, high: float = math.inf, choices: tuple = ()) -> Any:
    """A structural field (int, bool, str, tuple) with its help text and what it may be."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high, "choices": choices})


def child(default: Any, help: str, *, choices: tuple[type, ...] = (), **changes: Any) -> Any:
    """A field that holds another agent, or a part such as a memory: its dials are dials of the whole.

    choices: the kinds of part that the library has for this place, chosen on the command line by their names; a part
    of the user's own is taken too if it has the fields and methods that they have in common.
    changes: fields in which this place differs from the part's own defaults.
    """
    factory = functools.partial(default, **changes) if changes else default
    return dataclasses.field(default_factory=factory, metadata={"help": help, "child": True, "choices": choices})


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dial, option, child))
def agent(name: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: makes a frozen dataclass pytree and registers it under `name` (command line, saved runs)."""

    def wrap(cls: type[T]) -> type[T]:
        from operant.methods import entries  # read from the files as text: not all of the library's are imported yet

        if name in entries() and cls.__module__ != entries()[name].module:
            raise UserError(f"the name '{name}' is taken: the library has a method of that name; expected another")
        cls = _pytree_dataclass(cls, name)
        setattr(cls, "starts_from", getattr(cls, "starts_from", ""))  # noqa: B010 - the class has no such field
        if "agent" in {f.name for f in dataclasses.fields(cls)}:  # an agent of an agent shares its base's shapes
            for shared in ("num_envs", "rollout_length", "memory", "meta_period", "playable"):
                if not hasattr(cls, shared):
                    setattr(cls, shared, property(lambda self, shared=shared: getattr(self.agent, shared)))
            for hook, of_base in (("meta_learn", _meta_learn_of_base), ("observe", _observe_of_base)):
                setattr(cls, hook, getattr(cls, hook, of_base))
            if not hasattr(cls, "new_tasks"):
                cls.new_tasks = property(_new_tasks_of_base)
        else:
            for hook, usual in (("memory", None), ("meta_period", 0), ("new_tasks", None), ("playable", True)):
                setattr(cls, hook, getattr(cls, hook, usual))
        return cls

    return wrap


def _new_tasks_of_base(self):
    return None if self.agent.new_tasks is None else lambda state: self.agent.new_tasks(state.agent)


def _meta_learn_of_base(self, state, batch, key):
    return state.replace(agent=self.agent.meta_learn(state.agent, batch, key))


def _observe_of_base(self, state, batch):
    return state.replace(agent=self.agent.observe(state.agent, batch))


@typing.dataclass_transform(frozen_default=True, field_specifiers=(dial, option, child))
def part(name: str) -> Callable[[type[T]], type[T]]:
    """Class decorator for what an agent is made of (a memory, a target rule): the same rules of dials and structure."""
    return lambda cls: _pytree_dataclass(cls, name)


def _pytree_dataclass(cls: type[T], name: str) -> type[T]:
    cls = dataclasses.dataclass(frozen=True)(cls)
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    data = [f.name for f in fields if hints[f.name] is float or f.metadata.get("child")]
    meta = [f.name for f in fields if f.name not in data]
    jax.tree_util.register_dataclass(cls, data_fields=data, meta_fields=meta)
    cls.registered_name = name
    own_check = getattr(cls, "check", None)  # its own, or that of the class it is made from

    def check(self) -> None:
        """Raises UserError naming the field, its value and what was expected."""
        _check_fields(self)
        if own_check is not None:
            own_check(self)

    cls.check = check
    cls.replace = lambda self, **changes: dataclasses.replace(self, **changes)
    known = _classes.get(name, cls)
    if known.__module__ != cls.__module__ and (_of_the_library(known) or _of_the_library(cls)):
        raise UserError(f"the name '{name}' is taken by {known.__module__}.{known.__qualname__}; expected another")
    _classes[name] = cls
    return cls


def registered(name: str) -> type | None:
    """The class that was registered under `name`, if its module has been imported."""
    return _classes.get(name)


# --------------------------------------------------------------------------------------------- dials and structure
def is_dial(field: dataclasses.Field) -> bool:
    return field.type in (float, "float")


def children(agent: Any) -> dict[str, Any]:
    """The agents and parts that `agent` directly holds, by field name."""
    return {f.name: getattr(agent, f.name) for f in dataclasses.fields(agent) if f.metadata.get("child")}


def choose(agent: T, name: str, kind: str) -> T:
    """`agent` with the part of that kind (a registered name) in the field `name`.

    What the part that was there had by the same names is kept: a prioritized memory is as large as the uniform one
    that it takes the place of.  Raises UserError for a kind that the field does not have.
    """
    field = next(f for f in dataclasses.fields(agent) if f.name == name)
    kinds = {cls.registered_name: cls for cls in field.metadata.get("choices", ())}
    if kind not in kinds:
        raise UserError(f"{agent.registered_name}: {name} is {kind!r}; expected one of {', '.join(kinds) or 'none'}")
    old, own = getattr(agent, name), {f.name: f.default for f in dataclasses.fields(kinds[kind])}
    if type(old) is kinds[kind]:
        return agent
    defaults = {f.name: f.default for f in dataclasses.fields(old)}
    kept = {n: getattr(old, n) for n in own if n in defaults and getattr(old, n) != defaults[n]}
    return dataclasses.replace(agent, **{name: kinds[kind](**kept)})


def dials(agent: Any, prefix: str = "") -> dict[str, Any]:
    """All dials by dotted name (`learning_rate`, `agent.gamma`), with their values."""
    found = {prefix + f.name: getattr(agent, f.name) for f in dataclasses.fields(agent) if is_dial(f)}
    for name, sub in children(agent).items():
        if dataclasses.is_dataclass(sub):
            found.update(dials(sub, f"{prefix}{name}."))
    return found


def dial_field(agent: Any, name: str) -> dataclasses.Field:
    """The dataclass field behind a dotted dial name. Raises UserError for a name that is no dial."""
    owner, _, rest = name.partition(".")
    if rest and owner in children(agent):
        return dial_field(getattr(agent, owner), rest)
    for f in dataclasses.fields(agent):
        if f.name == name and is_dial(f):
            return f
    import difflib

    near = difflib.get_close_matches(name, dials(agent), n=3) or sorted(dials(agent))
    kind = "is structure, not a dial" if any(f.name == name for f in dataclasses.fields(agent)) else "is no dial"
    raise UserError(f"'{name}' {kind} of {agent.registered_name}; its dials are like: {', '.join(near)}")


def with_dials(agent: T, values: dict[str, Any]) -> T:
    """`agent` with some dials (dotted names) replaced."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        dial_field(agent, name)
        owner, _, rest = name.partition(".")
        if rest:
            changes[owner] = with_dials(changes.get(owner, getattr(agent, owner)), {rest: value})
        else:
            changes[name] = value
    return dataclasses.replace(agent, **changes)


def unboxed(agent: Any, names: Iterable[str]) -> dict[str, jax.Array]:
    """Some dials as unconstrained numbers: the inverse of `boxed`.

    A dial that stands on an end of its range (lambda = 1) starts a hundredth inside, where it has a gradient.
    """
    values = dials(agent)
    free = {}
    for name in names:
        low, high = _range(dial_field(agent, name))
        value = jnp.asarray(values[name], jnp.float32)
        if math.isfinite(low) and math.isfinite(high):
            share = jnp.clip((value - low) / (high - low), 0.01, 0.99)
            free[name] = jnp.log(share) - jnp.log1p(-share)
        elif math.isfinite(low):
            free[name] = jnp.log(jnp.maximum(value - low, 1e-6))
        else:
            free[name] = value
    return free


def boxed(agent: Any, free: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Unconstrained numbers as values of dials: a sigmoid over a closed range, an exponential above a lower end."""
    values = {}
    for name, x in free.items():
        low, high = _range(dial_field(agent, name))
        if math.isfinite(low) and math.isfinite(high):
            values[name] = low + (high - low) * jax.nn.sigmoid(x)
        elif math.isfinite(low):
            values[name] = low + jnp.exp(x)
        else:
            values[name] = x
    return values


def _range(field: dataclasses.Field) -> tuple[float, float]:
    return field.metadata.get("low", -math.inf), field.metadata.get("high", math.inf)


def strong(agent: T) -> T:
    """Dials as strong float32 arrays, done once at the edge: `1e-3`, `1` and `jnp.float32(1e-3)` would otherwise be
    three compilations."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), agent)


def _check_fields(agent: Any) -> None:
    hints = typing.get_type_hints(type(agent))
    for f in dataclasses.fields(agent):
        value, name = getattr(agent, f.name), f"{agent.registered_name}: {f.name}"
        if f.metadata.get("child"):
            _check_kind(value, _kinds(f, hints[f.name]), name)
            if value is not None:
                value.check()
            continue
        try:
            numbers = _numbers(value, hints[f.name])
        except (TypeError, ValueError):
            raise UserError(f"{name} is {value!r}; expected {_spoken(hints[f.name])}") from None
        if np.isnan(numbers).any():
            raise UserError(f"{name} is NaN; expected a number")
        low, high = f.metadata.get("low", -math.inf), f.metadata.get("high", math.inf)
        if (numbers < low).any() or (numbers > high).any():
            bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
            raise UserError(f"{name} is {value}; expected {bounds}")
        choices = f.metadata.get("choices", ())
        if choices and value not in choices:
            raise UserError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}")


def _kinds(field: dataclasses.Field, hint: Any) -> tuple[type, ...]:
    """The kinds of part that a child may be; none said: any."""
    return field.metadata["choices"] or ((hint,) if hasattr(hint, "registered_name") else ())


def _check_kind(held: Any, kinds: tuple[type, ...], name: str) -> None:
    """The library's own parts must be of one of these kinds; a user's own must have what the kinds have in common."""
    if isinstance(held, kinds) or (held is None and not kinds):
        return
    if not hasattr(type(held), "registered_name"):
        expected = " or ".join(kind.registered_name for kind in kinds) or "an agent or a part, made by @agent or @part"
        raise UserError(f"{name} is {held!r}; expected {expected}")
    missing = sorted(set.intersection(*map(_public, kinds)) - _public(type(held))) if kinds else []
    if missing or (kinds and _of_the_library(type(held))):
        what = f", or a part with {', '.join(missing)} like theirs" if missing else ""
        expected = " or ".join(kind.registered_name for kind in kinds)
        raise UserError(f"{name} is {held.registered_name}; expected {expected}{what}")


def _public(cls: type) -> set[str]:
    """The names of a part's fields and methods."""
    return {name for name in (*dir(cls), *(f.name for f in dataclasses.fields(cls))) if not name.startswith("_")}


def _of_the_library(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "operant"


def _numbers(value: Any, hint: Any) -> np.ndarray:
    """The numbers in a field's value, for a look at their range. TypeError or ValueError if it is of another type."""
    if hint is float:
        if value is None:  # NumPy would take it for NaN
            raise TypeError
        return np.asarray(value, np.float64)
    items = value if typing.get_origin(hint) is tuple else (value,)
    expected = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else hint
    plain = isinstance(items, tuple) and all(type(item) is expected for item in items)
    if expected in (int, bool, str) and not plain:
        raise TypeError
    return np.asarray(items if expected is int else (), np.float64)


def _spoken(hint: Any) -> str:
    """A type in words, for a message."""
    one = {float: "a number", int: "a whole number", bool: "True or False", str: "a text"}
    if typing.get_origin(hint) is tuple:
        return f"a tuple, each {_spoken(typing.get_args(hint)[0])}"
    return one.get(hint, str(hint))


# ------------------------------------------------------------------------------------------------------------ JSON
def to_json(agent: Any) -> dict[str, Any]:
    """An agent as plain JSON values; dials keep every bit (a float32 is exact as a decimal of a float64).

    The registered name stands under the key "class", which, being a keyword, can be no field of an agent.
    """

    def encode(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and hasattr(value, "registered_name"):
            return to_json(value)
        if isinstance(value, (tuple, list)):
            return [encode(v) for v in value]
        if isinstance(value, np.generic):
            return encode(value.item())
        if isinstance(value, (np.ndarray, jax.Array)):
            return encode(np.asarray(value, np.float64).tolist())
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(value)}  # JSON has no infinity
        return value

    fields = {f.name: encode(getattr(agent, f.name)) for f in dataclasses.fields(agent)}
    return json.loads(json.dumps({"class": agent.registered_name, **fields}))


def from_json(data: dict[str, Any], find: Callable[[str], type | None] = registered) -> Any:
    """The agent that `to_json` wrote. Only registered names are built: nothing that a file says is imported or run.

    find  the class of a registered name; `operant.methods.from_json` finds the library's methods too
    """
    if not isinstance(data, dict) or not isinstance(data.get("class"), str):
        raise UserError("not an agent: expected an object with a name under the key 'class'")
    cls = find(data["class"])
    if cls is None:
        raise UserError(f"no class is registered under the name '{data['class']}'; import the module that defines it")

    def number(value: Any, name: str) -> Any:
        try:
            return np.asarray(value, np.float32) if isinstance(value, tuple) else float(value)
        except (TypeError, ValueError, OverflowError):
            raise UserError(f"{data['class']}: {name} is {value!r}; expected a number") from None

    def decode(value: Any, name: str) -> Any:
        if isinstance(value, dict) and "class" in value:
            return from_json(value, find)
        if isinstance(value, dict) and set(value) == {"float"}:
            return number(value["float"], name)
        if isinstance(value, list):
            items = [decode(v, name) for v in value]
            return tuple(items)
        return value

    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = set(data) - set(fields) - {"class"}
    if unknown:
        raise UserError(f"{data['class']} has no field {', '.join(sorted(unknown))}; it has {', '.join(fields)}")
    values = {name: decode(value, name) for name, value in data.items() if name != "class"}
    for name, value in values.items():
        if is_dial(fields[name]):
            values[name] = number(value, name)
    needed = [name for name, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in values]:
        raise UserError(f"{data['class']}: no value for {', '.join(missing)}, which has no default")
    return cls(**values)


def tree_names(tree: PyTree) -> list[str]:
    """A readable name for each leaf of a pytree, in leaf order (`params.actor.kernel`)."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


class _Callable(types.ModuleType):
    """`operant.agent` is this module, and, as the decorator is what users want of it, also the decorator."""

    def __call__(self, name: str) -> Callable[[type[T]], type[T]]:
        return agent(name)


sys.modules[__name__].__class__ = _Callable
