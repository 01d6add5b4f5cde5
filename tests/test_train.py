"""How runs begin, go on and are summed up: sweeps, resuming before the first checkpoint, what is refused."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import operant as op
from operant.envs.worlds import Target
from operant.rollout import Outcome
from operant.run.evaluation import summarize
from operant.run.report import _evaluation
from operant.run.train import resume
from operant.types import Box

SMALL = op.A2C(num_envs=2, rollout_length=5)


def outcome(returns):
    returns = np.array(returns, float)
    return Outcome(returns, np.ones(returns.shape, int), np.ones(returns.shape, bool))


def test_settings_of_a_sweep_are_not_pooled():
    returns = [[1, 3], [1, 1], [9, 11], [10, 12], [float("nan")] * 2, [2, 2]]
    said = summarize(outcome(returns), settings=3)
    assert (said["setting"], said["seeds"], said["return_mean"], said["ci_over"]) == (1, 2, 10.5, "seeds")
    assert said["return_ci"] == pytest.approx(summarize(outcome(returns[2:4]))["return_ci"])
    np.testing.assert_array_equal(said["returns"], [2, 1, 10, 11, np.nan, 2])
    kept = _evaluation({"eval_return": said["returns"], "steps": [7] * 6}, settings=3)
    assert all(kept[name] == said[name] for name in ("return_mean", "return_ci", "ci_over", "seeds"))
    one_seed = summarize(outcome(returns[:4]), settings=4)
    assert (one_seed["setting"], one_seed["seeds"], one_seed["ci_over"]) == (3, 1, "episodes")
    assert one_seed["return_ci"] == pytest.approx(summarize(outcome(returns[3:4]))["return_ci"])


def test_a_sweep_reports_its_best_setting_and_as_many_episodes_as_were_asked_for(tmp_path):
    run = op.train(SMALL, "CartPole-v1", steps=40, sweep=["learning_rate=1e-4,1e-2"], chunks=2, run_dir=tmp_path / "a",
                   quiet=True)  # fmt: skip
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    best = int(np.argmax(run.evaluations[-1]["returns"]))
    assert summary["best_setting"] == {"learning_rate": pytest.approx([1e-4, 1e-2][best])}
    assert summary["return_mean"] == max(run.evaluations[-1]["returns"]) and summary["ci_over"] == "episodes"
    assert run.evaluate(episodes=70)["episodes"] == 70
    assert summary["seconds"] > summary["compile_seconds"] > 0  # compilation, the first as well, is part of the whole


def test_a_network_that_does_not_fit_the_task_leaves_no_run_behind(tmp_path):
    class Unbounded(Target):
        action = Box((1,))

    with pytest.raises(op.UserError, match="expected a bounded Box"):
        op.train(op.SAC(), Unbounded(), steps=100, run_dir=tmp_path / "a", quiet=True)
    assert not (tmp_path / "a").exists()


def test_a_run_without_a_checkpoint_begins_anew_and_a_finished_one_is_left_alone(tmp_path):
    def stop(run, row):
        raise RuntimeError("the machine went down")

    asked = dict(steps=60, chunks=3, eval_every=0, quiet=True)
    with pytest.raises(RuntimeError):
        op.train(SMALL, "CartPole-v1", **asked, callback=stop, run_dir=tmp_path / "a")
    assert not list((tmp_path / "a" / "checkpoints").glob("*"))
    again = resume(tmp_path / "a", quiet=True)
    whole = op.train(SMALL, "CartPole-v1", **asked, run_dir=tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, again.state.state.params, whole.state.state.params)
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == len(
        (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()
    )
    before = (tmp_path / "a" / "summary.json").read_bytes()
    assert resume(tmp_path / "a", quiet=True).steps == again.steps
    assert (tmp_path / "a" / "summary.json").read_bytes() == before


def test_a_run_that_is_being_trained_is_not_resumed(tmp_path):
    said = []

    def go_on(run, row):
        with pytest.raises(op.UserError, match="being trained by another process"):
            resume(run.path, quiet=True)
        said.append(row["update"])

    op.train(SMALL, "CartPole-v1", steps=40, chunks=2, eval_every=0, callback=go_on, run_dir=tmp_path / "a", quiet=True)
    assert said


def test_what_cannot_be_begun_leaves_no_run_behind(tmp_path):
    op.train(SMALL, "CartPole-v1", steps=20, chunks=1, eval_every=0, run_dir=tmp_path / "a", quiet=True)
    for wrong in ({"init_from": tmp_path / "a"}, {"wandb": "a-project"}):
        with pytest.raises(op.UserError, match="other shapes|Weights & Biases"):
            op.train(SMALL, "Acrobot-v1", steps=20, run_dir=tmp_path / "b", quiet=True, **wrong)
        assert not (tmp_path / "b").exists()


def test_the_precision_of_one_run_is_not_that_of_the_next(tmp_path):
    asked = dict(steps=20, chunks=1, eval_every=0, quiet=True)
    op.train(SMALL, "CartPole-v1", **asked, precision="bfloat16", run_dir=tmp_path / "a")
    assert jax.config.jax_default_matmul_precision == "bfloat16"
    op.train(SMALL, "CartPole-v1", **asked, run_dir=tmp_path / "b")
    assert jax.config.jax_default_matmul_precision is None
