"""How a run ends from outside: by a signal after the chunk, or at once where an environment hangs."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_DEADLINE = 4


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) sets the event, and the run ends after this chunk; a second one ends it at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number, frame):
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@contextmanager
def deadline(seconds: float, path: Path) -> Iterator[None]:
    """Ends the process if the block takes longer: a simulator that hangs inside compiled code cannot be interrupted.

    Time in which the process itself stood still (Ctrl-Z, a machine that sleeps) does not count.
    """
    if math.isinf(seconds):
        yield
        return

    def end():
        print(
            f"no progress for {seconds:g} s: an environment hangs. The last checkpoint stands; go on with: "
            f"operant resume {path}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_DEADLINE)

    done = threading.Event()

    def watch():
        tick = min(1.0, seconds / 10)
        for _ in range(math.ceil(seconds / tick)):  # a wait that a stop made longer still counts as one tick
            if done.wait(tick):
                return
        end()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
