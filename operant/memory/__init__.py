"""Memories: parts that an agent declares and the runner owns. Pure functions on a pytree, inside jit.

    init(blank, spec)            -> stored            for rollouts like the batch `blank` [T+1, B]
    add(stored, batch, spec)     -> stored            a rollout in place of the oldest rows
    ready(stored)                -> bool              whether learning may start
    sample(stored, key, spec)    -> batch, ticket     what `learn` is handed
    update(index, ticket, feedback) -> index          after `learn`: priorities

Only `index` changes while an agent learns; the rows are read.  All of them honour `valid`.
"""

from __future__ import annotations

from operant.memory.episodes import EpisodicReplay
from operant.memory.prioritized import PrioritizedReplay
from operant.memory.replay import Replay
from operant.memory.ring import Stored
from operant.memory.sequences import SequenceReplay

__all__ = ["EpisodicReplay", "PrioritizedReplay", "Replay", "SequenceReplay", "Stored"]
