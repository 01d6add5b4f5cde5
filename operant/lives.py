"""Lives: agents that each learn in a task of their own, and then make way for the next.

Methods that learn over lives (an update rule, rewards) hold L of them side by side, with P = num_envs / L environments.
They differ in their parameters, their step sizes and their task, and begin and end at times of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt32

from operant.actor_critic import advantages
from operant.agent import dial, option, part
from operant.meta import MetaState
from operant.nn import Torso
from operant.nn.torsos import dense
from operant.ops.losses import l2, masked_mean
from operant.ops.optimizers import adam, clip_by_global_norm, sgd
from operant.types import Batch, Discrete, PyTree, Space, Spec, Timestep, struct, zeros

FACTORS = (0.5, 1.0, 2.0)


@struct
class Lives:
    """L agents, and where each is in its life.

    agents    parameters, optimizer states: leaves [L, ...]
    setting   which of the settings of a grid of step sizes each has
    age       updates lived: 0 before the first, when its environments begin in a new task; -1 if it was born in between
              a roll-out and the update that follows it, which is of its predecessor's experience
    left      updates until its end, or episodes, as its method counts
    task      seed of its task
    score     of each of the S settings, the mean reward at the end of the lives that had it
    ended     of each setting, how many they were
    """

    agents: PyTree
    setting: Int[Array, "L"]
    age: Int[Array, "L"]
    left: Int[Array, "L"]
    task: UInt32[Array, "L"]
    score: Float[Array, "S"]
    ended: Float[Array, "S"]

    @staticmethod
    def begin(generation: Callable, number: int, settings: int, lifetime: int, key: PRNGKeyArray) -> Lives:
        """The first generation, which ends at random ages: all at once would make the meta-gradient swing."""
        setting_key, left_key, task_key, birth_key = jax.random.split(key, 4)
        left = jax.random.randint(left_key, (number,), 1, lifetime + 1)
        setting = jax.random.randint(setting_key, (number,), 0, settings)
        tasks, none = jax.random.bits(task_key, (number,)), jnp.zeros(settings)
        agents = generation(birth_key, setting)
        return Lives(agents, setting, jnp.zeros_like(setting), left, tasks, none, jnp.zeros_like(none))

    def renew(
        self,
        over: Bool[Array, "L"],
        generation: Callable[[PRNGKeyArray, Int[Array, "L"]], PyTree],
        reward: Float[Array, "L"],
        lifetime: int,
        key: PRNGKeyArray,
    ) -> Lives:
        """With agents of the next `generation(key, setting)` in place of those whose life is `over`.

        reward  the mean reward of each life now: what its setting is judged by.  A setting is drawn by a softmax over
                the settings' standardised scores, so that better ones are drawn more often and none never.
        """
        setting_key, task_key, birth_key = jax.random.split(key, 3)
        ends = jax.nn.one_hot(self.setting, len(self.score)) * over[:, None]
        count = self.ended + ends.sum(0)
        score = (self.score * self.ended + ends.T @ reward) / jnp.maximum(count, 1.0)
        known = jnp.where(count > 0, score, jnp.sum(score * count) / jnp.maximum(count.sum(), 1.0))
        logits = (known - known.mean()) / jnp.maximum(known.std(), 1e-6)
        drawn = jax.random.categorical(setting_key, logits, shape=self.setting.shape).astype(jnp.int32)
        pick = lambda new, old: jnp.where(over.reshape(-1, *[1] * (new.ndim - 1)), new, old)  # noqa: E731
        return Lives(
            agents=jax.tree.map(pick, generation(birth_key, drawn), self.agents),
            setting=pick(drawn, self.setting),
            age=jnp.where(over, -1, self.age),
            left=jnp.where(over, lifetime, self.left),
            task=pick(jax.random.bits(task_key, self.task.shape), self.task),
            score=score,
            ended=count,
        )

    def older(self, agents: PyTree, lived: Int[Array, "L"] | int = 1) -> Lives:
        """After an update to these agents, which took so much of their lives."""
        return self.replace(agents=agents, age=self.age + 1, left=self.left - lived * (self.age >= 0))

    def tasks(self, width: int) -> tuple[Bool[Array, "B"], PRNGKeyArray]:
        """Which environments are to begin in a new task, and the keys of all tasks: [L * width]."""
        keys = jax.vmap(jax.random.key)(self.task)
        return jnp.repeat(self.age == 0, width), jnp.repeat(keys, width)


@struct
class LivesState(MetaState):
    """A `MetaState` whose `agent` holds the lives; the first of what their agents are made of is their state."""

    @property
    def params(self) -> PyTree:
        return self.agent.agents[0].params


class OverLives:
    """What methods share that learn over lives, beside their fields `lives`, `inner_updates` and `agent`."""

    lives: int
    inner_updates: int
    agent: Any
    keeps_batches: ClassVar[bool] = True
    playable: ClassVar[bool] = False

    @property
    def num_envs(self) -> int:
        """Environments of all lives."""
        return self.lives * self.agent.num_envs

    @property
    def meta_period(self) -> int:
        return self.inner_updates

    def start(self, state: LivesState, batch_size: int) -> PyTree:
        """Agents that live remember nothing but in their states."""
        return ()

    def new_tasks(self, state: LivesState) -> tuple[Bool[Array, "B"], PRNGKeyArray]:
        """The environments of newborn agents begin in the tasks of these."""
        return state.agent.tasks(self.agent.num_envs)


def split_lives(batch: Batch, lives: int) -> Batch:
    """[T, L*P, ...] -> [L, T, P, ...]"""
    part = lambda x: jnp.moveaxis(x.reshape(len(x), lives, -1, *x.shape[2:]), 1, 0)  # noqa: E731
    return jax.tree.map(part, batch.replace(carry=()))


def side_by_side(
    act: Callable, members: PyTree, timestep: Timestep, key: PRNGKeyArray
) -> tuple[PyTree, PyTree, PyTree]:
    """`act(member, timestep, key) -> action, carry, extras` of all members [L, ...], each in environments of its own.

    timestep  [L*P, ...], as the actions and extras that are returned
    """
    lives = len(jax.tree.leaves(members)[0])
    apart = lambda x: x.reshape(lives, -1, *x.shape[1:])  # noqa: E731
    acted = jax.vmap(act)(members, jax.tree.map(apart, timestep), jax.random.split(key, lives))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), acted)


class Readout(nn.Module):
    """`size` numbers for an observation: a table's row for integers, else features times weights of gain `scale`."""

    space: Space
    size: int
    torso: str = "auto"
    hidden: tuple[int, ...] = (32,)
    scale: float = 0.01

    @nn.compact
    def __call__(self, observation: Any) -> Float[Array, "*B size"]:
        if isinstance(self.space, Discrete):
            return self.param("table", nn.initializers.zeros, (self.space.n, self.size))[observation]
        features = Torso(self.space, self.torso, self.hidden, "relu")(observation)
        return dense(self.size, self.scale)(features)


@part("critic-of-lives")
class Critic:
    """The value of one life's policy, from its own task's rewards: what a rule is judged by and never sees."""

    learning_rate: float = dial(4.0, "step size", low=0.0)
    max_grad_norm: float = dial(0.5, "global norm at which its gradient is clipped; inf: off", low=0.0)
    gae_lambda: float = dial(0.95, "lambda of advantages and targets", low=0.0, high=1.0)
    optimizer: str = option("sgd", "sgd suits tables, adam networks", choices=("sgd", "adam"))
    torso: str = option("auto", "encoder of observations that number no table's rows")
    hidden: tuple[int, ...] = option((32,), "widths of its hidden layers", low=1)

    def _optimizer(self):
        return (sgd if self.optimizer == "sgd" else adam)(self.learning_rate)

    def _values(self, params: PyTree, batch: Batch, spec: Spec) -> Float[Array, "T1 P"]:
        readout = Readout(spec.observation, 1, self.torso, self.hidden)
        return jnp.asarray(readout.apply({"params": params}, batch.observation))[..., 0]

    def init(self, key: PRNGKeyArray, spec: Spec) -> tuple[PyTree, PyTree]:
        """(parameters, optimizer's state)"""
        readout = Readout(spec.observation, 1, self.torso, self.hidden)
        params = readout.init(key, zeros(spec.observation, (1,)))["params"]
        return params, self._optimizer().init(params)

    def advantages(self, critic: tuple, batch: Batch, spec: Spec, gamma: Array) -> Float[Array, "T P"]:
        """GAE of one life's trajectory, over constant values."""
        value = jax.lax.stop_gradient(self._values(critic[0], batch, spec))
        return advantages(batch.reward, value, batch, gamma, self.gae_lambda)

    def learn(self, critic: tuple, batch: Batch, spec: Spec, gamma: Array) -> tuple[PyTree, PyTree]:
        """One step towards lambda-returns."""
        params, opt_state = critic

        def loss(params):
            value = self._values(params, batch, spec)
            constant = jax.lax.stop_gradient(value)
            target = advantages(batch.reward, constant, batch, gamma, self.gae_lambda) + constant[:-1]
            return masked_mean(l2(target - value[:-1]), batch.valid)

        gradient, _ = clip_by_global_norm(jax.grad(loss)(params), self.max_grad_norm)
        updates, opt_state = self._optimizer().update(gradient, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state
