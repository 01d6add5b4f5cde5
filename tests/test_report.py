"""What the verbs print and draw, from runs that are made up: the functions are called, nothing is trained."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest

from operant.errors import UserError
from operant.run import figures, files, report
from operant.run.directory import RunDirectory
from operant.run.settings import Settings

CURVE = [{"steps": 10 * i, "return_mean": 2.0 * i, "return_ci": [i, 3 * i], "ci_over": "seeds"} for i in (1, 2)]


def swept(*returns: list[float]) -> SimpleNamespace:
    """A run of two settings with two seeds each, and the returns of its evaluations."""
    lanes = [{"gamma": gamma, "seed": seed} for gamma in (0.9, 0.99) for seed in (0, 1)]
    return SimpleNamespace(
        lanes=lanes, settings=SimpleNamespace(seeds=2), evaluations=[{"returns": each} for each in returns]
    )


def test_the_settings_of_a_sweep_are_told_best_first_and_also_before_an_evaluation():
    first, second = report.settings_table(swept([1.0, 2.0, 5.0, 6.0]))
    assert first.startswith("gamma=0.99: 5.5  (95 % ") and second.startswith("gamma=0.9: 1.5")
    assert report.settings_table(swept()) == ["gamma=0.9: not evaluated", "gamma=0.99: not evaluated"]


# ------------------------------------------------------------------------------------------------------------ figures
@pytest.mark.parametrize("name, expected", [("x.txt", "expected one of .*png"), ("file/x.png", "could not be written")])
def test_a_picture_that_cannot_be_written_is_the_user_s_mistake(tmp_path, name, expected):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=expected):
        figures.draw_curves([("ppo", CURVE)], tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_picture_is_written_as_its_name_says(tmp_path):
    for name, start in (("a.svg", b"<?xml"), ("b.PNG", b"\x89PNG"), ("c", b"\x89PNG")):
        path = figures.draw_curves([("ppo", CURVE)], tmp_path / name)
        assert path is not None and path.read_bytes().startswith(start) and path.suffix


def test_the_end_of_a_run_is_told_where_its_picture_cannot_be_drawn(tmp_path, monkeypatch, capsys):
    def full(path, data):
        raise UserError(f"{path} could not be written: No space left on device")

    directory = RunDirectory.create(tmp_path / "run", {"env": "CartPole-v1"})
    monkeypatch.setattr(files, "write", full)
    run = SimpleNamespace(agent=SimpleNamespace(registered_name="ppo"), evaluations=CURVE, directory=directory,
                          summary=lambda: {"steps": 20, "return_mean": 4.0})  # fmt: skip
    report.finish_run(run, json_line=True)
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["steps"] == 20
    assert "curve.png could not be written: No space left" in told.err


# ----------------------------------------------------------------------------------------------------------- settings
@pytest.mark.parametrize(
    "name, value",
    [("steps", "many"), ("steps", 1.5), ("seeds", True), ("sweep", "gamma=1"), ("sweep", [1]), ("env_options", []),
     ("eval_stochastic", 1), ("stop_at_return", "high"), ("deadline", None), ("shard", 3)],
)  # fmt: skip
def test_settings_of_another_type_are_named(name, value):
    with pytest.raises(UserError, match=f"{name} is .*; expected (a|true)"):
        Settings.from_json({name: value})


def test_settings_come_back_as_they_were():
    settings = Settings(steps=5, sweep=("gamma=0.9,0.99",), env_options={"gravity": 1}, deadline=math.inf)
    assert Settings.from_json(files.from_text(files.to_text(settings.to_json()))) == settings
    assert Settings.from_json({}) == Settings()
    with pytest.raises(UserError, match="expected an object"):
        Settings.from_json([])


@pytest.mark.parametrize(
    "beyond", [{"steps": 2**31}, {"seed": 2**32}, {"seed": 2**32 - 2, "seeds": 3}, {"sweep_draws": 3}]
)
def test_what_would_wrap_or_be_ignored_is_refused(beyond):
    Settings(seed=2**32 - 2, seeds=2, steps=2_000_000_000).check()
    with pytest.raises(UserError, match=f"--{next(iter(beyond)).replace('_', '-')} is"):
        Settings(**beyond).check()


# ---------------------------------------------------------------------------------------------------------- comparing
def recorded(path, *returns: list[float], summary: dict | None = None) -> RunDirectory:
    """A run's directory with evaluations (one return per seed), and with how it ended."""
    settings = {"seeds": len(returns[0]) if returns else 1}
    directory = RunDirectory.create(path, {"agent": {"class": "ppo"}, "env": "CartPole-v1", "settings": settings})
    rows = [
        {"update": i, "steps": [10 * i] * len(means), "seconds": i, "eval_return": means}
        for i, means in enumerate(returns, 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if summary is not None:
        directory.finish(summary)
    return directory


def test_the_interval_of_one_seed_is_that_of_its_last_evaluation(tmp_path, capsys):
    end = {"return_mean": 4.0, "return_ci": [3.0, 5.0], "ci_over": "episodes"}
    recorded(tmp_path / "one", [2.0], [4.0], summary=end)
    recorded(tmp_path / "goes-on", [4.0], [6.0], summary=end)  # further than its summary
    recorded(tmp_path / "odd", [4.0], summary={**end, "return_ci": ["3", None]})
    recorded(tmp_path / "two", [2.0, 4.0])
    paths = [tmp_path / name for name in ("one", "goes-on", "odd", "two")]
    report.compare_runs(paths, tmp_path / "x.png", json_line=True)
    one, goes_on, odd, two = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert (one["return_ci"], one["ci_over"], one["seeds"]) == ([3.0, 5.0], "episodes", 1)
    assert goes_on["return_ci"] == odd["return_ci"] == [None, None] and goes_on["ci_over"] == "episodes"
    assert two["return_ci"][0] < 3.0 < two["return_ci"][1] and two["ci_over"] == "seeds"
    report.compare_runs(paths, tmp_path / "x.png", json_line=False)
    told = {line.split()[0].rpartition("/")[2]: line for line in capsys.readouterr().out.splitlines() if "ppo" in line}
    assert "3.0 to 5.0 over episodes" in told["one"] and "over seeds" in told["two"]
    assert "no interval" in told["goes-on"] and "no interval" in told["odd"]


def test_a_legend_names_an_interval_only_where_one_is_drawn(monkeypatch, tmp_path):
    titles = []

    def saved(figure, path):
        titles.append(figure.axes[0].get_legend().get_title().get_text())
        figures._pyplot().close(figure)

    monkeypatch.setattr(figures, "_save", saved)
    point = {**CURVE[0], "return_ci": [math.nan, math.nan], "ci_over": "episodes"}
    for curves in ([("a", CURVE), ("b", [point])], [("b", [point])]):
        figures.draw_curves(curves, tmp_path / "x.png")
    assert titles == ["mean, 95 % interval over seeds", "mean"]


# ------------------------------------------------------------------------------------------------------------ listing
def test_a_listing_tells_why_a_run_failed_and_has_a_dash_for_what_is_not_known(tmp_path, capsys):
    from operant.run.directory import list_runs

    tmp_path /= "deep/" * 40  # however long the path is, the reason is told
    tmp_path.mkdir(parents=True)
    recorded(tmp_path / "good", [4.0], summary={"steps": 10, "return_mean": 4.0})
    recorded(tmp_path / "bad").set_status("failed", "ValueError: [red]lane 1[/x]\nNaN " + "very " * 100 + "long")
    recorded(tmp_path / "gone").set_status("running")
    status = json.loads((tmp_path / "gone" / "status.json").read_text())
    (tmp_path / "gone" / "status.json").write_text(json.dumps({**status, "pid": 0}))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("[")
    report.print_runs(list_runs(tmp_path), str(tmp_path), json_line=False)
    told = capsys.readouterr().out
    lines = {line.split()[0].rpartition("/")[2]: line for line in told.splitlines()}
    assert "None" not in told and "is not JSON" in lines["broken"] and lines["broken"].split()[1] == "-"
    assert "ValueError: [red]lane 1[/x] NaN very" in lines["bad"] and "long" not in lines["bad"]
    assert "its process is gone" in lines["gone"] and lines["good"].split()[-1] == "4.0"
