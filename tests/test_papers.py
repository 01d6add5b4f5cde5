"""The cards, what makes a verdict, and that a reproduction can be stopped, goes on, and is what its card says."""

from __future__ import annotations

import json
import signal
import types

import jax
import numpy as np
import pytest

from operant import cli, envs, methods, papers
from operant.agent import dials
from operant.envs import planning
from operant.envs.worlds import SmallGrid
from operant.errors import UserError
from operant.papers import Arm, Comparison, Paper, Scale, listing, verdict
from operant.papers import reproduce as reproducing
from operant.rollout import task_keys
from operant.run.run import load_run

EIGHT = np.linspace(-1.0, 1.0, 8)


def paper(**changes) -> Paper:
    """A card of its own: A2C against itself with a step size of nothing, in a world of four cells."""
    fields = {
        "slug": "cells", "title": "Cells", "authors": "", "venue": "", "arxiv": "", "family": "online",
        "claim": "An agent that learns is better than one that does not.",
        "arms": {"learning": Arm("a2c"), "not learning": Arm("a2c", {"gamma": 0.0, "value_cost": 0.0})},
        "comparisons": (Comparison("learning", "not learning"),),
        "tune": {"learning_rate": (1e-3, 1e-2)},
        "scales": {"smoke": Scale(("operant:Cells-v0",), steps=1_500, seeds=8, tuning=(500, 2))},
    }  # fmt: skip
    return Paper(**{**fields, **changes})


# --------------------------------------------------------------------------------------------------------------- cards
@pytest.mark.parametrize("slug", papers.names())
def test_a_card_says_what_it_is_and_its_agents_can_be_made(slug):
    card = papers.get(slug)
    assert card.slug == slug and card.claim.endswith(".") and card.claim.count(".") == 1
    entry = papers.corpus()[slug]
    assert (entry.title, entry.arxiv, entry.family) == (card.title, card.arxiv, card.family)
    assert "smoke" in card.scales and "laptop" in card.scales
    for name, scale in card.scales.items():
        if name != "smoke":
            assert scale.seeds >= papers.FEWEST_SEEDS
        for env, _, arm in card.pairs_of(scale):
            agent = reproducing._agent(env, arm, scale.changes)
            for dial in card.tune_of(arm):
                assert dial in dials(agent), f"{arm.method} has no {dial} to tune"
        for arm in card.before_of(scale).values():
            assert reproducing._agent(arm.envs[0], arm, scale.before_changes)


@pytest.mark.parametrize("slug", papers.names())
def test_the_arms_of_a_card_differ(slug):
    card = papers.get(slug)
    scale = card.scales["laptop"]
    made = [
        str((env, reproducing._agent(env, arm, scale.changes), {**scale.env_options, **arm.env_options}, arm.begins))
        for env, _, arm in card.pairs_of(scale)
    ]
    assert len(set(made)) == len(made)


def test_the_corpus_is_whole_and_each_paper_once():
    corpus = papers.corpus()
    assert len(corpus) >= 123
    assert all(entry.title and entry.family in listing.FAMILIES for entry in corpus.values())
    numbers = [entry.arxiv for entry in corpus.values() if entry.arxiv]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"comparisons": (Comparison("learning", "nothing"),)}, "names the arm 'nothing'"),
        ({"comparisons": (Comparison("learning", "not learning", needed=False),)}, "no comparison is needed"),
        ({"scales": {"laptop": Scale(("CartPole-v1",), 10, 8)}}, "no scale smoke"),
        ({"scales": {"smoke": Scale(("CartPole-v1",), 0, 8)}}, "runs nothing"),
        ({"scales": {"smoke": Scale(("CartPole-v1",), 10, 8, arms=("learning",))}}, "both arms of no comparison"),
        ({"tune": {}}, "tunes, but the card says not what"),
        ({"arms": {"learning": Arm("a2c", tune={"gamma": (0.9, 0.95, 0.99)}), "not learning": Arm("a2c")}}, "more set"),
        ({"arms": {"learning": Arm("a2c", begins="school"), "not learning": Arm("a2c")}}, "begins from a run 'school'"),
        ({"before": {"school": Arm("a2c")}}, "names 0 worlds; expected 1"),
        ({"comparisons": (Comparison("learning", "not learning", margin=-1.0),)}, "a margin is -1.0"),
        (
            {
                "arms": {"learning": Arm("a2c", begins="school"), "not learning": Arm("a2c")},
                "before": {"school": Arm("a2c", envs=("operant:Cells-v0",))},
            },
            "begin from a run, but says not how long",
        ),
        ({"metric": "luck"}, "metric is luck"),
        ({"metrics": {"operant:Cells-v0": "luck"}}, "metric is luck"),
        ({"arms": {"learning": Arm("a2c", envs=("CartPole-v1",)), "not learning": Arm("a2c")}}, "no world for"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        paper(**changes)


# ------------------------------------------------------------------------------------------------------------- verdict
def judge(margin=0.0, needed=True, **arms):
    scores = {"world": {name: list(values) for name, values in arms.items()}}
    return verdict.judge(scores, (Comparison("a", "b", margin=margin, needed=needed),))


def test_a_clear_difference_is_reproduced_and_its_opposite_is_not():
    said, (outcome,) = judge(a=EIGHT + 5, b=EIGHT)
    assert said == "reproduced" and outcome.holds is True and outcome.difference == pytest.approx(5.0)
    assert outcome.interval[0] > 0 and outcome.probability == 1.0
    said, (outcome,) = judge(a=EIGHT, b=EIGHT + 5)
    assert said == "not reproduced" and outcome.holds is False


def test_a_difference_below_its_margin_is_not_reproduced():
    assert judge(margin=0.1, a=EIGHT * 0.01 + 10, b=EIGHT * 0.01 + 9.9)[0] == "not reproduced"
    assert judge(margin=0.0, a=EIGHT * 0.01 + 10, b=EIGHT * 0.01 + 9.9)[0] == "reproduced"


def test_nearly_as_good_is_a_margin_below_zero():
    said, (outcome,) = judge(margin=-1 / 9, a=EIGHT * 0.01 + 9.5, b=EIGHT * 0.01 + 10)
    assert said == "reproduced" and outcome.difference == pytest.approx(-0.5)
    assert judge(margin=-1 / 9, a=EIGHT * 0.01 + 8.5, b=EIGHT * 0.01 + 10)[0] == "not reproduced"


def test_a_comparison_is_made_where_it_says():
    scores = {env: {"a": list(EIGHT + gain), "b": list(EIGHT)} for env, gain in (("here", 5), ("there", -5))}
    said, outcomes = verdict.judge(scores, (Comparison("a", "b", envs=("here",)),))
    assert said == "reproduced" and [outcome.env for outcome in outcomes] == ["here"]
    assert verdict.judge(scores, (Comparison("a", "b"),))[0] == "not reproduced"


def test_what_seeds_do_not_tell_is_inconclusive():
    assert judge(a=EIGHT + 0.1, b=EIGHT)[0] == "inconclusive"
    assert judge(a=[500.0] * 8, b=[500.0] * 8)[0] == "inconclusive"  # both at the maximum
    assert judge(a=EIGHT[:7] + 50, b=EIGHT[:7])[0] == "inconclusive"  # too few seeds, however clear
    assert judge(needed=False, a=EIGHT + 5, b=EIGHT)[0] == "inconclusive"  # the claim does not rest on it


def test_every_needed_comparison_has_to_hold():
    comparisons = (Comparison("a", "b"), Comparison("a", "c"))
    scores = {"a": list(EIGHT + 5), "b": list(EIGHT), "c": list(EIGHT + 5.1)}
    said, outcomes = verdict.judge({"world": scores}, comparisons)
    assert said == "inconclusive" and [outcome.holds for outcome in outcomes] == [True, None]
    scores["c"] = list(EIGHT + 9)
    assert verdict.judge({"world": scores}, comparisons)[0] == "not reproduced"


@pytest.mark.parametrize("several", [1, 3])
def test_equal_arms_are_inconclusive(several, monkeypatch):
    """In at least 93 of 100 trials, with one comparison as with three."""
    fewer = verdict.iqm_difference_interval
    monkeypatch.setattr(verdict, "iqm_difference_interval", lambda *a, **k: fewer(*a, resamples=1000, **k))
    monkeypatch.setattr(verdict, "probability_of_improvement_interval", lambda a, b: (0.0, 1.0))
    rng, names = np.random.default_rng(0), ["b", "c", "d"][:several]
    comparisons = tuple(Comparison("a", name) for name in names)
    said = [
        verdict.judge({"world": {name: list(rng.normal(size=8)) for name in ["a", *names]}}, comparisons)[0]
        for _ in range(1000)
    ]
    assert said.count("inconclusive") >= 930


# -------------------------------------------------------------------------------------------------------------- scores
def rows(*returns, episodes=1):
    return [
        {"steps": [10 * (i + 1)], "episodes": [episodes if np.isfinite(r) else 0], "train_return": [r]}
        for i, r in enumerate(returns)
    ]


def test_the_final_score_is_that_of_the_last_tenth():
    nan = float("nan")
    assert reproducing._final(rows(*[0.0] * 18, 3.0, 5.0)) == [4.0]
    assert reproducing._final(rows(*[0.0] * 17, 2.0, nan, nan)) == [2.0]  # no episode ended there: the last that did
    weighted = rows(*[0.0] * 18, 3.0, 5.0)
    weighted[-1]["episodes"] = [3]
    assert reproducing._final(weighted) == [4.5]
    with pytest.raises(UserError, match="no episode ended"):
        reproducing._final(rows(nan, nan))


# ----------------------------------------------------------------------------------------------------------- reproduce
@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Compiles with less effort; a reproduction with its runs and results in a directory of its own."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield lambda card, where="one", **options: reproducing.reproduce(
        card, "smoke", runs=tmp_path / where / "runs", out=tmp_path / where / "results", quiet=True, **options
    )
    jax.config.update("jax_disable_most_optimizations", before)


def without_times(result):
    kept = {k: v for k, v in result.items() if k not in ("seconds", "machine")}
    return json.dumps({**kept, "arms": [{k: v for k, v in arm.items() if k != "seconds"} for arm in result["arms"]]})


def test_it_runs_what_the_card_says_once_and_goes_on_where_it_was_stopped(quick, tmp_path, monkeypatch):
    card = paper()
    result = quick(card)
    assert result["verdict"] in ("reproduced", "not reproduced", "inconclusive")
    assert json.loads((tmp_path / "one/results/cells/smoke.json").read_text())["slug"] == "cells"
    assert (tmp_path / "one/results/cells/smoke.png").stat().st_size > 10_000
    learning, idle = result["arms"]
    assert (learning["arm"], idle["arm"]) == ("learning", "not learning") and idle["agent"]["gamma"] == 0.0
    for arm in result["arms"]:
        # every setting of the search on the same seeds, none of which the verdict uses; the best one was taken
        assert [row["setting"]["learning_rate"] for row in arm["tuning"]] == [1e-3, 1e-2]
        best = max(arm["tuning"], key=lambda row: np.mean(row["scores"]))
        assert arm["agent"]["learning_rate"] == arm["tuned"]["learning_rate"] == best["setting"]["learning_rate"]
        assert arm["seeds"] == list(range(8)) and len(arm["scores"]) == 8 and arm["steps"] >= 1_500
    # a second time, nothing is trained
    monkeypatch.setattr(reproducing, "train", None)
    monkeypatch.setattr(reproducing, "resume", None)
    assert without_times(quick(card)) == without_times(result)
    monkeypatch.undo()

    # stopped in its third run, and again by a card that has changed, it ends with the same numbers
    train, begun = reproducing.train, []

    def interrupt(run, row):
        if row["update"] == 5:  # of nineteen
            signal.raise_signal(signal.SIGINT)

    def stopped(*args, **kwargs):
        begun.append(args)
        return train(*args, callback=interrupt if len(begun) == 3 else None, **kwargs)

    monkeypatch.setattr(reproducing, "train", stopped)
    with pytest.raises(reproducing.Interrupted):
        quick(card, "two")
    assert not (tmp_path / "two/results").exists()
    with pytest.raises(UserError, match="was made with other settings than the card has now"):
        quick(paper(scales={"smoke": Scale(("operant:Cells-v0",), steps=1_501, seeds=8, tuning=(501, 2))}), "two")
    assert without_times(quick(card, "two")) == without_times(result)
    assert len(begun) == 4  # the two runs that had ended were not run again, the third was gone on with


def test_arms_begin_with_what_was_learned_before(quick, tmp_path):
    """Seed after seed in turn; the others begin as they always do."""
    still = {"learning_rate": 0.0}
    few = Scale(("operant:Cells-v0",), steps=80, seeds=3, before=(160, 2), before_changes={"gamma": 0.5})
    card = paper(
        arms={"taught": Arm("a2c", still, begins="school"), "untaught": Arm("a2c", still)},
        before={"school": Arm("a2c", {"entropy_cost": 0.1}, envs=("operant:Cells-v0",))},
        comparisons=(Comparison("taught", "untaught"),),
        scales={"smoke": few},
    )
    result = quick(card)
    (school,) = result["before"]
    assert school["seeds"] == [0, 1] and school["agent"]["gamma"] == 0.5 and school["agent"]["entropy_cost"] == 0.1
    assert result["seconds"] >= sum(one["seconds"] for one in (*result["arms"], school)) > school["seconds"] > 0
    before = tmp_path / "one/runs/cells/smoke/before"
    (root,) = (path for path in before.parent.iterdir() if path != before)
    learned = load_run(before / "school").state.state.params
    taught = load_run(root / "taught/seeds").state.state.params
    jax.tree.map(lambda ours, theirs: np.testing.assert_array_equal(ours, theirs[np.array([0, 1, 0])]), taught, learned)
    untaught = load_run(root / "untaught/seeds").state.state.params
    assert any(
        (np.asarray(a) != b[np.array([0, 1, 0])]).any()
        for a, b in zip(*map(jax.tree.leaves, (untaught, learned)), strict=True)
    )


def a_run(env, returns):
    """What a score is taken from: rows of metrics, one lane for each return, and the program's environment and keys."""
    lanes = len(returns)
    row = {"steps": [10] * lanes, "episodes": [1] * lanes, "train_return": list(returns)}
    program = types.SimpleNamespace(
        env=envs.make(env, lanes, seeds=range(lanes)), keys=lambda: jax.vmap(jax.random.key)(np.arange(lanes))
    )
    return types.SimpleNamespace(
        directory=types.SimpleNamespace(metrics=lambda: [row], config={"env": env}),
        program=program,
        lanes=[{"seed": seed} for seed in range(lanes)],
    )


def test_a_share_is_of_what_can_be_earned_in_the_seeds_own_task(monkeypatch):
    final = [0.5, -0.25, 0.125]
    run, world = a_run("operant:SmallGrid-v0", final), SmallGrid()
    planned = jax.jit(jax.vmap(lambda key: planning.optimal_return(world, world.draw(key))))
    best = planned(task_keys(run.program.keys())).tolist()
    assert len(set(best)) == 3 and min(best) > 0.0
    assert reproducing.scored(run, "final") == list(zip(run.lanes, final, strict=True))
    shares = [share for _, share in reproducing.scored(run, "share")]
    assert shares == pytest.approx([f / b for f, b in zip(final, best, strict=True)])
    monkeypatch.setattr(reproducing, "best_returns", lambda run: np.array([0.0, 2.0, 1.0]))
    # nothing can be earned in the first seed's task, which says nothing; a lane that failed says that it failed
    assert reproducing.scored(run, "share") == [({"seed": 1}, final[1] / 2.0), ({"seed": 2}, final[2])]
    failed = reproducing.scored(a_run("operant:SmallGrid-v0", [0.5, float("nan"), 0.125]), "share")
    assert [lane["seed"] for lane, _ in failed] == [1, 2] and np.isnan(failed[0][1])


def test_there_is_no_share_of_what_nobody_knows():
    with pytest.raises(UserError, match="nobody knows the best expected return in CartPole-v1"):
        reproducing.scored(a_run("CartPole-v1", [20.0, 30.0]), "share")


def by_card():
    """Every card, as a test of the methods that its smallest scale runs."""
    for slug in papers.names():
        card = papers.get(slug)
        smoke = card.scale("smoke")
        arms = (*card.arms_of(smoke).values(), *card.before_of(smoke).values())
        words = (word.partition("@")[0] for arm in arms for word in arm.method.split(":"))
        yield pytest.param(slug, marks=pytest.mark.of(*sorted(set(words))))


@pytest.mark.parametrize("slug", list(by_card()))
def test_a_card_runs_at_the_scale_smoke(slug, quick, tmp_path):
    result = quick(papers.get(slug))
    assert result["slug"] == slug and result["verdict"] == "inconclusive"  # two seeds tell nothing
    for kind in ("json", "png"):
        assert (tmp_path / f"one/results/{slug}/smoke.{kind}").exists()


def test_all_cards_are_run_by_one_command(monkeypatch, tmp_path, capsys):
    few = {"smoke": Scale(("operant:Cells-v0",), steps=500, seeds=2)}
    cards = {slug: paper(slug=slug, tune={}, scales=few) for slug in ("cells", "more-cells")}
    monkeypatch.setattr(papers, "names", lambda: tuple(cards))
    monkeypatch.setattr(papers, "get", cards.__getitem__)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["reproduce", "--all", "--scale", "smoke", "--quiet", "--json"])
    assert end.value.code == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])["results"]
    assert [result["slug"] for result in results] == list(cards)
    assert {result["verdict"] for result in results} == {"inconclusive"}
    assert sorted(path.parent.name for path in tmp_path.glob("results/*/smoke.json")) == sorted(cards)


# -------------------------------------------------------------------------------------------------------- command line
def test_the_list_says_what_is_there_and_what_is_not(tmp_path, capsys):
    def listed(*arguments):
        with pytest.raises(SystemExit) as end:
            cli.main(["papers", *arguments, "--results", str(tmp_path)])
        assert end.value.code == 0
        return capsys.readouterr().out

    (tmp_path / "dqn").mkdir()
    (tmp_path / "dqn/laptop.json").write_text(json.dumps({"verdict": "reproduced", "scale": "laptop"}))
    (tmp_path / "dqn/smoke.json").write_text(json.dumps({"verdict": "inconclusive", "scale": "smoke"}))
    rows = {row["slug"]: row for row in json.loads(listed("--json"))["papers"]}
    assert set(rows) == set(papers.corpus())
    assert rows["dqn"]["status"] == "executable" and rows["dqn"]["verdict"] == "reproduced"
    waiting = next(slug for slug in rows if slug not in papers.names())
    assert rows[waiting]["status"] == "not there yet" and rows[waiting]["verdict"] is None
    text = listed()
    assert "reproduced (laptop)" in text and "not there yet" in text


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["reproduce"], "name the papers"),
        (["reproduce", "dqn", "--all"], "name the papers"),
        (["reproduce", "dqm"], "Did you mean dqn"),
        (["reproduce", "dqn", "--scale", "huge"], "expected one of smoke, laptop"),
        (["papers", "nothing-like-it"], "no paper matches"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    told = capsys.readouterr().err
    assert end.value.code == 2 and words in told and told.count("\n") == 1


def test_methods_of_cards_are_there():
    for slug in papers.names():
        for arm in papers.get(slug).arms.values():
            methods.build(arm.method)
