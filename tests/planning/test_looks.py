"""What looks mean: published tables of repeated significance tests, brute force, and sentences."""

from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest

import expnb as xb
from expnb.planning.goal import GoalRule
from expnb.planning.looks import ever_above, false_ships, looks_in_words
from expnb.posterior.priors.past import log_ratio
from expnb.spec.policy import Ship

# Armitage, McPherson and Rowe (1969), table 2: P(a two-sided test at 5 % is significant at one of so many looks).
TWO_SIDED_5 = {1: 0.050, 2: 0.083, 3: 0.107, 4: 0.126, 5: 0.142, 10: 0.193, 20: 0.248, 50: 0.320, 100: 0.374, 200: 0.424}  # fmt: skip
Z95 = 1.959964


@pytest.mark.parametrize(("looks", "published"), TWO_SIDED_5.items())
def test_repeated_significance_tests_are_the_published_ones(looks, published):
    bound = np.full(looks, Z95)
    both, one = ever_above(bound, -bound), ever_above(bound)
    assert both == pytest.approx(published, abs=1e-3)
    # Both sides are crossed equally often; few walks cross both, so one side has a little more than half.
    assert both / 2 - 1e-5 <= one < both / 2 * 1.04


def test_one_bound_is_that_of_simulated_walks():
    rng = np.random.default_rng(3)
    bound = np.array([2.8, np.inf, 1.7, 2.0, 1.3, 1.9])
    walks = rng.standard_normal((200_000, 6)).cumsum(axis=1) / np.sqrt(np.arange(1, 7))
    assert ever_above(bound) == pytest.approx((walks > bound).any(axis=1).mean(), abs=0.003)


def data_of(experiment, bought=(2_000, 2_020), units=20_000, days=None):
    arms = [
        pd.DataFrame({"user": np.arange(units) + units * n, "arm": arm, "bought": np.arange(units) < some})
        for n, (arm, some) in enumerate(zip(experiment.variants, bought, strict=True))
    ]
    posterior = xb.fit(experiment, xb.load_cohort(experiment, pd.concat(arms)))
    last = None if days is None else date.fromordinal(experiment.start.toordinal() + days - 1)
    return replace(posterior, first_day=days and experiment.start, last_day=last)


@pytest.mark.parametrize("direction", ["increase", "decrease"])
def test_the_share_is_that_of_simulated_treatments_under_the_whole_rule(planned, direction):
    goal = xb.Metric(name="bought", kind="conversion", role="goal", direction=direction, rope=0.002)
    experiment = planned(0, goal=goal, min_days=0, ship=Ship(p_above_rope=0.8))
    posterior = data_of(experiment)
    error = log_ratio(posterior.effect("bought", "new_0"))[1]
    walks = np.random.default_rng(0).standard_normal((20_000, 4)).cumsum(axis=1)
    looks = np.arange(1, 5)
    estimates, errors = walks / looks * error * 2, np.broadcast_to(error * 2 / np.sqrt(looks), walks.shape)
    ships = GoalRule.of(experiment).ships(estimates, errors).any(axis=1)
    found = false_ships(experiment, posterior, 4)
    assert found.share == pytest.approx(ships.mean(), abs=4 * np.sqrt(ships.mean() / 20_000))
    assert found.share_flat == pytest.approx(ever_above(np.full(4, 1.644854)), abs=1e-4)


def test_under_non_inferiority_the_treatment_is_as_bad_as_the_margin(planned):
    goal = xb.Metric(name="bought", kind="conversion", role="goal", rope=0.01, margin=0.05)
    experiment = planned(0, goal=goal, aim="non_inferiority", min_days=0)
    found = false_ships(experiment, data_of(experiment), 5)
    assert found.share == pytest.approx(ever_above(np.full(5, 1.959964)), abs=1e-4)
    assert "of treatments as bad as the margin of bought, 7.1 %" in looks_in_words(experiment, data_of(experiment), 5)


def test_every_look_is_one_where_days_are_not_counted(planned):
    experiment = planned(0, min_days=0)
    sentence = looks_in_words(experiment, data_of(experiment), 5)
    assert sentence.startswith("Look 5: of treatments without any effect, ")
    assert sentence.endswith(
        "would have met the ship rule at one of 5 such looks (under a flat prior at 0.95 it would be 13 %)."
    )
    assert "at this look (under a flat prior at 0.95 it would be 5 %)" in looks_in_words(
        experiment, data_of(experiment), 1
    )


@pytest.mark.parametrize(("days", "verdicts"), [(3, 0), (7, 1), (13, 1), (14, 2), (28, 4)])
def test_where_days_are_counted_a_verdict_stands_for_a_week(planned, days, verdicts):
    experiment = planned(0)
    posterior = data_of(experiment, days=days)
    assert false_ships(experiment, posterior, 20).verdicts == verdicts
    assert false_ships(experiment, posterior, 1).verdicts == min(1, verdicts)
    sentence = looks_in_words(experiment, posterior, 20)
    if verdicts:
        assert "the goal is judged every 7 days, so far" in sentence
    else:
        assert "was not judged yet, which takes 7 days of data" in sentence


def test_more_looks_ship_more_by_mistake_and_the_prior_far_fewer_than_none(planned):
    experiment = planned(0, min_days=0)
    found = [false_ships(experiment, data_of(experiment), looks) for looks in (1, 5, 20, 300)]
    shares, flat = [one.share for one in found], [one.share_flat for one in found]
    assert shares == sorted(shares)
    assert flat == sorted(flat)
    assert all(under < without / 5 for under, without in zip(shares, flat, strict=True))


def test_without_a_log_ratio_it_is_said(planned):
    experiment = planned(0, goal=xb.Metric(name="bought", kind="conversion", role="goal", rope_abs=0.001))
    assert "is not known, because bought has no log ratio or no relative rope" in looks_in_words(
        experiment, data_of(experiment), 3
    )
