"""Metrics: exact in metrics.jsonl, the same in its views, and no gap or double line after a resume."""

from __future__ import annotations

import json
import math
import os
import sys
import types

import numpy as np
import pytest

from operant.errors import MissingExtra, UserError
from operant.run import files
from operant.run.writers import Metrics, read_metrics, row_from_text, row_to_text


def row(update: int, **more):
    return {"update": update, "steps": [64 * update, 64 * update], "seconds": 0.1 * update, "loss": [0.5, 1.5], **more}


def updates(path) -> list[int]:
    return [r["update"] for r in read_metrics(path / "metrics.jsonl")]


def board(path) -> list[tuple[str, int, float]]:
    """What TensorBoard shows: what a later file purges is gone."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    shown: list[tuple[str, int, float]] = []
    for file in sorted((path / "tensorboard").iterdir(), key=lambda f: f.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            if event.session_log.status == SessionLog.START:
                shown = [s for s in shown if s[1] < event.step]
            shown += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return shown


# --------------------------------------------------------------------------------------------------------------- rows
def test_rows_come_back_as_they_were(tmp_path):
    rows = [
        {"update": 1, "steps": [1, 2], "seconds": 0.1, "loss": [math.nan, math.inf, -math.inf, 1e-300], "lr": 3e-4},
        {"update": 2, "steps": 7, "seconds": 2, "big": 2**60, "eval_return": []},
    ]
    with Metrics(tmp_path, tensorboard=False) as metrics:
        for r in rows:
            metrics.write(r)
        metrics.sync()
    assert str(list(read_metrics(tmp_path / "metrics.jsonl"))) == str(rows)
    first = (tmp_path / "metrics.jsonl").read_text().splitlines()[0]
    standard = json.loads(first, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert standard["loss"] == ["NaN", "Infinity", "-Infinity", 1e-300]


def test_numpy_in_numbers_out():
    text = row_to_text({"update": np.int64(3).item(), "a": np.float32(0.1), "b": np.array([1.0, np.nan]), "c": (1, 2)})
    assert str(row_from_text(text)) == str(
        {"update": 3, "a": float(np.float32(0.1)), "b": [1.0, math.nan], "c": [1, 2]}
    )


@pytest.mark.parametrize("bad", [{"loss": 1}, {"update": 1.5}, {"update": 1, "x": "a"}, {"update": 1, "x": [[1]]}])
def test_rows_that_are_none_are_refused_before_anything_is_written(tmp_path, bad):
    with Metrics(tmp_path, tensorboard=False) as metrics, pytest.raises(ValueError):
        metrics.write(bad)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    "line",
    [b"{}", b"[]", b"\xff", b'{"update": 1, "x": NaN}', b'{"update": 1, "x": "rm"}', b"[" * 90_000, b'{"update": "1"}'],
)
def test_damaged_lines_are_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(row_to_text(row(1)).encode() + b"\n" + line + b"\n")
    with pytest.raises(UserError, match="line 2, is no row of metrics"):
        list(read_metrics(tmp_path / "metrics.jsonl"))


def test_endless_lines_and_links_are_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(UserError, match="line 1, is longer than"):
        list(read_metrics(path))
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="no regular file"):
        list(read_metrics(path))
    assert list(read_metrics(tmp_path / "absent")) == []


def test_a_second_writer_is_refused(tmp_path):
    Metrics(tmp_path, tensorboard=False).close()
    with pytest.raises(UserError, match="operant resume"):
        Metrics(tmp_path, tensorboard=False)


# -------------------------------------------------------------------------------------------------------------- resume
@pytest.mark.parametrize("half_line", [b"", b'{"update":3,"lo', b'{"update":2,"x":1}'])
def test_resume_leaves_neither_gap_nor_double(tmp_path, half_line):
    with Metrics(tmp_path) as metrics:
        for i in (1, 2, 2, 3, 4):
            metrics.write(row(i))
    kept = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)[:3]
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(half_line)
    with Metrics.resume(tmp_path, 2) as metrics:
        assert (tmp_path / "metrics.jsonl").read_bytes() == b"".join(kept)
        metrics.write(row(3))
        metrics.write(row(4))
    assert updates(tmp_path) == [1, 2, 2, 3, 4]
    assert [step for tag, step, _ in board(tmp_path) if tag == "loss"] == [64, 128, 128, 192, 256]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]


def test_resume_from_nothing_and_in_the_middle_of_nothing(tmp_path):
    Metrics.resume(tmp_path, 5, tensorboard=False).close()
    assert updates(tmp_path) == []
    with Metrics.resume(tmp_path, 0) as metrics:
        metrics.write(row(1))
    with Metrics.resume(tmp_path, 0) as metrics:
        metrics.write(row(1))
    assert updates(tmp_path) == [1] and [s for s in board(tmp_path) if s[0] == "loss"] == [("loss", 64, 1.0)]


def test_resume_that_fails_changes_nothing(tmp_path, monkeypatch):
    import os

    with Metrics(tmp_path, tensorboard=False) as metrics:
        for i in (1, 2, 3):
            metrics.write(row(i))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        Metrics.resume(tmp_path, 1, tensorboard=False)
    assert updates(tmp_path) == [1, 2, 3] and len(list(tmp_path.iterdir())) == 1


# --------------------------------------------------------------------------------------------------------------- views
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full is there on Linux only")
def test_a_full_disk_is_told_once_and_by_name(tmp_path):
    with (
        pytest.raises(UserError, match=r"metrics\.jsonl could not be written: No space left"),
        Metrics(tmp_path) as full,
    ):
        full._file.close()
        full._file = open("/dev/full", "ab")
        full.write(row(1))
    assert full._file.closed and full._board is None
    (tmp_path / "other").mkdir()
    full = Metrics(tmp_path / "other", tensorboard=False)
    full._file.close()
    full._file = open("/dev/full", "ab")
    full._file.write(b"not flushed yet")
    with pytest.raises(UserError, match="No space left"):
        full.close()
    assert full._file.closed


def test_tensorboard_gets_means_and_few_lanes(tmp_path):
    with Metrics(tmp_path) as metrics:
        metrics.write({"update": 1, "steps": [20, 10], "seconds": 1.0, "loss": [1.0, 4.0], "lr": 0.5})
        metrics.write({"update": 2, "steps": [30, 30], "seconds": 1.0, "loss": [math.nan, 4.0], "gone": [math.nan]})
        metrics.write({"update": 3, "steps": 40, "seconds": 1.0, "many": [1.0] * 17, "one": [2.0]})
    assert sorted(board(tmp_path)) == [
        ("loss", 10, 2.5), ("loss", 30, 4.0), ("loss/lane_0", 10, 1.0), ("loss/lane_1", 10, 4.0),
        ("loss/lane_1", 30, 4.0), ("lr", 10, 0.5), ("many", 40, 1.0), ("one", 40, 2.0),
    ]  # fmt: skip


def test_wandb_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match=r"pip install 'operant\[wandb\]'"):
        Metrics(tmp_path, wandb="project")
    assert list(tmp_path.iterdir()) == []


def test_wandb_that_does_not_start_says_why(tmp_path, monkeypatch):
    def init(**options):
        raise ValueError("No API key configured.")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init, Error=ValueError))
    with pytest.raises(UserError, match=r"No API key configured. .*WANDB_MODE=offline"):
        Metrics(tmp_path, wandb="project", tensorboard=False)


def test_wandb_gets_the_rows_and_the_same_run_again(tmp_path, monkeypatch):
    started, logged = [], []
    fake = types.SimpleNamespace(
        init=lambda **options: (
            started.append(options)
            or types.SimpleNamespace(log=lambda data, step: logged.append((step, data)), finish=lambda: None)
        )
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    files.write_json(tmp_path / "config.json", {"agent": {"class": "ppo", "value_clip": float("inf")}})
    with Metrics(tmp_path, wandb="project", tensorboard=False) as metrics:
        metrics.write(row(1))
    with Metrics.resume(tmp_path, 1, wandb="project", tensorboard=False) as metrics:
        metrics.write(row(2))
    assert [s["project"] for s in started] == ["project"] * 2 and started[0]["id"] == started[1]["id"]
    assert started[1]["resume"] == "allow" and started[0]["config"]["agent"]["value_clip"] == float("inf")
    assert logged[1] == (2, {"steps": 128, "loss": 1.0, "loss/lane_0": 0.5, "loss/lane_1": 1.5})
