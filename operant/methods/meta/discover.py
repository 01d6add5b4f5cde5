"""Discovery over lives: what an agent learns by is itself learned (Oh et al. 2020, arXiv 2007.08794, section 3).

Many agents live side by side, each in a task of its own.  They learn by a rule that all share, as it stands.  After K
updates each is judged on a fresh trajectory, by a policy gradient whose critic the rule never sees, and the gradient
goes back through the K updates to the rule.  A life that is over makes way for another: a new task, a new agent.

Differs from its base agent: (1) there are `lives` of it, with step sizes from a grid that a bandit draws from; (2) its
`eta` is learned, by Adam along the mean gradient over lives (alg. 1); (3) it has no policy of its own to evaluate.
`operant train lpg ENV --rule RUN` uses what was found.

Symbols: eta the rule, theta an agent, K updates between meta steps.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant.agent import agent, child, dial, dials, option, with_dials
from operant.errors import UserError
from operant.lives import FACTORS, Critic, Lives, LivesState, OverLives, side_by_side, split_lives
from operant.meta import MetaState, Tape
from operant.methods.meta.lpg import LPG
from operant.ops.losses import masked_mean
from operant.ops.optimizers import adam
from operant.rollout import blank_batch


@agent("discover")
class Discover(OverLives):
    """Learns the rule that its base agent learns by, over many lives in many tasks."""

    meta_learning_rate: float = dial(1e-4, "Adam's step size for the rule", low=0.0)
    max_meta_grad_norm: float = dial(0.5, "global norm at which the rule's gradient is clipped; inf: off", low=0.0)
    collapse: float = dial(0.01, "entropy of a policy, in nats, below which its life ends early", low=0.0)
    lives: int = option(64, "agents that live side by side", low=1)
    lifetime: int = option(250, "updates of a life", low=1)
    inner_updates: int = option(5, "K, updates between meta steps", low=1)
    vary: tuple[str, ...] = option(("learning_rate", "alpha_y"), "dials of which lives have half, once or twice")
    remat: bool = option(True, "compute inner updates again on the way back instead of keeping them")
    critic: Critic = child(Critic, "what lives are judged by")
    agent: Any = child(LPG, "the agent that lives")

    presets: ClassVar[dict] = {
        "operant": {"source": "half of the lives, for two cores; chosen, not tuned", "lives": 32},
    }

    def check(self):
        name = self.agent.registered_name
        if not (hasattr(self.agent, "rule") and hasattr(self.agent, "judge")):
            raise UserError(
                f"discover: {name} has no rule to learn; expected an agent with rule and judge, such as lpg"
            )
        unknown = [dial for dial in self.vary if dial not in dials(self.agent)]
        if unknown:
            raise UserError(f"discover: vary names {', '.join(unknown)}, no dial of {name}")

    def member(self, setting):
        """The base agent of one life: its varied dials by the digits of its setting."""
        digits = [setting // len(FACTORS) ** i % len(FACTORS) for i in range(len(self.vary))]
        values, scale = dials(self.agent), jnp.asarray(FACTORS)
        return with_dials(
            self.agent, {name: values[name] * scale[digit] for name, digit in zip(self.vary, digits, strict=True)}
        )

    def generation(self, spec, key, settings):
        """(theta, critic) of agents at their births, [L]; theta is the base agent's state without eta."""

        def born(key, setting):
            agent_key, critic_key = jax.random.split(key)
            return self.member(setting).init(agent_key, spec).replace(eta=()), self.critic.init(critic_key, spec)

        return jax.vmap(born)(jax.random.split(key, self.lives), settings)

    def init(self, key, spec):
        rule_key, lives_key = jax.random.split(key)
        own = spec.replace(num_envs=self.agent.num_envs)
        born = functools.partial(self.generation, own)
        lives = Lives.begin(born, self.lives, len(FACTORS) ** len(self.vary), self.lifetime, lives_key)
        eta = self.agent.init(rule_key, own).eta
        state = LivesState(**vars(MetaState.begin(lives, eta, adam(self.meta_learning_rate))))
        batch = split_lives(blank_batch(self, state, spec, self.rollout_length), self.lives)
        return state.replace(past=Tape.blank(lives.agents[0], (batch, lives.setting), self.inner_updates))

    def act(self, state, timestep, carry, key, explore=True):
        def act(member, timestep, key):
            setting, theta = member
            return self.member(setting).act(theta.replace(eta=state.eta), timestep, (), key, explore)

        return side_by_side(act, (state.agent.setting, state.agent.agents[0]), timestep, key)

    def update(self, eta, thetas, batches, settings):
        """All agents, one update later."""

        def one(theta, batch, setting):
            after, metrics, _ = self.member(setting).learn(theta.replace(eta=eta), batch, jax.random.key(0))
            return after.replace(eta=()), metrics

        return jax.vmap(one)(thetas, batches, settings)

    def learn(self, state, batch, key):
        lives, batch = state.agent, split_lives(batch, self.lives)
        # what a life that was just born is handed is its predecessor's experience
        batch = batch.replace(valid=batch.valid * (lives.age >= 0)[:, None, None])
        thetas, critics = lives.agents
        past = state.past.write(thetas, (batch, lives.setting))
        learn_value = lambda theta, critic, b: self.critic.learn(critic, b, theta.spec, self.agent.gamma)  # noqa: E731
        critics = jax.vmap(learn_value)(thetas, critics, batch)
        thetas, metrics = self.update(state.eta, thetas, batch, lives.setting)
        metrics = {name: x.mean() for name, x in metrics.items()}
        told = {"reward": masked_mean(batch.reward, batch.valid), "age": jnp.mean(1.0 * lives.age), **state.report}
        return state.replace(agent=lives.older((thetas, critics)), past=past), {**metrics, **told}, ()

    def portrait(self, state, seen=None):
        """The rule's, as the first life has it."""
        return self.agent.portrait(jax.tree.map(lambda x: x[0], state.agent.agents[0]).replace(eta=state.eta))

    def meta_learn(self, state, batch, key):
        """eta one step along the judgement of all lives; then those that are over make way."""
        lives, batch = state.agent, split_lives(batch, self.lives)

        def judge(eta, theta, critic, batch):
            advantage = self.critic.advantages(critic, batch, theta.spec, self.agent.gamma)
            return self.agent.judge(theta.replace(eta=eta), batch, advantage)

        def outer(eta):
            thetas = state.past.replay(self.update, eta, self.remat)
            loss, entropy = jax.vmap(judge, (None, 0, 0, 0))(eta, thetas, lives.agents[1], batch)
            return loss.mean(), entropy

        (value, entropy), gradient = jax.value_and_grad(outer, has_aux=True)(state.eta)
        state = state.descend(value, gradient, adam(self.meta_learning_rate), self.max_meta_grad_norm)
        over = (lives.left <= 0) | (entropy < self.collapse)
        reward = jax.vmap(masked_mean)(batch.reward, batch.valid)
        born = functools.partial(self.generation, lives.agents[0].spec)
        return state.replace(agent=lives.renew(over, born, reward, self.lifetime, key))
