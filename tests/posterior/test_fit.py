"""Posteriors of cohorts: published figures, directions, and what is refused to be a number."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import expnb as xb
from expnb.posterior.fit import Comparison, fit_exact
from expnb.posterior.frequentist import pooled_z, welch
from expnb.posterior.table import Samples, Table
from expnb.spec.canonical import canonical_json
from expnb.spec.flag import FlagRef, FlagState
from expnb.stats.moments import Moments

COLUMNS = [
    "metric",
    "kind",
    "role",
    "variant",
    "segment",
    "estimate",
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
    "p_null",
    "expected_loss_abs",
    "expected_loss_rel",
    "p_best",
    "p_value",
    "ci_low",
    "ci_high",
    "cs_low",
    "cs_high",
    "shrinkage",
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


def test_a_quantile_of_few_values_has_no_error_and_says_what_to_ask_instead():
    alike = Moments(100, 3.0, 0.0, 1.0, 5.0)  # the median of few distinct values: its standard error is 0
    metric = xb.Metric(name="stars", kind="quantile", q=0.5)
    (why,) = Table([Comparison(metric, "t", "all", alike, alike)]).missing
    assert why == (
        "a quantile of few distinct values has no usable error; ask for the mean, or for the share of units above a value (a conversion)"
    )


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


def test_a_column_has_one_number_format_and_a_percent_sign_never_stands_alone(gate_position, players):
    posterior = fit_exact(gate_position, xb.load_cohort(gate_position, players))
    (first, *others) = posterior.effects
    large = replace(first, mean_control=10_250.4, mean_treatment=6930.0, effect_rel=None, effect_abs=-3320.4)
    page = replace(posterior, effects=(large, *others))._repr_html_()
    cells = [f"<td style='text-align:left;white-space:nowrap'>{text}</td>" for text in ("10,250", "6,930", "-3,320")]
    assert "".join(cells) in page
    assert "(95&nbsp;% HDI)" in page


def test_names_are_escaped_in_html(gate_position, players):
    metrics = tuple(replace(metric, name=f"<i>{metric.name}") for metric in gate_position.metrics)
    experiment = replace(gate_position, metrics=metrics)
    page = fit_exact(experiment, xb.load_cohort(experiment, players))._repr_html_()
    assert "<i>" not in page


# --- kinds, and units that are not independent -----------------------------------------------------------


def likelihoods(pairs):
    table = Table(pairs)
    return table.arms(np.arange(len(table)), int(table.family[0]))


def design_effects(pair):
    control, treatment = Table([pair]).design_effects
    return float(control[0]), float(treatment[0])


def figures_of(test, control, treatment):
    """One row of a test, as plain numbers."""
    return tuple(float(part[0]) for part in test(Samples.of([control]), Samples.of([treatment])))


def share(n, mean, effect=1.0):
    """Moments of a share whose variance is that of independent units times a design effect."""
    return Moments(n, mean, effect * n * mean * (1 - mean), 0.0, 1.0)


def pair_of(kind, control, treatment, **metric):
    return Comparison(xb.Metric(name="m", kind=kind, **metric), "b", "all", control, treatment)


@pytest.mark.parametrize("kind", ["conversion", "retention"])
def test_a_share_of_independent_units_is_its_exact_counts(kind):
    window = {"window_days": 8.0} if kind == "retention" else {}
    control, treatment = likelihoods([pair_of(kind, share(1000, 0.137), share(2000, 0.2, 1 + 5e-7), **window)])
    assert (control.successes[0], control.units[0]) == (137, 1000)
    assert (treatment.successes[0], treatment.units[0]) == (400, 2000)


@pytest.mark.parametrize("effect", [0.5, 4.0])
def test_a_share_of_dependent_units_is_as_precise_as_its_variance_says(effect):
    pair = pair_of("conversion", share(1000, 0.2, effect), share(1000, 0.25, effect))
    control, treatment = likelihoods([pair])
    assert control.units[0] == pytest.approx(1000 / effect)
    assert treatment.successes[0] / treatment.units[0] == pytest.approx(0.25)
    of_binomial = 0.2 * 0.8 / control.units[0]
    assert of_binomial == pytest.approx(pair.control.variance / 1000, rel=2e-3)


def test_clusters_of_equal_units_count_as_often_as_there_are_clusters():
    # 50 clusters of 20 equal units: 1000 units that say as much as 50.
    clusters = np.repeat([0.0, 1.0], [40, 10])
    between = Moments(1000, 0.2, 20 * 20 * ((clusters - 0.2) ** 2).sum(), 0.0, 1.0)
    assert design_effects(pair_of("conversion", between, between)) == pytest.approx((20, 20))
    assert likelihoods([pair_of("conversion", between, between)])[0].units[0] == pytest.approx(50)


def test_an_arm_without_spread_borrows_the_design_effect_of_the_other():
    none = Moments(1000, 0.0, 0.0, 0.0, 0.0)
    assert design_effects(pair_of("conversion", none, share(1000, 0.2, 4.0))) == pytest.approx((4, 4))
    assert design_effects(pair_of("conversion", none, share(1000, 0.2))) == (1, 1)
    assert design_effects(pair_of("conversion", none, none)) == (1, 1)


class Arms:
    """Cells of one metric in two arms, with given moments."""

    metrics, epochs = {}, ()
    segments, day, checks, source, fingerprint = {}, np.array([], dtype="datetime64[D]"), (), "arms", "f" * 64

    def __init__(self, **arms):
        self.arms = arms

    def moments(self, metric, variant, where=None):
        return self.arms[variant]

    def count(self, variant):
        return self.arms[variant].n

    def segment_values(self, segment):
        return []

    def days(self, *, least=1):
        return None


@pytest.fixture
def fit_arms(email):
    """The posterior of two arms with given moments; what is not said of the metric is a goal of kind conversion."""

    def fit(control, treatment, *, prior=None, **metric):
        goal = xb.Metric(**{"name": "m", "kind": "conversion", "role": "goal", "rope": 0.01} | metric)
        experiment = replace(email, control="a", weights={"a": 1, "b": 1}, metrics=(goal,), prior=prior or xb.Prior())

        class Cohort:
            cells = Arms(a=control, b=treatment)

        return experiment, fit_exact(experiment, Cohort())

    return fit


def test_dependent_units_widen_the_interval_and_change_the_test(fit_arms):
    plain, clustered = (
        fit_arms(share(4000, 0.2, effect), share(4000, 0.22, effect), prior=xb.Prior("flat"))[1].effects[0]
        for effect in (1.0, 4.0)
    )
    width = [effect.hdi_abs_high - effect.hdi_abs_low for effect in (plain, clustered)]
    assert width[1] == pytest.approx(2 * width[0], rel=1e-2)
    arms = share(4000, 0.2), share(4000, 0.22)
    assert (plain.p_value, plain.ci_low, plain.ci_high) == figures_of(pooled_z, *arms)
    assert (clustered.p_value, *(clustered.ci_low, clustered.ci_high)) == figures_of(
        welch, share(4000, 0.2, 4.0), share(4000, 0.22, 4.0)
    )
    assert clustered.p_value > 4 * plain.p_value


@pytest.mark.parametrize(
    "metric",
    [
        {"kind": "mean"},
        {"kind": "count"},
        {"kind": "revenue"},
        {"kind": "duration"},
        {"kind": "ratio", "numerator": "x", "denominator": "y"},
        {"kind": "quantile", "q": 0.9},
    ],
    ids=lambda metric: metric["kind"],
)
def test_every_other_kind_is_a_normal_mean_with_its_standard_error(fit_arms, metric):
    control, treatment = Moments(5000, 10.0, 5000 * 16.0, 0.0, 50.0), Moments(5000, 10.5, 5000 * 16.0, 0.0, 50.0)
    _, posterior = fit_arms(control, treatment, **metric)
    effect, mean = posterior.effects[0], fit_arms(control, treatment, kind="mean")[1].effects[0]
    assert effect.kind == metric["kind"]
    assert effect.p_value == figures_of(welch, control, treatment)[0]
    assert (effect.hdi_rel_low, effect.p_improvement) == (mean.hdi_rel_low, mean.p_improvement)
    assert xb.charts.effect(posterior).svg()


# --- arms that are too small to be shown ---------------------------------------------------------------------


@pytest.fixture(params=[(19, 5000), (5000, 19), (3, 7)], ids=["control", "treatment", "both"])
def small(request, fit_arms):
    """An experiment with its posterior, in which an arm has fewer than 20 units."""
    return fit_arms(*(share(n, 0.3125) for n in request.param))


def test_an_arm_below_min_cell_has_no_figures(small):
    _, posterior = small
    row = posterior.effects[0].row()
    assert row.pop("note") == "no posterior: fewer than 20 units in an arm, which are not shown"
    assert {row.pop("n_control"), row.pop("n_treatment")} <= {0, 5000}
    named = {"metric", "kind", "role", "variant", "segment", "estimate", "prior", "engine"}
    assert all(value is None for name, value in row.items() if name not in named)


def test_a_posterior_that_may_not_be_shown_is_still_shown_everywhere(small):
    _, posterior = small
    frame = posterior.summary()
    assert np.isnan(frame.mean_control[0])
    assert np.isnan(frame.effect_abs[0])
    figure = xb.charts.effect(posterior)
    assert "raw effect unknown. No posterior: fewer than 20 units in an arm" in figure.sentence
    texts = (repr(posterior), posterior._repr_html_(), figure.sentence, figure.svg(), figure.table.to_csv())
    assert not [text for text in texts if "0.3125" in text or "31.25" in text or "nan" in text.lower().split()]


def test_twenty_units_are_shown(fit_arms):
    effect = fit_arms(share(20, 0.25), share(20, 0.25))[1].effects[0]
    assert (effect.n_control, effect.mean_control) == (20, 0.25)
    assert effect.p_improvement is not None


def test_a_tiny_experiment_holds_and_has_its_promised_sizes(small, ask_of):
    experiment, posterior = small
    decision = ask_of(experiment, posterior)
    assert decision.action == "hold"
    assert decision.exit_code == 10
    rules = {rule.name: rule for rule in decision.rules}
    assert rules["harm"].outcome == rules["ship_above_rope"].outcome == "unknown"
    assert any("fewer than 20 units in an arm" in reason for reason in decision.reasons)
    assert rules["sample_ratio"].outcome == ("not met" if 5000 in posterior.counts.values() else "met")
    assert "NaN" not in canonical_json(decision)
    assert "0.3125" not in canonical_json(decision)


@pytest.fixture
def ask_of():
    """The decision on a posterior, with the flag at 5 percent."""

    def ask(experiment, posterior):
        now = datetime(2017, 2, 20, tzinfo=UTC)
        flag = FlagState(FlagRef(experiment.flag, "production"), experiment.exposure(5.0), "1-a", True, now)
        return xb.decide(experiment, posterior, flag=flag, looks=1, now=now)

    return ask
