"""Pupil: REINFORCE from a learned reward (Zheng, Oh et al. 2020, "What Can Learned Intrinsic Rewards Capture?", arXiv
1912.05500, section 3).

A network pays for each observation that is arrived at, by everything that was seen in this life until then, across the
ends of episodes; the task's reward is at most something it sees.  It was found by `lifetime-rewards`, over the lives of
many such agents; this is one of them, which learns by a reward network as it stands (`--init-from RUN`).

Differs from reinforce: (1) learned rewards take the place of the task's; (2) no baseline: returns are summed to the end
of the episode, or of the rollout, behind which nothing is known; (3) plain descent by default, as newborns are to learn
within dozens of steps.

Symbols: eta the reward network's weights, theta the policy, tau_t all that was seen in this life until t, r_eta(tau_t)
the learned reward, paid on arriving at t.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant import portraits
from operant.agent import agent, child, dial, option
from operant.lifelong import BUCKETS, Lifelong, count_visits
from operant.nn import Policy
from operant.ops.losses import masked_mean
from operant.ops.optimizers import adam, sgd
from operant.ops.returns import discounted_returns
from operant.rollout import blank_batch
from operant.types import Discrete, struct, zeros

BOUNDS = {"tanh": jnp.tanh, "arctan": jnp.arctan}


@struct(static=("spec",))
class PupilState:
    """theta: the policy's parameters; eta: the reward network's weights; memory: what it remembers of this life."""

    params: Any
    opt_state: Any
    memory: Any
    eta: Any
    spec: Any


@agent("pupil")
class Pupil:
    """A policy that learns from a reward which another run learned to pay, instead of from the task's."""

    learning_rate: float = dial(0.1, "step size of the policy", low=0.0)
    gamma: float = dial(0.9, "discount of learned rewards within an episode", low=0.0, high=1.0)
    entropy_cost: float = dial(0.01, "weight of the policy's entropy", low=0.0)
    bonus: float = dial(0.1, "beta of the count bonus beta / sqrt(n(s)), n as in this life", low=0.0)
    num_envs: int = option(1, "environments of one agent; each is remembered by itself", low=1)
    rollout_length: int = option(10, "steps in each environment between updates", low=1)
    optimizer: str = option("sgd", "sgd, or adam, whose first steps tell least about rewards", choices=("sgd", "adam"))
    teacher: str = option("learned", "the learned reward; the task's; or that, and a bonus for what was seen seldom",
                          choices=("learned", "task", "count"))  # fmt: skip
    bound: str = option("tanh", "what bounds the learned reward", choices=tuple(BOUNDS))
    sees_reward: bool = option(True, "show the task's reward to the reward network")
    sees_action: bool = option(False, "show it actions: what it learns then belongs to this set of them")
    torso: str = option("auto", "encoder of the policy's observations: auto, mlp, nature, nips, impala, minatar")
    hidden: tuple[int, ...] = option((64,), "widths of the policy's hidden layers; (): none", low=1)
    reward: Lifelong = child(Lifelong, "layers of the reward network")

    presets: ClassVar[dict] = {
        "operant": {
            "source": "for two cores; a step size between 0.3 and 2 made no difference on RandomABC, 3 did harm",
            "learning_rate": 1.0,
            "torso": "mlp",
            "hidden": (),
            "reward.torso": "mlp",
            "reward.hidden": (32,),
            "reward.size": 32,
        },
    }
    keeps_batches: ClassVar[bool] = True  # of each environment, in the reward network's memory

    def policy(self, spec):
        return Policy(spec.observation, spec.action, self.torso, self.hidden, "relu", "gaussian")

    def steps(self):
        return (sgd if self.optimizer == "sgd" else adam)(self.learning_rate)

    def init(self, key, spec):
        policy_key, reward_key = jax.random.split(key)
        params = self.policy(spec).init(policy_key, zeros(spec.observation, (1,)))["params"]
        memory = jnp.zeros(BUCKETS) if self.teacher == "count" else self.reward.start(spec.num_envs)
        state = PupilState(params, self.steps().init(params), memory, (), spec)
        batch = blank_batch(self, state, spec, 1)
        return state.replace(eta=self.reward.init(reward_key, spec, self.moments(batch)))

    def start(self, state, batch_size):
        return ()

    def act(self, state, timestep, carry, key, explore=True):
        policy = self.policy(state.spec).apply({"params": state.params}, timestep.observation, timestep.action_mask)
        return policy.sample(key) if explore else policy.mode(), (), self.reward.extras(timestep)

    def moments(self, batch):
        return self.reward.moments(batch, self.sees_reward, self.sees_action)

    def taught(self, state, batch):
        """The policy at the observations that were acted on."""
        seen = jax.tree.map(lambda x: x[:-1], (batch.observation, batch.action_mask))
        return self.policy(state.spec).apply({"params": state.params}, *seen)

    def rewards(self, state, batch):
        """r_eta(tau_t+1) [T, B] of each transition, and what is remembered then."""
        if self.teacher == "task":
            return batch.reward, state.memory
        if self.teacher == "count":
            counts, memory = count_visits(state.memory, batch)
            return batch.reward + self.bonus * jax.lax.rsqrt(counts), memory
        arrivals = jax.tree.map(lambda x: x[1:], self.moments(batch))
        said, memory = self.reward.along(state.eta, state.spec, arrivals, state.memory)
        return BOUNDS[self.bound](said), memory

    def paid(self, state, observation, memory):
        """r_eta [N] of arriving at observations [N], with what one life remembers, where the task goes on and pays 0;
        the mean over actions, where they are seen."""
        number = len(jax.tree.leaves(observation)[0])
        told = jnp.array([1.0, 1.0, 0.0][: 2 + self.sees_reward])
        moments = {"observation": jax.tree.map(lambda x: x[None], observation), "told": jnp.tile(told, (1, number, 1))}
        memory = jax.tree.map(lambda x: jnp.repeat(x[:1], number, 0), memory)

        def said(action):
            led = {"action": jnp.full((1, number), action)} if self.sees_action else {}
            return BOUNDS[self.bound](self.reward.along(state.eta, state.spec, moments | led, memory)[0])[0]

        return jax.vmap(said)(jnp.arange(state.spec.action.n if self.sees_action else 1)).mean(0)

    def maps(self, state, seen, memories):
        """What is paid in each cell, to a newborn and by the memories of lives, which have their names."""
        if (
            seen is None
            or self.teacher != "learned"
            or (self.sees_action and not isinstance(state.spec.action, Discrete))
        ):
            return []
        return [
            portraits.of_cells(name, lambda observation, memory=memory: self.paid(state, observation, memory), seen)
            for name, memory in {"paid to a newborn": self.reward.start(1), **memories}.items()
        ]

    def portrait(self, state, seen):
        """The learned reward of each cell, at birth and now."""
        return self.maps(state, seen, {"to this one, by its life": state.memory})

    def learn(self, state, batch, key):
        """theta + alpha grad mean(G_t log pi(a_t|s_t)), where G sums learned rewards within the episode."""
        reward, memory = self.rewards(state, batch)
        columns = (reward, batch.discount, batch.valid, jnp.zeros_like(batch.first, reward.dtype))
        returns = jax.vmap(discounted_returns, (1, 1, 1, 1, None), 1)(*columns, self.gamma)

        def loss(params):
            policy = self.taught(state.replace(params=params), batch)
            entropy = masked_mean(policy.entropy(), batch.valid)
            gain = masked_mean(policy.log_prob(batch.action) * returns, batch.valid)
            return -gain - self.entropy_cost * entropy, entropy

        gradient, entropy = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = self.steps().update(gradient, state.opt_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        metrics = {"entropy": entropy, "learned_reward": masked_mean(reward, batch.valid)}
        return state.replace(params=params, opt_state=opt_state, memory=memory), metrics, ()
