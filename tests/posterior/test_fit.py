"""Posteriors of cohorts: published figures, directions, and what is refused to be a number."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import expnb as xb
from expnb.posterior.fit import fit_exact

COLUMNS = [
    "metric",
    "kind",
    "role",
    "variant",
    "segment",
    "n_control",
    "n_treatment",
    "mean_control",
    "mean_treatment",
    "effect_abs",
    "effect_rel",
    "effect_abs_post",
    "effect_rel_post",
    "hdi_abs_low",
    "hdi_abs_high",
    "hdi_rel_low",
    "hdi_rel_high",
    "p_improvement",
    "p_above_rope",
    "p_harm",
    "p_rope",
    "expected_loss_abs",
    "expected_loss_rel",
    "p_best",
    "p_value",
    "ci_low",
    "ci_high",
    "prior",
    "engine",
    "note",
]


@pytest.fixture
def flat(gate_position, players):
    posterior = fit_exact(gate_position, xb.load_cohort(gate_position, players), prior=xb.Prior("flat"))
    return posterior.summary().set_index("metric")


def test_the_summary_has_the_promised_columns(gate_position, players):
    frame = fit_exact(gate_position, xb.load_cohort(gate_position, players)).summary()
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 2
    assert frame.dtypes["p_above_rope"] == "float64"
    assert np.isnan(frame.p_above_rope[1])


def test_cookie_cats_has_the_published_p_value_and_bootstrap_probabilities(flat):
    assert flat.p_value["retention_7"] == pytest.approx(0.0016, abs=5e-5)
    assert 1 - flat.p_improvement["retention_7"] == pytest.approx(
        0.9985, abs=1e-3
    )  # published bootstrap: 0.998 to 0.999
    assert 1 - flat.p_improvement["retention_1"] == pytest.approx(0.96, abs=5e-3)  # published bootstrap: 0.96
    assert flat.effect_rel["retention_7"] == pytest.approx(0.1820 / 0.1902 - 1, abs=5e-4)


def test_the_flat_posterior_equals_beta_draws(flat):
    rng = np.random.default_rng(11)
    control, treatment = rng.beta(1 + 8502, 1 + 44700 - 8502, 400_000), rng.beta(1 + 8279, 1 + 45489 - 8279, 400_000)
    row = flat.loc["retention_7"]
    assert row.p_improvement == pytest.approx((treatment > control).mean(), abs=4 * np.sqrt(0.0008 / 400_000))
    assert row.effect_rel_post == pytest.approx((treatment / control - 1).mean(), abs=1e-4)
    assert row.expected_loss_abs == pytest.approx(np.maximum(control - treatment, 0).mean(), rel=1e-2)
    assert row.p_harm == pytest.approx((treatment / control - 1 < -0.005).mean(), abs=1e-3)


@pytest.fixture(scope="module")
def email():
    """The e-mail experiment with visits as goal and spend for information."""
    weights = {"No E-Mail": 1.0, "Mens E-Mail": 1.0, "Womens E-Mail": 1.0}
    metrics = (
        xb.Metric(name="visit", kind="conversion", role="goal", rope=0.01),
        xb.Metric(name="spend", kind="mean", unit="USD"),
    )
    policy = replace(xb.Policy(), min_days=0)
    return xb.Experiment(
        name="email",
        hypothesis="h",
        owner="o",
        flag="email",
        unit="row",
        variant="segment",
        control="No E-Mail",
        weights=weights,
        metrics=metrics,
        policy=policy,
    )


@pytest.fixture(scope="module")
def visits(email):
    return fit_exact(email, xb.load_cohort(email, xb.datasets.hillstrom()))


def test_a_true_effect_of_72_percent_is_not_shrunk_to_38(visits):
    mens = visits.effect("visit", "Mens E-Mail")
    assert mens.effect_rel == pytest.approx(0.1828 / 0.1062 - 1, abs=1e-3)
    assert mens.effect_rel_post > 0.65
    assert "prior and data disagree" in mens.note


def test_three_arms_share_their_control(visits):
    best = {effect.variant: effect.p_best for effect in visits.effects if effect.metric == "visit"}
    assert best["Mens E-Mail"] == pytest.approx(1, abs=1e-6)
    assert sum(best.values()) <= 1 + 1e-9


def test_welch_and_its_interval_match_scipy(visits):
    table = xb.datasets.hillstrom().groupby("segment").spend
    arms = {name: values.to_numpy() for name, values in table}
    wanted = stats.ttest_ind(arms["Mens E-Mail"], arms["No E-Mail"], equal_var=False)
    found = visits.effect("spend", "Mens E-Mail")
    interval = wanted.confidence_interval()
    assert found.p_value == pytest.approx(wanted.pvalue, rel=1e-9)
    assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def money(control, treatment):
    return pd.DataFrame({"segment": ["a"] * len(control) + ["b"] * len(treatment), "money": [*control, *treatment]})


@pytest.fixture
def fit_money(email):
    """The posterior of one money metric in two arms."""

    def fit(control, treatment, **metric):
        goal = xb.Metric(**{"name": "money", "kind": "mean", "role": "goal", "rope": 0.01} | metric)
        experiment = replace(email, control="a", weights={"a": 1, "b": 1}, metrics=(goal,))
        return fit_exact(experiment, xb.load_cohort(experiment, money(control, treatment))).effect("money", "b")

    return fit


RNG = np.random.default_rng(3)
AROUND_10 = RNG.normal(10, 4, 4000)


def test_less_is_better_mirrors_more_is_better(fit_money):
    more = fit_money(AROUND_10, AROUND_10 * 1.02)
    less = fit_money(AROUND_10, AROUND_10 * 1.02, direction="decrease")
    assert less.p_improvement == pytest.approx(1 - more.p_improvement, abs=1e-12)
    assert less.p_rope == pytest.approx(more.p_rope, abs=1e-12)
    assert less.p_above_rope == pytest.approx(1 - more.p_above_rope - more.p_rope, abs=1e-9)
    assert less.p_harm == pytest.approx(more.p_above_rope, abs=1e-9)
    assert less.expected_loss_abs > more.expected_loss_abs > 0


def test_scaling_units_scales_absolute_and_leaves_relative_figures(fit_money):
    cents, dollars = fit_money(AROUND_10 * 100, AROUND_10 * 103), fit_money(AROUND_10, AROUND_10 * 1.03)
    assert cents.effect_abs_post == pytest.approx(100 * dollars.effect_abs_post, rel=1e-6)
    assert cents.effect_rel_post == pytest.approx(dollars.effect_rel_post, rel=1e-6)
    assert cents.p_improvement == pytest.approx(dollars.p_improvement, abs=1e-7)


@pytest.mark.parametrize("mean", [-10.0, 0.0, 0.02])
def test_a_control_mean_that_is_not_clearly_positive_has_no_relative_effect(fit_money, mean):
    effect = fit_money(AROUND_10 - 10 + mean, AROUND_10 - 9.5 + mean)
    assert effect.effect_rel is None
    assert effect.p_above_rope is None
    assert "not clearly positive" in effect.note
    assert effect.p_improvement > 0.99
    assert effect.prior == "flat"


def test_an_absolute_rope_judges_a_metric_without_a_relative_effect(fit_money):
    effect = fit_money(AROUND_10 - 10, AROUND_10 - 9.5, rope_abs=0.1)
    assert effect.scale == "absolute"
    assert effect.p_above_rope > 0.9


def test_values_without_spread_give_no_probability(fit_money):
    effect = fit_money([5.0] * 50, [5.0] * 50)
    assert effect.p_improvement is None
    assert effect.p_best is None
    assert effect.note == "no posterior: all values are equal, so nothing is known about their spread"


def test_a_treatment_that_lost_all_revenue_is_harm_not_a_missing_number(fit_money):
    effect = fit_money(AROUND_10, np.zeros(4000))
    assert effect.p_harm_flat > 0.999999
    assert effect.p_improvement < 0.001


def test_an_arm_in_which_nobody_converted_has_a_posterior(email):
    frame = pd.DataFrame({"segment": ["a"] * 3000 + ["b"] * 3000, "visit": [1] * 100 + [0] * 5900})
    experiment = replace(email, control="a", weights={"a": 1, "b": 1}, metrics=email.metrics[:1])
    effect = fit_exact(experiment, xb.load_cohort(experiment, frame)).effect("visit", "b")
    assert effect.effect_rel == -1
    assert effect.p_harm_flat > 0.999999


def test_a_control_without_conversions_has_only_an_absolute_effect(email):
    frame = pd.DataFrame({"segment": ["a"] * 3000 + ["b"] * 3000, "visit": [0] * 5900 + [1] * 100})
    experiment = replace(email, control="a", weights={"a": 1, "b": 1}, metrics=email.metrics[:1])
    effect = fit_exact(experiment, xb.load_cohort(experiment, frame)).effect("visit", "b")
    assert effect.effect_rel is None
    assert effect.p_improvement > 0.999999
    assert effect.note.startswith("no relative effect: nothing converted in control")


def test_small_segments_never_leave_the_kernel(gate_position, players):
    platform = np.where(players.index < 30, "tiny", np.where(players.index % 2, "ios", "android"))
    experiment = replace(gate_position, segments=("platform",))
    posterior = fit_exact(experiment, xb.load_cohort(experiment, players.assign(platform=platform)))
    assert {effect.segment for effect in posterior.effects} == {"all", "platform=ios", "platform=android"}


def test_the_same_cells_give_the_same_numbers(gate_position, players):
    cohort = xb.load_cohort(gate_position, players)
    first, again = fit_exact(gate_position, cohort), fit_exact(gate_position, cohort)
    pd.testing.assert_frame_equal(first.summary(), again.summary(), check_exact=True)


def test_names_are_escaped_in_html(gate_position, players):
    metrics = tuple(replace(metric, name=f"<i>{metric.name}") for metric in gate_position.metrics)
    experiment = replace(gate_position, metrics=metrics)
    page = fit_exact(experiment, xb.load_cohort(experiment, players))._repr_html_()
    assert "<i>" not in page
