"""Networks: every torso on every space, recurrent cells and their resets, heads, and modules as static values."""

from __future__ import annotations

from functools import partial

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from operant import nn, types
from operant.errors import UserError
from operant.nn.convolution import max_pool
from operant.nn.recurrent import CELLS
from operant.ops.distributions import Categorical, MultiCategorical, Normal, SquashedNormal
from operant.types import Box, Dict, Discrete, MultiDiscrete

KEY = jax.random.key(0)
VECTOR, GRID, FRAMES = Box((3,)), Box((10, 10, 4), "float32"), Box((84, 84, 4), "uint8", 0, 255)
SPACES = {
    "vector": VECTOR,
    "matrix": Box((2, 3)),
    "scalar": Box(()),
    "grid": GRID,
    "frames": FRAMES,
    "discrete": Discrete(5),
    "multi": MultiDiscrete((2, 3)),
    "dict": Dict((("grid", GRID), ("place", Discrete(4)), ("inner", Dict((("name", VECTOR), ("hidden", VECTOR)))))),
}


def random_member(space, batch, key=KEY):
    if isinstance(space, Dict):
        keys = jax.random.split(key, len(space.items))
        return {name: random_member(sub, batch, k) for k, (name, sub) in zip(keys, space.items, strict=True)}
    shape = batch + tuple(space.shape)
    if isinstance(space, Box):
        top = 255 if space.dtype == "uint8" else 1
        return (top * jax.random.uniform(key, shape)).astype(space.dtype)
    n = jnp.array(space.nvec if isinstance(space, MultiDiscrete) else space.n)
    return jax.random.randint(key, shape, 0, n)


# --------------------------------------------------------------------------------------------------------- torsos
@pytest.mark.parametrize("space", SPACES)
def test_torso_encodes_every_space_under_any_leading_axes(space):
    torso, x = nn.Torso(SPACES[space]), random_member(SPACES[space], (2, 3))
    variables = torso.init(KEY, x)
    features = torso.apply(variables, x)
    assert features.shape == (2, 3, {"grid": 128, "frames": 512}.get(space, 64)) and features.dtype == jnp.float32
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), x)
    np.testing.assert_allclose(torso.apply(variables, flat).reshape(features.shape), features, atol=1e-5)
    one = jax.tree.map(lambda x: x[1, 2], x)
    np.testing.assert_allclose(torso.apply(variables, one), features[1, 2], atol=1e-5)
    assert np.ptp(features.reshape(6, -1), axis=0).max() > 0  # the observation is seen


@pytest.mark.parametrize(
    ("kind", "width"), [("mlp", 64), ("nature", 512), ("nips", 256), ("impala", 256), ("minatar", 128)]
)
def test_the_kind_decides_how_images_are_seen(kind, width):
    space = Dict((("image", Box((44, 40, 1), "uint8")), ("speed", VECTOR)))
    torso = nn.Torso(space["image"], kind)
    shape = jax.eval_shape(lambda x: torso.init_with_output(KEY, x)[0], types.zeros(space["image"], (2,))).shape
    assert shape == (2, width)
    mixed = nn.Torso(space, kind)
    assert jax.eval_shape(lambda x: mixed.init_with_output(KEY, x)[0], types.zeros(space, (2,))).shape == (2, 64)


def test_the_published_networks_have_the_published_sizes():
    def count(module, x):
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(module.init, KEY, x)))

    frames, fan_in = jnp.zeros((84, 84, 4), jnp.uint8), 7 * 7 * 64
    assert count(nn.NatureCNN(), frames) == (256 * 32 + 32) + (512 * 64 + 64) + (576 * 64 + 64) + (fan_in + 1) * 512
    assert count(nn.NipsCNN(), frames) == (256 * 16 + 16) + (256 * 32 + 32) + (9 * 9 * 32 + 1) * 256
    assert count(nn.MinAtarCNN(), jnp.zeros((10, 10, 4))) == (36 * 16 + 16) + (1024 + 1) * 128
    residual = sum((9 * i + 1) * o + 4 * (9 * o + 1) * o for i, o in ((4, 16), (16, 32), (32, 32)))
    assert count(nn.ImpalaResNet(), frames) == residual + (11 * 11 * 32 + 1) * 256


def test_bytes_are_scaled_by_the_bound_of_their_space():
    x = jax.random.randint(KEY, (5, 6, 6, 2), 0, 2).astype(jnp.uint8)
    of = {high: nn.Torso(Box((6, 6, 2), "uint8", 0, high)) for high in (1, 255)}
    variables = of[1].init(KEY, x)
    expected = nn.Torso(Box((6, 6, 2))).apply(variables, x.astype(jnp.float32))
    np.testing.assert_allclose(of[1].apply(variables, x), expected, rtol=1e-5)
    np.testing.assert_allclose(of[255].apply(variables, 255 * x), expected, rtol=1e-4, atol=1e-5)


def test_conv_equals_flax():
    x = random_member(Box((12, 11, 3)), (2, 3))
    ours, theirs = nn.Conv(5, 4, 2), linen.Conv(5, (4, 4), 2, padding="VALID")
    variables = ours.init(KEY, x)
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), atol=1e-5)


@pytest.mark.parametrize("scale", [2**0.5, 0.01])
def test_weights_are_orthogonal_and_biases_zero(scale):
    modules = (nn.MLP((64, 32), scale=scale), jnp.zeros(16)), (nn.Conv(8, 3, scale=scale), jnp.zeros((5, 5, 4)))
    for module, x in modules:
        for leaf in jax.tree.leaves(module.init(KEY, x)):
            if leaf.ndim == 1:
                assert (leaf == 0).all()
                continue
            w = leaf.reshape(-1, leaf.shape[-1])
            gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
            np.testing.assert_allclose(gram, scale**2 * np.eye(len(gram)), atol=1e-5)


def test_errors_name_what_there_is():
    with pytest.raises(ValueError, match=r"'tahn'.*tanh"):
        nn.MLP(activation="tahn").init(KEY, jnp.zeros(3))
    with pytest.raises(UserError, match=r"'resnet'.*impala"):
        nn.Torso(GRID, "resnet").init(KEY, types.zeros(GRID))
    with pytest.raises(UserError, match="'nature' is for images"):
        nn.Torso(VECTOR, "nature").init(KEY, types.zeros(VECTOR))
    with pytest.raises(UserError, match="too small"):
        nn.Torso(GRID, "nature").init(KEY, types.zeros(GRID))
    with pytest.raises(ValueError, match=r"'rnn'.*lstm, gru"):
        nn.ActorCritic(VECTOR, Discrete(2), recurrent="rnn").initial_carry(1)
    with pytest.raises(ValueError, match="unbounded"):
        nn.PolicyHead(Box((2,)), squash=True).init(KEY, jnp.zeros(3))
    with pytest.raises(ValueError, match="cannot be masked"):
        nn.PolicyHead(Box((2,))).init(KEY, jnp.zeros(3), jnp.ones(2, bool))


# ------------------------------------------------------------------------------------------------------ recurrent
T, B, D, H = 8, 5, 3, 6
NEVER = jnp.zeros((T, B), bool)


def cell_and_inputs(kind):
    cell, inputs = CELLS[kind](H), jax.random.normal(KEY, (T, B, D))
    carry = jax.tree.map(lambda c: jax.random.normal(KEY, c.shape), cell.initial_carry(B))
    variables = cell.init(KEY, inputs, carry, NEVER)
    return jax.jit(partial(cell.apply, variables)), cell, variables["params"], inputs, carry


def tree_allclose(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), a, b)


@pytest.mark.parametrize("kind", CELLS)
def test_a_sequence_equals_single_steps(kind):
    run, cell, _, inputs, start = cell_and_inputs(kind)
    first = jax.random.bernoulli(KEY, 0.3, (T, B))
    outputs, last = run(inputs, start, first)
    assert outputs.shape == (T, B, H)
    carry, singly = start, []
    for t in range(T):
        output, carry = run(inputs[t : t + 1], carry, first[t : t + 1])
        singly.append(output[0])
    tree_allclose((outputs, last), (jnp.stack(singly), carry))


@pytest.mark.parametrize("kind", CELLS)
def test_episodes_in_a_row_equal_episodes_alone(kind):
    run, cell, _, inputs, carry = cell_and_inputs(kind)
    lengths = [(1, 1, 1, 1, 1, 1, 1, 1), (2, 3, 3), (3, 5), (4, 4), (5, 1, 2)]  # column b; all reset at t = 0 too
    first = np.zeros((T, B), bool)
    for b, column in enumerate(lengths):
        first[np.cumsum((0, *column[:-1])), b] = True
    dirty = jax.tree.map(lambda c: c * jnp.nan, carry)  # a dead episode's carry must not leak, whatever it holds
    outputs, _ = run(inputs, dirty, jnp.array(first))
    for b, column in enumerate(lengths):
        for start, length in zip(np.cumsum((0, *column[:-1])), column, strict=True):
            x = inputs[start : start + length, b : b + 1]
            alone, _ = run(x, cell.initial_carry(1), jnp.zeros((length, 1), bool))
            np.testing.assert_allclose(outputs[start : start + length, b], alone[:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", CELLS)
def test_equations_equal_flax(kind):
    run, _, p, inputs, carry = cell_and_inputs(kind)
    names = {"lstm": "ifgo", "gru": "rzn"}[kind]
    p = {name: value + 0.1 * jax.random.normal(KEY, value.shape) for name, value in p.items()}
    params, blocks = {}, [jnp.split(p[x], len(names), -1) for x in ("input", "recurrent", "bias")]
    for n, w, u, b in zip(names, *blocks, strict=True):
        params[f"i{n}"], params[f"h{n}"] = {"kernel": w}, {"kernel": u}
        params[f"{'i' if kind == 'gru' else 'h'}{n}"]["bias"] = b
    if kind == "gru":
        params["hn"]["bias"] = p["recurrent_bias"]
    flax_cell = linen.OptimizedLSTMCell(H) if kind == "lstm" else linen.GRUCell(H)
    expected = []
    state = carry
    for x in inputs:
        state, y = flax_cell.apply({"params": params}, state, x)
        expected.append(y)
    tree_allclose(CELLS[kind](H).apply({"params": p}, inputs, carry, NEVER), (jnp.stack(expected), state))


@pytest.mark.parametrize("kind", CELLS)
def test_initialisation_of_cells(kind):
    _, cell, p, *_ = cell_and_inputs(kind)
    for block in jnp.split(p["recurrent"], p["recurrent"].shape[1] // H, axis=1):
        np.testing.assert_allclose(block.T @ block, np.eye(H), atol=1e-5)
    forget = np.zeros(p["bias"].shape)
    forget[H : 2 * H] = kind == "lstm"
    np.testing.assert_array_equal(p["bias"], forget)
    assert all((c == 0).all() and c.shape == (7, H) for c in jax.tree.leaves(cell.initial_carry(7)))


def test_backward_unroll_is_cut_at_ends_of_episodes():
    run, cell, _, inputs, _ = cell_and_inputs("gru")
    ends = jnp.array([2, 5])  # a termination at 2; a pseudo-transition at 5, after a time limit at 4
    discount = jnp.ones((T, B)).at[ends[0]].set(0)
    valid = jnp.ones((T, B)).at[ends[1]].set(0)
    outputs, _ = nn.unroll_backward(run, inputs, cell.initial_carry(B), discount, valid)
    for start, stop in ((0, 3), (3, 5), (6, 8)):  # the pseudo-transition is seen by none
        x, never = inputs[start:stop][::-1], NEVER[start:stop]
        np.testing.assert_allclose(outputs[start:stop][::-1], run(x, cell.initial_carry(B), never)[0], atol=1e-5)


# ---------------------------------------------------------------------------------------------------------- heads
@pytest.mark.parametrize(
    ("space", "options", "kind"),
    [
        (Discrete(4), {}, Categorical),
        (MultiDiscrete((2, 5)), {}, MultiCategorical),
        (Box((2, 3)), {}, Normal),
        (Box((), "float32", -2.0, 2.0), {}, Normal),
        (Box((3,), "float32", -2.0, 2.0), {"squash": True}, SquashedNormal),
        (Box((3,), "float32", -2.0, 2.0), {"squash": True, "state_dependent_std": True}, SquashedNormal),
    ],
)
def test_the_action_space_decides_the_policy(space, options, kind):
    head, x = nn.PolicyHead(space, initial_log_std=-0.5, **options), jax.random.normal(KEY, (7, 2, 16))
    distribution, variables = head.init_with_output(KEY, x)
    assert type(distribution) is kind
    action, log_prob = distribution.sample_and_log_prob(KEY)
    assert action.shape == (7, 2, *space.shape) and log_prob.shape == (7, 2)
    assert action.dtype == space.dtype
    if kind in (Normal, SquashedNormal):
        np.testing.assert_allclose(distribution.log_std, -0.5, atol=0.1)
        assert ("log_std" in variables["params"]) and distribution.log_std.shape == distribution.mean.shape
    else:
        uniform = np.log(space.nvec if kind is MultiCategorical else space.n).sum()
        np.testing.assert_allclose(distribution.entropy(), uniform, atol=1e-2)


def test_state_dependent_std_is_clipped():
    head = nn.PolicyHead(Box((2,)), state_dependent_std=True, scale=1.0)
    variables = head.init(KEY, jnp.ones(3))
    log_std = head.apply(variables, 1e3 * jax.random.normal(KEY, (50, 3))).log_std
    assert log_std.min() == -5 and log_std.max() == 2


def test_policy_masks():
    head, x = nn.PolicyHead(MultiDiscrete((2, 3))), jax.random.normal(KEY, (100, 8))
    mask = jnp.array([False, True, True, False, True])
    distribution, _ = head.init_with_output(KEY, x, mask)
    assert set(map(tuple, np.asarray(distribution.sample(KEY)))) == {(1, 0), (1, 2)}


def test_value_heads():
    x = jax.random.normal(KEY, (4, 2, 16))
    value, _ = nn.ValueHead().init_with_output(KEY, x)
    q, _ = nn.QHead(3).init_with_output(KEY, x)
    assert value.shape == (4, 2) and q.shape == (4, 2, 3)
    for head in (nn.QHead, nn.DuelingHead):
        logits, _ = head(3, (11,), hidden=(8,)).init_with_output(KEY, x)
        assert logits.shape == (4, 2, 3, 11)


@pytest.mark.parametrize("shape", [(), (5,)])
def test_dueling_advantages_have_zero_mean(shape):
    head, x = nn.DuelingHead(3, shape, hidden=(8,)), jax.random.normal(KEY, (4, 16))
    q, variables = head.init_with_output(KEY, x)
    p = variables["params"]
    hidden = linen.relu(x @ p["value"]["MLP_0"]["Dense_0"]["kernel"])
    value = hidden @ p["value"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(q.mean(1), value.reshape(4, *shape), atol=1e-5)
    assert q.shape == (4, 3, *shape) and np.ptp(q, axis=1).max() > 0


def test_noise_is_factorised_and_absent_where_none_is_drawn():
    layer, x = nn.NoisyDense(3, 0.5), jax.random.normal(KEY, (5, 4))
    p = layer.init(KEY, x)["params"]
    mean = layer.apply({"params": p}, x)
    np.testing.assert_allclose(mean, x @ p["kernel"] + p["bias"], rtol=1e-6)
    np.testing.assert_allclose(p["kernel_sigma"], 0.5 / 2)
    assert np.abs(p["kernel"]).max() <= 0.5
    drawn = lambda key: {"params": p, "noise": nn.draw_noise(key, p)}  # noqa: E731
    noisy = layer.apply(drawn(KEY), jnp.eye(4)) - layer.apply({"params": p}, jnp.eye(4))
    bias = layer.apply(drawn(KEY), jnp.zeros((1, 4))) - p["bias"]
    assert np.linalg.matrix_rank(np.asarray(noisy - bias), tol=1e-5) == 1  # an outer product
    draws = jax.vmap(lambda key: layer.apply(drawn(key), x))(jax.random.split(KEY, 4000))
    np.testing.assert_allclose(draws.mean(0), mean, atol=0.1)
    # Var f(e) = E|e|, so the variance of the output is E|e|^2 sum x^2 sigma^2 + E|e| sigma_b^2 (one factor for bias)
    expected = 2 / np.pi * (0.25**2) * (np.asarray(x) ** 2).sum(1) + np.sqrt(2 / np.pi) * 0.25**2
    np.testing.assert_allclose(draws.var(0).mean(1), expected, rtol=0.15)


def test_every_layer_has_noise_of_its_own():
    head, x = nn.DuelingHead(3, (5,), hidden=(8, 8), sigma0=0.5), jnp.ones((2, 16))
    p = head.init(KEY, x)["params"]
    noise = nn.draw_noise(KEY, p)
    layers = {path[:-1]: e for path, e in flatten_dict(noise).items()}
    assert {path: len(e) for path, e in layers.items()} == {
        path[:-1]: sum(kernel.shape) for path, kernel in flatten_dict(p).items() if path[-1] == "kernel_sigma"
    }
    everything = np.concatenate(list(layers.values()))
    assert len(layers) == 6 and len(np.unique(everything)) == len(everything)
    assert np.abs(head.apply({"params": p, "noise": noise}, x) - head.apply({"params": p}, x)).min() > 0
    assert nn.draw_noise(KEY, nn.DuelingHead(3, (5,)).init(KEY, x)["params"]) == {}


# ------------------------------------------------------------------------------------------------------- networks
@pytest.mark.parametrize("recurrent", ["", "lstm", "gru"])
@pytest.mark.parametrize("action", [Discrete(3), MultiDiscrete((2, 3)), Box((2,), "float32", -1.0, 1.0)])
def test_actor_critic_on_a_dict_with_and_without_memory(recurrent, action):
    space = SPACES["dict"]
    network = nn.ActorCritic(space, action, recurrent=recurrent, recurrent_size=16)
    x, first, carry = random_member(space, (4, 2)), NEVER[:4, :2], network.initial_carry(2)
    ((policy, value), after), variables = network.init_with_output(KEY, x, carry, first)
    assert value.shape == (4, 2) and policy.sample(KEY).shape == (4, 2, *action.shape)
    assert jax.tree.structure(after) == jax.tree.structure(carry)
    _, middle = network.apply(variables, jax.tree.map(lambda x: x[:2], x), carry, first[:2])
    (_, again), _ = network.apply(variables, jax.tree.map(lambda x: x[2:], x), middle, first[2:])
    np.testing.assert_allclose(again, value[2:], atol=1e-5)


def test_towers_share_only_when_told_or_when_there_are_images():
    def parts(space, **options):
        network = nn.ActorCritic(space, Discrete(2), **options)
        carry = network.initial_carry(1)
        return set(jax.eval_shape(network.init, KEY, types.zeros(space, (1, 1)), carry, NEVER[:1, :1])["params"])

    one, two = {"torso", "policy", "value"}, {"actor_torso", "critic_torso", "policy", "value"}
    assert parts(VECTOR) == parts(VECTOR, shared=False) == parts(FRAMES, shared=False) == two
    assert parts(VECTOR, shared=True) == parts(FRAMES) == parts(SPACES["dict"]) == one
    assert parts(VECTOR, recurrent="gru") == one | {"cell"}


def test_memory_asks_for_first():
    network = nn.ActorCritic(VECTOR, Discrete(2), recurrent="gru")
    with pytest.raises(ValueError, match="needs `first`"):
        network.init(KEY, jnp.zeros((1, 1, 3)), network.initial_carry(1))


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.ActorCritic(SPACES["dict"], MultiDiscrete((2, 3)), hidden=(8, 8), recurrent="lstm"),
        lambda: nn.ActorCritic(VECTOR, Box((2,), "float32", (-1.0, -2.0), (1.0, 2.0)), squash=True),
        lambda: nn.DuelingHead(3, (11,), hidden=(8,)),
        lambda: nn.ImpalaResNet((4, 8)),
    ],
)
def test_modules_made_twice_are_equal(make):
    assert make() == make() and hash(make()) == hash(make()) and make() is not make()


def test_equal_modules_share_one_compilation():
    @partial(jax.jit, static_argnums=0)
    def value(network, params, x):
        return network.apply(params, x)[0][1]

    x = jnp.ones((2, 3))
    params = nn.ActorCritic(VECTOR, Discrete(2)).init(KEY, x)
    for _ in range(3):
        value(nn.ActorCritic(Box((3,)), Discrete(2), hidden=(64, 64)), params, x)
    assert value._cache_size() == 1
    value(nn.ActorCritic(VECTOR, Discrete(2), activation="relu"), params, x)
    assert value._cache_size() == 2


@pytest.mark.parametrize("size, kernel, stride, padding", [
    (84, 8, 4, "VALID"), (20, 4, 2, "VALID"), (9, 3, 1, "VALID"), (10, 3, 1, "VALID"), (11, 3, 2, "SAME"),
    (13, 5, 3, "VALID"), (12, 3, 1, "SAME"), (85, 8, 4, "SAME"),
])  # fmt: skip
@pytest.mark.parametrize("features", [5, 16])  # fewer than are moved about, or more
def test_convolution_as_a_product_equals_xla_s_in_value_and_gradient(size, kernel, stride, padding, features):
    from operant.nn.convolution import convolve_as_product

    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, size, size, 3))
    w = jax.random.normal(keys[1], (kernel, kernel, 3, features)) / kernel

    def plain(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )

    def product(x, w):
        return convolve_as_product(x, w, stride, padding)

    expected, ours = plain(x, w), product(x, w)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    weight = jax.random.normal(keys[2], expected.shape)
    for argument in (0, 1):
        a, b = (jax.grad(lambda x, w, f=f: jnp.sum(f(x, w) * weight), argument)(x, w) for f in (plain, product))
        np.testing.assert_allclose(b, a, atol=2e-3)


@pytest.mark.parametrize("features", [5, 40])  # fewer than are moved about, or more
@pytest.mark.parametrize("channels", [3, 4, 8])  # four bytes make a word
@pytest.mark.parametrize("size, kernel, stride, padding", [(20, 8, 4, "VALID"), (9, 3, 1, "SAME"), (9, 4, 2, "VALID")])
def test_convolution_of_bytes_equals_that_of_their_numbers(features, channels, size, kernel, stride, padding):
    from operant.nn.convolution import convolve_as_product

    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.randint(keys[0], (2, size, size, channels), 0, 256, jnp.uint8)
    w = jax.random.normal(keys[1], (kernel, kernel, channels, features)) / 255

    def value_and_gradient(x):
        y, pull = jax.vjp(lambda w: convolve_as_product(x, w, stride, padding), w)
        return y, pull(y)[0]

    for ours, expected in zip(value_and_gradient(x), value_and_gradient(x.astype(jnp.float32)), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("height, width", [(84, 84), (21, 11), (5, 2)])
def test_pools_equal_xla_s_in_value_and_gradient(height, width):
    x = jax.random.normal(KEY, (2, 3, height, width, 4))
    ours, theirs = partial(max_pool, size=3, stride=2), partial(linen.max_pool, window_shape=(3, 3), strides=(2, 2))
    expected = theirs(x, padding="SAME")
    np.testing.assert_array_equal(ours(x), expected)
    weight = jax.random.normal(jax.random.key(1), expected.shape)
    a = jax.grad(lambda x: jnp.sum(theirs(x, padding="SAME") * weight))(x)
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(ours(x) * weight))(x), a, atol=1e-6)
    # among equals XLA's takes the first, ours shares: what arrives is as much
    shared = jax.grad(lambda x: jnp.sum(ours(x) * weight))(jnp.ones_like(x))
    np.testing.assert_allclose(shared.sum((2, 3)), weight.sum((2, 3)), rtol=1e-4)


@pytest.mark.parametrize("network", [nn.NatureCNN, nn.ImpalaResNet, nn.MinAtarCNN])
def test_images_of_bytes_are_numbers_from_0_to_1(network):
    x = jax.random.randint(KEY, (2, 44, 44, 4), 0, 6, jnp.uint8)
    module = network(white=5.0)
    variables = module.init(KEY, x)
    np.testing.assert_allclose(module.apply(variables, x), module.apply(variables, x / 5.0), atol=1e-4)


@pytest.mark.parametrize("rows", [2, 7, 16_384, 16_386])
def test_the_gradient_of_a_product_over_many_rows(rows):
    from operant.nn.convolution import product

    keys = jax.random.split(KEY, 3)
    x, w, g = (jax.random.normal(k, shape) for k, shape in zip(keys, ((rows, 6), (6, 3), (rows, 3)), strict=True))
    ours, plain = (jax.vjp(f, x, w)[1](g) for f in (product, jnp.matmul))
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("x_axis, w_axis", [(0, 0), (1, None), (None, 0), (2, 1)])
@pytest.mark.parametrize("rows", [5, 40, 16_384])
def test_a_product_within_vmap_equals_a_plain_one_in_value_and_gradients(x_axis, w_axis, rows):
    """Around the gradient, as critics side by side are, and within it, as lanes are; both at once."""
    from operant.nn.convolution import product

    axes, keys = (x_axis, w_axis), jax.random.split(KEY, 2)
    shapes = [
        shape if axis is None else (*shape[:axis], 3, *shape[axis:])
        for shape, axis in zip(((rows, 6), (6, 4)), axes, strict=True)
    ]
    arguments = [0.1 * jax.random.normal(key, (2, *shape)) for key, shape in zip(keys, shapes, strict=True)]

    def derived(f):
        inner = jax.vmap(f, axes)
        loss = lambda x, w: jnp.sum(jnp.sin(inner(x, w)))  # noqa: E731
        slope = lambda x, w: sum(jnp.sum(jnp.sin(g)) for g in jax.grad(loss, (0, 1))(x, w))  # noqa: E731
        functions = (inner, jax.grad(loss, (0, 1)), jax.grad(slope, (0, 1)), jax.jacfwd(lambda w, x: loss(x, w)))
        x, w = arguments
        return [jax.vmap(g)(*((w, x) if i == 3 else (x, w))) for i, g in enumerate(functions)]

    for ours, plain in zip(*(jax.tree.leaves(derived(f)) for f in (product, jnp.matmul)), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-3 if rows > 5 else 1e-5)


def test_critics_side_by_side_have_the_gradient_of_the_house():
    """A gradient taken around `vmap` would otherwise be JAX's, which the optimizer reads transposed."""
    from operant.nn.convolution import product

    x, w = jnp.ones((5, 6)), jnp.ones((2, 6, 4))
    gradient = jax.make_jaxpr(jax.grad(lambda w: jnp.sum(jax.vmap(lambda w: product(x, w))(w))))(w)
    transposed = [
        e for e in gradient.eqns if e.primitive.name == "transpose" and e.outvars[0] in gradient.jaxpr.outvars
    ]
    assert any(e.primitive.name == "operant_product" for e in gradient.eqns) and not transposed
