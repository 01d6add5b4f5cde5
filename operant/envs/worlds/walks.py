"""Worlds in which nothing is to be done but to predict: their actions say what is going to be earned.

A random walk (Sutton 1988), whose ends may change places (Xu et al. 2020, arXiv:2007.08433, section 5.2); and a chain,
half of which pays a little and the other half noise (after Xu et al. 2018, arXiv:1805.09801, section 3.1).
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from operant.errors import UserError
from operant.types import Box, Discrete, struct


@struct
class WalkState:
    """Where the walk stands, and the steps taken since the world began, over all episodes."""

    place: Int[Array, ""]
    time: Int[Array, ""]


@struct
class ChainState:
    """Which place of the chain has been reached."""

    place: Int[Array, ""]


@dataclasses.dataclass(frozen=True)
class RandomWalk:
    """From the middle of a row of places, one step to the left or the right by chance; over one end it pays 1, over the
    other -1.

    The action moves nothing: it says what the walk is expected to earn from here.  Rewards are what is learned from;
    the score of a step, which returns in reports are summed from, is the squared error of what was said, negative.

    places  how many there are
    period  steps after which the paying end and the costing one change places; 0: never
    """

    places: int = 5
    period: int = 960

    def __post_init__(self):
        if self.places < 1 or self.period < 0:
            raise UserError(f"places is {self.places} and period {self.period}, expected at least 1 and at least 0.")

    action = Box((1,))
    time_limit = None
    optimal_return = 0.0

    @property
    def observation(self) -> Discrete:
        return Discrete(self.places)

    @property
    def random_return(self) -> float:
        """Of predictions drawn from -1 to 1: their variance and the squared value, at each visit to a place."""
        start, end = self.places // 2, self.places + 1
        visits = [2 * (min(start, i) + 1) * (self.places - max(start, i)) / end for i in range(self.places)]
        return -sum(n * ((2 * (i + 1) / end - 1) ** 2 + 1 / 3) for i, n in enumerate(visits))

    def _sign(self, time: Int[Array, ""]) -> Float[Array, ""]:
        return 1.0 - 2.0 * (time // self.period % 2) if self.period else jnp.float32(1.0)

    def value(self, state: WalkState) -> Float[Array, ""]:
        """The expected reward from here, were the ends to stay as they are now."""
        return self._sign(state.time) * (2.0 * (state.place + 1) / (self.places + 1) - 1.0)

    def reset(self, key: Key[Array, ""]) -> tuple[WalkState, Int[Array, ""]]:
        return self._begin(jnp.int32(0))

    def again(self, key: Key[Array, ""], state: WalkState) -> tuple[WalkState, Int[Array, ""]]:
        return self._begin(state.time)

    def _begin(self, time: Int[Array, ""]) -> tuple[WalkState, Int[Array, ""]]:
        state = WalkState(jnp.int32(self.places // 2), time)
        return state, state.place

    def step(self, key: Key[Array, ""], state: WalkState, action: Float[Array, "1"]) -> tuple:
        place = state.place + jnp.where(jax.random.bernoulli(key), 1, -1)
        out = jnp.where(place < 0, -1.0, jnp.where(place >= self.places, 1.0, 0.0))
        state = WalkState(jnp.clip(place, 0, self.places - 1), state.time + 1)
        return state, state.place, out * self._sign(state.time - 1), out != 0.0, False

    def score(self, state: WalkState, action: Float[Array, "1"]) -> Float[Array, ""]:
        return -jnp.square(self.value(state) - action[0])


@dataclasses.dataclass(frozen=True)
class NoisyChain:
    """Places in a row, passed from the first to the last: signals pay a little for being left, the others pay noise.

    What follows on a noisy place is as good as nothing on average, and spoils every return that counts it.  The score
    of a step is the squared error of what was said, negative.

    signals    how many places pay; as many pay noise
    pay        what a signal pays
    noise      standard deviation of what the others pay, whose mean is 0
    alternate  signals and noisy places take turns, as in the paper; else the signals come first
    alike      all noisy places look the same
    """

    signals: int = 5
    pay: float = 0.1
    noise: float = 1.0
    alternate: bool = False
    alike: bool = False

    def __post_init__(self):
        if self.signals < 1 or self.noise < 0:
            raise UserError(f"signals is {self.signals} and noise {self.noise}, expected at least 1 and at least 0.")

    action = Box((1,))
    time_limit = None
    optimal_return = 0.0

    @property
    def observation(self) -> Discrete:
        return Discrete(self.signals + 1 if self.alike else 2 * self.signals)

    @property
    def random_return(self) -> float:
        """Of predictions drawn from -1 to 1: at each place their variance, and the squared value."""
        return -sum(float(self.value(ChainState(i))) ** 2 + 1 / 3 for i in range(2 * self.signals))

    def _signal(self, place: Int[Array, ""]) -> Array:
        return place % 2 == 0 if self.alternate else place < self.signals

    def _seen(self, place: Int[Array, ""]) -> Int[Array, ""]:
        """Signals have the lower numbers, in their order."""
        number = jnp.where(self._signal(place), place // 2, self.signals + place // 2) if self.alternate else place
        return jnp.minimum(number, self.observation.n - 1).astype(jnp.int32)

    def value(self, state: ChainState) -> Float[Array, ""]:
        """The expected reward from here: the signals that are still to come."""
        passed = (state.place + 1) // 2 if self.alternate else jnp.minimum(state.place, self.signals)
        return self.pay * (self.signals - passed)

    def reset(self, key: Key[Array, ""]) -> tuple[ChainState, Int[Array, ""]]:
        return ChainState(jnp.int32(0)), self._seen(jnp.int32(0))

    def step(self, key: Key[Array, ""], state: ChainState, action: Float[Array, "1"]) -> tuple:
        reward = jnp.where(self._signal(state.place), self.pay, self.noise * jax.random.normal(key))
        place = jnp.minimum(state.place + 1, 2 * self.signals - 1)
        return ChainState(place), self._seen(place), reward, state.place == 2 * self.signals - 1, False

    def score(self, state: ChainState, action: Float[Array, "1"]) -> Float[Array, ""]:
        return -jnp.square(self.value(state) - action[0])
