"""The web atlas in a real browser: pages without errors, figures that answer, curves that move, text that stays."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_web import HOSTILE, identity, make_learning, make_result, make_run, row, set_status

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("there is no Chromium: apt-get install chromium, or set CHROMIUM", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("browser")
    make_run(place / "runs" / "CartPole-v1" / "first", 300)
    make_run(place / "runs" / "CartPole-v1" / "second", 200, lanes=4, method="a2c",
             settings={"seeds": 2, "sweep": ["gamma=0.9,0.99"]})  # fmt: skip
    bad = make_run(place / "runs" / HOSTILE, method=HOSTILE, env=HOSTILE, settings={HOSTILE: HOSTILE, "seeds": 2})
    with open(bad / "metrics.jsonl", "a") as file:
        file.write(row(21, **{HOSTILE: 1.0}) + "\n")
    (bad / "films").mkdir()
    (bad / "films" / f"{HOSTILE}.gif").write_bytes(
        bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")
    )
    make_result(place / "results")
    make_result(place / "results", "acer", verdict=HOSTILE, claim=HOSTILE, metric=HOSTILE)
    for method in ("a2c", "dqn", "ppo"):
        make_learning(place / "results", f"{method}-cartpole", method, "CartPole-v1")
    make_learning(place / "results", "hostile", f"'{HOSTILE}'", f"'{HOSTILE}'", f"--env-options '{HOSTILE}'",
                  agent={HOSTILE: HOSTILE}, machine={"cpu": HOSTILE})  # fmt: skip
    return place


@pytest.fixture(scope="module")
def address(place):
    """Of a server as `operant web` starts it."""
    command = [sys.executable, "-m", "operant", "web", "--runs", str(place / "runs"), "--results",
               str(place / "results"), "--port", "0"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process.stdout.readline().split()[0].rstrip("/")
    process.terminate()
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that must not complain, ask for anything elsewhere, or open a dialog."""
    context = browser.new_context()
    page, problems = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("console", lambda message: message.type in ("error", "warning") and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda r: urlsplit(r.url).hostname in ("127.0.0.1", None) or problems.append(r.url))
    yield page
    context.close()
    assert problems == []


def until(page, expression: str, seconds: float = 60.0) -> None:
    """Waits for an expression to be true. (Playwright's own way would evaluate text in the page, which may not.)"""
    for _ in range(int(10 * seconds)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{expression}: not within {seconds:.0f} s")


def run_of(name: str) -> str:
    return f"/runs/{identity(name)}"


FIRST, SECOND = run_of("CartPole-v1/first"), run_of("CartPole-v1/second")
COMPARE = f"/compare?run={FIRST[6:]}&run={SECOND[6:]}&run={identity(HOSTILE)}"
EVERY = ["/", "/learning", "/learning/dqn-cartpole", "/learning/hostile", "/papers/dqn", "/papers/acer", "/papers/ppo",
         "/runs", FIRST, SECOND, run_of(HOSTILE), COMPARE, f"{FIRST}/watch"]  # fmt: skip


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_is_whole_at_any_width(page, address, path, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(address + path)
    for chart in page.locator(".chart").all():
        chart.locator("path.line").first.wait_for(state="attached")
    assert page.locator("h1").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    unnamed = """[...document.querySelectorAll('a, button, select, input, [role=img]')].filter(e => e.tabIndex >= 0 &&
        !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"""
    assert page.evaluate(unnamed) == []


@pytest.mark.parametrize(
    "path",
    [
        "/runs",
        run_of(HOSTILE),
        COMPARE,
        f"{run_of(HOSTILE)}/watch",
        "/papers/acer",
        "/",
        "/learning",
        "/learning/hostile",
    ],
)
def test_hostile_names_stay_text(page, address, path):
    page.goto(address + path)
    for chart in page.locator(".chart svg").all():
        chart.focus()
        page.keyboard.press("End")  # the tooltip shows names too
    assert HOSTILE in page.locator("main").inner_text()
    assert page.locator("img[src=x]").count() == 0 and page.locator("[onerror]").count() == 0


def test_a_hostile_metric_can_be_chosen(page, address):
    page.goto(address + run_of(HOSTILE))
    page.get_by_label("Metric").select_option(HOSTILE)
    page.locator(".plot svg text", has_text=HOSTILE).wait_for()
    assert page.locator("img[src=x]").count() == 0


def test_a_figure_is_read_and_zoomed_by_mouse_and_keys(page, address):
    page.goto(address + SECOND)
    figure = page.locator(".plot svg").first
    figure.locator("path.line").nth(1).wait_for(state="attached")
    box = figure.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    tip = page.locator(".tip")
    assert re.search(r"gamma 0\.99.*\d+.*to", tip.inner_text(), re.S)
    ticks = figure.locator("text").all_inner_texts()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.5, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Show all").wait_for()
    assert figure.locator("text").all_inner_texts() != ticks
    page.get_by_role("button", name="Show all").click()
    assert figure.locator("text").all_inner_texts() == ticks
    figure.focus()
    page.keyboard.press("Home")
    told = tip.inner_text()
    page.keyboard.press("ArrowRight")
    assert tip.is_visible() and tip.inner_text() != told and page.locator(".plot [role=status]").inner_text()
    page.keyboard.press("+")
    page.get_by_role("button", name="Show all").wait_for()
    page.keyboard.press("Escape")
    assert page.get_by_role("button", name="Show all").count() == 0
    lines = figure.locator("path.line").count()
    page.locator(".legend button", has_text="gamma 0.99").click()
    assert figure.locator("path.line").count() == lines - 1


def test_learning_runs_are_read_side_by_side_and_one_by_one(page, address):
    page.goto(f"{address}/learning")
    figure = page.locator(".plot svg").first
    figure.locator("path.line").nth(2).wait_for(state="attached")
    figure.hover()
    tip = page.locator(".tip:visible").inner_text()
    assert all(method in tip for method in ("a2c", "dqn", "ppo"))
    page.get_by_role("link", name="dqn").click()
    page.wait_for_url("**/learning/dqn-cartpole")
    page.locator(".plot svg").first.locator("path.line").wait_for(state="attached")
    page.locator(".plot svg").first.focus()
    page.keyboard.press("End")
    assert re.search(r"510 \(\d+\.\d+ to \d+", page.locator(".tip").inner_text())
    assert page.locator(".seed").count() == 3


def test_papers_are_found(page, address):
    page.goto(address)
    cards = page.locator(".card:visible")
    total = cards.count()
    page.keyboard.press("/")
    page.keyboard.type("sample efficient actor")
    assert 0 < cards.count() < total and "q=sample" in page.url
    page.locator("#search").fill("no such paper")
    assert page.get_by_text("No paper matches.").is_visible()
    page.locator("#search").fill("")
    page.locator(".chip", has_text="reproduced").first.click()
    page.reload()
    assert cards.all_inner_texts() and all("reproduced" in text for text in cards.all_inner_texts())


def test_runs_are_chosen_and_compared_from_the_keyboard(page, address):
    page.goto(f"{address}/runs")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    assert page.get_by_role("button", name="Compare").is_disabled()
    for name in ("CartPole-v1/first", "CartPole-v1/second"):
        page.get_by_label(f"Compare {name}").focus()
        page.keyboard.press("Space")
    page.get_by_role("button", name="Compare").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare?**")
    page.locator("path.line").nth(2).wait_for(state="attached")
    before = page.locator("table.settings tr:visible").count()
    page.get_by_label("also those that are the same").check()
    assert page.locator("table.settings tr:visible").count() > before


def test_curves_move_while_a_run_trains(page, address, place):
    page.goto(f"{address}/runs")
    run = make_run(place / "runs" / "live", 5, status="running")
    page.get_by_text("1 run more").wait_for()
    page.get_by_role("link", name="show what there is now").click()
    page.get_by_text("Training now").wait_for()
    page.goto(address + run_of("live"))
    chart = page.locator("#chart")
    page.get_by_label("Metric").select_option("train_return")
    until(page, "document.querySelector('#chart').dataset.points === '5'")
    shape = chart.locator("path.line").get_attribute("d")
    with open(run / "metrics.jsonl", "a") as file:
        file.writelines(row(i, train_return=200.0 + i) + "\n" for i in range(6, 9))
    until(page, "document.querySelector('#chart').dataset.points === '8'")
    assert chart.locator("path.line").get_attribute("d") != shape
    until(page, "document.querySelector('[data-field=steps]').textContent === '800'")  # it comes by another way
    set_status(run, "interrupted")
    page.locator(".status-interrupted").wait_for()


def test_a_training_run_is_followed_and_its_agent_watched(page, address, place):
    command = [sys.executable, "-m", "operant", "train", "ppo", "CartPole-v1", "--steps", "4096", "--num-envs", "4",
               "--rollout-length", "32", "--chunks", "8", "--eval-episodes", "2", "--quiet", "--run-dir"]  # fmt: skip
    run = place / "runs" / "trained"
    with subprocess.Popen([*command, str(run)], env={**os.environ, "JAX_PLATFORMS": "cpu"}) as training:
        while not (run / "status.json").exists():
            assert training.poll() is None
        page.goto(address + run_of("trained"))
        until(page, "+(document.querySelector('#chart')?.dataset.points ?? 0) >= 2", 120)
        assert training.wait(timeout=120) == 0
    page.locator(".status-finished").wait_for()
    page.goto(address + run_of("trained"))
    page.get_by_role("link", name="Watch it act").click()
    page.get_by_role("button", name="Watch").click()
    until(page, "+document.querySelector('#screen').dataset.steps > 5", 120)
    assert page.locator(".bar").count() == 2 and page.locator(".bar.chosen").count() == 1
    assert sum(float(text) for text in page.locator(".bar b").all_inner_texts()) == pytest.approx(1.0, abs=0.02)
    assert "lane 0" in page.locator("#state").inner_text() and page.locator("#value").inner_text() != "–"
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped.").wait_for()


def test_the_exported_figures_answer_too(page, place):
    out = place / "site"
    subprocess.run([sys.executable, "-m", "operant", "web", "--results", str(place / "results"), "--export", str(out)],
                   check=True, stdout=subprocess.DEVNULL)  # fmt: skip

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=out)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator(".card", has_text="DQN").first.get_by_role("link").click()
        page.locator("path.line").first.wait_for(state="attached")
        page.locator(".plot svg").first.hover()
        assert "replay and target" in page.locator(".tip").inner_text()
        page.get_by_role("link", name="dqn").click()  # one of its learning runs
        page.wait_for_url("**/learning/dqn-cartpole.html")
        page.locator("path.line").first.wait_for(state="attached")
        server.shutdown()
