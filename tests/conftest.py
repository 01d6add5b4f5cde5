"""What the tests over the registry of all methods share. `--methods ppo,a2c` runs them for some methods only."""

from __future__ import annotations

import os

# before JAX starts: on a machine with an accelerator the promises are about the CPU unless told otherwise
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest


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


@pytest.fixture(scope="session")
def elsewhere(request):
    """The traces of the same methods in a process of their own, which runs beside this one from the first use on."""
    import harness

    named = {item.callspec.params["method"] for item in request.session.items if "elsewhere" in item.fixturenames}
    process = harness.Elsewhere(sorted(named))
    yield process
    process.close()


@pytest.fixture
def tiny(method, request):
    """The harness of one method, made once for all tests."""
    import harness

    if any("elsewhere" in item.fixturenames for item in request.session.items):
        request.getfixturevalue("elsewhere")
    return harness.of(method)
