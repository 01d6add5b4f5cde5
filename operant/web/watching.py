"""An agent that is watched acts in a process of its own: the server stays quick, never starts JAX, and a simulator that
hangs or a run that does not load takes nothing else with it."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from operant.errors import UserError

MOST = 2  # agents that act at once
LONGEST = 8 << 20  # bytes of one message


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is to be watched. `lane` -1 is the one that did best; `stochastic`: actions are drawn from the policy."""

    run: Path
    lane: int = -1
    which: str = "latest"
    stochastic: bool = False


class Watchers:
    """The processes that act now."""

    def __init__(self) -> None:
        self.processes: set[asyncio.subprocess.Process] = set()
        self._starting = 0

    def close(self) -> None:
        for process in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def watch(self, choice: Choice) -> AsyncIterator[tuple[str, Any]]:
        """Events of `operant.web.actor`, as long as someone listens. Raises UserError where too many act already."""
        if len(self.processes) + self._starting >= MOST:
            raise UserError(f"{MOST} agents are being watched already: close one of those pages first")
        self._starting += 1
        words = json.dumps({**dataclasses.asdict(choice), "run": str(choice.run)})
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "operant.web.actor", words,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, limit=LONGEST,
                start_new_session=True,  # Ctrl-C is for the server, which ends it
            )  # fmt: skip
            self.processes.add(process)
        finally:
            self._starting -= 1
        try:
            assert process.stdout is not None
            while line := await process.stdout.readline():
                message = json.loads(line)
                yield message.pop("event"), message
            if await process.wait() not in (0, -9):
                yield "problem", {"words": "The agent's process ended; the terminal says why."}
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            self.processes.discard(process)
