"""The sharp edges of the contract, as small programs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import QUICK, Probe, differing, largest_difference, leaves, tiny_agent
from scipy.stats import chi2

import operant as op
from operant.actor_critic import ActorCritic
from operant.agent import dials, from_json, strong, to_json, with_dials
from operant.envs import registry
from operant.envs.base import batched
from operant.envs.worlds import WORLDS
from operant.errors import UserError
from operant.gradient import minibatches
from operant.memory import PrioritizedReplay, Replay, SequenceReplay
from operant.ops.optimizers import adam
from operant.ops.shuffle import permutation
from operant.rollout import begin, environment_keys, rollout
from operant.types import Batch, Box, Dict, Discrete, Spec, struct


def one_lane(tree):
    return jax.tree.map(lambda x: jnp.asarray(x)[None], tree)


def first_lane(batch: Batch) -> Batch:
    """Lane 0 of a rollout's batch."""
    return jax.tree.map(lambda x: x[:, 0], batch.replace(carry=())).replace(
        carry=jax.tree.map(lambda x: x[0], batch.carry)
    )


def rollouts(agent, env, length: int, number: int, seed: int = 0):
    """One lane's state, and `number` roll-outs that follow each other without learning."""
    agent = strong(agent)
    width = env.num_envs

    def play(key):
        state = agent.init(key, env.spec)
        agents, states = one_lane(agent), one_lane(state)
        stage = begin(agents, states, env, environment_keys(key, width), 1)

        def once(stage, key):
            return rollout(agents, states, env, stage, key[None], length)

        return state, jax.lax.scan(once, stage, jax.random.split(key, number))[1]

    state, batches = jax.jit(play, compiler_options=QUICK)(jax.random.key(seed))
    return agent, state, [first_lane(jax.tree.map(lambda x, n=n: x[n], batches)) for n in range(number)]


# ---------------------------------------------------------------------------------------------- dials and structure
def test_dials_are_leaves_and_the_rest_is_structure():
    agent = op.PPO()
    assert len(jax.tree.leaves(agent)) == len(dials(agent)) == 9
    structure = jax.tree.structure(agent)
    assert jax.tree.structure(agent.replace(learning_rate=1.0)) == structure
    assert jax.tree.structure(agent.replace(num_epochs=5)) != structure
    assert jax.tree.structure(agent.replace(network=ActorCritic(hidden=(8,)))) != structure


def test_numbers_of_any_kind_are_one_compilation():
    calls = jax.jit(lambda agent: agent.learning_rate * 2)
    for number in (1e-3, 1, np.float64(2), np.float32(3), jnp.float32(1e-3), jnp.asarray(5)):
        calls(strong(op.A2C().replace(learning_rate=number)))
    assert calls._cache_size() == 1


@op.part("test-fading")
class Fading:
    """An exploration of a user's own: what the library's have in common, and no more."""

    rate: float = op.dial(1.0, "how fast", low=0.0)

    def epsilon(self, state, env_index):
        return jnp.exp(-self.rate * state.progress) * jnp.ones(env_index.shape)


@op.part("test-lame")
class Lame:
    rate: float = op.dial(1.0, "how fast", low=0.0)


@pytest.mark.parametrize(
    "held, said",
    [
        ({"memory": None}, "memory is None; expected replay or prioritized"),
        ({"memory": SequenceReplay()}, "memory is sequences; expected replay or prioritized"),
        ({"exploration": Replay()}, "exploration is replay; expected by-time or by-index or by-worker"),
        ({"exploration": 0.1}, "exploration is 0.1; expected by-time"),
        ({"memory": Replay}, "memory is <class .*Replay'>; expected replay or prioritized"),
        ({"memory": (Replay(), Replay())}, r"memory is \(.*; expected replay or prioritized"),
        ({"exploration": Lame()}, "exploration is test-lame; expected .* with epsilon like theirs"),
        ({"network": ActorCritic()}, "network is actor-critic; expected q-network"),
        ({"memory": Replay(n_step=0)}, "replay: n_step is 0"),
    ],
)
def test_what_an_agent_holds_is_of_a_kind_that_fits(held, said: str):
    op.DQN().replace(exploration=Fading(), memory=PrioritizedReplay()).check()
    with pytest.raises(UserError, match=said):
        op.DQN().replace(**held).check()


def test_a_class_made_from_another_is_checked_as_that_one_is():
    @op.agent("test-made-from-ddpg")
    class MadeFromDDPG(op.DDPG):
        """The same, under another name."""

    MadeFromDDPG().check()
    for agent in (op.DDPG(), op.D4PG(), MadeFromDDPG()):
        with pytest.raises(UserError, match=f"{agent.registered_name}: head has 2 streams"):
            agent.replace(head=agent.head.replace(streams=2)).check()


@pytest.mark.parametrize("decorator", [op.agent, op.part])
@pytest.mark.parametrize("name", ["ppo", "dueling"])
def test_the_librarys_names_are_its_own(decorator, name: str):
    with pytest.raises(UserError, match=f"the name '{name}' is taken"):

        @decorator(name)
        class Mine:
            rate: float = op.dial(1.0, "how fast")

    assert op.methods.load("ppo") is op.PPO


def test_an_agent_around_another_has_what_it_does_not_say_itself():
    """`observe` above all: a memory's agent counts its steps there."""

    @op.agent("test-around")
    class Around:
        """Adds nothing."""

        agent: Any = op.child(op.DQN, "the agent")

        def init(self, key, spec):
            return Held(self.agent.init(key, spec))

    agent = Around()
    assert (agent.num_envs, agent.memory) == (agent.agent.num_envs, agent.agent.memory)
    base = tiny_agent("dqn")
    env = batched(Probe(), 2)
    _, state, (batch,) = rollouts(base, env, 8, 1)
    seen = agent.replace(agent=base).observe(Held(state), batch)
    assert int(seen.agent.steps) == int(batch.valid.sum()) > 0


@struct
class Held:
    agent: Any


def test_json_takes_what_numpy_computes_and_says_what_it_cannot_read():
    agent = op.A2C(learning_rate=np.float32(3e-4), gamma=np.float64(0.9), max_grad_norm=np.float32(np.inf))
    again = from_json(to_json(agent))
    assert again == agent.replace(learning_rate=float(np.float32(3e-4)))
    for wrong in ("much", ["a", "b"], None, {"a": 1}, {"float": "much"}, {"float": None}, 10**400):
        with pytest.raises(UserError, match="a2c: learning_rate is .*; expected a number"):
            from_json({**to_json(agent), "learning_rate": wrong})


def test_spec_is_hashable_and_equal_when_made_twice():
    def make():
        space = Dict((("image", Box((4, 4, 3), "uint8", 0.0, 255.0)), ("place", Box((2,), low=(0.0, -1.0), high=1.0))))
        return Spec(observation=space, action=Discrete(3), num_envs=2, total_steps=100)

    assert make() == make() and hash(make()) == hash(make())
    assert make().replace(total_steps=101) != make()
    for name in WORLDS:
        assert hash(registry.make(name, 2).spec) == hash(registry.make(name, 2).spec)


def test_vmap_over_agents_equals_one_by_one():
    agents = [strong(op.A2C(num_envs=2).replace(learning_rate=rate, gamma=gamma)) for rate, gamma in
              itertools.product((1e-3, 1e-1), (0.5, 0.9))]  # fmt: skip
    _, state, (batch,) = rollouts(agents[0], batched(Probe(), 2), 8, 1)
    learn = jax.jit(lambda agent: agent.learn(state, batch, jax.random.key(0))[:2])
    together = jax.jit(jax.vmap(lambda agent: agent.learn(state, batch, jax.random.key(0))[:2]))(
        jax.tree.map(lambda *x: jnp.stack(x), *agents)
    )
    for i, agent in enumerate(agents):
        error, name = largest_difference(jax.tree.map(lambda x, i=i: x[i], together), learn(agent))
        assert error < 1e-5, f"{name} differs by {error:g}"
    assert learn._cache_size() == 1
    assert differing(learn(agents[0]), learn(agents[1])) and differing(learn(agents[0]), learn(agents[2]))


def test_without_bootstrap_nothing_comes_behind_a_rollout():
    """Monte-Carlo returns within the rollout; a time limit inside it is still no end."""
    agent, state, (batch,) = rollouts(op.A2C(num_envs=2).replace(gamma=0.9), batched(Probe(), 2), 8, 1)
    network = agent.network
    told = network.with_advantages(state, batch, 0.9, 1.0, bootstrap=False).extras
    value, behind = np.asarray(network.values(state, batch)), np.zeros(2)
    for t in reversed(range(8)):
        reward, discount = np.asarray(batch.reward[t]), np.asarray(batch.discount[t])
        goes_on = t + 1 < 8 and np.asarray(batch.valid[t + 1]) > 0
        after = np.where(goes_on, behind, value[t + 1] if t + 1 < 8 else 0.0)
        behind = reward + 0.9 * discount * after
        alive = np.asarray(batch.valid[t]) > 0
        np.testing.assert_allclose(np.asarray(told["target"][t])[alive], behind[alive], rtol=1e-5, atol=1e-6)
    plain = network.with_advantages(state, batch, 0.9, 1.0).extras["target"]
    assert np.abs(plain - told["target"])[-1].max() > 1e-3


# --------------------------------------------------------------------------------------------------- meta-gradients
def doubled(tree):
    """float32 leaves as float64."""
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)


NARROW = ActorCritic(hidden=(6,), activation="relu")
CASES = {
    "a2c (rmsprop)": op.A2C(num_envs=2, network=NARROW).replace(gae_lambda=0.9, max_grad_norm=0.05, anneal=0.3),
    "a2c (rmsprop), no clipping": op.A2C(num_envs=2, network=NARROW).replace(gae_lambda=0.9, max_grad_norm=1e3),
    "reinforce (adam), clip at infinity": op.REINFORCE(num_envs=2, network=NARROW).replace(entropy_cost=0.02),
    "ppo (adam)": op.PPO(num_envs=2, num_epochs=1, num_minibatches=1, network=NARROW).replace(max_grad_norm=0.05),
    "ppo (adam), epochs of minibatches": op.PPO(num_envs=2, num_epochs=3, num_minibatches=2, network=NARROW).replace(
        clip=0.05, value_clip=0.05
    ),
}
CASES = {name: agent.replace(learning_rate=0.02) for name, agent in CASES.items()}


def louder(state):
    """`state` with a policy that is far from uniform."""
    scale = lambda path, x: x * 100.0 if "policy" in str(path) else x  # noqa: E731
    return state.replace(params=jax.tree_util.tree_map_with_path(scale, state.params))


@functools.cache
def two_batches():
    """A batch to learn from and the one that follows it: all the agents of `CASES` act alike."""
    _, state, batches = rollouts(CASES["a2c (rmsprop)"], batched(Probe(), 2), 8, 2)
    return louder(state), batches


def situations(agent):
    """(name, state, batch): an optimizer that has run for a while; and, at its start, where roots are taken of zero."""
    state, (batch, _) = two_batches()
    optimizer = jax.tree.map(jnp.zeros_like, agent.optimizer().init(state.params) if hasattr(agent, "optimizer")
                             else adam(0.1).init(state.params))  # fmt: skip
    spec = state.spec.replace(total_steps=100)
    start = state.replace(opt_state=optimizer, steps=jnp.asarray(40), spec=spec)
    noise = iter(jax.random.split(jax.random.key(4), 100))
    warm = jax.tree.map(
        lambda x: jnp.abs(jax.random.normal(next(noise), x.shape)) * 1e-2 if x.ndim else x + 5, optimizer
    )
    yield "running", start.replace(opt_state=warm), batch
    dead = lambda path, x: x.at[0].set(-50.0) if "MLP_0" in str(path) and x.ndim == 1 else x  # noqa: E731
    params = jax.tree_util.tree_map_with_path(dead, state.params)
    assert differing(params, state.params)
    yield "start, dead units", start.replace(params=params), batch
    yield "start, no valid row", start, batch.replace(valid=jnp.zeros_like(batch.valid))
    yield "start, reward zero", start, batch.replace(reward=jnp.zeros_like(batch.reward))


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_a_loss_after_learning_is_that_of_finite_differences(case: str):
    """d J'(learn(theta, tau; agent)) / d agent: an agent whose fields are the meta-gradients of its dials."""
    agent = strong(CASES[case])
    following = two_batches()[1][1]
    with jax.enable_x64(True):
        fixed, following = doubled((agent, following))

        @functools.partial(jax.jit, compiler_options=QUICK)
        def objective_and_gradient(agent, state, tau):
            def objective(agent):
                after, _, _ = agent.learn(state, tau, jax.random.key(1))
                return fixed.loss(after.params, state, following, jax.random.key(2))[0]

            return jax.value_and_grad(objective)(agent)

        for situation, state, tau in situations(agent):
            state, tau = doubled((state, tau))
            value, gradient = objective_and_gradient(fixed, state, tau)
            assert value.dtype == jnp.float64 and isinstance(gradient, type(agent))
            found = {name: float(x) for name, x in dials(gradient).items()}
            assert all(np.isfinite(x) for x in found.values()), (situation, found)
            for name, x in dials(fixed).items():
                if not np.isfinite(x):
                    assert found[name] == 0.0
                    continue
                h = 1e-6 * max(abs(float(x)), 0.1)  # a young Adam is nearly a sign: curved on the scale of 1e-4
                up, down = (
                    float(objective_and_gradient(with_dials(fixed, {name: x + sign * h}), state, tau)[0])
                    for sign in (1, -1)
                )
                expected = (up - down) / (2 * h)
                np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=5e-9, err_msg=f"{situation}: {name}")
            if situation == "running":
                # a clipping of ratios or values decides which rows count, so its derivative is 0 almost everywhere
                plain = {name for name in found if name not in ("clip", "value_clip", "max_grad_norm")}
                assert all(abs(found[name]) > 1e-8 for name in plain), found
                assert float(fixed.max_grad_norm) > 0.1 or abs(found["max_grad_norm"]) > 1e-8
        assert objective_and_gradient._cache_size() == 1


# --------------------------------------------------------------------------------------------------------- shuffling
@pytest.mark.parametrize("n", [1, 2, 7, 8, 63, 64, 97, 100, 128, 1000, 1024, 2187, 4096, 10007, 12288, 65536])
def test_a_shuffle_is_a_permutation(n: int):
    for seed in range(3):
        order = np.asarray(permutation(jax.random.key(seed), n))
        assert order.dtype == np.int32
        np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.parametrize("n", [64, 100, 240])
def test_shuffles_look_uniform(n: int):
    """Where each index lands, and where its neighbour lands relative to it, over many keys: chi-square at 1e-6."""
    draws = 6000
    orders = np.asarray(jax.jit(jax.vmap(lambda key: permutation(key, n)))(jax.random.split(jax.random.key(0), draws)))

    def far(counts: np.ndarray, expected: float) -> float:
        return float(chi2.sf(np.sum((counts - expected) ** 2 / expected), counts.size - 1))

    for place in (0, 1, n // 2, n - 1):
        assert far(np.bincount(orders[:, place], minlength=n), draws / n) > 1e-6
        apart = (orders[:, (place + 1) % n] - orders[:, place]) % n
        assert far(np.bincount(apart, minlength=n)[1:], draws / (n - 1)) > 1e-6
    assert len(np.unique(orders, axis=0)) == draws


def test_minibatches_hold_every_transition_once():
    _, _, (batch,) = rollouts(op.PPO(num_envs=4, network=ActorCritic(hidden=(8,), recurrent="gru", recurrent_size=5)),
                              batched(Probe(), 4), 6, 1)  # fmt: skip
    batch = op.transitions(batch)
    number = jnp.arange(24.0).reshape(6, 4)
    batch = batch.replace(reward=number, extras={"same": number})
    single = minibatches(jax.random.key(0), batch, 3, whole_sequences=False)
    assert single.reward.shape == (3, 1, 8) and single.observation.shape == (3, 1, 8, 5)
    np.testing.assert_array_equal(np.sort(np.asarray(single.reward).ravel()), np.arange(24))
    np.testing.assert_array_equal(single.reward, single.extras["same"])
    place = np.asarray(single.reward).astype(int)
    np.testing.assert_array_equal(single.observation, np.asarray(batch.observation).reshape(24, 5)[place])
    whole = minibatches(jax.random.key(0), batch, 2, whole_sequences=True)
    assert whole.reward.shape == (2, 6, 2)
    column = np.asarray(whole.reward[:, 0]).astype(int)
    assert sorted(column.ravel()) == [0, 1, 2, 3]
    for part, wide in zip(jax.tree.leaves(whole.carry), jax.tree.leaves(batch.carry), strict=True):
        np.testing.assert_array_equal(part, np.asarray(wide)[column])
    for i, j in np.ndindex(2, 2):
        np.testing.assert_array_equal(whole.observation[i, :, j], batch.observation[:, column[i, j]])


# -------------------------------------------------------------------------------------------------- batches and time
def check_batches(batches: list[Batch], limit: int | None) -> set[str]:
    """The conventions of time in roll-outs that follow each other; which ends of episodes were seen."""
    seen: set[str] = set()
    for t, batch in enumerate(batches):
        valid, discount, first = (np.asarray(x) for x in (batch.valid, batch.discount, batch.first))
        np.testing.assert_array_equal(valid == 0, first[1:])  # the pseudo-transition, and nothing else
        np.testing.assert_array_equal(np.asarray(batch.reward)[valid == 0], 0)
        np.testing.assert_array_equal(discount[valid == 0], 1)
        assert not (first[1:] & first[:-1]).any()  # an episode has at least one step
        assert first[1:][1:][discount[:-1] == 0].all()  # a termination is followed by a first
        if t:
            for was, now in zip(jax.tree.leaves(batches[t - 1].observation), jax.tree.leaves(batch.observation),
                                strict=True):  # fmt: skip
                np.testing.assert_array_equal(was[-1], now[0])
            np.testing.assert_array_equal(batches[t - 1].first[-1], first[0])
    first = np.concatenate([np.asarray(b.first)[:-1] for b in batches])
    discount = np.concatenate([np.asarray(b.discount) for b in batches])
    for column in range(first.shape[1]):
        starts = np.flatnonzero(first[:, column])
        for start, end in itertools.pairwise(starts):
            # rows start .. end-2 are its steps, row end-1 crosses the boundary
            terminated = discount[end - 2, column] == 0
            assert (discount[start : end - 2, column] == 1).all()
            seen.add("terminated" if terminated else "time limit")
            assert limit is None or end - 1 - start <= limit
            assert terminated or end - 1 - start == limit
    return seen


@pytest.mark.parametrize(
    "name, ends",
    [
        ("operant:Cells-v0", {"terminated", "time limit"}),
        ("operant:Dict-v0", {"terminated", "time limit"}),
        ("operant:Target-v0", {"time limit"}),
        ("operant:Masked-v0", {"terminated"}),
    ],
)
def test_no_experience_crosses_an_episodes_boundary(name: str, ends: set[str]):
    env = registry.make(name, 4)
    _, _, batches = rollouts(op.A2C(num_envs=4), env, 6, 20)
    assert check_batches(batches, env.spec.time_limit) == ends


def test_batches_from_envpool_obey_the_same_conventions():
    env = registry.make("envpool:CartPole-v1", 3, [3, 1, 2], time_limit=12)
    _, _, batches = rollouts(op.A2C(num_envs=3), env, 7, 20)
    assert check_batches(batches, 12) == {"terminated", "time limit"}
    starts = np.asarray(batches[0].observation)[0]
    assert len(np.unique(starts, axis=0)) == 3
    env.close()


@dataclasses.dataclass(frozen=True)
class Short:
    """Episodes of 1 to 5 steps, some terminated, some cut; the observation is random."""

    observation = Box((3,))
    action = Discrete(3)
    time_limit = 5

    def reset(self, key):
        return jnp.zeros(()), jax.random.normal(key, (3,))

    def step(self, key, state, action):
        end = jax.random.uniform(key)
        return state, jax.random.normal(key, (3,)), end, end < 0.25, end > 0.75


@pytest.mark.parametrize("recurrent", ["", "lstm", "gru"])
def test_learning_recomputes_the_log_probabilities_of_acting(recurrent: str):
    """At every step of every roll-out of length 4, whatever episode the carry comes from; also in minibatches."""
    network = ActorCritic(hidden=(8,), recurrent=recurrent, recurrent_size=8, activation="relu")
    agent = op.PPO(num_envs=4, num_epochs=2, num_minibatches=2, network=network).replace(learning_rate=0.0)
    agent, state, batches = rollouts(agent, batched(Short(), 4), 4, 12)
    state = louder(state)
    lengths = {
        int(n) for c in range(4)
        for n in np.diff(np.flatnonzero(np.concatenate([np.asarray(b.first)[:-1, c] for b in batches]))) - 1
    }  # fmt: skip
    assert {1, 2, 3, 4, 5} <= lengths

    def act_again(state):
        stage = begin(one_lane(agent), one_lane(state), env, environment_keys(jax.random.key(9), 4), 1)
        once = lambda stage, key: rollout(one_lane(agent), one_lane(state), env, stage, key[None], 4)  # noqa: E731
        return jax.lax.scan(once, stage, jax.random.split(jax.random.key(7), 12))[1]

    env = batched(Short(), 4)
    batches = jax.jit(act_again, compiler_options=QUICK)(state)
    evaluate = jax.jit(lambda batch: agent.network.evaluate(state.params, state, op.transitions(batch)))
    learn = jax.jit(lambda batch: agent.learn(state, batch, jax.random.key(0))[1], compiler_options=QUICK)
    spread = []
    for n in range(12):
        batch = first_lane(jax.tree.map(lambda x, n=n: x[n], batches))
        policy, value = evaluate(batch)
        np.testing.assert_allclose(policy.log_prob(batch.action), batch.extras["log_prob"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(value, batch.extras["value"], rtol=1e-5, atol=1e-6)
        metrics = learn(batch)
        assert float(metrics["approximate_kl"]) < 1e-6 and float(metrics["clip_fraction"]) == 0.0
        spread.append(np.asarray(batch.extras["log_prob"]))
        if recurrent:  # the test would see a carry, or a reset, that was missed
            for wrong in (
                batch.replace(carry=jax.tree.map(lambda x: x + 0.5, batch.carry)),
                batch.replace(first=batch.first.at[0].set(~batch.first[0])),
            ):
                missed = np.abs(np.asarray(evaluate(wrong)[1]) - np.asarray(batch.extras["value"]))
                if not np.asarray(batch.first[0]).all():
                    assert missed.max() > 1e-3
    assert np.std(spread) > 0.05


def test_state_names_are_readable():
    _, state, _ = rollouts(op.A2C(num_envs=2), batched(Probe(), 2), 2, 1)
    names = list(leaves(state))
    assert "steps" in names and any(name.startswith("params.") and name.endswith(".kernel") for name in names)


def test_a_recurrent_actor_critic_has_one_torso():
    op.PPO(network=ActorCritic(recurrent="gru"), num_minibatches=4).check()
    with pytest.raises(UserError, match="shared is no, but a recurrent network has one torso"):
        op.A2C(network=ActorCritic(recurrent="gru", shared="no")).check()
