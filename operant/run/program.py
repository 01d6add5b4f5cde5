"""The compiled side of a run: lanes laid on devices, the chunk that trains, and the evaluation.

A run of K lanes is divided over D devices in one of two ways.  `lanes`: each device holds K/D whole lanes, which do not
talk to each other.  `envs`: each device holds every lane's environments' D-th part, and statistics and gradients are
those of all (`ops.parallel`).  Nothing else in the house knows of devices.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from operant.agent import children
from operant.claims import check_task
from operant.envs import registry
from operant.errors import UserError
from operant.learner import Online, RunState
from operant.memory.ring import size_in_bytes
from operant.ops import parallel
from operant.rollout import Outcome, Stage, play_episodes, task_keys
from operant.types import PyTree, Spec

AXIS = "devices"


def layout(lanes: int, num_envs: int, devices: int, shard: str, host: bool) -> tuple[str, int]:
    """How to divide a run over devices: ("lanes" | "envs", how many devices).

    devices 0 means: as many as there are, where that pays without being told to (lanes).  Raises UserError where what
    was asked for cannot be.
    """
    available = len(jax.devices())
    if devices > available:
        raise UserError(f"--devices {devices}: this machine has {available}")
    if host and devices > 1:
        raise UserError(
            "host environments run on one device (their simulator uses all cores itself); leave out --devices"
        )
    if shard == "envs":
        wanted = devices or available
        if lanes != 1:
            raise UserError("--shard envs divides the environments of one lane; with several seeds use --shard lanes")
        if num_envs % wanted:
            raise UserError(f"--shard envs: {num_envs} environments cannot be divided over {wanted} devices")
        return "envs", wanted
    if devices and lanes % devices:
        raise UserError(f"--devices {devices} does not divide {lanes} lanes (seeds x settings)")
    if host:
        return "lanes", 1
    return "lanes", devices or max(d for d in range(1, available + 1) if lanes % d == 0)


def _keeps_batches(agent: Any) -> bool:
    """Whether the agent, or one that it holds, keeps experience from update to update (`keeps_batches`, a memory)."""
    if getattr(agent, "keeps_batches", False) or getattr(agent, "memory", None) is not None:
        return True
    return any(_keeps_batches(part) for part in children(agent).values() if dataclasses.is_dataclass(part))


def check_share(agent: Any, devices: int) -> None:
    """Raises UserError where the agent is sound, but not with the environments that one of the devices has."""
    try:
        _with_share(agent, devices).check()
    except UserError as error:
        each = f"each of {devices} devices has {agent.num_envs // devices} of the {agent.num_envs} environments"
        raise UserError(f"--shard envs: {each}, and cannot learn from them alone: {error}") from error


def _with_share(agent: Any, devices: int) -> Any:
    """The agent as one of the devices has it: around another, it takes its environments from there."""
    fields = {field.name for field in dataclasses.fields(agent)}
    if "num_envs" in fields:
        return agent.replace(num_envs=agent.num_envs // devices)
    return agent.replace(agent=_with_share(agent.agent, devices)) if "agent" in fields else agent


@dataclasses.dataclass
class Program:
    """Compiled functions of one run. `agents` has its dials as arrays [K]; `seeds` are the lanes' seeds [K]."""

    agents: Any
    env_name: Any
    env_options: dict[str, Any]
    eval_options: dict[str, Any]
    seeds: np.ndarray
    total_steps: int
    chunk_updates: int
    eval_episodes: int
    eval_stochastic: bool = False
    devices: int = 0
    shard: str = "lanes"
    eval_max_steps: int = 108_000

    compile_seconds: float = 0.0

    def __post_init__(self):
        agent = self.agents
        self.lanes = len(self.seeds)
        probe = registry.make(self.env_name, 1, [0], **self.env_options)
        host = probe.host
        probe.close()
        check_task(agent, probe.spec)
        self.mode, self.num_devices = layout(self.lanes, agent.num_envs, self.devices, self.shard, host)
        if self.mode == "envs" and _keeps_batches(agent):
            raise UserError(f"{agent.registered_name} keeps whole batches: --shard envs cannot divide them")
        if self.mode == "envs":
            check_share(agent, self.num_devices)
        self.mesh = Mesh(np.array(jax.devices()[: self.num_devices]), (AXIS,))
        local_envs = self.lanes * agent.num_envs // self.num_devices
        self.env = registry.make(
            self.env_name, local_envs, self._host_seeds(agent.num_envs) if host else None, **self.env_options
        )
        self.spec: Spec = self.env.spec.replace(num_envs=agent.num_envs, total_steps=self.total_steps)
        self.learner = Online(self.env, self.spec, self._local_lanes)
        self._eval_envs: dict[int, Any] = {}
        self._compiled: dict[str, Callable] = {}

    @property
    def _local_lanes(self) -> int:
        return self.lanes // self.num_devices if self.mode == "lanes" else self.lanes

    def devices_used(self) -> dict[str, Any]:
        """How the run lies on which devices, as its configuration keeps it."""
        return {"mode": self.mode, "number": self.num_devices, "kind": jax.devices()[0].device_kind}

    @functools.cached_property
    def memory_bytes(self) -> int:
        """Bytes of all lanes' replay memories."""
        return 0 if self.agents.memory is None else size_in_bytes(self.like().memory)

    def check(self) -> None:
        """Raises UserError where the agent cannot be made for this task: its networks do not fit, say."""
        jax.eval_shape(self.learner.init_agents, self.agents, self.keys())

    def check_room(self) -> None:
        """Raises UserError where the replay memories, of which none is allocated yet, do not fit."""
        stats = jax.devices()[0].memory_stats() or {}  # an accelerator's own; none for a CPU
        if "bytes_limit" in stats:
            free = (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) * self.num_devices
        else:
            free = psutil.virtual_memory().available
        size = self.memory_bytes
        if size > free:
            raise UserError(
                f"a memory of {self.agents.memory.capacity:,} transitions takes {size / 1e9:,.1f} GB for {self.lanes} "
                f"lane(s), and {free / 1e9:,.1f} GB are free: lower --memory.capacity or --seeds"
            )

    def _host_seeds(self, width: int, stream: int = 0) -> list[int]:
        """A seed for each host environment, from (lane's seed, index): lane i among K has those it has alone."""
        rows = [np.random.SeedSequence([int(seed), stream]).generate_state(width, np.uint32) for seed in self.seeds]
        return [int(s) & 0x7FFFFFFF for s in np.concatenate(rows)]

    # ------------------------------------------------------------------------------------------------------ training
    def keys(self) -> jax.Array:
        return jax.vmap(jax.random.key)(jnp.asarray(self.seeds, jnp.uint32))

    def init(self) -> RunState:
        """A fresh run. Raises UserError where there is no room for its memory."""
        self.check_room()
        keys = self.keys()
        # not under shard_map: should an agent's init call LAPACK (QR, SVD), such calls can wait for each other for ever
        # where the CPU counts as several devices
        states = self._compile("init agents", self.learner.init_agents, (self.agents, keys), donate=())(
            self.agents, keys
        )
        args = (self.agents, states, keys)
        lanes = P(AXIS) if self.mode == "lanes" else P()
        function = self._sharded(self.learner.init, (lanes, lanes, lanes), self._specs(self._local_shapes()))
        return self._compile("init", function, args, donate=())(*args)

    def stage(self, agents: Any, states: PyTree) -> Stage:
        """Where interaction stands at a fresh start of agents that have learned. No memory is made."""
        lanes = P(AXIS) if self.mode == "lanes" else P()
        # what becomes of the rest of a fresh run is not asked for, so the compiler leaves it out
        begin = lambda agents, states, keys: self.learner.init(agents, states, keys).stage  # noqa: E731
        function = self._sharded(begin, (lanes, lanes, lanes), self._specs(self._local_shapes()).stage)
        args = (agents, states, self.keys())
        return self._compile("stage", function, args, donate=())(*args)

    def _local_shapes(self) -> RunState:
        """Shapes of one device's part of a run."""
        local = lambda x: jax.ShapeDtypeStruct((self._local_lanes, *x.shape[1:]), x.dtype)  # noqa: E731
        agents, keys = jax.tree.map(local, (self.agents, self.keys()))
        states = jax.eval_shape(self.learner.init_agents, agents, keys)
        return jax.eval_shape(self.learner.init, agents, states, keys)

    def chunk(self, run: RunState) -> tuple[RunState, dict[str, jax.Array]]:
        """`chunk_updates` updates. Returns the new run (the old one's buffers are reused) and metrics [K]."""
        self.compile_chunk(run)
        return self._compiled["chunk"](run)

    def compile_chunk(self, run: RunState) -> None:
        """Compiles `chunk`, unless that was done."""
        if "chunk" not in self._compiled:
            specs = self._specs(run)
            metrics = P(AXIS) if self.mode == "lanes" else P()
            function = self._sharded(self._local_chunk, (specs,), (specs, metrics))
            self._compile("chunk", function, (run,), donate=(0,))

    def _local_chunk(self, run: RunState):
        before = run.steps
        run, metrics = jax.lax.scan(lambda run, _: self.learner.update(run), run, None, length=self.chunk_updates)
        weight = metrics.pop("learning")  # updates at which a lane had not finished or frozen
        total = jnp.maximum(weight.sum(0), 1.0)
        means = {name: jnp.where(weight > 0, x, 0.0).sum(0) / total for name, x in metrics.items()}
        episodes, sums = run.stage.episodes.read()
        run = run.replace(stage=run.stage.replace(episodes=episodes))
        return run, {**means, **sums, "new_steps": run.steps - before, "updates_done": weight.sum(0)}

    # ---------------------------------------------------------------------------------------------------- evaluation
    def check_playable(self) -> None:
        """Raises UserError for an agent without one policy: a population that lives in many tasks."""
        if not self.agents.playable:
            name = self.agents.registered_name
            raise UserError(f"{name} has no one policy to play: use what it learned, with `--init-from RUN`")

    def evaluate(
        self, run: RunState, stream: int, episodes: int | None = None, stochastic: bool | None = None
    ) -> Outcome:
        """Episodes of every lane in environments of its own; `stream` numbers the evaluation, and with the lane's seed
        decides its random numbers.

        It runs on one device: episodes end at different times, and it is a small part of a run.
        """
        self.check_playable()
        episodes = self.eval_episodes if episodes is None else episodes
        stochastic = self.eval_stochastic if stochastic is None else stochastic
        each = -(-episodes // (8 if self.env.host else 64))
        width = -(-episodes // each)  # as many episodes as were asked for, or hardly more
        if width not in self._eval_envs:
            seeds = self._host_seeds(width, stream=1) if self.env.host else None
            self._eval_envs[width] = registry.make(self.env_name, self.lanes * width, seeds, **self.eval_options)
        env = self._eval_envs[width]

        def play(agents, states, seeds, stream):
            lanes = jax.vmap(jax.random.key)(seeds)
            keys = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, 7), stream))(lanes)
            tasks = task_keys(lanes)
            return play_episodes(agents, states, env, keys, each, self.eval_max_steps, stochastic, tasks)

        args = (run.agent, run.state, jnp.asarray(self.seeds, jnp.uint32), jnp.int32(stream))
        args = jax.device_put(args, jax.devices()[0])
        name = f"evaluate {width} x {each}, {stochastic}"
        if name not in self._compiled:
            self._compile(name, play, args, donate=())
        return self._compiled[name](*args)

    # ------------------------------------------------------------------------------------------- compiling and laying
    def _specs(self, run: RunState) -> Any:
        """Where each leaf of a run state is divided."""
        if self.mode == "lanes":
            return jax.tree.map(lambda x: P(AXIS) if x.ndim else P(), run)
        alone = lambda tree: jax.tree.map(lambda x: P(), tree)  # noqa: E731
        by_env = lambda tree: jax.tree.map(lambda x: P(None, AXIS), tree)  # noqa: E731
        stage = Stage(
            jax.tree.map(lambda x: P(AXIS) if x.ndim else P(), run.stage.env_state),
            by_env(run.stage.timestep),
            by_env(run.stage.carry),
            by_env(run.stage.episodes),
        )
        return alone(run).replace(stage=stage)

    def _sharded(self, function: Callable, in_specs: Any, out_specs: Any) -> Callable:
        if self.num_devices == 1:
            return function
        axis = AXIS if self.mode == "envs" else None

        def local(*args):
            with parallel.device_axis(axis):
                return function(*args)

        return jax.shard_map(local, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def _compile(self, name: str, function: Callable, args: tuple, donate: tuple) -> Callable:
        began = time.perf_counter()
        compiled = jax.jit(function, donate_argnums=donate).lower(*args).compile()
        self.compile_seconds += time.perf_counter() - began
        self._compiled[name] = compiled
        return compiled

    def place(self, run: PyTree) -> RunState:
        """A run state that was loaded, laid on the devices as `init` would."""
        if self.num_devices == 1:
            return jax.device_put(run, jax.devices()[0])
        specs = self._specs(run)
        return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(self.mesh, spec)), run, specs)

    def like(self) -> Any:
        """Shapes of the whole run state, and how it is laid on the devices, for loading."""
        shape = self._local_shapes()
        specs = self._specs(shape)

        def whole(x, spec):
            factors = [self.num_devices if axis == AXIS else 1 for axis in spec] + [1] * (len(x.shape) - len(spec))
            laid = NamedSharding(self.mesh, spec) if self.num_devices > 1 else SingleDeviceSharding(jax.devices()[0])
            return jax.ShapeDtypeStruct(
                tuple(n * f for n, f in zip(x.shape, factors, strict=True)), x.dtype, sharding=laid
            )

        return jax.tree.map(whole, shape, specs)

    def peak_memory(self) -> int | None:
        """Bytes that the compiled chunk needs at once (arguments, results and temporaries), where the backend says."""
        analysis = self._compiled["chunk"].memory_analysis() if "chunk" in self._compiled else None
        if analysis is None:
            return None
        return int(
            analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
            + analysis.temp_size_in_bytes
            - analysis.alias_size_in_bytes
        )

    @property
    def eval_envs(self) -> list[Any]:
        """The environments that evaluations were played in so far."""
        return list(self._eval_envs.values())

    def close(self) -> None:
        self.env.close()
        for env in self._eval_envs.values():
            env.close()
