"""What the tests share: which methods they are about (`selection.py`), and the order in which they run."""

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

    config.addinivalue_line("markers", "of(method, ...): tests of these methods only, run when one of them is")
    config.addinivalue_line("markers", "every_method: quick enough to run for all methods each time")
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_addoption(parser):
    kinds = "all; changed (since they last passed, and a tenth of the others); or names with commas between"
    parser.addoption("--methods", default="all", help=f"run the tests of these methods: {kinds}")
    parser.addoption("--record", action="store_true", help="note in tests/tested.json that the methods have passed")


def pytest_generate_tests(metafunc):
    if "method" in metafunc.fixturenames:
        from operant import methods

        metafunc.parametrize("method", sorted(methods.entries()), scope="session")


def _methods_of(item) -> set[str] | None:
    """The methods that a test is about: its parameter, or what its file or its page says; None if about the house."""
    called = getattr(item, "callspec", None)
    if item.get_closest_marker("every_method"):
        return None
    if called and "method" in called.params:
        return {called.params["method"]}
    if called and "page" in called.params and called.params["page"].parent.name == "methods":
        return {called.params["page"].stem}
    mark = item.get_closest_marker("of")
    return set(mark.args) if mark else None


def _chosen(config) -> set[str]:
    import selection

    try:
        return selection.choose(config.getoption("--methods"))
    except ValueError as error:
        raise pytest.UsageError(f"--methods: {error}") from None


def pytest_report_header(config):
    return f"methods: {', '.join(sorted(_chosen(config)))}"


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    if not config.getoption("--record") or hasattr(config, "workerinput"):
        return
    if exitstatus != pytest.ExitCode.OK or config.option.keyword or config.args != config.getini("testpaths"):
        print("\nnothing recorded: --record is for a whole run that passes")
        return
    import selection

    selection.record(_chosen(config))


def _group(item) -> str:
    """Tests of one method share its harness, tests of one file their fixtures: each group stays in one process."""
    called = getattr(item, "callspec", None)
    return called.params["method"] if called and "method" in called.params else item.path.stem


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    chosen = _chosen(config)
    about = [(item, _methods_of(item)) for item in items]
    left = [item for item, names in about if names is not None and not names & chosen]
    items[:] = [item for item, names in about if names is None or names & chosen]
    config.hook.pytest_deselected(items=left)
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
