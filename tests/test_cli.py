"""The command line as a user meets it: every verb end to end, and one line with exit code 2 for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from operant.cli import main

TINY = ["--steps", "2048", "--chunks", "4", "--eval-episodes", "2", "--num-envs", "4", "--rollout-length", "32"]


def operant(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == code


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "run"
    operant("train", "ppo", "CartPole-v1", *TINY, "--seeds", "2", "--checkpoint-seconds", "0", "--run-dir", path,
            "--quiet")  # fmt: skip
    return path


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_train_reports_one_object_of_json(tmp_path, capsys):
    operant("train", "ppo", "CartPole-v1", *TINY, "--run-dir", tmp_path / "run", "--json")
    result = last_line(capsys)
    assert result["run"] == str(tmp_path / "run") and result["steps"] >= 2048
    assert result["steps_per_second"] > 0 and result["compile_seconds"] > 0
    low, high = result["return_ci"]
    assert low <= result["return_mean"] <= high and result["ci_over"] == "episodes"


def test_a_profile_tells_where_an_update_s_time_went(tmp_path, capsys):
    operant("train", "ppo", "CartPole-v1", *TINY, "--seeds", "2", "--run-dir", tmp_path / "run", "--profile", "--quiet")
    told = capsys.readouterr().err.splitlines()
    start = next(i for i, line in enumerate(told) if "where an update's time goes" in line)
    assert [line.split()[0] for line in told[start + 1 : start + 4]] == ["environment", "acting", "learning"]


def test_a_run_directory_holds_what_it_should(trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["agent"]["class"] == "ppo" and config["machine"]["packages"]["jax"]
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    updates = [row["update"] for row in rows if "train_return" in row]
    assert updates == sorted(set(updates)) and len(rows[-1]["steps"]) == 2
    assert (trained / "figures" / "curve.png").stat().st_size > 1000
    assert list((trained / "tensorboard").iterdir()) and list((trained / "checkpoints").iterdir())


def test_eval_watch_runs_and_compare(trained, tmp_path, capsys):
    operant("eval", trained, "--episodes", 3, "--json")
    result = last_line(capsys)
    assert result["episodes"] == 3 and result["seeds"] == 2 and result["ci_over"] == "seeds"
    assert result["return_ci"][0] <= result["return_mean"] <= result["return_ci"][1]
    operant("watch", trained, "--out", tmp_path / "film.gif", "--max-steps", 20)
    assert (tmp_path / "film.gif").stat().st_size > 500 and str(tmp_path / "film.gif") in capsys.readouterr().out
    operant("runs", trained.parent, "--json")
    assert [run["method"] for run in last_line(capsys)["runs"]] == ["ppo"]
    operant("compare", trained, trained, "--out", tmp_path / "compare.png", "--json")
    assert (tmp_path / "compare.png").exists() and len(last_line(capsys)["runs"]) == 2


def test_a_method_has_its_own_name_for_what_it_starts_from(tmp_path, capsys):
    world, rule = "operant:Cells-v0", ["--size", "8", "--prediction.m", "4"]
    operant("train", "lpg", world, *rule, "--steps", 2_000, "--run-dir", tmp_path / "a", "--quiet")
    operant(
        "train", "lpg", world, *rule, "--steps", 2_000, "--rule", tmp_path / "a", "--run-dir", tmp_path / "b", "--quiet"
    )
    assert json.loads((tmp_path / "b" / "config.json").read_text())["init_from"] == str(tmp_path / "a")
    assert not json.loads((tmp_path / "a" / "config.json").read_text())["init_from"]
    operant("train", "ppo", world, "--rule", tmp_path / "a", code=2)
    assert "--rule" in capsys.readouterr().err


def test_config_repeats_a_run_and_init_from_starts_from_it(trained, tmp_path, capsys):
    operant("train", "ppo", "CartPole-v1", "--config", trained / "config.json", "--run-dir", tmp_path / "a", "--quiet")
    first, again = (rows_without_times(path) for path in (trained, tmp_path / "a"))
    assert first == again
    operant("train", "ppo", "CartPole-v1", *TINY, "--learning-rate", "0", "--init-from", trained, "--run-dir",
            tmp_path / "b", "--quiet", "--json")  # fmt: skip
    kept = last_line(capsys)["return_mean"]
    from operant import load_run

    old, new = load_run(trained), load_run(tmp_path / "b")
    import jax
    import numpy as np

    a, b = (jax.tree.leaves(jax.device_get(run.state.state.params)) for run in (old, new))
    assert all(np.array_equal(x[0], y[0]) for x, y in zip(a, b, strict=True)) and kept is not None


def test_a_sweep_trains_all_settings_at_once(tmp_path, capsys):
    operant("train", "a2c", "CartPole-v1", "--steps", 1000, "--sweep", "learning_rate=1e-4,1e-3", "gamma=0.9,0.99",
            "--seeds", 2, "--run-dir", tmp_path / "run", "--json", "--chunks", 2)  # fmt: skip
    assert last_line(capsys)["settings"] == 4
    from operant import load_run

    run = load_run(tmp_path / "run")
    assert [lane["seed"] for lane in run.lanes] == [0, 1] * 4
    assert run.lanes[2]["gamma"] == 0.99 and run.lanes[2]["learning_rate"] == 1e-4


def test_wrappers_tell_shared_flags_apart(tmp_path):
    operant("train", "rnd:a2c", "CartPole-v1", "--steps", 500, "--chunks", 1, "--learning-rate", "0.02",
            "--agent.learning-rate", "0.03", "--run-dir", tmp_path / "run", "--quiet")  # fmt: skip
    agent = json.loads((tmp_path / "run" / "config.json").read_text())["agent"]
    assert (agent["learning_rate"], agent["agent"]["learning_rate"], agent["agent"]["class"]) == (0.02, 0.03, "a2c")


def test_a_list_flag_that_is_given_again_goes_on_with_its_list():
    from operant.cli import _parse
    from operant.methods import build

    fields = [("sweep", tuple[str, ...], ()), ("env_options", tuple[str, ...], ("c=3",)), ("seeds", int, 1)]
    words = ["--sweep", "learning_rate=1e-4,1e-2", "gamma=0.5", "--seeds", "2", "--sweep=lam=0.9"]
    words += ["--seeds=3", "--env-options", "a=1", "--env_options", "b=-2"]
    words += ["--network.hidden", "8", "--network.hidden", "4"]
    flags = _parse("test", words, fields, build("ppo", "CartPole-v1"))
    assert flags["sweep"] == ("learning_rate=1e-4,1e-2", "gamma=0.5", "lam=0.9")
    assert (flags["env_options"], flags["seeds"], flags["agent"].network.hidden) == (("a=1", "b=-2"), 3, (8, 4))
    assert _parse("test", [], fields)["env_options"] == ("c=3",)


def test_an_environment_option_is_a_flag_a_literal_or_a_text():
    from operant.cli import _options

    words = ("reward-clip=false", "a=TRUE", "sticky=0.25", "n=None", "map=4x4", "at=(1, 2)")
    expected = {"reward_clip": False, "a": True, "sticky": 0.25, "n": None, "map": "4x4", "at": (1, 2)}
    assert _options(words) == expected


def test_a_config_is_for_the_whole_method_that_is_named(tmp_path, capsys):
    from operant import to_json
    from operant.methods import build

    path = tmp_path / "config.json"
    path.write_text(json.dumps({"agent": to_json(build("rnd:a2c", "CartPole-v1")), "settings": {}}))
    operant("train", "rnd:ppo", "CartPole-v1", "--config", path, code=2)
    told = capsys.readouterr().err
    assert "rnd:a2c" in told and "rnd:ppo" in told


OWN = '''
import operant as op

@op.agent("timid")
class Timid:
    """Any agent, its rewards made smaller."""

    scale: float = op.dial(0.5, "what rewards are multiplied with", low=0.0)
    agent: object = op.child(lambda: op.A2C(num_envs=2, learning_rate=0.5), "the agent")
    presets = {"classic_control": {"source": "this test", "scale": 0.25}}

    def init(self, key, spec):
        return self.agent.init(key, spec)

    def start(self, state, batch_size):
        return self.agent.start(state, batch_size)

    def act(self, state, timestep, carry, key, explore=True):
        return self.agent.act(state, timestep, carry, key, explore)

    def learn(self, state, batch, key):
        return self.agent.learn(state, batch.replace(reward=self.scale * batch.reward), key)

class Plain:
    pass
'''


@pytest.fixture
def own(tmp_path):
    """A file with a method of the user's own, which nothing has imported."""
    from operant import agent

    path = tmp_path / "own.py"
    path.write_text(OWN)
    yield path
    agent._classes.pop("timid", None)


def test_an_own_wrapper_goes_around_others_and_others_around_it(own):
    from operant.errors import UserError
    from operant.methods import build

    around = build(f"{own}:Timid:rnd:ppo", "CartPole-v1")
    assert (around.registered_name, around.agent.registered_name) == ("timid", "rnd")
    assert around.scale == 0.25 and around.agent.agent == build("ppo", "CartPole-v1")
    assert build(f"rnd:{own}:Timid:a2c", "CartPole-v1").agent.agent == build("a2c", "CartPole-v1")
    assert build(f"{own}:Timid:{own}:Timid", "CartPole-v1").agent.registered_name == "timid"
    assert build(f"{own}:Timid", "Pong-v5").scale == 0.5
    assert build(f"{own}:Timid", "Hopper-v4").agent.num_envs == 2, "the file's own default agent was not kept"
    for name, message in (("Plain", "no agent"), ("Absent", "no class 'Absent'"), ("Timid:ppp", "Did you mean ppo")):
        with pytest.raises(UserError, match=message):
            build(f"{own}:{name}", "CartPole-v1")


def test_a_run_of_an_own_wrapper_needs_its_code_to_be_named(own, tmp_path, capsys):
    from operant import agent

    run = tmp_path / "run"
    operant("train", f"{own}:Timid:a2c", "CartPole-v1", "--steps", 500, "--chunks", 1, "--scale", "0.1",
            "--agent.num-envs", 4, "--run-dir", run, "--quiet")  # fmt: skip
    saved = json.loads((run / "config.json").read_text())["agent"]
    assert (saved["class"], saved["scale"], saved["agent"]["num_envs"]) == ("timid", 0.1, 4)
    del agent._classes["timid"]
    operant("eval", run, "--episodes", 2, code=2)
    assert "--code" in capsys.readouterr().err
    operant("eval", run, "--episodes", 2, "--code", tmp_path / "nowhere.py", code=2)
    assert "nowhere.py" in capsys.readouterr().err
    operant("eval", run, "--episodes", 2, "--code", own, "--json")
    assert last_line(capsys)["episodes"] == 2


def test_lists(capsys):
    operant("methods", "--json")
    names = {m["name"] for m in last_line(capsys)["methods"]}
    assert {"ppo", "a2c", "reinforce", "rnd", "meta-gradient"} <= names
    operant("envs", "Breakout-Min*", "--json")
    assert [e["name"] for e in last_line(capsys)["environments"]] == ["Breakout-MinAtar"]
    operant("--help")
    assert "operant VERB" in capsys.readouterr().out


def test_a_method_tells_its_flags_without_an_environment(capsys):
    operant("train", "dqn", "--help")
    told = capsys.readouterr().out
    assert "operant train dqn ENV" in told and "--target-period" in told and "(now: max)" in told
    operant("train", "dqn", "CartPole-v1", "--help")
    assert "(now: double)" in capsys.readouterr().out  # the preset's


def test_listing_imports_nothing_heavy():
    words = [["--help"], ["methods"], ["envs", "minatar"], ["runs", "."]]
    for line in words:
        program = (
            "import sys; from operant.cli import main\n"
            f"try: main({line!r})\nexcept SystemExit: pass\n"
            "assert not {'jax', 'gymnax', 'envpool', 'flax'} & set(sys.modules), sorted(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


MISTAKES = {
    "unknown verb": (["trian"], "Did you mean train?"),
    "missing environment": (["train", "ppo"], "operant train ppo CartPole-v1"),
    "unknown method": (["train", "ppoo", "CartPole-v1"], "Did you mean ppo?"),
    "unknown environment": (["train", "ppo", "CartPoel-v1"], "CartPole-v1"),
    "no wrapper": (["train", "ppo:a2c", "CartPole-v1"], "no wrapper"),
    "actions that a method does not take": (["train", "td3", "CartPole-v1"], "discrete: choose one of"),
    "unknown flag": (["train", "ppo", "CartPole-v1", "--learning-rte", "1"], "--learning-rate"),
    "unknown flag of a part": (
        ["train", "ppo", "CartPole-v1", "--network.hiden", "8"],
        "operant: Unrecognized options: ",
    ),
    "not a number": (["train", "ppo", "CartPole-v1", "--gamma", "high"], "gamma"),
    "negative learning rate": (["train", "ppo", "CartPole-v1", "--learning-rate", "-1"], "at least 0"),
    "gamma above one": (["train", "ppo", "CartPole-v1", "--gamma", "1.5"], "from 0 to 1"),
    "nan": (["train", "ppo", "CartPole-v1", "--gamma", "nan"], "NaN"),
    "minibatches that do not divide": (["train", "ppo", "CartPole-v1", "--num-minibatches", "7"], "does not divide"),
    "no seeds": (["train", "ppo", "CartPole-v1", "--seeds", "0"], "at least 1"),
    "bad choice": (["train", "ppo", "CartPole-v1", "--network.recurrent", "rnn"], "recurrent"),
    "unknown torso": (["train", "ppo", "CartPole-v1", "--network.torso", "resnet"], "impala"),
    "a torso without images": (["train", "ppo", "CartPole-v1", "--network.torso", "nature"], "choose auto or mlp"),
    "a torso that is too large": (["train", "dqn", "Breakout-MinAtar", "--network.torso", "nips"], "such as minatar"),
    "a kind of part where there is one only": (["train", "ppo", "CartPole-v1", "--network", "impala"], "network.torso"),
    "an agent within that is named by a flag": (["train", "rnd", "CartPole-v1", "--agent", "dqn"], "rnd:ppo"),
    "bad sweep": (["train", "ppo", "CartPole-v1", "--sweep", "gamma"], "expected NAME="),
    "sweep of structure": (["train", "ppo", "CartPole-v1", "--sweep", "num_envs=4,8"], "structure"),
    "sweep out of range": (["train", "ppo", "CartPole-v1", "--sweep", "gamma=0.9,2"], "from 0 to 1"),
    "draws without a range": (["train", "ppo", "CartPole-v1", "--sweep-draws", "3"], "no range"),
    "a dial swept twice": (["train", "ppo", "CartPole-v1", "--sweep=gamma=0.9", "--sweep=gamma=0.99"], "given twice"),
    "too many devices": (["train", "ppo", "CartPole-v1", "--devices", "64", "--seeds", "64"], "--devices 64"),
    "a profile of two devices": (
        ["train", "ppo", "CartPole-v1", "--devices", "2", "--profile"],
        "expected --devices 1",
    ),
    "batches kept, environments divided": (
        ["train", "meta-gradient:a2c", "CartPole-v1", "--shard", "envs", "--devices", "1"],
        "--shard envs",
    ),
    "unknown device": (["train", "ppo", "CartPole-v1", "--device", "abacus"], "cpu, gpu or tpu"),
    "a device that is not there": (["train", "ppo", "CartPole-v1", "--device", "tpu"], "there is cpu"),
    "unknown environment option": (["train", "ppo", "CartPole-v1", "--env-options", "gravty=1"], "gravity"),
    "an environment option of another kind": (
        ["train", "ppo", "CartPole-v1", "--env-options", "sticky=often"],
        "expected a probability",
    ),
    "no config": (["train", "ppo", "CartPole-v1", "--config", "nowhere.json"], "nowhere.json"),
    "settings that are none": (["train", "ppo", "CartPole-v1", "--config", "none.json"], "settings is []"),
    "too many steps": (["train", "ppo", "CartPole-v1", "--steps", "3000000000"], "at most 2000000000"),
    "a seed too large": (["train", "ppo", "CartPole-v1", "--seed", "4294967295", "--seeds", "2"], "at most 4294967294"),
    "no run": (["eval", "nowhere"], "no run"),
    "no run to resume": (["resume", "nowhere"], "no run"),
    "no run to start from": (["train", "ppo", "CartPole-v1", "--init-from", "nowhere"], "no run"),
    "no episodes": (["eval", "nowhere", "--episodes", "0"], "at least 1"),
    "one run to compare": (["compare", "nowhere"], "two runs"),
    "no time to measure": (["bench", "--seconds", "nan"], "at least 0.1"),
    "no seeds to measure": (["bench", "--seeds", "0"], "at least 1"),
    "no user file": (["train", "nowhere.py:Mine", "CartPole-v1"], "nowhere.py"),
    "missing extra": (["train", "ppo", "CartPole-v1", "--wandb", "x"], "operant[wandb]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(mistake, tmp_path, monkeypatch, capsys):
    words, expected = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.json").write_text('{"agent": {"class": "ppo"}, "settings": []}')
    if mistake == "missing extra":
        monkeypatch.setitem(sys.modules, "wandb", None)
    operant(*words, *(["--quiet"] if words[0] == "train" and len(words) > 2 else []), code=2)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    (line,) = [line for line in captured.err.splitlines() if line.startswith("operant: ")]
    assert expected in line and len(line) < 600
    assert not list(tmp_path.glob("runs/*/*"))


def test_without_a_gpu_a_run_on_one_does_not_begin_on_another_device(tmp_path):
    """In a process of its own: the platform is chosen before JAX starts, and is not chosen again."""
    words = ["train", "ppo", "CartPole-v1", *TINY, "--quiet", "--device=gpu", "--run-dir", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    done = subprocess.run([sys.executable, "-m", "operant", *words], env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    if done.returncode == 0:  # there is one
        kind = json.loads((tmp_path / "run" / "config.json").read_text())["devices"]["kind"]
        assert "cpu" not in kind.lower()
        return
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("operant: ")]
    assert "--device gpu" in line and "there is cpu" in line and not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["resume", "eval", "watch"])
def test_a_run_is_taken_up_on_the_device_that_is_named(verb, trained, capsys):
    operant(verb, trained, "--device", "tpu", code=2)
    assert "--device tpu" in capsys.readouterr().err
    if verb == "eval":
        operant(verb, trained, "--device", "cpu", "--episodes", 1, "--json")
        assert last_line(capsys)["episodes"] == 1


@pytest.mark.parametrize("verb", ["resume", "eval", "watch"])
@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"agent": None}, "has no agent"),
        ({"devices": 3}, "devices is 3; expected an object"),
        ({"devices": {"number": 1}}, "devices has no mode"),
        ({"devices": {"mode": "single", "number": "1"}}, "number is '1'; expected a whole number"),
        ({"settings": {"steps": "many"}}, "steps is 'many'; expected a whole number"),
    ],
)
def test_a_configuration_that_is_wrong_is_told(verb, changes, expected, tmp_path, capsys):
    from operant import PPO, to_json

    devices = {"mode": "single", "number": 1}
    config = {"agent": to_json(PPO()), "env": "CartPole-v1", "settings": {}, "devices": devices, **changes}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    operant(verb, tmp_path, code=2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("operant: ")]
    assert expected in line


def test_an_existing_run_directory_is_not_touched(trained, capsys):
    before = sorted(p.name for p in trained.iterdir())
    operant("train", "ppo", "CartPole-v1", *TINY, "--run-dir", trained, "--quiet", code=2)
    assert "resume" in capsys.readouterr().err and sorted(p.name for p in trained.iterdir()) == before


def test_a_damaged_checkpoint_falls_back_loudly(trained, tmp_path, capsys):
    path = tmp_path / "run"
    shutil.copytree(trained, path)
    newest = sorted(p for p in (path / "checkpoints").iterdir() if p.name.isdigit())[-1]
    header = newest / "header.json"
    header.write_bytes(header.read_bytes().replace(b"params", b"parems", 1))
    operant("eval", path, "--episodes", 2)
    assert newest.name in capsys.readouterr().err


def rows_without_times(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "chunk_seconds")} for row in rows]


def checksums(path: Path) -> list[str]:
    newest = sorted(p for p in (path / "checkpoints").iterdir() if p.name.isdigit())[-1]
    text = (newest / "header.json").read_text()
    start = text.index('"leaves"')
    leaves = json.JSONDecoder().raw_decode(text[text.index("[", start) :])[0]
    return [leaf["sha256"] for leaf in leaves]


def test_kill_9_and_resume_end_with_the_same_bits(tmp_path):
    words = ["train", "ppo", "CartPole-v1", "--steps", "60000", "--num-envs", "4", "--seeds", "2", "--devices", "1",
             "--eval-episodes", "4", "--chunks", "30", "--checkpoint-seconds", "0", "--quiet"]  # fmt: skip
    environment = {**os.environ, "OPERANT_CACHE": str(tmp_path / "cache")}

    def start(path):
        return subprocess.Popen(
            [sys.executable, "-m", "operant", *words, "--run-dir", str(path)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    assert start(tmp_path / "whole").wait(timeout=300) == 0
    killed = start(tmp_path / "killed")
    folder = tmp_path / "killed" / "checkpoints"
    limit = time.monotonic() + 300
    while time.monotonic() < limit and not (folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())):
        time.sleep(0.01)
    time.sleep(0.5)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "summary.json").exists(), "the run ended before it could be killed"
    done = subprocess.run([sys.executable, "-m", "operant", "resume", str(tmp_path / "killed"), "--json", "--quiet"],
                          env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rows_without_times(tmp_path / "killed") == rows_without_times(tmp_path / "whole")
    assert checksums(tmp_path / "killed") == checksums(tmp_path / "whole")


def test_nan_freezes_the_lane_and_the_exit_code_says_so(tmp_path, capsys):
    operant("train", "ppo", "CartPole-v1", *TINY, "--sweep", "learning_rate=1e-3,1e38", "--max-grad-norm", "inf",
            "--run-dir", tmp_path / "run", "--json", "--quiet", code=3)  # fmt: skip
    result = last_line(capsys)
    assert len(result["frozen_lanes"]) == 1 and "lane 1: NaN or infinity in" in result["frozen_lanes"][0]
    from operant import load_run

    assert load_run(tmp_path / "run").steps >= 0  # what was kept is sound


def test_a_lane_that_freezes_on_the_second_device_is_told_too(tmp_path):
    words = ["train", "ppo", "CartPole-v1", *TINY, "--sweep", "learning_rate=1e-3,1e38", "--max-grad-norm", "inf",
             "--devices", "2", "--run-dir", str(tmp_path / "run"), "--json", "--quiet"]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "operant", *words], capture_output=True, text=True, check=False)
    if (os.cpu_count() or 1) < 2:
        assert done.returncode == 2 and "--devices 2" in done.stderr
        return
    assert done.returncode == 3, done.stderr
    (frozen,) = json.loads(done.stdout.splitlines()[-1])["frozen_lanes"]
    assert "lane 1: NaN or infinity in" in frozen


def test_every_name_of_the_package_is_found():
    import operant as op

    assert [name for name in dir(op) if not hasattr(op, name)] == []
