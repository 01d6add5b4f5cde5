"""MPO: maximum a posteriori policy optimisation (Abdolmaleki et al. 2018, arXiv 1806.06920 and 1812.02256).

Each improvement is two steps.  E: among actions drawn from the target policy, weights that favour those of high value,
as far as a bound on the divergence allows; its multiplier is the temperature eta, which is learned.  M: the policy is
fitted to the weighted actions, within trust regions around the target policy; for a Gaussian one each for mean and
deviation of every dimension (the decoupled form, 1812.02256, section 4.2.1), so that it cannot collapse early.

Differs from sac: (1) the policy is fitted to actions that were drawn and weighted, and never sees the critic's
gradient; (2) bounds on divergences, with multipliers, take the place of the entropy; (3) one critic; (4) targets are
copied.  The critic is regressed on n-step returns, not Retrace.

Symbols: pi policy, Q critic, pi' and Q' their targets, w weights, eta temperature, a_j the actions that were drawn.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from operant import actor_q as aq
from operant.agent import agent, child, dial, option
from operant.gradient import count_steps
from operant.memory import PrioritizedReplay, Replay
from operant.ops.distributions import Normal
from operant.types import Box

HEAD = "gaussian"
INITIAL_LOG_STD = math.log(0.5)

_CONTROL = {
    "source": "Acme's MPO (bounds, step sizes, copies, 20 actions, 5 steps); one update for each step, here 4 after a "
    "step of 4 environments",
    "memory.capacity": 1_000_000,
    "memory.learning_starts": 5_000,
    "random_steps": 5_000,
}


def temperature_loss(q, eta, epsilon):
    """The dual of the E-step, eta epsilon + eta log mean_j exp(Q_j / eta) for Q [N, S], less the mean over states."""
    return eta * epsilon + eta * (jax.nn.logsumexp(q / eta, axis=0) - math.log(q.shape[0]))


def by_dimension(policy):
    """A Gaussian whose dimensions stand in the batch, so that divergences are those of each."""
    return Normal(policy.mean[..., None], policy.log_std[..., None])


@agent("mpo")
class MPO:
    """Maximum a posteriori policy optimisation: sampled improvement in trust regions, any kind of action."""

    actor_learning_rate: float = dial(1e-4, "Adam's step size for the policy", low=0.0)
    critic_learning_rate: float = dial(1e-4, "Adam's step size for the critic", low=0.0)
    dual_learning_rate: float = dial(1e-2, "Adam's step size for the multipliers", low=0.0)
    gamma: float = dial(0.99, "discount factor", low=0.0, high=1.0)
    epsilon_weights: float = dial(0.1, "bound of the E-step: KL of weighted and drawn actions, nats", low=1e-8)
    epsilon_mean: float = dial(2.5e-3, "bound of the M-step: KL by the means, a dimension; discrete: in all", low=1e-8)
    epsilon_std: float = dial(1e-6, "bound of the M-step: KL by the deviations, a dimension", low=1e-8)
    tau: float = dial(1.0, "the targets' step towards policy and critic; 1: they are copied", low=0.0, high=1.0)
    max_grad_norm: float = dial(40.0, "norm at which each part's gradient is clipped; inf: off", low=0.0)
    target_period: int = option(100, "gradient steps between the targets' steps", low=1)
    num_actions: int = option(20, "actions that are drawn in each state", low=1)
    random_steps: int = option(1_000, "environment steps at the start with random actions", low=0)
    num_envs: int = option(4, "environments of one agent", low=1)
    rollout_length: int = option(1, "steps in each environment between updates", low=1)
    actor: aq.Policy = child(aq.Policy, "the policy's network")
    critic: aq.Critic = child(aq.Critic, "the critic's network")
    memory: Any = child(
        Replay,
        "where transitions are kept",
        choices=(Replay, PrioritizedReplay),
        n_step=5,
        batch_size=256,
        updates_per_rollout=4,
    )

    presets: ClassVar[dict] = {
        "classic_control": {
            "source": "small networks with a brisk step size; chosen, not tuned",
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "actor.hidden": (64, 64),
            "critic.hidden": (64, 64),
        },
        "mujoco": _CONTROL,
        "dmc": _CONTROL,
        "brax": _CONTROL,
    }

    def init(self, key, spec):
        actor_key, critic_key = jax.random.split(key)
        continuous = isinstance(spec.action, Box)
        dimensions = (math.prod(spec.action.shape),) if continuous else ()
        duals = {"eta": jnp.float32(10.0), "alpha_mean": jnp.full(dimensions, 10.0, jnp.float32)}
        if continuous:
            duals["alpha_std"] = jnp.full(dimensions, 1_000.0, jnp.float32)  # by their softplus, as large as in Acme
        params = {
            "actor": self.actor.init(actor_key, spec, HEAD, INITIAL_LOG_STD),
            "critic": self.critic.init(critic_key, spec, 1),
            "duals": duals,
        }
        return aq.begin(params, spec, targets=("actor", "critic"))

    def start(self, state, batch_size):
        return ()

    def act(self, state, timestep, carry, key, explore=True):
        place = (timestep.observation, timestep.action_mask)
        policy = self.actor.apply(state.params["actor"], state.spec, HEAD, *place)
        if not explore:
            return policy.mode(), (), {}
        act_key, random_key = jax.random.split(key)
        action = aq.random_at_first(random_key, state, self.random_steps, policy.sample(act_key), timestep)
        return action, (), {}

    def observe(self, state, batch):
        return state.replace(steps=state.steps + count_steps(batch))

    def drawn(self, state, place, key):
        """pi'(. | s), actions drawn from it [N, S, ...], and their values Q' [N, S]."""
        policy = self.actor.apply(state.target["actor"], state.spec, HEAD, *place)
        actions = jax.vmap(policy.sample)(jax.random.split(key, self.num_actions))
        return policy, actions, self.values(state.target["critic"], state.spec, place, actions)

    def values(self, params, spec, place, actions):
        """Q of actions, which the environment will clip to their bounds."""
        actions = jnp.clip(actions, -1.0, 1.0) if isinstance(spec.action, Box) else actions
        return self.critic.of(params, spec, place[0], actions)[0]

    def policy_losses(self, policy, target, actions, weights):
        """The M-step's -sum_j w_j log pi(a_j) (eq. 11 of 1812.02256) [S], and its divergences [S, ...] by name."""
        if not isinstance(target, Normal):
            fit = -jnp.sum(weights * jax.vmap(policy.log_prob)(actions), 0)
            return fit, {"alpha_mean": (target.kl(policy), self.epsilon_mean)}
        moved = Normal(policy.mean, target.log_std, policy.shape)
        widened = Normal(target.mean, policy.log_std, policy.shape)
        log_prob = jax.vmap(lambda a: moved.log_prob(a) + widened.log_prob(a))(actions)
        kl = lambda one: by_dimension(target).kl(by_dimension(one))  # noqa: E731
        bounds = {"alpha_mean": (kl(moved), self.epsilon_mean), "alpha_std": (kl(widened), self.epsilon_std)}
        return -jnp.sum(weights * log_prob, 0), bounds

    def loss(self, params, state, batch, key):
        """The critic's regression, the E-step's dual, the M-step's fit and trust regions: a gradient for each part."""
        spec, (next_key, here_key) = state.spec, jax.random.split(key)
        step = aq.transition(batch, self.gamma)
        duals = jax.tree.map(lambda x: jax.nn.softplus(x) + 1e-8, params["duals"])

        _, _, next_q = self.drawn(state, step.there, next_key)
        q = self.values(params["critic"], spec, step.here, step.action)
        critic_loss, priority = step.regression(q[None], step.target(next_q.mean(0)))

        target, actions, values = jax.lax.stop_gradient(self.drawn(state, step.here, here_key))
        eta = duals["eta"]
        weights = jax.nn.softmax(values / jax.lax.stop_gradient(eta), axis=0)
        dual_loss = step.mean(temperature_loss(values, eta, self.epsilon_weights))

        policy = self.actor.apply(params["actor"], spec, HEAD, *step.here)
        fit, bounds = self.policy_losses(policy, target, actions, weights)
        actor_loss, metrics = step.mean(fit), {}
        for name, (kl, epsilon) in bounds.items():
            kl = jax.vmap(step.mean, 1)(kl.reshape(kl.shape[0], -1)).reshape(kl.shape[1:])
            actor_loss += jnp.sum(jax.lax.stop_gradient(duals[name]) * kl)
            dual_loss += jnp.sum(duals[name] * (epsilon - jax.lax.stop_gradient(kl)))
            metrics["kl_" + name.removeprefix("alpha_")] = kl.mean()
        metrics |= {"critic_loss": critic_loss, "fit": step.mean(fit), "q": step.mean(q), "eta": eta}
        return critic_loss + actor_loss + dual_loss, {**metrics, "priority": priority}

    def learn(self, state, batch, key):
        rates = {
            "actor": self.actor_learning_rate,
            "critic": self.critic_learning_rate,
            "duals": self.dual_learning_rate,
        }
        return aq.learn(
            self.loss,
            state,
            batch,
            key,
            rates,
            max_grad_norm=self.max_grad_norm,
            tau=self.tau,
            target_period=self.target_period,
        )
