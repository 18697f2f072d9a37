import numpy as np
import pytest

from expnb.models.agreement import Gap, agreement
from expnb.models.summary import best_shares, hdi, quantity, share_ess, smooth

NORMAL = np.random.default_rng(5).normal(0.02, 0.01, (4, 2500))


def test_the_shortest_interval_of_normal_draws_is_the_central_one():
    low, high = hdi(np.sort(NORMAL, axis=None))
    assert (low, high) == (pytest.approx(0.02 - 0.0196, abs=1e-3), pytest.approx(0.02 + 0.0196, abs=1e-3))


def test_the_shortest_interval_of_falling_draws_starts_at_their_edge():
    low, high = hdi(np.sort(np.random.default_rng(5).exponential(1.0, 10_000)))
    assert low < 0.01
    assert high == pytest.approx(-np.log(0.05), abs=0.15)


def test_loss_and_gain_of_draws_differ_by_their_mean():
    made = quantity(NORMAL, (0.0, 0.01))
    assert made.gain[0] - made.loss[0] == pytest.approx(made.mean[0])
    assert made.p_above[0].tolist() == [(NORMAL > 0).mean(), (NORMAL > 0.01).mean()]


def test_the_chart_of_draws_integrates_to_one_and_peaks_where_they_lie():
    grid, density = smooth(np.sort(NORMAL, axis=None))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)
    assert grid[density.argmax()] == pytest.approx(0.02, abs=0.003)


@pytest.mark.parametrize("largest", [True, False])
def test_shares_of_the_best_arm_sum_to_one_in_every_draw(largest):
    rates = np.random.default_rng(2).random((4, 50, 3))
    shares = best_shares(rates, largest=largest)
    assert (shares.sum(axis=2) == 1).all()
    picked = rates[shares.astype(bool)].reshape(4, 50)
    assert (picked == (rates.max(axis=2) if largest else rates.min(axis=2))).all()


def test_a_share_without_variation_counts_every_draw():
    assert share_ess(np.zeros((4, 100))) == 400


def test_agreement_counts_monte_carlo_errors():
    assert Gap("P", 0.52, 0.5, 2500.0).errors == pytest.approx(2.0)
    assert Gap("P", 0.0, 0.0, 400.0).errors == 0.0
    assert Gap("P", 0.0025, 0.0, 400.0).errors == pytest.approx(1.0)  # one draw in 400


def test_engines_that_differ_by_more_than_chance_are_a_warning_with_the_figures():
    check = agreement(
        "retention_7",
        [Gap("P(improvement) of a, all", 0.5, 0.5, 2500.0), Gap("P(improvement) of b, all", 0.6, 0.5, 2500.0)],
    )
    assert (check.name, check.outcome, check.value) == ("engines:retention_7", "warn", pytest.approx(10.0))
    assert "10.0 Monte Carlo errors (P(improvement) of b, all: 60.00% sampled, 50.00% exact)" in check.sentence


def test_engines_that_agree_say_how_closely():
    check = agreement("retention_7", [Gap("P(improvement) of a, all", 0.51, 0.5, 2500.0)])
    assert (check.outcome, check.value) == ("ok", pytest.approx(1.0))
