"""The compiled side of a run: what is asked before anything is compiled."""

from __future__ import annotations

import pytest

from operant import methods
from operant.errors import UserError
from operant.run import program
from operant.run.run import make_program
from operant.run.settings import Settings

RECURRENT = {"network.recurrent": "gru", "num_envs": 8, "num_minibatches": 4}


@pytest.mark.parametrize("name, at", [("ppo", ""), ("rnd:ppo", "agent.")])
def test_each_device_s_share_of_the_environments_must_be_divided_too(name: str, at: str, monkeypatch):
    agent = methods.apply(methods.build(name), {at + field: value for field, value in RECURRENT.items()})
    agent.check()
    monkeypatch.setattr(program, "layout", lambda *_: ("envs", 4))
    with pytest.raises(UserError, match=r"--shard envs: each of 4 devices has 2 of the 8 env.* does not divide"):
        make_program(agent, "CartPole-v1", Settings(steps=1000, shard="envs"))
    program.check_share(agent, 2)
