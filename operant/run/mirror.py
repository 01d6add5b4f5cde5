"""A copy of an EnvPool simulator in a process of its own, which shows what it looks like. `Mirror` is this side of it.

Where OpenGL is missing, MuJoCo's renderer ends the process that called it: so none of EnvPool's is called in ours. The
copy has the seed of the original and gets the same actions.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np

_SIZE = 400  # pixels each way, where there is a choice


class NoPicture(Exception):
    """Why there is no picture, in a few words."""


class Mirror:
    """A second simulator that follows the first one."""

    def __init__(self, name: str, config: dict[str, Any]):
        """name, config: of an EnvPool pool with one environment. Raises NoPicture."""
        # -P: run as a script, this file must not put its neighbours in front of the standard library
        command = [sys.executable, "-P", __file__]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        self._ask((name, config))

    def step(self, action: np.ndarray, look: bool = True) -> tuple[np.ndarray | None, float]:
        """action: [1, ...], as the simulator wants it. The frame (if `look`) and the reward. Raises NoPicture."""
        return self._ask((action, look))

    def _ask(self, message: Any) -> Any:
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
            fine, answer = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            self._process.kill()
            words = self._process.communicate()[1].decode(errors="replace").split("\n")
            last = [line.strip() for line in words if line.strip()]
            status = f"its renderer ended with status {self._process.returncode}"
            raise NoPicture(last[-1] if last else status) from None
        if not fine:
            raise NoPicture(answer)
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _serve() -> None:
    """The other side: answers until it is killed, or its input ends."""
    import contextlib
    import ctypes
    import os
    import tempfile

    # What the simulators print must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if sys.platform == "linux":
        # EnvPool's packages bring a libEGL, but MuJoCo gets its functions from the system's, which knows nothing of
        # contexts that the other made. Loaded first, the system's serves both.
        with contextlib.suppress(OSError):
            ctypes.CDLL("libEGL.so.1", mode=ctypes.RTLD_GLOBAL)
    import envpool
    import envpool.registration

    os.chdir(tempfile.gettempdir())  # MuJoCo writes down its failures where it stands

    def answer(fine: bool, value: Any) -> None:
        pickle.dump((fine, value), answers)
        answers.flush()

    pool: Any = None
    while True:
        try:
            message = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if pool is None:
                name, config = message
                # all but MuJoCo have a size of their own, and an aspect that another would spoil
                free = envpool.registration.registry.specs[name][0].startswith("envpool.mujoco")
                size = {"render_width": _SIZE, "render_height": _SIZE} if free else {}
                pool = envpool.make_gymnasium(name, **config, render_mode="rgb_array", **size)
                pool.reset()
                pool.render()
                answer(True, None)
            else:
                action, look = message
                _, reward, _, _, info = pool.step(action)
                reward = float(np.ravel(info.get("reward", reward))[0])
                answer(True, (np.array(pool.render()[0]) if look else None, reward))
        except Exception as error:
            answer(False, " ".join(str(error).split()) or type(error).__name__)


if __name__ == "__main__":
    _serve()
