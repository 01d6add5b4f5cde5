"""Options of environments, from a command line or a file: each is what was expected, or a UserError says so."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from operant.errors import UserError


def _is_number(value: Any, fits: Callable[[Any], bool]) -> bool:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and math.isfinite(value) and bool(fits(value))


def number(what: str, value: Any) -> float:
    """`value` as a float, or UserError unless it is a finite number."""
    if not _is_number(value, lambda x: True):
        raise UserError(f"{what} is {value!r}, expected a number.")
    return float(value)


def whole(what: str, value: Any) -> int:
    """`value` as an int, or UserError unless it is a whole number."""
    if not _is_number(value, lambda x: x % 1 == 0):
        raise UserError(f"{what} is {value!r}, expected a whole number.")
    return int(value)


def positive(what: str, value: Any) -> int:
    """`value` as an int, or UserError unless it is a whole number above 0."""
    if not _is_number(value, lambda x: x % 1 == 0 and x > 0):
        raise UserError(f"{what} is {value!r}, expected a whole number above 0.")
    return int(value)


def repeats(what: str, value: Any) -> float:
    """`value` as the probability with which an action is repeated, or UserError: with 1 nothing else would happen."""
    if not _is_number(value, lambda x: 0 <= x < 1):
        raise UserError(f"{what} is {value!r}, expected a probability from 0 up to, but not including, 1.")
    return float(value)


def flag(what: str, value: Any) -> bool:
    """`value` as a bool, or UserError unless it is one, or 0 or 1."""
    if not isinstance(value, (numbers.Real, np.bool_)) or value not in (0, 1):
        raise UserError(f"{what} is {value!r}, expected true or false.")
    return bool(value)


def like(what: str, value: Any, default: Any) -> Any:
    """`value` in the type of `default`, or UserError; where that is no flag, number or text, the value as it is."""
    match default:
        case bool():  # before int, which it is too
            return flag(what, value)
        case int():
            return whole(what, value)
        case float():
            return number(what, value)
        case str() if _is_number(value, lambda x: True):  # a name of digits reads as a number
            return str(value)
        case str() if not isinstance(value, str):
            raise UserError(f"{what} is {value!r}, expected a text.")
    return value


def defaults(constructor: Callable) -> Mapping[str, Any]:
    """What a constructor's parameters are if they are not given."""
    return {name: parameter.default for name, parameter in inspect.signature(constructor).parameters.items()}
