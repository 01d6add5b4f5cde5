"""The process in which an agent acts that is watched: a line of JSON on standard output for each event.

    begin     the environment, the lane, frames per second, what the actions are called
    step      a picture, the action that is chosen there, and what the agent's networks said when it was
    problem   one line for people

What the networks said is read off any agent without its help: while `act` is traced, the distribution that it acts
from is kept, however it was made, and so are the outputs of the outermost Flax modules that it calls.  The distribution
is the policy; numbers are handed to the agent's own `head`.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, get_args

FASTEST = 30.0  # pictures a second that are sent
DRAWS = ("sample", "sample_and_log_prob", "mode")  # how an action is had from a distribution
MOVES = ("stay", "up", "down", "left", "right", "up left", "up right", "down left", "down right")
NAMES = {
    "CartPole": ("left", "right"),
    "MountainCar": ("left", "coast", "right"),
    "Acrobot": ("push −", "none", "push +"),
    **dict.fromkeys(("Grid-", "RandomGrid-", "SmallGrid-"), MOVES),
}


def main() -> None:
    choice = json.loads(sys.argv[1])
    # messages have standard output to themselves; what libraries print goes elsewhere
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(event: str, **values: Any) -> None:
        out.write(json.dumps({"event": event, **values}, allow_nan=False) + "\n")
        out.flush()

    from operant.errors import UserError

    try:
        _act(choice, tell)
    except UserError as error:
        tell("problem", words=str(error))
    except BrokenPipeError:  # nobody watches any more
        os._exit(0)
    except Exception as error:
        print(f"operant web: {type(error).__name__}: {error}", file=sys.stderr)
        tell("problem", words=f"It could not be played: {type(error).__name__}. The terminal says more.")


def _act(choice: dict[str, Any], tell: Any) -> None:
    from operant.run.directory import RunDirectory
    from operant.run.start import prepare

    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # training may need all of an accelerator's memory
    devices = RunDirectory.open(choice["run"]).config.get("devices")
    number = devices.get("number") if isinstance(devices, dict) else 1
    prepare(min(number, os.cpu_count() or 1) if type(number) is int and number > 0 else 1)
    from operant.run import video
    from operant.run.run import load_run

    run = load_run(choice["run"], which=choice["which"])
    lane = video.the_lane(run, choice["lane"])
    env, camera, fps = video.studio(run, lane, None)
    fps = min(fps, FASTEST)
    title = str(run.directory.config["env"])
    tell("begin", env=title, lane=lane, fps=fps, seed=int(run.program.seeds[lane]), steps=run.steps,
         actions=_action_names(title, env.spec.action))  # fmt: skip
    encode = _Encoder()
    try:
        due = time.monotonic()
        for message, frame in _play(run, lane, env, camera, choice["stochastic"]):
            if frame is not None:
                tell("step", picture=encode(frame), kind=encode.kind, **message)
                due = max(due + 1 / fps, time.monotonic() - 0.5)  # after a pause it does not run to catch up
                time.sleep(max(0.0, due - time.monotonic()))
    finally:
        camera.close()
        env.close()


def _play(run: Any, lane: int, env: Any, camera: Any, stochastic: bool) -> Any:
    """Steps without end, each as it was decided: the picture that the agent saw, and what it made of it."""
    import jax
    import numpy as np

    from operant.run import draw, video

    def look(*given: Any) -> dict[str, Any]:
        try:
            return outputs(*given)
        except (jax.errors.UnexpectedTracerError, TypeError, ValueError) as error:
            print(f"operant web: this agent's networks cannot be looked into ({error})", file=sys.stderr)
            return {}

    frame, before, total, step, played = None, None, 0.0, 0, 0
    stream = int(time.time())  # another one each time
    for action, timestep, after, said in video.play(run, lane, env, camera, stochastic, stream, look):
        if before is not None and not before.first:
            played += bool(before.last)
            yield {
                "step": step, "return": round(total, 4), "reward": round(float(before.score), 4),
                "last": bool(before.last), "episode": played, "action": draw.action_text(action, env.spec.action),
                "chosen": np.asarray(action).tolist() if np.asarray(action).dtype != object else None,
                **{name: _plain(x) for name, x in said.items()},
            }, frame  # fmt: skip
        frame, before = after, timestep
        total, step = (0.0, 0) if timestep.first else (total + float(timestep.score), step + 1)


# --------------------------------------------------------------------------------------------------- what networks say
def outputs(agent: Any, state: Any, timestep: Any, carry: Any, key: Any, explore: bool) -> dict[str, Any]:
    """What the networks of an agent (one lane, a batch of one) give out where it chooses an action, as far as there is

    probabilities   of each action [A], or of each choice of each part [parts, most choices]
    mean, deviation of a continuous action [D], in the agent's units of -1 to 1
    values          of each action [A]
    value           of the state, or of the action chosen
    """
    import jax
    from flax import linen

    seen: list[Any] = []
    acted: list[Any] = []

    def listen(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        result = call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.path == ():
            seen.append(result)
        return result

    with linen.intercept_methods(listen), _acted_from(acted):
        action, _, extras = agent.act(state, timestep, carry, key, explore)
    while hasattr(agent, "agent") and hasattr(state, "agent"):  # ideas around an agent
        agent, state = agent.agent, state.agent
    said: dict[str, Any] = {}
    for result in (*seen, *acted[:1]):
        said |= _read(result, agent, jax.random.fold_in(key, 1))
    if isinstance(extras, dict) and "value" in extras:
        said["value"] = extras["value"].reshape(-1)[0]
    elif "values" in said:
        said["value"] = said["values"].max()
    elif hasattr(agent, "critic") and isinstance(getattr(state, "params", None), dict) and "critic" in state.params:
        said["value"] = _criticised(agent, state, timestep.observation, action)
    return said


@contextlib.contextmanager
def _acted_from(acted: list[Any]) -> Iterator[None]:
    """Appends every distribution that is sampled from, or whose mode is taken, in the order of these calls: one that is
    made of others comes before them."""
    from operant.ops.distributions import Distribution

    def listening(method: Any) -> Any:
        @functools.wraps(method)
        def call(self: Any, *args: Any) -> Any:
            acted.append(self)
            return method(self, *args)

        return call

    kept = [(kind, name, getattr(kind, name)) for kind in get_args(Distribution) for name in DRAWS]
    for kind, name, method in kept:
        setattr(kind, name, listening(method))
    try:
        yield
    finally:
        for kind, name, method in kept:
            setattr(kind, name, method)


def _read(result: Any, agent: Any, key: Any) -> dict[str, Any]:
    """One network's output, or the distribution that was acted from."""
    import jax
    import jax.numpy as jnp

    from operant.ops.distributions import Categorical, MultiCategorical, Normal, SquashedNormal

    while isinstance(result, (tuple, list)) and result:  # the policy before its value, both before the carry
        result = result[0]
    if isinstance(result, Categorical):
        probabilities = jax.nn.softmax(result.logits)
        return {"probabilities": probabilities.reshape(-1, probabilities.shape[-1])[0]}
    if isinstance(result, MultiCategorical):
        probabilities = jax.nn.softmax(result.parts.logits)
        return {"probabilities": probabilities.reshape(-1, *probabilities.shape[-2:])[0]}
    if isinstance(result, Normal):
        return {"mean": result.mean.reshape(-1), "deviation": jnp.exp(result.log_std).reshape(-1)}
    if isinstance(result, SquashedNormal):  # behind its tanh the deviation has no closed form
        draws = jax.vmap(result.sample)(jax.random.split(key, 64))
        return {"mean": result.mode().reshape(-1), "deviation": draws.std(0).reshape(-1)}
    if hasattr(result, "ndim") and hasattr(agent, "head") and not hasattr(agent, "critic"):
        values = agent.head.values(result)
        return {"values": values.reshape(-1, values.shape[-1])[0]}
    if hasattr(result, "ndim") and hasattr(agent, "critic"):  # a deterministic policy
        return {"mean": result.reshape(-1)}
    return {}


def _criticised(agent: Any, state: Any, observation: Any, action: Any) -> Any:
    """The least of what an agent's critics say of the action."""
    import jax.numpy as jnp

    head, spec = getattr(agent, "head", None), state.spec
    if hasattr(spec.action, "low"):
        action = jnp.clip(action, -1.0, 1.0)
    values = agent.critic.of(state.params["critic"], spec, observation, action, *((head.shape,) if head else ()))
    return (head.values(values) if head else values).min()


# ------------------------------------------------------------------------------------------------------------ messages
def _plain(x: Any) -> Any:
    """Nested lists of numbers of five digits, null where one is not finite."""
    x = x.tolist() if hasattr(x, "tolist") else x
    if isinstance(x, list):
        return [_plain(y) for y in x]
    return float(f"{x:.5g}") if math.isfinite(x) else None


def _action_names(env: str, space: Any) -> list[str]:
    for name, words in NAMES.items():
        if env.rpartition(":")[2].startswith(name) and getattr(space, "n", 0) == len(words):
            return list(words)
    return []


class _Encoder:
    """Pictures as text: PNG for drawings, JPEG for what is rendered, whichever the first one says is right."""

    kind = ""

    def __call__(self, frame: Any) -> str:
        from PIL import Image

        file, image = io.BytesIO(), Image.fromarray(frame)
        if self.kind != "image/jpeg":
            image.save(file, "PNG", compress_level=3)
            if not self.kind:
                self.kind = "image/png" if file.tell() < 40_000 else "image/jpeg"
        if self.kind == "image/jpeg":
            file = io.BytesIO()
            image.save(file, "JPEG", quality=85)
        return base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    main()
