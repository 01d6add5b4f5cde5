"""Checkpoints: exact to the bit, whole at any moment, and never believed."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from operant.envs.base import Host
from operant.errors import UserError
from operant.run import checkpoint, distrust, files, leaves
from operant.types import struct


@struct
class Thing:
    weights: object
    count: object


def make_tree(seed: int = 0):
    rng = np.random.default_rng(seed)
    return {
        "thing": Thing(jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), jnp.asarray(seed, jnp.int32)),
        "half": jnp.asarray(rng.normal(size=7), jnp.bfloat16),
        "images": rng.integers(0, 256, (5, 4, 4, 1), dtype=np.uint8),
        "flags": jnp.asarray(rng.integers(0, 2, 6), bool),
        "wide": rng.normal(size=3),
        "odd": np.asarray([np.nan, -0.0, np.inf, 1e-45], np.float32),
        "key": jax.random.key(seed),
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "empty": jnp.zeros((0, 4)),
        "no_keys": jax.random.split(jax.random.key(0), 1)[:0],
        "nothing": None,
        "tuple": (jnp.arange(3), [jnp.float32(seed)]),
    }


def shapes(tree):
    return jax.eval_shape(lambda: jax.tree.map(lambda x: x, tree))


def bits(tree) -> list[tuple]:
    """Every leaf of a tree as its dtype, shape and bytes."""

    def one(x):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return str(x.dtype), x.shape, np.asarray(jax.random.key_data(x)).tobytes()
        return str(x.dtype), x.shape, np.asarray(x).tobytes()

    return [one(x) for x in jax.tree.leaves(tree)]


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert bits(a) == bits(b)


def no_warning(text):
    raise AssertionError(f"a warning was not expected: {text}")


def rewrite_header(path: Path, change) -> None:
    """A header changed by someone who knows the checksum's rule."""
    file = path / "header.json"
    content = json.loads(file.read_text())["content"]
    content = change(content) or content
    text = json.dumps(content).encode()
    file.write_bytes(b'{"sha256": "%s", "content": %s}\n' % (hashlib.sha256(text).hexdigest().encode(), text))


# ----------------------------------------------------------------------------------------------------------- round trip
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("abstract", [False, True], ids=["like arrays", "like shapes"])
def test_round_trip_is_exact(tmp_path, abstract):
    tree = make_tree(3)
    header = {"agent": {"agent": "ppo", "gamma": 0.99}, "returns": [1.5, float("nan"), float("-inf")], "n": np.int64(4)}
    path = checkpoint.save(tmp_path, tree, header, number=12)
    assert path == tmp_path / "000000012"
    like = make_tree(4)
    if abstract:
        like = {**shapes({k: v for k, v in like.items() if k != "wide"}), "wide": like["wide"]}
        like = {name: like[name] for name in tree}
    loaded, found = checkpoint.load(tmp_path, like, warn=no_warning)
    assert_same(loaded, tree)
    assert found["agent"] == header["agent"] and found["n"] == 4
    assert str(found["returns"]) == "[1.5, nan, -inf]"
    assert found["checkpoint"] == "000000012" and found["fallback_from"] is None
    assert jax.random.bits(loaded["keys"][1]) == jax.random.bits(tree["keys"][1])


def test_header_tells_every_leaf(tmp_path):
    path = checkpoint.save(tmp_path, make_tree(), {}, number=0)
    content = checkpoint.read_header(path)
    leaves = {leaf["name"]: leaf for leaf in content["leaves"]}
    assert leaves["thing.weights"]["shape"] == [3, 4] and leaves["thing.weights"]["dtype"] == "float32"
    assert leaves["key"]["dtype"] == "key<fry>" and leaves["half"]["dtype"] == "bfloat16"
    assert leaves["images"]["sha256"] == hashlib.sha256(make_tree()["images"].tobytes()).hexdigest()
    assert not any(name.suffix in (".pkl", ".pickle", ".npy") for name in path.rglob("*"))


def test_python_numbers_strides_and_an_empty_tree(tmp_path):
    tree = {"a": 3, "b": 0.1, "c": True, "strided": np.arange(12.0).reshape(3, 4).T[::2]}
    checkpoint.save(tmp_path / "a", tree, {}, number=1)
    loaded, _ = checkpoint.load(tmp_path / "a", tree)
    assert (loaded["a"], loaded["b"], loaded["c"]) == (3, 0.1, True) and type(loaded["a"]) is int
    np.testing.assert_array_equal(loaded["strided"], tree["strided"])
    checkpoint.save(tmp_path / "b", {"nothing": jnp.zeros((3, 0))}, {}, number=1)
    assert checkpoint.load(tmp_path / "b", {"nothing": jnp.zeros((3, 0))})[0]["nothing"].shape == (3, 0)


def test_works_where_an_event_loop_runs(tmp_path):
    async def notebook():
        checkpoint.save(tmp_path, make_tree(1), {}, number=1)
        return checkpoint.load(tmp_path, make_tree(0), warn=no_warning)[0]

    assert_same(asyncio.run(notebook()), make_tree(1))


def test_large_arrays_are_cut_into_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(leaves, "CHUNK_BYTES", 1000)
    tree = {"x": np.random.default_rng(0).normal(size=(7, 11, 13))}
    path = checkpoint.save(tmp_path, tree, {}, number=1)
    assert len(list((path / "arrays" / "00000").iterdir())) > 5
    assert_same(checkpoint.load(tmp_path, tree)[0], tree)


def test_host_environments_are_left_out(tmp_path):
    def make(handle):
        return {"env": Host(jnp.full(8, handle, jnp.uint8), {"last": jnp.ones(2)}), "x": jnp.full(2, handle)}

    path = checkpoint.save(tmp_path, make(1), {}, number=1)
    assert checkpoint.read_header(path)["hosts"] == ["env"]
    like = make(2)
    loaded, _ = checkpoint.load(tmp_path, like)
    assert loaded["env"] is like["env"]
    np.testing.assert_array_equal(loaded["x"], [1, 1])
    with pytest.raises(UserError, match="host environments at env, expected none"):
        checkpoint.load(tmp_path, {"x": like["x"]})


def test_arrays_over_several_devices(tmp_path):
    script = f"""
import jax, numpy as np, pathlib
jax.config.update("jax_num_cpu_devices", 2)
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from operant.run import checkpoint
mesh = Mesh(np.array(jax.devices()), ("devices",))
put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
x, keys = np.arange(24.0, dtype=np.float32).reshape(4, 6), jax.random.split(jax.random.key(0), 4)
tree = dict(a=put(x, P("devices")), b=put(x, P(None, "devices")), c=put(x, P()), keys=put(keys, P("devices")))
path = pathlib.Path({str(tmp_path)!r})
checkpoint.save(path, tree, {{}}, number=1)
loaded, _ = checkpoint.load(path, tree)
for name in "abc":
    assert len(tree[name].sharding.device_set) == 2
    np.testing.assert_array_equal(loaded[name], x)
assert (jax.random.key_data(loaded["keys"]) == jax.random.key_data(keys)).all()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env={**os.environ, "JAX_PLATFORMS": "cpu"})


def test_what_was_loaded_can_be_donated(tmp_path):
    tree = {"x": jnp.arange(1 << 12, dtype=jnp.float32)}
    checkpoint.save(tmp_path, tree, {}, number=1)
    loaded, _ = checkpoint.load(tmp_path, tree)
    before = loaded["x"].copy()
    on_device = jax.device_put(loaded, jax.devices()[0])
    jax.jit(lambda t: jax.tree.map(lambda x: x * 2 + 1, t), donate_argnums=0)(on_device)["x"].block_until_ready()
    np.testing.assert_array_equal(loaded["x"], before)


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(ValueError, match="names is a"):
        checkpoint.save(tmp_path, {"names": np.array(["a"])}, {}, number=1)
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, {"x": np.ones(2)}, {"f": open}, number=1)
    assert checkpoint.checkpoints(tmp_path) == [] and list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------- pointers and keeping
def test_keeps_the_newest_and_those_pointed_to(tmp_path):
    for number in range(1, 7):
        checkpoint.save(tmp_path, {"x": np.full(2, number)}, {"number": number}, number=number, best=number == 2)
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["000000002", "000000005", "000000006"]
    like = {"x": np.zeros(2, int)}
    assert checkpoint.load(tmp_path, like, warn=no_warning)[1]["number"] == 6
    assert checkpoint.load(tmp_path, like, "best", warn=no_warning)[1]["number"] == 2
    with pytest.raises(UserError, match="expected latest or best"):
        checkpoint.load(tmp_path, like, "worst")


def test_no_best_and_none_at_all(tmp_path):
    like = {"x": np.zeros(2)}
    for directory in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="there is no checkpoint"):
            checkpoint.load(directory, like)
    checkpoint.save(tmp_path, like, {}, number=1)
    with pytest.raises(UserError, match="called the best yet"):
        checkpoint.load(tmp_path, like, "best")


def test_same_number_is_replaced_and_the_old_one_serves_meanwhile(tmp_path, monkeypatch):
    like = {"x": np.zeros(2)}
    checkpoint.save(tmp_path, {"x": np.ones(2)}, {}, number=1)
    checkpoint.save(tmp_path, {"x": np.full(2, 2.0)}, {}, number=1)
    assert checkpoint.load(tmp_path, like)[0]["x"][0] == 2
    real = os.rename

    def killed(source, target):
        if Path(target).name == "000000001":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, {"x": np.full(2, 3.0)}, {}, number=1)
    monkeypatch.undo()
    assert checkpoint.load(tmp_path, like, warn=lambda text: None)[0]["x"][0] == 2


def test_a_run_that_went_back_passes_the_one_that_was_damaged(tmp_path):
    like = {"x": np.zeros(2)}
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, {"x": np.full(2, float(number))}, {}, number=number, keep=3)
    (tmp_path / "000000003" / "header.json").write_bytes(b"")
    warnings = []
    loaded, header = checkpoint.load(tmp_path, like, warn=warnings.append)
    assert loaded["x"][0] == 2 and header["fallback_from"] == "000000003" and len(warnings) == 2
    # a pointer is believed before a higher number: what is saved now is what the run goes on from
    checkpoint.save(tmp_path, {"x": np.full(2, 2.5)}, {}, number=2, keep=3)
    assert checkpoint.load(tmp_path, like, warn=no_warning)[0]["x"][0] == 2.5
    checkpoint.save(tmp_path, {"x": np.full(2, 33.0)}, {}, number=3, keep=3)
    assert checkpoint.load(tmp_path, like, warn=no_warning)[0]["x"][0] == 33


# ---------------------------------------------------------------------------------------------------------- mismatches
@pytest.mark.parametrize(
    "change, message",
    [
        ({"a": np.zeros((2, 4), np.float32)}, r"a is float32\[2,3\], expected float32\[2,4\]"),
        ({"a": np.zeros((2, 3), np.float16)}, r"a is float32\[2,3\], expected float16\[2,3\]"),
        ({"key": jax.random.key(0, impl="rbg")}, r"key is key<fry>\[\], expected key<rbg>\[\]"),
        ({"b": np.zeros(1)}, r"it has no b, expected float64\[1\]"),
        ({"a": None}, r"it has a \(float32\[2,3\]\), expected no such array"),
        ({"empty": np.zeros((0, 3))}, r"empty is float64\[0,2\], expected float64\[0,3\]"),
    ],
)
def test_mismatch_names_the_leaf(tmp_path, monkeypatch, change, message):
    tree = {"a": np.zeros((2, 3), np.float32), "key": jax.random.key(0), "empty": np.zeros((0, 2))}
    checkpoint.save(tmp_path, tree, {}, number=1)
    monkeypatch.setattr(distrust, "read_arrays", lambda *_: pytest.fail("arrays were read before the check"))
    with pytest.raises(UserError, match=message):
        checkpoint.load(tmp_path, tree | change)


# ------------------------------------------------------------------------------------------------------------- damage
@pytest.mark.filterwarnings("error")
def test_any_flipped_bit_is_found(tmp_path):
    source, like = tmp_path / "source", make_tree()
    trees = {number: make_tree(number) for number in (1, 2)}
    for number, tree in trees.items():
        checkpoint.save(source, tree, {"number": number}, number=number, best=number == 1)
    rng, fell_back = random.Random(0), 0
    every = sorted(p.relative_to(source) for p in source.rglob("*") if p.is_file())
    newest = [p for p in every if p.parts[0] in ("000000002", "latest")]
    for file in newest + rng.choices(every, k=20):
        copy = tmp_path / "copy"
        shutil.copytree(source, copy)
        data = bytearray((copy / file).read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (copy / file).write_bytes(data)
        warnings = []
        loaded, header = checkpoint.load(copy, like, warn=warnings.append)
        assert_same(loaded, trees[header["number"]])
        if file in newest:
            assert warnings and header["fallback_from"], file
            assert header["number"] == (2 if file.name == "latest" else 1)
            fell_back += 1
        shutil.rmtree(copy)
    assert fell_back >= len(newest)


def test_every_bit_of_a_header_and_a_pointer_counts(tmp_path):
    path = checkpoint.save(tmp_path, {"x": np.zeros(1)}, {}, number=2)
    checkpoint.save(tmp_path, {"x": np.zeros(1)}, {}, number=3)
    data = (path / "header.json").read_bytes()
    for bit in range(0, len(data) * 8, 7):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        (path / "header.json").write_bytes(changed)
        with pytest.raises(UserError):
            checkpoint.read_header(path)
    data = (tmp_path / "latest").read_bytes()  # 3 is one bit away from 2
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "latest").write_bytes(changed)
        with pytest.raises(checkpoint.Damaged):
            checkpoint._pointed(tmp_path / "latest")


@pytest.mark.parametrize("what", ["truncate", "remove", "extra", "append"])
def test_files_cut_lost_or_added(tmp_path, what):
    like = {"x": np.arange(10.0), "y": np.arange(3)}
    checkpoint.save(tmp_path / "source", like, {}, number=1)
    every = sorted(p.relative_to(tmp_path / "source") for p in (tmp_path / "source" / "000000001").rglob("*"))
    for file in [p for p in every if (tmp_path / "source" / p).is_file()]:
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "source", copy)
        data = (copy / file).read_bytes()
        if what == "remove":
            (copy / file).unlink()
        elif what == "extra":
            (copy / "000000001" / "arrays" / file.name).with_suffix(".more").write_bytes(data)
        else:
            (copy / file).write_bytes(data[:-1] if what == "truncate" else data + b" ")
        with pytest.raises(UserError, match="is sound"):
            checkpoint.load(copy, like, warn=lambda text: None)
        shutil.rmtree(copy)


def test_damage_is_told_on_stderr_with_every_reason(tmp_path, capsys):
    like = {"x": np.zeros(2)}
    for number in (1, 2):
        path = checkpoint.save(tmp_path, like, {}, number=number)
        (path / "arrays" / "00000" / "0").write_bytes(b"\1" * 16)
    with pytest.raises(UserError, match=r"(?s)000000002: the bytes of x do not.*000000001: the bytes of x do not"):
        checkpoint.load(tmp_path, like)
    assert "000000002 cannot be used" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------- hostile
def refused(directory, like) -> str:
    with pytest.raises(UserError) as error:
        checkpoint.load(directory, like, warn=lambda text: None)
    return str(error.value)


def test_hostile_headers_are_refused(tmp_path):
    like = {"x": np.zeros(2)}
    path = checkpoint.save(tmp_path, like, {}, number=1)
    sound = (path / "header.json").read_bytes()

    def tried(change) -> str:
        (path / "header.json").write_bytes(sound)
        rewrite_header(path, change)
        return refused(tmp_path, like)

    assert "x is float64[1000000000000000], expected" in tried(lambda c: c["leaves"][0].update(shape=[10**15]))
    assert "../../evil" in tried(lambda c: c["leaves"].append(dict(c["leaves"][0], name="../../evil")))
    assert "form that is not known" in tried(lambda c: c["leaves"][0].update(shape=[-1]))
    assert "form that is not known" in tried(lambda c: c["leaves"][0].update(code="import os"))
    assert "has the keys" in tried(lambda c: c.update(pickle="gASV"))
    assert "another order" in tried(lambda c: c.update(leaves=c["leaves"] * 2))
    assert "format 99" in tried(lambda c: c.update(format=99))
    assert "has no format" in tried(lambda c: [1, 2])
    assert "do not match" in tried(lambda c: c["leaves"][0].update(sha256="0" * 64))
    for text, reason in ((b"[" * 100_000, "deep"), (b"NaN", "NaN"), (b"{", "not JSON"), (b"1" * 5000, "not JSON")):
        sealed = b'{"sha256": "%s", "content": %s}\n' % (hashlib.sha256(text).hexdigest().encode(), text)
        (path / "header.json").write_bytes(sealed)
        assert reason in refused(tmp_path, like)
    with open(path / "header.json", "wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    assert "bytes; expected at most" in refused(tmp_path, like)


def test_a_boolean_that_is_none_is_refused(tmp_path):
    like = {"flags": np.array([True, False])}
    path = checkpoint.save(tmp_path, like, {}, number=1)
    data = bytes([7, 0])
    (path / "arrays" / "00000" / "0").write_bytes(data)
    rewrite_header(path, lambda c: c["leaves"][0].update(sha256=hashlib.sha256(data).hexdigest()))
    assert "flags holds 7, which is no boolean" in refused(tmp_path, like)


def test_hostile_array_descriptions_are_refused(tmp_path):
    like = {"x": np.zeros((2, 3))}
    path = checkpoint.save(tmp_path, like, {}, number=1)
    zarr = path / "arrays" / "00000" / ".zarray"
    sound = {file: file.read_bytes() for file in (zarr, path / "arrays" / "_METADATA", path / "header.json")}

    def tried(file, change) -> str:
        for other, data in sound.items():
            other.write_bytes(data)
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return refused(tmp_path, like)

    assert "shape" in tried(zarr, lambda z: z.update(shape=[10**9, 10**9], chunks=[10**9, 10**9]))
    assert "parts that do not fit" in tried(zarr, lambda z: z.update(chunks=[10**9, 3]))
    assert "parts that do not fit" in tried(zarr, lambda z: z.update(chunks=[0, 3]))
    assert "compressor" in tried(zarr, lambda z: z.update(compressor={"id": "zstd", "level": 1}))
    assert "dtype" in tried(zarr, lambda z: z.update(dtype="|O"))
    assert "another form" in tried(zarr, lambda z: z.update(kvstore={"driver": "file", "path": "/etc/passwd"}))
    assert "other arrays" in tried(path / "arrays" / "_METADATA", lambda m: m.update(use_ocdbt=True))
    assert "another form" in tried(path / "arrays" / "_METADATA", lambda m: m.update(tree_metadata=[]))


def test_sizes_are_compared_before_arrays_are_read(tmp_path, monkeypatch):
    like = {"x": np.zeros(2)}
    path = checkpoint.save(tmp_path, like, {}, number=1)
    with open(path / "arrays" / "00000" / "0", "r+b") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    monkeypatch.setattr(distrust, "read_arrays", lambda *_: pytest.fail("arrays were read before the check"))
    assert "has 1,099,511,627,776 bytes; expected 16" in refused(tmp_path, like)


def test_links_and_pipes_are_refused(tmp_path):
    like = {"x": np.zeros(2)}
    path = checkpoint.save(tmp_path / "source", like, {}, number=1)
    parts = [path, *(p for p in path.rglob("*"))]
    for part in [p.relative_to(tmp_path / "source") for p in parts]:
        copy = tmp_path / "copy"
        shutil.copytree(tmp_path / "source", copy)
        target = copy / part
        os.rename(target, tmp_path / "outside")
        target.symlink_to(tmp_path / "outside")
        refused(copy, like)
        if not (tmp_path / "outside").is_dir():
            target.unlink()
            os.mkfifo(target)
            refused(copy, like)
            (tmp_path / "outside").unlink()
        else:
            shutil.rmtree(tmp_path / "outside")
        shutil.rmtree(copy)


# ---------------------------------------------------------------------------------------------- the disk, and kill -9
@pytest.mark.parametrize("where", ["open", "fsync", "orbax"])
def test_a_full_disk_leaves_the_earlier_ones(tmp_path, monkeypatch, where):
    tree = {"x": np.ones(3)}
    checkpoint.save(tmp_path, tree, {}, number=1)

    def full(*_, **__):
        if where == "orbax":
            raise ValueError("RESOURCE_EXHAUSTED: Error writing file: No space left on device")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where == "orbax":
        import orbax.checkpoint as ocp

        monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "save", full)
    elif where == "open":
        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        checkpoint.save(tmp_path, {"x": np.zeros(3)}, {}, number=2)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000001", "latest"]
    assert_same(checkpoint.load(tmp_path, tree, warn=no_warning)[0], tree)


def test_killed_at_any_moment(tmp_path):
    directory = tmp_path / "checkpoints"
    script = f"""
import itertools, pathlib, sys
import numpy as np
from operant.run import checkpoint
directory = pathlib.Path({str(directory)!r})
start = max([int(p.name) for p in checkpoint.checkpoints(directory)], default=0)
for n in itertools.count(start):  # the first is a number that may be there
    tree = dict(a=np.full(200_000, n), b=np.full((3, 5), n, np.int32), c=np.full(1, n))
    checkpoint.save(directory, tree, dict(n=n), number=n, best=n % 3 == 0)
    print(n, flush=True)
"""
    rng = random.Random(0)
    like = {"a": np.zeros(200_000, int), "b": np.zeros((3, 5), np.int32), "c": np.zeros(1, int)}
    reached = 0
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ, "JAX_PLATFORMS": "cpu"}
        )
        try:
            said = process.stdout.readline()
            time.sleep(rng.uniform(0.0, 0.12))
        finally:
            process.send_signal(signal.SIGKILL)
        rest = process.communicate()[0]
        lines = (said + rest).split(b"\n")[:-1]
        assert lines, "it was killed before it had saved once"
        warnings = []
        loaded, header = checkpoint.load(directory, like, warn=warnings.append)
        n = header["n"]
        assert all((x == n).all() for x in loaded.values())
        # the last one that `save` returned from, or one that was on its way then
        assert n >= int(lines[-1]) >= reached
        reached = n
        # only the replacing of a number that is there has a moment at which a pointer points to nothing
        assert not warnings or "missing" in warnings[0]
        if (directory / "best").exists():
            checkpoint.load(directory, like, "best", warn=lambda text: None)


def test_what_a_killed_process_left_is_cleared(tmp_path):
    checkpoint.save(tmp_path, {"x": np.ones(1)}, {}, number=1)
    for name in (".saving-000000002-1-abcd", ".removing-000000000-1-abcd"):
        shutil.copytree(tmp_path / "000000001", tmp_path / name)
    (tmp_path / f"{files.TEMPORARY}latest-1-abcd").write_text("")
    assert [p.name for p in checkpoint.checkpoints(tmp_path)] == ["000000001"]
    checkpoint.save(tmp_path, {"x": np.ones(1)}, {}, number=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000001", "000000002", "latest"]
