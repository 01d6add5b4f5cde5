"""A run's directory: made once, read with suspicion, listed without JAX."""

from __future__ import annotations

import datetime
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from operant.errors import UserError
from operant.run import directory as module
from operant.run import files, stop
from operant.run.directory import RunDirectory, default_path, list_runs, safe_name
from operant.run.machine import describe_machine

CONFIG = {
    "agent": {"class": "ppo", "gamma": 0.99},
    "env": "CartPole-v1",
    "settings": {"seeds": 2, "steps": 1000},
    "machine": {"date": "2026-01-02T03:04:05+00:00"},
}


def write_rows(path, *rows):
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


# -------------------------------------------------------------------------------------------------------------- files
def test_json_keeps_what_json_cannot_hold(tmp_path):
    data = {"a": [1.5, math.nan, math.inf, {"b": -math.inf}], "float": "nan", "c": {"float": "no number"}}
    files.write_json(tmp_path / "x.json", data)
    json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert str(files.read_json(tmp_path / "x.json")) == str(data)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[1]", "no JSON object"),
        (b'{"a": NaN}', "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b'{"a":' * 50_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (None, "expected at most"),
        ("link", "symbolic link"),
        ("pipe", "no regular file"),
        ("directory", "no regular file"),
    ],
)
def test_hostile_files_are_refused(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is None:
        with open(path, "wb") as file:
            file.truncate(1 << 40)
    elif content == "link":
        path.symlink_to("/etc/hostname")
    elif content == "pipe":
        os.mkfifo(path)
    elif content == "directory":
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        RunDirectory.open(tmp_path)
    (run,) = list_runs(tmp_path)
    assert run["status"] == "broken" and run["problem"]


def test_a_disk_that_refuses_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_json(tmp_path / "x.json", {"a": 1})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="x.json could not be written: No space left"):
        files.write_json(tmp_path / "x.json", {"a": 2})
    assert files.read_json(tmp_path / "x.json") == {"a": 1} and len(list(tmp_path.iterdir())) == 1


# ---------------------------------------------------------------------------------------------------------- directory
def test_create_open_finish(tmp_path):
    path = tmp_path / "runs" / "one"
    directory = RunDirectory.create(path, CONFIG)
    assert directory.status == "running"
    opened = RunDirectory.open(path)
    assert opened.config == CONFIG and opened.path == path
    assert opened.checkpoints == path / "checkpoints" and opened.figures == path / "figures"
    assert opened.films == path / "films" and opened.summary is None and list(opened.metrics()) == []
    write_rows(path, {"update": 1, "loss": ["NaN", 2.0]})
    assert str(list(opened.metrics())) == "[{'update': 1, 'loss': [nan, 2.0]}]"
    directory.finish({"steps": 10, "return_mean": math.nan, "interrupted": False})
    assert opened.status == "finished" and math.isnan(opened.summary["return_mean"])
    directory.finish({"interrupted": True})
    assert opened.status == "interrupted"
    directory.set_status("failed", "all lanes are frozen")
    assert opened.status == "failed"
    with pytest.raises(ValueError, match="expected one of running"):
        directory.set_status("done")


def test_never_over_another(tmp_path):
    RunDirectory.create(tmp_path / "run", CONFIG)
    with pytest.raises(UserError, match="choose another --run-dir, or go on with: operant resume"):
        RunDirectory.create(tmp_path / "run", {"other": 1})
    assert RunDirectory.open(tmp_path / "run").config == CONFIG
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"")
    with pytest.raises(UserError, match="is not empty: choose another --run-dir"):
        RunDirectory.create(tmp_path / "photos", CONFIG)
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="not a directory"):
            RunDirectory.create(path, CONFIG)
    (tmp_path / "empty").mkdir()
    assert RunDirectory.create(tmp_path / "empty", CONFIG).config == CONFIG


def test_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="there is no run at"):
        RunDirectory.open(tmp_path / "absent")
    with pytest.raises(UserError, match="no config.json"):
        RunDirectory.open(tmp_path)


def test_a_run_whose_process_is_gone_has_failed(tmp_path, monkeypatch):
    directory = RunDirectory.create(tmp_path / "run", CONFIG)
    status = files.read_json(directory.path / "status.json")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    files.write_json(directory.path / "status.json", status | {"pid": gone.pid})
    assert directory.status == "failed"
    # the number lives again, as another process
    files.write_json(directory.path / "status.json", status | {"process_started": 1})
    assert directory.status == "failed"
    elsewhere = status | {"host": "elsewhere", "pid": gone.pid}
    files.write_json(directory.path / "status.json", elsewhere)
    assert directory.status == "running"
    files.write_json(directory.path / "status.json", elsewhere | {"heartbeat": time.time() - 3600})
    assert directory.status == "failed"
    write_rows(directory.path, {"update": 1})
    assert directory.status == "running"


def test_beat_writes_now_and_then(tmp_path, monkeypatch):
    directory = RunDirectory.create(tmp_path / "run", CONFIG)
    first = files.read_json(tmp_path / "run" / "status.json")["heartbeat"]
    directory.beat()
    assert files.read_json(tmp_path / "run" / "status.json")["heartbeat"] == first
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.0)
    directory.beat()
    assert files.read_json(tmp_path / "run" / "status.json")["heartbeat"] > first


def test_names_fit_every_file_system():
    path = default_path("rnd:ppo", "ALE/Pong-v5", 3)
    assert path.parts[:2] == ("runs", "ALE-Pong-v5") and path.name.startswith("rnd-ppo-s3-")
    assert default_path("ppo", "x") != default_path("ppo", "x")
    for text in ("../../etc", "..", "", "/", "con", "a" * 500, "é:*?\n\0", "-rf", ".hidden", "LPT1.txt"):
        name = safe_name(text)
        assert 0 < len(name) <= 81 and name[0] not in ".-" and not set(name) & set('/\\:*?"<>|\n\0')
        assert name.lower() not in ("con", "lpt1.txt", ".", "..")


# ------------------------------------------------------------------------------------------------------------- listing
def test_runs_are_listed_with_what_is_known(tmp_path):
    done = RunDirectory.create(tmp_path / "CartPole-v1" / "a", CONFIG)
    done.finish({"steps": 1000, "return_mean": 499.5, "seconds": 3.5})
    going = RunDirectory.create(tmp_path / "CartPole-v1" / "b", CONFIG | {"machine": {"date": "2027-01-01"}})
    write_rows(
        going.path,
        {"update": 1, "steps": [64, 60], "seconds": 1.0, "train_return": [1.0, "NaN"]},
        {"update": 1, "steps": [64, 60], "seconds": 1.0, "eval_return": [20.0, 30.0, "NaN"]},
        {"update": 2, "steps": [128, 120], "seconds": 2.0, "train_return": [1.0, "NaN"]},
    )
    with open(going.path / "metrics.jsonl", "a") as file:
        file.write('{"update": 3, "st')
    first, second = list_runs(tmp_path)
    assert first == {
        "run": str(done.path), "status": "finished", "method": "ppo", "env": "CartPole-v1", "seeds": 2, "steps": 1000,
        "return_mean": 499.5, "seconds": 3.5, "date": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    assert (second["status"], second["steps"], second["return_mean"]) == ("running", 120, 25.0)
    assert list_runs(done.path) == [first] and list_runs(tmp_path / "absent") == []


def test_broken_runs_are_listed_as_such(tmp_path):
    RunDirectory.create(tmp_path / "sound", CONFIG)
    broken = {
        "no config": lambda p: (p / "checkpoints").mkdir(),
        "status a list": lambda p: (files.write_json(p / "config.json", CONFIG), (p / "status.json").write_text("[]")),
        "status unknown": lambda p: [files.write_json(p / f, {"status": "\x1b[2J"}) for f in
                                     ("config.json", "status.json")],
        "summary cut": lambda p: (RunDirectory.create(p, CONFIG).finish({}), (p / "summary.json").write_text("{")),
    }  # fmt: skip
    for name, make in broken.items():
        (tmp_path / name).mkdir()
        make(tmp_path / name)
    (tmp_path / "loop").symlink_to(tmp_path)
    found = {run["run"].rpartition("/")[2]: run for run in list_runs(tmp_path)}
    assert set(found) == {"sound", *broken}
    assert found["sound"]["status"] == "running"
    for name in broken:
        assert found[name]["status"] == "broken" and found[name]["problem"].isprintable(), name


def test_what_a_listing_shows_is_clean(tmp_path):
    hostile = {"agent": {"class": "\x1b[31mppo" + "x" * 9999}, "env": ["x"], "settings": 3, "machine": {"date": 5}}
    path = tmp_path / "run"
    RunDirectory.create(path, hostile).finish({"steps": "1; rm", "return_mean": {"float": "nan"}, "seconds": 10**400})
    (run,) = list_runs(tmp_path)
    assert run["method"].startswith("?[31mppo") and len(run["method"]) < 310
    assert [run[k] for k in ("env", "seeds", "steps", "return_mean", "seconds", "date")] == [None] * 6
    (path / "summary.json").unlink()
    (path / "status.json").unlink()
    (path / "metrics.jsonl").write_bytes(b"\xff\n{}\n[1]\n" + b'{"update": 1, "steps": {"a": 1}}\n' + b"[" * 70_000)
    assert list_runs(tmp_path)[0]["status"] == "failed"
    (path / "metrics.jsonl").unlink()
    os.mkfifo(path / "metrics.jsonl")
    assert list_runs(tmp_path)[0]["steps"] is None


def test_listing_needs_neither_jax_nor_numpy(tmp_path):
    for i in range(3):
        RunDirectory.create(tmp_path / "env" / str(i), CONFIG)
    script = f"""
import sys
from operant.run.directory import list_runs
assert len(list_runs({str(tmp_path)!r})) == 3
heavy = {{"jax", "numpy", "flax", "orbax", "tensorboardX", "subprocess"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# ------------------------------------------------------------------------------------------------------------- machine
def test_machine_is_described(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = describe_machine()
    assert found["git"] is None
    assert datetime.datetime.fromisoformat(found["date"]).utcoffset() == datetime.timedelta(0)
    assert found["cores"] == os.cpu_count() and found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"operant", "jax", "jaxlib", "numpy"} <= set(found["packages"]) and found["memory_bytes"] > 0
    json.dumps(found)

    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@x", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *identity, *arguments], check=True, cwd=tmp_path, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    clean = describe_machine()["git"]
    assert len(clean["commit"]) == 40 and clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert describe_machine()["git"] == clean | {"dirty": True}
    monkeypatch.setenv("PATH", "")
    assert describe_machine()["git"] is None


# ------------------------------------------------------------------------------------------------------------ deadline
HANGING = """
import sys, time
from pathlib import Path
from operant.run.stop import deadline
with deadline(float(sys.argv[1]), Path("some/run")):
    print("begun", flush=True)
    time.sleep(float(sys.argv[2]))
print("done")
"""


def test_a_chunk_that_takes_too_long_ends_the_process_and_says_how_to_go_on():
    done = subprocess.run([sys.executable, "-c", HANGING, "0.3", "60"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 4 and "done" not in done.stdout
    assert "operant resume" in done.stderr and "some" in done.stderr


LONG_CHUNK = """
import time
from pathlib import Path
import jax
from operant.run import stop
from operant.run.stop import interrupts
stop.own_process()
chunk = jax.jit(lambda n: jax.lax.fori_loop(0, n, lambda i, x: x * 1.0001 % 7.0, 1.0)).lower(1).compile()
with interrupts(Path("some/run")) as interrupted:
    print("begun", flush=True)
    chunk(2_000_000_000).block_until_ready()
    print("chunk over", interrupted.is_set(), flush=True)
"""


def test_a_second_interrupt_ends_the_process_within_compiled_code():
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_CHUNK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "begun\n"
    for _ in range(2):
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
    told, warned = process.communicate(timeout=60)
    assert process.returncode == 130 and "chunk over" not in told
    assert "operant resume some" in warned.replace("\n", " ")


ONE_INTERRUPT = """
import os, signal, time
from pathlib import Path
from operant.run import stop
stop.own_process()
stop.GRACE = 0.1
with stop.interrupts(Path("some/run")) as interrupted:
    if (child := os.fork()) == 0:  # its interrupts are its own
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.5)
        signal.raise_signal(signal.SIGINT)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), interrupted.is_set())
    for _ in range(2):  # the same, passed on
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
    time.sleep(0.5)
print("saved", interrupted.is_set())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_is_one_interrupt_to_this_process_is_not_counted_as_two():
    done = subprocess.run([sys.executable, "-c", ONE_INTERRUPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.split() == ["130", "False", "saved", "True"], done.stderr


@pytest.mark.parametrize("own", [True, False])
def test_an_interrupt_is_heard_and_what_was_there_before_comes_back(tmp_path, own: bool, monkeypatch):
    """The first is only told of; the second ends a command of ours, and is an exception elsewhere."""
    monkeypatch.setattr(stop, "_own_process", own)
    monkeypatch.setattr(stop, "_end", lambda path: sys.exit(f"ended {path.name}"))
    before = signal.getsignal(signal.SIGINT)
    with stop.interrupts(tmp_path) as interrupted:
        signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
    with pytest.raises(SystemExit if own else KeyboardInterrupt), stop.interrupts(tmp_path):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(2 * stop.REPEAT)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before and signal.set_wakeup_fd(-1) == -1
    assert not [thread for thread in threading.enumerate() if thread.name == "operant-interrupts"]


def test_a_process_that_works_has_longer_than_one_that_waits(monkeypatch):
    ended: list[int] = []
    monkeypatch.setattr(stop.os, "_exit", ended.append)
    monkeypatch.setattr(stop, "_cpu_seconds", time.perf_counter)  # works all the while
    with stop.deadline(0.3, Path("some/run")):
        time.sleep(1.0)
    assert ended == []
    with stop.deadline(0.1, Path("some/run")):
        time.sleep(2.0)
    assert ended == [4]


def test_time_in_which_the_process_is_stopped_does_not_count(monkeypatch):
    """A stop makes the wait in which it falls longer, however short it was to be; it is one tick all the same."""

    class Stopped(threading.Event):
        def wait(self, timeout=None):
            return super().wait() if timeout is None else super().wait(1.0)

    ended: list[int] = []
    monkeypatch.setattr(stop.os, "_exit", ended.append)
    monkeypatch.setattr(stop.threading, "Event", Stopped)
    with stop.deadline(0.4, Path("some/run")):
        time.sleep(2.5)
    assert ended == []
