"""What the tests over the registry of all methods share. `--methods ppo,a2c` runs them for some methods only."""

from __future__ import annotations

import os

# before JAX starts: on a machine with an accelerator the promises are about the CPU unless told otherwise
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
from hypothesis import settings

# the same examples on every machine, so that a change is what turns a test red; `--hypothesis-profile default` looks
# for new ones
settings.register_profile("fixed", derandomize=True, database=None)
settings.load_profile("fixed")


def pytest_configure(config):
    """Compilations are kept between runs, as `operant` keeps them; `--cache-clear` forgets them."""
    import jax

    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_addoption(parser):
    parser.addoption("--methods", default="", help="names of methods, with commas between; default: all")


def pytest_generate_tests(metafunc):
    if "method" not in metafunc.fixturenames:
        return
    from operant import methods

    wanted = [name for name in metafunc.config.getoption("--methods").split(",") if name]
    unknown = set(wanted) - set(methods.entries())
    if unknown:
        raise pytest.UsageError(f"--methods: unknown {', '.join(sorted(unknown))}")
    metafunc.parametrize("method", wanted or sorted(methods.entries()), scope="session")


def _group(item) -> str:
    """Tests of one method share its harness, tests of one file their fixtures: each group stays in one process."""
    called = getattr(item, "callspec", None)
    return called.params["method"] if called and "method" in called.params else item.path.stem


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    # the longest groups first, so that no process waits long for the last one
    first = ("test_docs", "test_cli", "test_actor_q", "test_r2d2")
    order = {name: place for place, name in enumerate(dict.fromkeys([*first, *map(_group, items)]))}
    items.sort(key=lambda item: order[_group(item)])
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Machine code is freed after each group: a process that keeps it all runs out of memory mappings."""
    if nextitem is None or _group(item) != _group(nextitem):
        import harness
        import jax

        harness.of.cache_clear()
        harness.ends.cache_clear()
        jax.clear_caches()


@pytest.fixture
def tiny(method):
    """The harness of one method, made once for all tests."""
    import harness

    return harness.of(method)
