"""How a run ends from outside: by a signal after the chunk, or at once where an environment hangs."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

EXIT_DEADLINE = 4
EXIT_INTERRUPTED = 130
GRACE = 2.0
"""Seconds that a second Ctrl-C leaves to Python itself."""
PATIENCE = 10
"""How much slower the clock of a deadline runs while the process works: an environment that hangs usually waits."""
BUSY = 0.2
"""The share of one core from which on a process, with those that it started, works."""


@contextmanager
def interrupts(path: Path) -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) sets the event, and the run ends after this chunk; a second one ends it at once.

    Python hears of a signal only between its own instructions, and a chunk is one of them, however long it takes: so
    the second one is also heard of by a thread, which ends the process where nothing else has within `GRACE` seconds.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number, frame):
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    def watch():
        heard = 0
        while heard < 2:
            heard += sum(number in before for number in os.read(read, 16))
            if over.is_set():
                return
        if not over.wait(GRACE):
            print(f"ended within a chunk. What was saved stands; go on with: operant resume {path}", file=sys.stderr)
            sys.stderr.flush()
            os._exit(EXIT_INTERRUPTED)

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    over, (read, write) = threading.Event(), os.pipe()
    os.set_blocking(write, False)
    woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, name="operant-interrupts", daemon=True)
    thread.start()
    try:
        yield event
    finally:
        signal.set_wakeup_fd(woken)
        over.set()
        os.write(write, b"\0")  # no signal's number: the thread looks up, and ends
        thread.join()
        os.close(read)
        os.close(write)
        for s, handler in before.items():
            signal.signal(s, handler)


@contextmanager
def deadline(seconds: float, path: Path) -> Iterator[None]:
    """Ends the process if it waits in the block for longer: a simulator that hangs inside compiled code cannot be
    interrupted.  One that works all the while, as with a long chunk, has `PATIENCE` times as long.

    Time in which the process itself stood still (Ctrl-Z, a machine that sleeps) does not count.
    """
    if math.isinf(seconds):
        yield
        return

    def end(waited: float):
        print(
            f"no progress for {waited:,.0f} s: an environment hangs, or a chunk is longer than --deadline {seconds:g}"
            f" allows (more --chunks: shorter ones). What was saved stands; go on with: operant resume {path}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_DEADLINE)

    done = threading.Event()

    def watch():
        tick = min(1.0, seconds / 10)
        left, waited, used = seconds, 0.0, _cpu_seconds()
        while left > 0:  # a wait that a stop made longer still counts as one tick
            if done.wait(tick):
                return
            before, used = used, _cpu_seconds()
            waited += tick
            left -= tick / PATIENCE if used - before > BUSY * tick else tick
        end(waited)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _cpu_seconds() -> float:
    """What this process and those that it started (simulators, perhaps) have worked so far."""
    total, me = 0.0, psutil.Process()
    for process in (me, *me.children(recursive=True)):
        with suppress(psutil.Error):  # it may have ended meanwhile
            times = process.cpu_times()
            total += times.user + times.system
    return total
