"""How a run ends from outside: by a signal after the chunk, or at once where an environment hangs."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import psutil

EXIT_DEADLINE = 4
EXIT_INTERRUPTED = 130
GRACE = 2.0
"""Seconds that a second Ctrl-C leaves to Python itself."""
REPEAT = 0.3
"""Seconds within which signals count as one: some are passed on by a program that started this one, too."""
PATIENCE = 10
"""How much slower the clock of a deadline runs while the process works: an environment that hangs usually waits."""
BUSY = 0.2
"""The share of one core from which on a process, with those that it started, works."""


@contextmanager
def interrupts(path: Path) -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) sets the event, and the run ends after this chunk; a second one ends it at once.

    Python hears of a signal only between its own instructions, and a chunk is one of them, however long it takes.  So
    in a command of ours (`own_process`) a thread listens too, and ends the process where nothing else has.
    """
    event, last = threading.Event(), -math.inf
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number, frame):
        nonlocal last
        before, last = last, time.monotonic()
        if event.is_set() and last - before > REPEAT:
            if _own_process:  # an exception would wait for the chunk, on its way out of Python
                _end(path)
            raise KeyboardInterrupt
        event.set()

    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _second_ends(path) if _own_process and os.name == "posix" else nullcontext():
            yield event
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def own_process() -> None:
    """Says that this process is a command of ours, which may be ended: a notebook's, or a user's program's, is not."""
    global _own_process
    _own_process = True


def _end(path: Path) -> None:
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
    message = f"{show_cursor}ended at once. What was saved stands; go on with: operant resume {path}"
    print(message, file=sys.stderr, flush=True)
    os._exit(EXIT_INTERRUPTED)


@contextmanager
def _second_ends(path: Path) -> Iterator[None]:
    """Within, a second interrupt ends the process where Python itself has not within `GRACE` seconds."""
    global _listening

    def watch():
        heard, last = 0, -math.inf
        while heard < 2:
            numbers, now = os.read(read, 64), time.monotonic()
            if over.is_set():
                return
            if any(number in (signal.SIGINT, signal.SIGTERM) for number in numbers):
                heard, last = heard + (now - last > REPEAT), now
        if not over.wait(GRACE):
            _end(path)

    over, (read, write) = threading.Event(), os.pipe()
    os.set_blocking(write, False)
    woken, _listening = signal.set_wakeup_fd(write, warn_on_full_buffer=False), True
    thread = threading.Thread(target=watch, name="operant-interrupts", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        _listening = False
        over.set()
        os.write(write, b"\0")  # no signal's number: the thread looks up, and ends
        thread.join()
        os.close(read)
        os.close(write)


def _after_fork() -> None:
    """A child has the pipe of its parent, and must not tell it of signals of its own."""
    if _listening:
        signal.set_wakeup_fd(-1)


_own_process = _listening = False
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def deadline(seconds: float, path: Path, work: str = "chunk") -> Iterator[None]:
    """Ends the process if it waits in the block for longer: a simulator that hangs inside compiled code cannot be
    interrupted.  One that works all the while, as with a long chunk, has `PATIENCE` times as long.

    Time in which the process itself stood still (Ctrl-Z, a machine that sleeps) does not count.

    work  what is done in the block: a chunk, or an evaluation
    """
    shorter = {"chunk": "more --chunks", "evaluation": "fewer --eval-episodes"}[work]
    if math.isinf(seconds):
        yield
        return

    def end(waited: float):
        print(
            f"no progress for {waited:,.0f} s: an environment hangs, or the {work} is longer than --deadline "
            f"{seconds:g} allows ({shorter}: a shorter one). What was saved stands; go on with: operant resume {path}",
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
