"""The web atlas: pages, who may ask, what no file may do, how much is read, an agent that is watched.

python tests/test_web.py ROOT RUNS POINTS     makes so many runs of so many points, to be looked at by hand
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import numpy as np
import pytest
from starlette.testclient import TestClient

from operant.claims import claims
from operant.papers import corpus, names
from operant.scores import mean_intervals
from operant.web import curves as curves_module
from operant.web.curves import BUCKETS, Curves, Series
from operant.web.guard import Guard
from operant.web.runs import Runs, identity, open_below
from operant.web.site import Site

HOSTILE = "<img src=x onerror=alert(1)>"
HOME = "http://127.0.0.1:8123"


# ----------------------------------------------------------------------------------------------------------- generators
def row(update: int, lanes: int = 2, **metrics: float) -> str:
    """A line of metrics.jsonl; every lane has a number of its own."""
    spread = {name: [x + 0.5 * lane for lane in range(lanes)] for name, x in metrics.items()}
    return json.dumps({"update": update, "steps": [100 * update] * lanes, "seconds": 0.1 * update, **spread})


def make_run(
    path: Path, points: int = 20, *, lanes: int = 2, status: str = "finished", method: str = "ppo",
    env: str = "CartPole-v1", settings: dict | None = None, date: str = "2026-01-01T00:00:00",
) -> Path:  # fmt: skip
    """A run as `operant train` leaves it, but for its checkpoints."""
    path.mkdir(parents=True)
    agent = {"class": method, "fields": {"gamma": 0.99}}
    settings = {"seeds": lanes, "steps": 100 * points, **(settings or {})}
    machine = {"date": date, "cpu": "a processor"}
    config = {"agent": agent, "env": env, "settings": settings, "machine": machine}
    (path / "config.json").write_text(json.dumps(config))
    beat = {"status": status, "pid": os.getpid(), "host": socket.gethostname(), "heartbeat": time.time()}
    (path / "status.json").write_text(json.dumps(beat))
    if status == "finished":
        end = {"steps": 100 * points, "seconds": 0.1 * points, "return_mean": 42.5, "return_ci": [40.0, 45.0]}
        (path / "summary.json").write_text(json.dumps(end))
    with open(path / "metrics.jsonl", "w") as file:
        for i in range(1, points + 1):
            file.write(row(i, lanes, train_return=10 + 90 * (1 - 0.999**i) + 5 * np.sin(i), loss=1 / i) + "\n")
            if i % max(points // 10, 1) == 0:
                file.write(row(i, lanes, eval_return=100 * i / points) + "\n")
    return path


def generate(root: Path, runs: int, points: int) -> None:
    """Many long runs: the first is written, and copied."""
    first = make_run(root / "env-0" / "run-0", points)
    for i in range(1, runs):
        copy = root / f"env-{i % 10}" / f"run-{i}"
        copy.mkdir(parents=True)
        for name in ("config.json", "status.json", "summary.json", "metrics.jsonl"):
            (copy / name).write_bytes((first / name).read_bytes())


def make_result(root: Path, slug: str = "dqn", scale: str = "laptop", **changes) -> Path:
    """A result as `operant reproduce` writes it."""
    arms = [
        {"env": "Breakout-MinAtar", "arm": name, "method": "dqn", "changes": {}, "tuned": {"learning_rate": 1e-3},
         "steps": 5000, "scores": [base + i for i in range(8)], "seeds": list(range(8)), "frozen": [], "seconds": 61.0,
         "curve": [{"steps": 1000 * t, "returns": [base * t / 5 + i for i in range(8)]} for t in range(1, 6)]}
        for name, base in (("replay and target", 20.0), ("neither", 5.0))
    ]  # fmt: skip
    test = {"env": "Breakout-MinAtar", "better": "replay and target", "worse": "neither", "margin": 0.1,
            "needed": True, "difference": 15.0, "interval": [12.0, 18.0], "probability": 1.0,
            "probability_interval": [1.0, 1.0], "holds": True}  # fmt: skip
    result = {"slug": slug, "scale": scale, "claim": "a claim", "metric": "a measure", "verdict": "reproduced",
              "comparisons": [test], "arms": arms, "seconds": 122.0,
              "machine": {"date": "2026-02-03T00:00:00", "cpu": "a processor", "cores": 2}, **changes}  # fmt: skip
    path = root / slug / f"{scale}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path


def make_learning(root: Path, name: str, method: str, env: str, flags: str = "", seeds: int = 3, **changes) -> Path:
    """A learning run as `results/learn.py` writes it."""
    returns = [[100.0 * t + 10 * i for i in range(seeds)] for t in range(1, 6)]
    low, high = mean_intervals(returns[-1])[1:] if seeds > 1 else [{"float": "nan"}] * 2
    summary = {"steps": 5000, "seeds": seeds, "return_mean": float(np.mean(returns[-1])), "return_ci": [low, high],
               "ci_over": "seeds", "seconds": 240.0}  # fmt: skip
    evaluations = [{"steps": [1000 * t + i for i in range(seeds)], "returns": r} for t, r in enumerate(returns, 1)]
    result = {
        "name": name, "command": f"operant train {method} {env} --steps 5000 --seeds {seeds} --seed 1000 {flags}",
        "goal": 450, "summary": summary, "agent": {"class": method, "gamma": 0.99, "limit": {"float": "inf"}},
        "machine": {"date": "2026-02-03T00:00:00", "cpu": "a processor", "cores": 2},
        "evaluations": evaluations, **changes,
    }  # fmt: skip
    path = root / "learning" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
    return path


@pytest.fixture
def place(tmp_path) -> Path:
    """Runs and results, some of which mean harm."""
    make_run(tmp_path / "runs" / "CartPole-v1" / "first", date="2026-01-02T00:00:00")
    make_run(tmp_path / "runs" / "CartPole-v1" / "second", lanes=4, method="a2c",
             settings={"seeds": 2, "sweep": ["gamma=0.9,0.99"]})  # fmt: skip
    bad = make_run(tmp_path / "runs" / HOSTILE, method=HOSTILE, env=HOSTILE, settings={HOSTILE: HOSTILE, "seeds": 2})
    (bad / "films").mkdir()
    (bad / "films" / f"{HOSTILE}.mp4").write_bytes(bytes(range(256)) * 8)
    make_result(tmp_path / "results")
    make_learning(tmp_path / "results", "dqn-cartpole", "dqn", "CartPole-v1", "--gamma 0.9")
    make_learning(tmp_path / "results", "a2c-cartpole", "a2c", "CartPole-v1")
    make_learning(tmp_path / "results", "hostile", f"'{HOSTILE}'", f"'{HOSTILE}'", f"--env-options '{HOSTILE}'",
                  agent={HOSTILE: HOSTILE}, machine={HOSTILE: HOSTILE, "cpu": HOSTILE, "date": HOSTILE})  # fmt: skip
    return tmp_path


def client(place: Path, *, host: str = "127.0.0.1", token: str = "", base: str = HOME) -> TestClient:
    site = Site(place / "runs", place / "results")
    return TestClient(Guard(site.app, host, token), base_url=base, follow_redirects=False)


def pages(place: Path) -> list[str]:
    known = Runs(place / "runs").all()
    own = [f"/runs/{r['id']}{end}" for r in known for end in ("", "/watch")]
    learned = [f"/learning/{path.stem}" for path in sorted((place / "results" / "learning").glob("*.json"))]
    compared = "/compare?" + "&".join(f"run={r['id']}" for r in known)
    return [
        "/",
        "/runs",
        f"/runs?q={quote(HOSTILE)}",
        "/papers/dqn",
        "/papers/dqn/laptop",
        "/papers/ppo",
        "/learning",
        *learned,
        *own,
        compared,
    ]


class Reader(HTMLParser):
    """What matters in a page: tags with their attributes, and the text outside of scripts."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


# ---------------------------------------------------------------------------------------------------------------- pages
def test_every_paper_has_a_page_and_the_atlas_lists_it(place):
    visitor = client(place)
    links = {a.get("href") for tag, a in Reader(visitor.get("/").text).tags if tag == "a"}
    for slug, entry in corpus().items():
        assert f"/papers/{slug}" in links
        answer = visitor.get(f"/papers/{slug}")
        assert answer.status_code == 200 and entry.title in Reader(answer.text).text
        assert (f"operant reproduce {slug}" in answer.text) == (slug in names())


def test_a_papers_page_shows_its_result_and_the_source_of_its_method(place):
    visitor = client(place)
    page = Reader(visitor.get("/papers/dqn").text)
    for words in (
        "reproduced",
        "12.00 to 18.00",
        "23.50",
        "8.50",
        "2 min",
        "2026-02-03",
        "class DQN",
        "replay and target",
    ):
        assert words in page.text, words
    (source,) = [a["data-src"] for tag, a in page.tags if "data-src" in a]
    (panel,) = visitor.get(source).json()["panels"]
    series = panel["series"][0]
    assert series["x"] == [1000, 2000, 3000, 4000, 5000] and series["mean"][-1] == pytest.approx(23.5)
    assert series["low"][-1] < 23.5 < series["high"][-1] and panel["scores"][1]["middle"] == pytest.approx(8.5)
    assert "reproduced (laptop)" in Reader(visitor.get("/").text).text


def test_smoke_is_no_verdict_and_what_is_no_result_breaks_no_page(place):
    make_result(place / "results", scale="smoke", verdict="inconclusive")
    visitor = client(place)
    assert "It measures nothing" in visitor.get("/papers/dqn/smoke").text
    (place / "results" / "dqn" / "laptop.json").write_text('{"arms": 3}')
    assert "not run" in Reader(visitor.get("/").text).text
    assert visitor.get("/papers/dqn").status_code == 200 and visitor.get("/papers/dqn/laptop").status_code == 404
    make_result(place / "results", verdict=HOSTILE)  # a result that changes is read again
    answer = visitor.get("/papers/dqn").text
    assert HOSTILE not in answer and HOSTILE in Reader(answer).text


def test_learning_runs_are_listed_with_their_curves_and_each_has_a_page(place):
    visitor = client(place)
    page = Reader(visitor.get("/learning").text)
    links = [a["href"] for tag, a in page.tags if tag == "a" and a.get("href", "").startswith("/learning/")]
    assert links == ["/learning/hostile", "/learning/a2c-cartpole", "/learning/dqn-cartpole"]
    for words in ("510.00", "(485.16 to 534.84)", "gamma 0.9", "reached", "4 min", "5k"):
        assert words in page.text, words
    paths = [a["d"] for tag, a in page.tags if tag == "path" and a.get("class") == "line"]
    assert len(paths) == 3 and all(path.count(",") == 5 for path in paths)
    (source,) = [a["data-src"] for tag, a in page.tags if "data-src" in a]
    (panel,) = visitor.get(source).json()["panels"]  # of the task that two methods were trained in
    assert panel["title"] == "CartPole-v1" and [one["name"] for one in panel["series"]] == ["a2c", "dqn, gamma 0.9"]
    page = Reader(visitor.get("/learning/dqn-cartpole").text)
    assert "operant train dqn CartPole-v1" in page.text and "a processor, 2 cores" in page.text
    links = {a.get("href") for tag, a in page.tags if tag == "a"}
    assert {"/papers/dqn", "/learning/a2c-cartpole"} <= links
    (source,) = [a["data-src"] for tag, a in page.tags if "data-src" in a]
    (panel,) = visitor.get(source).json()["panels"]
    (series,), (score,) = panel["series"], panel["scores"]
    assert series["x"] == [1000, 2000, 3000, 4000, 5000] and series["mean"][-1] == pytest.approx(510.0)
    assert series["low"][-1] == pytest.approx(485.159, abs=1e-2) and score["values"] == [500, 510, 520]
    for missing in ("/learning/none", "/data/learning/none.json", "/learning/..%2Fdqn%2Flaptop"):
        assert visitor.get(missing).status_code == 404


def test_a_papers_page_tells_the_runs_that_arms_begin_from(place):
    rule = {"name": "the <rule>", "env": "operant:SmallGrid-v0", "method": "discover:lpg", "steps": 50_000_000,
            "seeds": [0, 1, 2, 3], "seconds": 1800.0}  # fmt: skip
    make_result(place / "results", "lpg", before=[rule])
    text = client(place).get("/papers/lpg").text
    told = "<em>the &lt;rule&gt;</em>, which arms begin from: <code>discover:lpg</code> on operant:SmallGrid-v0"
    assert told in text and "50M steps, 4 seeds, 30 min" in text
    assert all(f"operant/methods/meta/{name}.py" in text for name in ("lpg", "discover"))


def test_a_papers_page_groups_its_tables_by_environment(place):
    once = json.loads(make_result(place / "results").read_text())
    twice = {kind: [{**row, "env": env} for env in ("Breakout-MinAtar", "the <other>") for row in once[kind]]
             for kind in ("arms", "comparisons")}  # fmt: skip
    count = lambda: client(place).get("/papers/dqn").text.count('scope="rowgroup"')  # noqa: E731
    assert count() == 0  # one environment needs no heading
    make_result(place / "results", **twice)
    text = client(place).get("/papers/dqn").text
    for colspan in (4, 6):  # comparisons, arms
        assert [f'<th colspan="{colspan}" scope="rowgroup">{env}</th>' in text
                for env in ("Breakout-MinAtar", "the &lt;other&gt;")] == [True, True]  # fmt: skip
    assert count() == 4


def test_a_papers_page_has_the_learning_runs_of_its_methods(place):
    visitor = client(place)

    def linked(slug: str) -> list[str]:
        tags = Reader(visitor.get(f"/papers/{slug}").text).tags
        return [a["href"] for tag, a in tags if tag == "a" and a.get("href", "").startswith("/learning/")]

    assert linked("dqn") == ["/learning/dqn-cartpole"] and linked("acer") == []
    assert linked("a3c") == ["/learning/a2c-cartpole"]  # the method of one of its arms


@pytest.mark.parametrize(
    "broken",
    [
        {"command": "rm -rf /"}, {"command": "operant train"}, {"command": "operant train 'ppo"}, {"summary": []},
        {"evaluations": [{"steps": [1], "returns": [1.0]}, {"steps": [1], "returns": [1.0, 2.0]}]},
        {"evaluations": [{"returns": [1.0]}]}, {"evaluations": [{"steps": ["a"], "returns": [{}]}]}, {"goal": "high"},
    ],
)  # fmt: skip
def test_what_is_no_learning_run_is_left_out(place, broken):
    make_learning(place / "results", "broken", "ppo", "CartPole-v1", **broken)
    visitor = client(place)
    assert "broken" not in visitor.get("/learning").text and visitor.get("/learning/broken").status_code == 404
    assert visitor.get("/data/learning.json").status_code == 200


def test_runs_of_one_seed_or_without_an_evaluation_are_shown(place):
    results = place / "results"
    make_learning(results, "alone", "ppo", "CartPole-v1", seeds=1, goal=None)
    nothing = {"steps": 10, "seeds": 1, "return_mean": None, "return_ci": [None, None], "seconds": 1.0}
    make_learning(results, "nothing", "discover:lpg", "CartPole-v1", seeds=1, evaluations=[], summary=nothing)
    visitor = client(place)
    assert visitor.get("/learning").text.count("no interval") == 2
    for name, points in (("alone", 5), ("nothing", 0)):
        assert visitor.get(f"/learning/{name}").status_code == 200
        (panel,) = visitor.get(f"/data/learning/{name}.json").json()["panels"]
        assert len(panel["series"][0]["x"]) == points


def test_runs_are_listed_searched_and_ordered(place):
    visitor = client(place)

    def shown(query: str = "") -> list[str]:
        return [a["data-run"] for tag, a in Reader(visitor.get(f"/runs{query}").text).tags if "data-run" in a]

    known = {r["name"]: r["id"] for r in Runs(place / "runs").all()}
    assert set(shown()) == set(known.values()) and shown()[0] == known["CartPole-v1/first"]  # the newest
    assert shown("?q=a2c") == [known["CartPole-v1/second"]]
    assert shown("?status=failed") == [] and len(shown("?status=finished&sort=return")) == 3
    assert visitor.get("/runs?page=99999999999999999999&q=%00").status_code == 200


def test_a_sweep_is_a_curve_for_each_setting_and_runs_are_compared(place):
    visitor, known = client(place), {r["name"]: r["id"] for r in Runs(place / "runs").all()}
    first, second = known["CartPole-v1/first"], known["CartPole-v1/second"]
    figure = visitor.get(f"/curves?run={first}&run={second}&metric=eval_return").json()
    series = figure["panels"][0]["series"]
    assert [one["name"] for one in series] == ["ppo · first", "a2c · second, gamma 0.9", "a2c · second, gamma 0.99"]
    assert series[1]["mean"][-1] == pytest.approx(100.25) and series[2]["mean"][-1] == pytest.approx(101.25)
    page = Reader(visitor.get(f"/compare?run={first}&run={second}").text)
    rows = [a["class"] for tag, a in page.tags if tag == "tr" and a.get("class") in ("same", "differs")]
    assert "same" in rows and "differs" in rows and "settings.sweep" in page.text


def test_films_are_sent_whole_or_in_ranges(place):
    visitor = client(place)
    run = identity(HOSTILE)
    film = f"/runs/{run}/films/{identity(HOSTILE + '.mp4')}"
    data = bytes(range(256)) * 8
    whole = visitor.get(film)
    assert whole.content == data and whole.headers["content-type"] == "video/mp4" and whole.headers["accept-ranges"]
    assert visitor.head(film).headers["content-length"] == str(len(data))
    for asked, start, end in (("bytes=10-19", 10, 20), ("bytes=2000-", 2000, 2048), ("bytes=-8", 2040, 2048)):
        part = visitor.get(film, headers={"range": asked})
        assert part.status_code == 206 and part.content == data[start:end]
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/2048"
    assert visitor.get(film, headers={"range": "bytes=4000-"}).status_code == 416
    assert visitor.get(film, headers={"range": "bytes=5-2"}).status_code == 416
    assert visitor.get(film, headers={"range": "lines=1-2"}).status_code == 200


def test_a_run_shows_what_it_drew_besides_its_curve(place, tmp_path_factory):
    run, figures = identity("CartPole-v1/first"), place / "runs" / "CartPole-v1" / "first" / "figures"
    figures.mkdir()
    for name in ("curve.png", "portrait.png", "other.png"):
        (figures / name).write_bytes(b"\x89PNG of " + name.encode())
    secret = tmp_path_factory.mktemp("outside") / "secret.png"
    secret.write_bytes(b"secret")
    (figures / "dials.png").symlink_to(secret)
    visitor = client(place)
    images = [a for tag, a in Reader(visitor.get(f"/runs/{run}").text).tags if tag == "img"]
    assert [image["alt"] for image in images] == ["What it learned to learn by"]
    answer = visitor.get(images[0]["src"])
    assert answer.content == b"\x89PNG of portrait.png" and answer.headers["content-type"] == "image/png"
    for name in ("curve.png", "other.png", "dials.png", "portrait.png/x"):
        assert visitor.get(f"/runs/{run}/figures/{identity(name)}").status_code == 404


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_they_stand_on(scheme):
    """WCAG 2.1, contrast (minimum): 4.5 for text, 3 for curves."""
    sheet = (Path(curves_module.__file__).parent / "static" / "style.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", sheet, re.S)[:2]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6});", light if scheme == "light" else light + dark))

    def luminance(name: str) -> float:
        parts = [int(colours[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    for ground in ("paper", "card", "faint"):
        for ink in ("ink", "soft", "accent", "good", "bad", "open", "todo"):
            assert contrast(ink, ground) >= 4.5, (ink, ground, contrast(ink, ground))
        for curve in (f"s{i}" for i in range(8)):
            assert contrast(curve, ground) >= 3.0, (curve, ground, contrast(curve, ground))
    assert contrast("accent-ink", "accent") >= 4.5 and contrast("accent", "wash") >= 4.5


# -------------------------------------------------------------------------------------------------------- who may ask
def test_only_names_of_this_machine_are_answered(place):
    visitor = client(place)
    for host in ("127.0.0.1:8123", "localhost", "LOCALHOST:9", "[::1]:8123", "127.0.0.2"):
        assert visitor.get("/runs", headers={"host": host}).status_code == 200, host
    foreign = ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8123", "localhost@evil.example", "",
               "evil.example@localhost", "10.0.0.1", "localhost:8123/evil", "localhost:port", "[::1")  # fmt: skip
    for host in foreign:
        assert visitor.get("/runs", headers={"host": host}).status_code == 421, host
    open_to_all = client(place, host="0.0.0.0", token="t")
    headers = {"authorization": "Bearer t"}
    assert open_to_all.get("/", headers={"host": "10.0.0.1:8123", **headers}).status_code == 200
    assert open_to_all.get("/", headers={"host": socket.gethostname(), **headers}).status_code == 200
    assert open_to_all.get("/", headers={"host": "evil.example", **headers}).status_code == 421


def test_requests_from_other_sites_are_refused(place):
    visitor = client(place)
    assert visitor.get("/runs", headers={"origin": HOME}).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8123", "", "http://["):
        assert visitor.get("/runs", headers={"origin": origin}).status_code == 403, origin
    for site in ("cross-site", "same-site"):
        assert visitor.get("/runs", headers={"sec-fetch-site": site}).status_code == 403
        followed = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
        assert visitor.get("/runs", headers=followed).status_code == 200
    assert visitor.get("/", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    assert visitor.post("/runs").status_code == 405


def test_a_token_is_shown_once_and_then_kept_in_a_cookie(place):
    visitor = client(place, host="0.0.0.0", token="secret word")
    for path in pages(place) + ["/static/style.css", "/live/runs", "/nothing"]:
        assert visitor.get(path).status_code == 401, path
    for wrong in ("wrong", "secret wor", "secret word2", "sécret"):
        assert visitor.get("/", params={"token": wrong}).status_code == 401
        assert visitor.get("/", headers={"authorization": f"Bearer {wrong}".encode()}).status_code == 401
    assert visitor.get("/", headers={"authorization": "Bearer secret word"}).status_code == 200
    answer = visitor.get("/runs?q=a&token=secret%20word")
    assert answer.status_code == 303 and answer.headers["location"] == "/runs?q=a"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and cookie.startswith("operant-8123=")
    assert visitor.get("/runs").status_code == 200
    assert visitor.get("//evil.example/?token=secret%20word").headers.get("location", "/x")[:2] != "//"


def test_every_answer_carries_the_policy_and_no_page_needs_more(place):
    visitor = client(place)
    for path in [*pages(place), "/nothing", "/static/chart.js", "/static/nothing", "/curves", "/compare"]:
        answer = visitor.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff" and "frame-ancestors 'none'" in policy
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        for tag, attributes in Reader(answer.text).tags:
            assert tag != "style" and "style" not in attributes, path
            assert not [name for name in attributes if name.startswith("on")], path
            if tag == "script":
                assert attributes["src"].startswith("/static/"), path
            for name in ("src", "href", "action"):
                value = attributes.get(name) or "/"
                assert not re.match(r"[a-z]+:|//", value) or value.startswith("https://arxiv.org/abs/"), value


# --------------------------------------------------------------------------------------------- what no file may do
def test_what_files_contain_is_shown_as_text(place):
    visitor = client(place)
    for path in pages(place):
        answer = visitor.get(path)
        assert answer.status_code == 200, path
        assert HOSTILE not in answer.text and "<img src=x" not in answer.text, path
    run = identity(HOSTILE)
    page = Reader(visitor.get(f"/runs/{run}").text)
    assert page.text.count(HOSTILE) >= 5 and not [a for tag, a in page.tags if tag == "img"]
    assert visitor.get(f"/curves?run={run}").headers["content-type"] == "application/json"


def test_names_of_any_bytes_break_no_page(tmp_path):
    odd = ["a\nb", "\u202eevil", "%2e%2e", "tab\there", "quote\"'&<>"]
    for name in odd:
        make_run(tmp_path / "runs" / name, 3)
    os.makedirs(os.fsencode(tmp_path / "runs") + b"/\xff\xfe", exist_ok=True)
    (tmp_path / "runs" / os.fsdecode(b"\xff\xfe") / "config.json").write_text("{")
    make_result(tmp_path / "results")
    visitor = client(tmp_path)
    for path in pages(tmp_path):
        assert visitor.get(path).status_code == 200, path
    text = Reader(visitor.get("/runs").text).text
    assert "broken" in text and "\u202e" not in text


def test_no_path_of_a_request_reaches_the_file_system(place):
    visitor, run = client(place), identity("CartPole-v1/first")
    (place / "runs" / "CartPole-v1" / "first" / "films").mkdir()
    ups = ("..", "%2e%2e", "..%2f..%2fsite.py", "%2e%2e%2fsite.py", "....//", "..\\site.py", "%00", "/etc/passwd",
           "%2fetc%2fpasswd", "site.py", "~root", "first", "CartPole-v1%2ffirst")  # fmt: skip
    for up in ups:
        for path in (f"/static/{up}", f"/runs/{up}", f"/runs/{run}/films/{up}", f"/runs/{run}/films/{up}/config.json",
                     f"/runs/{run}/figures/{up}",
                     f"/data/{up}/laptop.json", f"/data/dqn/{up}", f"/papers/{up}", f"/papers/dqn/{up}",
                     f"/curves?run={up}", f"/runs/{up}/watch/stream", f"/live/curves?run={up}"):  # fmt: skip
            answer = visitor.get(path)
            assert answer.status_code in (404, 200) and "root:" not in answer.text and "def " not in answer.text, path
            if answer.status_code == 200:  # `..` was folded away: then it is a page that anyone may see
                assert answer.headers["content-type"].startswith("text/html"), path


def test_links_are_not_followed(place, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    make_run(outside / "run", 5)
    (outside / "secret.mp4").write_bytes(b"secret")
    first = place / "runs" / "CartPole-v1" / "first"
    (place / "runs" / "linked").symlink_to(outside / "run")
    (first / "films").mkdir()
    (first / "films" / "link.mp4").symlink_to(outside / "secret.mp4")
    second = place / "runs" / "CartPole-v1" / "second"
    (second / "films").symlink_to(outside)
    (second / "metrics.jsonl").unlink()
    (second / "metrics.jsonl").symlink_to(outside / "run" / "metrics.jsonl")
    runs, visitor = Runs(place / "runs"), client(place)
    known = {r["name"]: r for r in runs.all()}
    assert "linked" not in known
    assert runs.films(known["CartPole-v1/first"]) == [] and runs.films(known["CartPole-v1/second"]) == []
    for name, film in (("CartPole-v1/first", "link.mp4"), ("CartPole-v1/second", "secret.mp4")):
        assert visitor.get(f"/runs/{identity(name)}/films/{identity(film)}").status_code == 404
    assert runs.curves(known["CartPole-v1/second"]).metrics == []
    for parts in (("films", "link.mp4"), ("..", "second", "films", "secret.mp4")):
        with pytest.raises(OSError):
            os.close(open_below(first, *parts))
    os.mkfifo(first / "films" / "pipe.mp4")
    with pytest.raises(OSError, match="no regular file"):
        open_below(first, "films", "pipe.mp4")


# --------------------------------------------------------------------------------------------------------------- curves
@pytest.mark.parametrize("rows", [1, BUCKETS, BUCKETS + 1, 10_000, 1_000_000])
def test_a_curve_of_any_length_is_a_few_hundred_points_that_leave_nothing_out(rows):
    random = np.random.default_rng(rows)
    values = random.normal(size=(rows, 3))
    steps = np.arange(1.0, rows + 1)
    series, start = Series(), 0
    while start < rows:  # in pieces of any size
        end = min(rows, start + int(random.integers(1, max(rows // 5, 2))))
        series.extend(steps[start:end], steps[start:end] / 10, values[start:end])
        start = end
    points = series.points()
    assert len({len(column) for column in points.values()}) == 1
    assert min(rows, BUCKETS // 2) <= len(points["x"]) <= BUCKETS
    assert points["x"][-1] == pytest.approx(rows, rel=1e-5) and points["seconds"][-1] == pytest.approx(
        rows / 10, rel=1e-5
    )
    means, width = values.mean(1), series.width
    for i in (0, len(points["x"]) // 2, len(points["x"]) - 1):
        inside = slice(i * width, (i + 1) * width)
        _, low, high = mean_intervals(values[inside])
        for name, expected in (("mean", means[inside].mean()), ("low", low.mean()), ("high", high.mean())):
            assert points[name][i] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        if width > 1:
            assert points["min"][i] == pytest.approx(means[inside].min(), rel=1e-5)
            assert points["max"][i] == pytest.approx(means[inside].max(), rel=1e-5)
    if width > 1:
        assert min(points["min"]) == pytest.approx(means.min(), rel=1e-5)


def test_what_is_not_finite_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"update": 1, "steps": [1, 1], "seconds": 1, "loss": ["NaN", 2.0]},
             {"update": 2, "steps": [2, 2], "seconds": 2, "loss": ["Infinity", "-Infinity"]},
             {"update": 3, "steps": [3, 3], "seconds": 3, "loss": [1e308, 1e308]}]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, lines)) + '\nno row\n{"update": "x"}\n{"update": 4, "lo')
    curves = Curves({"settings": {"seeds": 2}})
    with open(path, "rb") as file:
        curves.advance(file.fileno())
    (one,) = curves.columns("loss")
    assert one["x"] == [1, 3] and one["mean"][0] == 2.0 and one["low"][0] is None
    assert curves.unreadable == 2 and curves.complete
    json.dumps(one, allow_nan=False)


def test_a_file_is_read_once_and_then_only_what_is_new(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", 5_000)
    size, read = (run / "metrics.jsonl").stat().st_size, []
    original = curves_module._piece
    monkeypatch.setattr(curves_module, "PIECE", 1 << 16)
    monkeypatch.setattr(curves_module, "_piece", lambda *a: read.append(original(*a)) or read[-1])
    runs = Runs(tmp_path)
    (known,) = runs.all()
    curves = runs.curves(known, limit=1 << 17)
    assert not curves.complete and curves.read <= 3 << 16  # a long file is read over several calls
    while not runs.curves(known).complete:
        pass
    assert sum(map(len, read)) < size + len(read) * 400  # lines that a piece's end cut were read twice
    read.clear()
    assert runs.curves(known) is curves and read == []
    version = curves.version
    with open(run / "metrics.jsonl", "a") as file:
        file.write(row(5_001, train_return=1.0) + "\n" + row(5_002, train_return=1.0)[:20])
    runs.curves(known)
    assert sum(map(len, read)) < 1000 and curves.version > version
    assert curves.columns("train_return")[0]["rows"] == 5_001  # the line that is not finished waits
    temporary = run / "other"
    temporary.write_text(row(1, train_return=7.0) + "\n")
    os.replace(temporary, run / "metrics.jsonl")  # as resuming does
    runs.curves(known)
    assert curves.columns("train_return")[0]["mean"] == [7.25]


def test_the_list_reads_small_files_and_each_only_once(tmp_path, monkeypatch):
    from operant.run import files

    generate(tmp_path, 12, 3_000)
    make_run(tmp_path / "stopped", 3_000, status="interrupted")
    total, opened = sum(f.stat().st_size for f in tmp_path.rglob("metrics.jsonl")), []
    original = files.read
    monkeypatch.setattr(files, "read", lambda path, *a: opened.append(Path(path).name) or original(path, *a))
    monkeypatch.setattr("operant.web.runs.FRESH", 0.0)
    runs = Runs(tmp_path)
    assert len(runs.all()) == 13 and runs.described == 13 and len(opened) <= 3 * 13
    assert "metrics.jsonl" not in opened and total > 10 * 200_000
    opened.clear()
    assert len(runs.all()) == 13 and runs.described == 13 and opened == []
    (tmp_path / "stopped" / "summary.json").write_text('{"steps": 7, "return_mean": 3.5}')
    changed = {r["name"]: r for r in runs.all()}["stopped"]
    assert changed["return_mean"] == 3.5 and runs.described == 14


def test_few_points_are_sent_of_many(tmp_path):
    make_run(tmp_path / "runs" / "long", 20_000, lanes=1)
    visitor = client(tmp_path)
    run = identity("long")
    address = f"/curves?run={run}&metric=train_return"
    while not (answer := visitor.get(address)).json()["complete"]:
        pass
    (one,) = answer.json()["panels"][0]["series"]
    assert one["rows"] == 20_000 and len(one["x"]) <= BUCKETS and len(answer.content) < 60_000
    assert len(visitor.get(f"/runs/{run}").content) < 40_000


# ----------------------------------------------------------------------------------------------------------------- live
@pytest.fixture
def served(tmp_path):
    """A real server; its port, and where its runs are."""
    import uvicorn

    from operant.web.serve import bind

    site = Site(tmp_path / "runs", tmp_path / "results")
    listening = bind("127.0.0.1", 0)
    config = uvicorn.Config(Guard(site.app), loop="asyncio", http="h11", ws="none", lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield listening.getsockname()[1], tmp_path / "runs", site
    site.close()
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def events(port: int, path: str):
    """Server-sent events, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
    name = ""
    try:
        while line := answer.readline().decode():
            if line.startswith("event: "):
                name = line[7:].strip()
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])
    finally:
        answer.close()
        connection.close()


def set_status(run: Path, status: str) -> None:
    data = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**data, "status": status}))


def test_curves_move_while_a_run_trains_and_end_with_it(served):
    port, root, _ = served
    run = make_run(root / "live", 10, status="running")
    stream = events(port, f"/live/curves?run={identity('live')}&metric=train_return")
    name, first = next(stream)
    assert name == "curves" and first["panels"][0]["series"][0]["rows"] == 10
    with open(run / "metrics.jsonl", "a") as file:
        file.write(row(11, train_return=50.0) + "\n")
    name, second = next(stream)
    assert second["panels"][0]["series"][0]["rows"] == 11 and second["runs"][0]["status"] == "running"
    set_status(run, "interrupted")
    rest = list(stream)
    assert rest[-1][0] == "end" and rest[-2][1]["runs"][0]["status"] == "interrupted"


def test_a_run_that_grows_during_the_look_is_told_of_in_full(served, monkeypatch):
    port, root, site = served
    run = make_run(root / "live", 10, status="running")
    curves = site.runs.curves
    grows = [row(11, train_return=50.0) + "\n"]

    def grow_first(known):  # the run's row was read already
        with open(run / "metrics.jsonl", "a") as file:
            file.writelines(grows)
        grows.clear()
        return curves(known)

    monkeypatch.setattr(site.runs, "curves", grow_first)
    stream = events(port, f"/live/curves?run={identity('live')}&metric=train_return")
    told = [next(stream)[1] for _ in range(2)]
    assert [one["panels"][0]["series"][0]["rows"] for one in told] == [11, 11]
    assert [one["runs"][0]["steps"] for one in told] == ["1k", "1.1k"]
    stream.close()


def test_the_list_tells_what_changes(served):
    port, root, _ = served
    run = make_run(root / "live", 10, status="running")
    stream = events(port, "/live/runs")
    assert next(stream) == ("runs", {"total": 1, "changed": []})
    make_run(root / "another", 5)
    assert next(stream)[1]["total"] == 2
    set_status(run, "interrupted")
    (changed,) = next(stream)[1]["changed"]
    assert changed["id"] == identity("live") and changed["status"] == "interrupted"
    stream.close()


# ------------------------------------------------------------------------------------------------------------- watching
@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    import operant

    root = tmp_path_factory.mktemp("watch") / "runs"
    operant.train(operant.PPO(num_envs=4, rollout_length=32), "CartPole-v1", steps=512, seeds=2, chunks=2,
                  eval_episodes=2, run_dir=root / "run", quiet=True)  # fmt: skip
    return root


def test_an_agent_is_watched_with_its_probabilities_and_value(trained, served):
    port, _, site = served
    site.runs.root = trained
    stream = events(port, f"/runs/{identity('run')}/watch/stream?lane=1&sample=1")
    name, told = next(stream)
    assert name == "begin", told
    assert told["lane"] == 1 and told["env"] == "CartPole-v1" and told["actions"] == ["left", "right"]
    total = 0.0
    for _ in range(12):
        name, seen = next(stream)
        assert name == "step" and seen["kind"] == "image/png" and len(seen["picture"]) > 500
        assert len(seen["probabilities"]) == 2 and sum(seen["probabilities"]) == pytest.approx(1.0, abs=1e-3)
        assert isinstance(seen["value"], float) and seen["chosen"] in (0, 1)
        total = seen["return"]
    assert total > 0 and len(site.watchers.processes) == 1
    stream.close()  # nobody looks any more
    for _ in range(100):
        if not site.watchers.processes:
            break
        time.sleep(0.1)
    assert not site.watchers.processes


def test_moves_in_grids_are_called_what_they_do():
    from operant.envs.worlds.grids import COLUMNS, ROWS
    from operant.types import Discrete
    from operant.web.actor import _action_names

    words = {(0, 0): "stay", (-1, 0): "up", (1, 0): "down", (0, -1): "left", (0, 1): "right"}
    said = [words.get(move) or f"{words[move[0], 0]} {words[0, move[1]]}" for move in zip(ROWS, COLUMNS, strict=True)]
    for world in ("operant:Grid-dense-v0", "operant:SmallGrid-v0", "operant:RandomGrid-small-v0"):
        assert _action_names(world, Discrete(9)) == said
        assert _action_names(world, Discrete(18)) == []  # with nine more to collect


def test_what_cannot_be_watched_says_why(served):
    port, root, site = served
    make_run(root / "empty", 5)
    (event,) = events(port, f"/runs/{identity('empty')}/watch/stream")
    assert event[0] == "problem" and event[1]["words"]
    site.watchers.processes |= {1, 2}  # as many as may act
    (event,) = events(port, f"/runs/{identity('empty')}/watch/stream")
    assert "being watched already" in event[1]["words"]
    site.watchers.processes.clear()


@pytest.mark.of("discover")
def test_a_run_without_one_policy_says_so_instead_of_acting(served):
    import operant
    from operant.methods import apply, build

    port, root, _ = served
    small = {"lives": 2, "agent.num_envs": 2, "agent.size": 8, "agent.prediction.m": 4}
    agent = apply(build("discover:lpg", "operant:SmallGrid-v0"), small)
    operant.train(agent, "operant:SmallGrid-v0", steps=200, chunks=1, run_dir=root / "rule", quiet=True)
    (event,) = events(port, f"/runs/{identity('rule')}/watch/stream")
    assert event[0] == "problem" and "no one policy to play" in event[1]["words"]


def test_what_networks_say_is_read_off_every_method(method):
    """By shapes alone: no network is run."""
    import harness
    import jax

    from operant.rollout import blank_batch
    from operant.types import Box, Discrete, Spec, Timestep
    from operant.web.actor import outputs

    agent = harness.tiny_agent(method)
    if not agent.playable:
        pytest.skip("it has no policy of its own")
    kinds = claims(agent, "actions")
    actions = {"discrete": Discrete(3), "continuous": Box((2,), low=-1.0, high=1.0)}
    for kind in (k for k in actions if k in kinds):
        spec = Spec(
            observation=Box((5,), low=0.0, high=1.0), action=actions[kind], num_envs=agent.num_envs, total_steps=100
        )

        def look(key, spec=spec):
            state = agent.init(key, spec)
            batch = blank_batch(agent, state, spec, 1)

            def one(array):
                return array[0, :1]

            timestep = Timestep(
                observation=jax.tree.map(one, batch.observation), reward=one(batch.reward),
                discount=one(batch.discount), first=one(batch.first), last=one(batch.first), score=one(batch.reward),
                previous_action=jax.tree.map(one, batch.action), action_mask=None, env_index=jax.numpy.arange(1),
            )  # fmt: skip
            return outputs(agent, state, timestep, agent.start(state, 1), key, True)

        said = {name: shaped.shape for name, shaped in jax.eval_shape(look, jax.random.key(0)).items()}
        if method not in ("lpg", "pupil"):  # the one's predictions have no meaning, the other has none
            assert said.pop("value") == ()
        if method in harness.PREDICTS:  # its value is its action
            assert said == {}
        elif kind == "discrete":
            assert said in ({"probabilities": (3,)}, {"values": (3,)}), said
        else:
            assert said in ({"mean": (2,)}, {"mean": (2,), "deviation": (2,)}), said


def test_what_is_told_of_a_policy_is_what_its_network_says(trained):
    import jax

    import operant
    from operant.web.actor import outputs

    run = operant.load_run(trained / "run")
    first = lambda tree: jax.tree.map(lambda x: np.asarray(x)[0], tree)  # noqa: E731
    agent, state = first(run.state.agent), first(run.state.state)
    timestep = jax.tree.map(lambda x: x[:1], first(run.state.stage.timestep))
    carry = agent.start(state, 1)
    said = jax.jit(lambda *a: outputs(*a, explore=True))(agent, state, timestep, carry, jax.random.key(3))
    (policy, value), _ = agent.network.module(state.spec).apply(
        {"params": state.params}, timestep.observation, carry.network, timestep.first, None
    )
    assert np.asarray(said["probabilities"]) == pytest.approx(np.asarray(jax.nn.softmax(policy.logits))[0], rel=1e-5)
    assert float(said["value"]) == pytest.approx(float(value[0]), rel=1e-5)


# --------------------------------------------------------------------------------------------------------- export, verb
def operant_web(*words, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "operant", "web", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_the_export_holds_together(place, capsys):
    from operant.cli import main

    out = place / "site"
    with pytest.raises(SystemExit) as end:
        main(["web", "--results", str(place / "results"), "--export", str(out)])
    assert end.value.code == 0 and f"{len(corpus()) + 2 + 4} pages" in capsys.readouterr().out
    for page in out.rglob("*.html"):
        reader = Reader(page.read_text(encoding="utf-8"))
        assert any("content-security-policy" in str(a.get("http-equiv")).lower() for _, a in reader.tags)
        for tag, attributes in reader.tags:
            for name in ("src", "href", "data-src"):
                link = attributes.get(name)
                if not link or link.startswith(("#", "https://arxiv.org/")):
                    continue
                assert not link.startswith("/"), (page, link)
                base = f"http://site/{page.relative_to(out).as_posix()}"
                assert (out / urlsplit(urljoin(base, link)).path.lstrip("/")).is_file(), (page, tag, link)
    data = json.loads((out / "data" / "dqn" / "laptop.json").read_text())
    assert data["panels"][0]["series"][0]["mean"][-1] == pytest.approx(23.5)
    data = json.loads((out / "data" / "learning" / "dqn-cartpole.json").read_text())
    assert data["panels"][0]["series"][0]["mean"][-1] == pytest.approx(510.0)
    assert "/runs" not in (out / "index.html").read_text()
    (place / "mine").mkdir()
    (place / "mine" / "thesis.tex").touch()
    with pytest.raises(SystemExit) as end:
        main(["web", "--export", str(place / "mine")])
    assert end.value.code == 2 and "something else is there" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # its own is renewed
        main(["web", "--results", str(place / "results"), "--export", str(out)])


def test_an_address_that_cannot_be_had_is_one_line(capsys):
    from operant.cli import main

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for words in (["--port", str(taken.getsockname()[1])], ["--host", "192.0.2.1"], ["--port", "99999"]):
            with pytest.raises(SystemExit) as end:
                main(["web", *words])
            printed = capsys.readouterr()
            assert end.value.code == 2 and printed.err.count("\n") == 1 and printed.out == "", words


def test_the_server_prints_its_address_and_ends_quietly(place):
    started = operant_web("--runs", place / "runs", "--results", place / "results", "--port", 0)
    try:
        address = started.stdout.readline().split()[0]
        port = urlsplit(address).port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().read().startswith(b"<!doctype html>")
        stream = events(port, "/live/runs")  # a stream that is open does not hold it up
        next(stream)
        started.send_signal(signal.SIGINT)
        out, err = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 0 and err == "" and out == ""


def test_bound_elsewhere_it_makes_a_token(place):
    started = operant_web("--runs", place / "runs", "--host", "0.0.0.0", "--port", 0)
    try:
        address = urlsplit(started.stdout.readline().split()[0])
        token = re.fullmatch(r"token=([\w-]{32})", address.query)[1]
        for query, status in (("", 401), (f"?token={token[:-1]}", 401), (f"?token={token}", 303)):
            connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=60)
            connection.request("GET", f"/runs{query}")
            assert connection.getresponse().status == status
            connection.close()
    finally:
        started.kill()
        started.communicate()


def test_the_server_does_not_start_jax(place):
    code = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from operant.web.site import Site
visitor = TestClient(Site(Path("runs"), Path("results")).app)
for page in sys.argv[1:]:
    assert visitor.get(page).status_code == 200, page
assert "jax" not in sys.modules
"""
    run = identity("CartPole-v1/first")
    paths = [*pages(place), f"/curves?run={run}", "/data/dqn/laptop.json", "/data/learning.json"]
    subprocess.run([sys.executable, "-c", code, *paths], cwd=place, check=True)


if __name__ == "__main__":
    generate(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
