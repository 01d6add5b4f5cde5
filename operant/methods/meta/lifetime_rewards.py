"""Lifetime rewards: what agents learn from is itself learned (Zheng, Oh et al. 2020, arXiv 1912.05500, section 3).

Many agents live side by side, each in a task of its own, for many episodes.  They learn from a reward that one network
pays them all.  It remembers each one's life, and can so tell it to explore, and later to stop.  After N updates the
trajectories that these led to are judged by the task's reward over the rest of the life, and the gradient goes back
through the updates to the network.

Differs from its base agent, `pupil`: (1) there are `lives` of it, which end after some episodes, and begin anew in
another task; (2) its `eta` is learned, by Adam along the mean gradient over lives, and so is the value that cuts the
lifetime return short (alg. 1); (3) it has no policy of its own to evaluate.
`operant train pupil ENV --init-from RUN` uses what was found.

Symbols: eta the reward network's weights, phi those of the lifetime value V(tau_t), tau_t all that a life saw until t,
theta a policy, N updates between meta steps.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant.agent import agent, child, dial, option
from operant.errors import UserError
from operant.lifelong import LifetimeValue
from operant.lives import Lives, LivesState, OverLives, side_by_side, split_lives
from operant.meta import Tape
from operant.methods.meta.pupil import Pupil
from operant.ops.losses import masked_mean
from operant.ops.optimizers import adam
from operant.rollout import blank_batch
from operant.types import struct

SMALL = {"value.gae_lambda": 0.9, "value.network.torso": "mlp", "value.network.hidden": (32,), "value.network.size": 32}
FIFTHS = 5  # of a life, by which returns are told apart


@struct
class LifetimeState(LivesState):
    """`agent` holds the lives; their agents are (theta, V's memory, [earned, episodes] by fifths of the life), theta
    being the base agent's state without eta.  critic: phi, with its optimizer's state."""

    critic: Any


@agent("lifetime-rewards")
class LifetimeRewards(OverLives):
    """Learns a reward that teaches newborn agents to do well over whole lives, in many tasks."""

    meta_learning_rate: float = dial(1e-3, "Adam's step size for the reward; 0: it stays as it is", low=0.0)
    max_meta_grad_norm: float = dial(0.5, "global norm at which the reward's gradient is clipped; inf: off", low=0.0)
    lives: int = option(64, "agents that live side by side", low=1)
    lifetime: int = option(50, "episodes of a life", low=1)
    inner_updates: int = option(5, "N, updates between meta steps", low=1)
    remat: bool = option(True, "compute inner updates again on the way back instead of keeping them")
    value: LifetimeValue = child(LifetimeValue, "what lives are judged by")
    agent: Any = child(Pupil, "the agent that lives")

    presets: ClassVar[dict] = {
        **{
            f"operant:{world}-v0": {"source": "the world's lifetime; sized as `operant`", "lifetime": life, **SMALL}
            for world, life in (("EmptyRooms", 200), ("KeyBox", 5000), ("NonStationaryABC", 1000))
        },
        "operant": {"source": "networks of half the paper's size, for two cores; chosen, not tuned", **SMALL},
    }

    def check(self):
        if not isinstance(self.agent, Pupil):
            name = self.agent.registered_name
            raise UserError(f"lifetime-rewards: {name} does not learn from a reward network; expected pupil")

    def generation(self, spec, key, settings):
        """Newborn agents [L], of whose lives nothing is remembered yet."""
        thetas = jax.vmap(lambda key: self.agent.init(key, spec).replace(eta=()))(jax.random.split(key, self.lives))
        spread = lambda x: jnp.broadcast_to(x, (self.lives, *x.shape))  # noqa: E731
        return thetas, *jax.tree.map(spread, (self.value.network.start(spec.num_envs), jnp.zeros((2, FIFTHS))))

    def init(self, key, spec):
        lives_key, reward_key, value_key = jax.random.split(key, 3)
        own = spec.replace(num_envs=spec.num_envs // self.lives)
        lives = Lives.begin(functools.partial(self.generation, own), self.lives, 1, self.lifetime, lives_key)
        one = self.agent.init(reward_key, own)
        critic = self.value.init(value_key, own, blank_batch(self.agent, one, own, 1))
        opt_state = adam(self.meta_learning_rate).init(one.eta)
        report = {name: jnp.zeros(()) for name in ("meta_loss", "meta_grad_norm", "value_loss")}
        state = LifetimeState(lives, one.eta, opt_state, (), report, critic)
        batch = split_lives(blank_batch(self, state, spec, self.rollout_length), self.lives)
        return state.replace(past=Tape.blank(lives.agents[0], (batch, lives.age >= 0), self.inner_updates))

    def act(self, state, timestep, carry, key, explore=True):
        def act(theta, timestep, key):
            return self.agent.act(theta.replace(eta=state.eta), timestep, (), key, explore)

        return side_by_side(act, state.agent.agents[0], timestep, key)

    def update(self, eta, thetas, batches, alive):
        """All agents, one update later; those that were born since their place last acted stay as they are."""

        def one(theta, batch, alive):
            after, metrics, _ = self.agent.learn(theta.replace(eta=eta), batch, jax.random.key(0))
            keep = lambda new, old: jnp.where(alive, new, old)  # noqa: E731
            return jax.tree.map(keep, after.replace(eta=()), theta), metrics

        return jax.vmap(one)(thetas, batches, alive)

    def learn(self, state, batch, key):
        lives, batch = state.agent, split_lives(batch, self.lives)
        alive = lives.age >= 0  # what a life that was just born is handed is its predecessor's experience
        thetas, memory, record = lives.agents
        past = state.past.write(thetas, (batch, alive))
        thetas, metrics = self.update(state.eta, thetas, batch, alive)
        earned = jnp.sum(batch.reward * batch.valid, (1, 2)) * alive
        ended = jnp.sum(batch.valid == 0, 1) * alive[:, None]
        fifth = (record[:, 1].sum(-1) / thetas.spec.num_envs * FIFTHS / self.lifetime).astype(jnp.int32)
        here = jax.nn.one_hot(jnp.minimum(fifth, FIFTHS - 1), FIFTHS)
        record += jnp.stack([earned, ended.sum(1)], 1)[..., None] * here[:, None]
        early, *_, late = record[:, 0].sum(0) / jnp.maximum(record[:, 1].sum(0), 1.0)
        told = {"return_early": early, "return_late": late, "age": jnp.mean(1.0 * lives.age), **state.report}
        lives = lives.older((thetas, memory, record), ended[:, 0])
        return state.replace(agent=lives, past=past), {**jax.tree.map(jnp.mean, metrics), **told}, ()

    def portrait(self, state, seen):
        """The learned reward of each cell at birth, and in the youngest, the middle and the oldest life."""
        lives = state.agent
        order = jnp.argsort(lives.age)
        some = {f"to a life of {lives.age[i]} updates": i for i in order[jnp.array([0, self.lives // 2, -1])]}
        life = lambda i: jax.tree.map(lambda x: x[i], lives.agents[0]).replace(eta=state.eta)  # noqa: E731
        return self.agent.maps(life(0), seen, {name: life(i).memory for name, i in some.items()})

    def judge(self, eta, past, judged, advantage):
        """The mean judgement, its sign turned, of the policies after each of N updates, on their trajectories."""

        def one(theta, batch, advantage):
            return -masked_mean(self.agent.taught(theta, batch).log_prob(batch.action) * advantage, batch.valid)

        course = past.replay(self.update, eta, self.remat, every=True)
        return jax.vmap(jax.vmap(one))(course, judged, advantage).mean()

    def meta_learn(self, state, batch, key):
        """eta and phi one step along the judgement of what the last N updates led to; lives that are over make way."""
        lives, fresh = state.agent, split_lives(batch, self.lives)
        (thetas, memory, record), over = lives.agents, lives.left <= 0
        # after each update there is one trajectory [N, L, T, P]: the next update's own, and the fresh one
        judged = jax.tree.map(lambda past, now: jnp.concatenate([past[1:], now[None]]), state.past.inputs[0], fresh)
        critic, error, advantage, memory = self.value.learn(state.critic, thetas.spec, judged, memory, over)
        value, gradient = jax.value_and_grad(self.judge)(state.eta, state.past, judged, advantage)
        state = state.descend(value, gradient, adam(self.meta_learning_rate), self.max_meta_grad_norm)
        lives, born = lives.replace(agents=(thetas, memory, record)), functools.partial(self.generation, thetas.spec)
        lives = lives.renew(over, born, jax.vmap(masked_mean)(fresh.reward, fresh.valid), self.lifetime, key)
        return state.replace(agent=lives, critic=critic, report={**state.report, "value_loss": error})
