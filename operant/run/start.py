"""What has to be set before JAX starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def prepare(cpu_devices: int = 1) -> None:
    """How many devices the CPU counts as, and where compilations are kept between processes.

    OPERANT_CACHE names the cache's directory; `off` switches it off.  Nothing is changed if JAX is running already.
    """
    import jax

    where = os.environ.get("OPERANT_CACHE", "")
    if where != "off":
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", where or str(base / "operant"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    try:
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    except RuntimeError:
        if len(jax.devices()) < cpu_devices:
            print("JAX runs already, with fewer devices than asked for", file=sys.stderr)
    # the default logs a warning for each entry of another machine's cache
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
