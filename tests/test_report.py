"""What the verbs print and draw, from runs that are made up: the functions are called, nothing is trained."""

from __future__ import annotations

from types import SimpleNamespace

from operant.run import report


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
