"""What a run is, apart from its agent: the fields of `Settings` are the runner's flags, the keys of a run's
configuration, and the arguments of `operant.train`."""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any

from operant.errors import UserError, check_options

MAX_STEPS = 2_000_000_000  # steps are counted in 32 bits, and the last chunk goes beyond the planned length
MAX_SEED = 2**32 - 1  # a larger one would be another's random numbers


def _flag(default: Any, help: str, low: float = -math.inf) -> Any:
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata={"help": help, "low": low})
    return dataclasses.field(default=default, metadata={"help": help, "low": low})


@dataclasses.dataclass(frozen=True)
class Settings:
    """How long, how many, where, and what is kept."""

    steps: int = _flag(1_000_000, "environment steps of each seed (valid transitions); the planned length", 1)
    seeds: int = _flag(1, "how many seeds are trained at once", 1)
    seed: int = _flag(0, "the first seed; the others follow it", 0)
    sweep: tuple[str, ...] = _flag((), "NAME=1e-4,3e-4 | NAME=0.9..0.99 | NAME=log:1e-5..1e-2; several make a grid")
    sweep_draws: int = _flag(0, "settings drawn at random from the sweep's ranges", 0)
    env_options: dict[str, Any] = _flag({}, "options of the environment, as in time_limit=200")
    chunks: int = _flag(50, "parts the run is cut into; metrics are written after each", 1)
    eval_every: int = _flag(5, "chunks between evaluations; 0: only at the end", 0)
    eval_episodes: int = _flag(16, "episodes of each seed in an evaluation", 1)
    eval_stochastic: bool = _flag(False, "evaluate with the exploring policy instead of its mode")
    stop_at_return: float = _flag(math.inf, "end as soon as an evaluation's mean return reaches this")
    checkpoint_seconds: float = _flag(30.0, "least time between checkpoints; 0: after every chunk", 0.0)
    keep: int = _flag(2, "how many checkpoints are kept, besides the best", 1)
    checkpoint_memory: bool = _flag(
        True, "keep the replay memory; without it a resumed run begins with an empty one, and is not exact"
    )
    devices: int = _flag(0, "devices to use; 0: as many as the seeds can be divided over", 0)
    shard: str = _flag("lanes", "what is divided over the devices: whole lanes (seeds x settings), or the envs of one")
    precision: str = _flag("float32", "precision of matrix products: float32, tensorfloat32 or bfloat16")
    deadline: float = _flag(
        600.0,
        "seconds that host environments may stand still before the run is ended; ten times as many at work",
        1.0,
    )
    wandb: str = _flag("", "also log to this Weights & Biases project")

    def check(self) -> None:
        """Raises UserError naming the flag, its value and what was expected."""
        for f in dataclasses.fields(self):
            value, low = getattr(self, f.name), f.metadata["low"]
            if isinstance(value, (int, float)) and not value >= low:
                raise UserError(f"--{f.name.replace('_', '-')} is {value}; expected at least {low:g}")
        if self.steps > MAX_STEPS:
            raise UserError(f"--steps is {self.steps}; expected at most {MAX_STEPS}")
        if self.seed + self.seeds - 1 > MAX_SEED:
            raise UserError(f"--seed is {self.seed}; expected at most {MAX_SEED - self.seeds + 1}, for the last seed")
        if self.sweep_draws and not any(".." in text for text in self.sweep):
            raise UserError(
                f"--sweep-draws is {self.sweep_draws}, but --sweep has no range to draw from (NAME=0.9..0.99)"
            )
        if self.shard not in ("lanes", "envs"):
            raise UserError(f"--shard is '{self.shard}'; expected lanes or envs")
        if self.precision not in ("float32", "tensorfloat32", "bfloat16"):
            raise UserError(f"--precision is '{self.precision}'; expected float32, tensorfloat32 or bfloat16")

    def to_json(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        data["stop_at_return"] = None if math.isinf(self.stop_at_return) else self.stop_at_return
        return data

    @staticmethod
    def from_json(data: Any) -> Settings:
        """What `to_json` wrote; the default where a key is missing. Raises UserError for a value of another type."""
        if not isinstance(data, dict):
            raise UserError(f"a run's settings are {_shown(data)}; expected an object")
        check_options("a run's settings", data, [f.name for f in dataclasses.fields(Settings)])
        data = dict(data)
        if data.get("stop_at_return") is None:
            data["stop_at_return"] = math.inf
        hints = typing.get_type_hints(Settings)
        for name, value in data.items():
            fits, words = _EXPECTED[hints[name]]
            if not fits(value):
                raise UserError(f"a run's settings: {name} is {_shown(value)}; expected {words}")
        data["sweep"] = tuple(data.get("sweep", ()))
        return Settings(**data)


_EXPECTED: dict[Any, tuple[typing.Callable[[Any], bool], str]] = {
    int: (lambda x: type(x) is int, "a whole number"),
    float: (lambda x: type(x) in (int, float), "a number"),
    bool: (lambda x: type(x) is bool, "true or false"),
    str: (lambda x: isinstance(x, str), "a text"),
    tuple[str, ...]: (lambda x: isinstance(x, (list, tuple)) and all(isinstance(t, str) for t in x), "a list of texts"),
    dict[str, Any]: (lambda x: isinstance(x, dict), "an object"),
}


def check_config(config: dict[str, Any], where: Any, *keys: str) -> None:
    """Raises UserError where a run's configuration lacks one of `keys` (by default, all that loading it needs), or
    holds something else there; its agent and settings look at what is in them themselves."""
    inside: dict[str, dict[str, Any]] = {
        "agent": {"class": str},
        "env": {},
        "settings": {},
        "devices": {"mode": str, "number": int},
    }
    for key in keys or tuple(inside):
        _expect(config, key, str if key == "env" else dict[str, Any], where)
        for name, kind in inside[key].items():
            _expect(config[key], name, kind, f"{where}: {key}")


def _expect(data: dict[str, Any], key: str, kind: Any, where: Any) -> None:
    fits, words = _EXPECTED[kind]
    if key not in data:
        raise UserError(f"{where} has no {key}; expected {words}")
    if not fits(data[key]):
        raise UserError(f"{where}: {key} is {_shown(data[key])}; expected {words}")


def _shown(value: Any) -> str:
    """A value from a file, short enough for a message."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
