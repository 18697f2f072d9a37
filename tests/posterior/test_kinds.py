"""Every kind of metric from its rows: which likelihood it gets, what stands beside it, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import expnb as xb
from expnb.errors import PosteriorError, SpecError
from expnb.posterior.comparison import Comparison
from expnb.posterior.table import BINOMIAL, FAMILIES, NORMAL, POISSON, STUDENT, Table
from expnb.spec.experiment import TRIGGER_KEY
from expnb.stats.moments import Moments

RNG = np.random.default_rng(11)
N = 3000
ARM = np.repeat(["a", "b"], N)


def experiment(*metrics, **other):
    facts = {
        "name": "shop", "hypothesis": "h", "owner": "o", "flag": "f", "unit": "row", "variant": "arm", "control": "a",
        "weights": {"a": 1.0, "b": 1.0}, "policy": replace(xb.Policy(), min_days=0), "metrics": metrics,
    }  # fmt: skip
    return xb.Experiment(**(facts | other))


def goal(**metric):
    return xb.Metric(**({"name": "m", "kind": "mean", "role": "goal", "rope": 0.01} | metric))


def fitted(frame, *metrics, **other):
    exp = experiment(*metrics, **other)
    return xb.fit(exp, xb.load_cohort(exp, frame))


def family(kind, control, treatment, **other):
    metric = xb.Metric(name="m", kind=kind)
    table = Table([Comparison(metric, "b", "all", control, treatment, **other)])
    return FAMILIES[table.family[0]]


def of(values):
    values = np.asarray(values, dtype=float)
    return Moments(values.size, values.mean(), ((values - values.mean()) ** 2).sum(), values.min(), values.max())


# --- which likelihood ------------------------------------------------------------------------------


def test_counts_are_poisson_unless_they_are_shown_not_to_be():
    rng = np.random.default_rng(2)
    even = [of(rng.poisson(2.0, 5000)) for _ in range(2)]
    wild = [of(rng.negative_binomial(2, 0.5, 5000)) for _ in range(2)]
    slightly = [of(rng.negative_binomial(40, 40 / 42, 1_000_000)) for _ in range(2)]  # variance / mean 1.05
    tame = [of(rng.binomial(4, 0.5, 5000)) for _ in range(2)]
    assert family("count", *even, events=True) == "poisson"
    assert family("count", even[0], wild[1], events=True) == "normal"
    assert family("count", *slightly, events=True) == "normal"
    assert family("count", *tame, events=True) == "normal"
    assert family("count", *even) == "normal"  # an adjusted, capped or stratified count is no sum of events


def test_the_rule_takes_nearly_all_poisson_counts_for_what_they_are():
    rng = np.random.default_rng(3)
    for mean, n, least in ((2.0, 2000, 0.97), (0.01, 5000, 0.97), (2.0, 200_000, 0.97), (2.0, 100, 0.4)):
        taken = [
            family("count", of(rng.poisson(mean, n)), of(rng.poisson(mean, n)), events=True) == "poisson"
            for _ in range(60)
        ]
        assert np.mean(taken) >= least - 0.03


def test_few_units_have_a_t_and_many_a_bell():
    small, large = Moments(199, 10.0, 199 * 4.0, 0, 20), Moments(200, 10.0, 200 * 4.0, 0, 20)
    assert family("mean", small, large) == "student"
    assert family("mean", large, large) == "normal"
    assert family("conversion", Moments(30, 0.5, 7.5, 0, 1), Moments(30, 0.5, 7.5, 0, 1)) == "binomial"
    control, _ = Table([Comparison(xb.Metric(name="m", kind="mean"), "b", "all", small, large)]).arms(
        np.zeros(1, int), STUDENT
    )
    assert control.df[0] == 198


def test_all_arms_of_a_segment_are_judged_by_one_likelihood():
    metric, big, small = (
        xb.Metric(name="m", kind="mean"),
        Moments(900, 10.0, 900.0, 0, 9),
        Moments(90, 10.0, 90.0, 0, 9),
    )
    table = Table(
        [
            Comparison(metric, "b", "all", big, big),
            Comparison(metric, "c", "all", big, small),
            Comparison(metric, "b", "x=1", big, big),
        ]
    )
    assert table.family.tolist() == [STUDENT, STUDENT, NORMAL]


# --- rows to figures -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop():
    """Revenue with a heavy tail, what was spent before, and orders."""
    rng = np.random.default_rng(5)
    before = rng.gamma(2.0, 10.0, 2 * N)
    pays = rng.random(2 * N) < np.where(ARM == "a", 0.20, 0.23)
    spent = np.where(pays, rng.lognormal(2.0, 1.0, 2 * N) + 0.3 * before, 0.0)
    return pd.DataFrame(
        {
            "arm": ARM,
            "m": spent,
            "before": before,
            "orders": rng.poisson(np.where(ARM == "a", 1.0, 1.1)),
            "views": rng.poisson(20, 2 * N) + 1.0,
        }
    )


def test_revenue_stands_beside_its_uncapped_figure_and_its_parts(shop):
    posterior = fitted(shop, goal(kind="revenue", cap=0.99))
    assert [effect.estimate for effect in posterior.effects] == ["main", "uncapped", "payers", "per payer"]
    main, bare, payers, each = posterior.effects
    assert (main.role, bare.role, payers.role, each.role) == ("goal", "info", "info", "info")
    assert bare.mean_control == pytest.approx(shop.m[:N].mean())
    assert main.mean_control < bare.mean_control
    assert (payers.kind, payers.mean_treatment) == ("conversion", pytest.approx((shop.m[N:] > 0).mean()))
    assert (1 + payers.effect_rel) * (1 + each.effect_rel) == pytest.approx(1 + main.effect_rel, rel=1e-9)
    assert each.n_control == (shop.m[:N] > 0).sum()
    assert payers.p_harm is None
    uncapped = fitted(shop, goal(kind="revenue")).effect("m", "b", estimate="per payer")
    paid = shop.m[N:][shop.m[N:] > 0]
    assert uncapped.mean_treatment == pytest.approx(paid.mean())
    assert uncapped.ci_high - uncapped.ci_low == pytest.approx(
        2
        * 1.96
        * math.hypot(paid.std() / math.sqrt(paid.size), (p := shop.m[:N][shop.m[:N] > 0]).std() / math.sqrt(p.size)),
        rel=1e-2,
    )


def test_refunds_leave_the_share_of_payers_and_no_mean_per_payer(shop):
    posterior = fitted(shop.assign(m=np.where(np.arange(2 * N) % 50 == 0, -5.0, shop.m)), goal(kind="revenue"))
    assert [effect.estimate for effect in posterior.effects] == ["main", "payers"]


def test_payers_who_all_pay_the_same_have_no_spread(shop):
    posterior = fitted(shop.assign(m=np.where(shop.m > 0, 9.99, 0.0)), goal(kind="revenue"))
    each = posterior.effect("m", "b", estimate="per payer")
    assert each.p_improvement is None
    assert "all values are equal" in each.note


def test_a_covariate_narrows_the_main_row_and_the_plain_one_stands_beside_it(shop):
    main, plain = fitted(shop.assign(m=shop.before + RNG.normal(10, 3, 2 * N)), goal(covariate="before")).effects
    assert (main.estimate, plain.estimate) == ("main", "unadjusted")
    assert main.hdi_abs_high - main.hdi_abs_low < 0.3 * (plain.hdi_abs_high - plain.hdi_abs_low)
    assert main.ci_high - main.ci_low < 0.3 * (plain.ci_high - plain.ci_low)


def test_a_cap_goes_before_a_covariate(shop):
    estimates = {
        effect.estimate: effect for effect in fitted(shop, goal(kind="mean", cap=0.99, covariate="before")).effects
    }
    assert set(estimates) == {"main", "uncapped", "adjusted, uncapped"}
    assert "the cap is applied and the covariate is not" in estimates["main"].note


def test_counts_of_rows_are_poisson_and_their_posterior_is_a_gamma(shop):
    exp = experiment(goal(kind="count", name="orders"))
    effect = xb.fit(exp, xb.load_cohort(exp, shop), prior=xb.Prior("flat")).effects[0]
    totals = shop.groupby("arm").orders.sum()
    from scipy import stats

    wanted = stats.beta(totals["b"] + 1, totals["a"] + 1).sf(0.5)
    assert effect.p_improvement == pytest.approx(wanted, abs=1e-7)
    assert effect.effect_rel_post == pytest.approx((totals["b"] + 1) / totals["a"] - 1, rel=1e-8)


@pytest.mark.parametrize(("share", "kind"), [(1.0, "strong"), (0.12, "weak"), (0.004, "hopeless")])
def test_a_ratio_is_as_sure_as_its_denominator(shop, share, kind):
    rng = np.random.default_rng(8)
    views = np.where(rng.random(2 * N) < share, shop.views, 0.0)
    frame = shop.assign(views=views, clicks=rng.binomial(views.astype(int), 0.3))
    effect = fitted(frame, goal(kind="ratio", numerator="clicks", denominator="views")).effects[0]
    assert ("both sums of the ratio are uncertain" in effect.note) == (kind == "weak")
    assert (effect.p_improvement is None) == (kind == "hopeless")
    if kind == "hopeless":
        assert effect.note.startswith("no posterior: the denominator is")
        assert "wait for more units" in effect.note


def test_few_clusters_are_means_of_clusters_with_their_degrees_of_freedom():
    rng = np.random.default_rng(9)
    shops = np.repeat(np.arange(60), 50)
    rate = rng.beta(4, 16, 60)[shops]
    frame = pd.DataFrame({"arm": np.where(shops % 2, "a", "b"), "shop": shops, "m": rng.random(3000) < rate})
    effect = fitted(frame, goal(kind="conversion"), unit="shop", shape="rows", min_cell=5).effects[0]
    assert effect.n_control == 30
    assert "fewer than 200 clusters in an arm: Student-t" in effect.note
    flat = fitted(frame, goal(kind="conversion")).effects[0]  # as if customers were independent
    assert effect.ci_high - effect.ci_low > 1.5 * (flat.ci_high - flat.ci_low)
    assert effect.cs_high - effect.cs_low > 1.5 * (flat.cs_high - flat.cs_low)


def test_a_quantile_has_every_figure(shop):
    effect = fitted(shop, goal(kind="quantile", q=0.5, name="before")).effects[0]
    assert effect.mean_control == pytest.approx(shop.before[:N].median(), rel=0.01)
    assert effect.note == ""
    missing = {name for name, value in effect.row().items() if value is None}
    assert missing == {"p_null", "shrinkage"}  # of learnt priors and of pooled segments


def test_a_retention_curve_is_in_the_order_of_its_windows():
    rng = np.random.default_rng(4)
    days = {30.0: 0.1, 1.0: 0.5, 7.0: 0.2}
    seen = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 10, 2 * N), "D")
    frame = pd.DataFrame(
        {"arm": ARM, "seen": seen} | {f"day_{day:g}": rng.random(2 * N) < rate for day, rate in days.items()}
    )
    frame.loc[0, "seen"] = pd.Timestamp("2024-03-01")
    metrics = [
        xb.Metric(
            name=f"day_{day:g}",
            kind="retention",
            from_days=day,
            window_days=day + 1,
            role="goal" if day == 7 else "info",
            rope=0.01,
        )
        for day in days
    ]
    posterior = fitted(frame, *metrics, exposed_at="seen")
    curve = posterior.curve()
    assert curve.from_days.tolist() == [1.0, 7.0, 30.0]
    assert curve.mean_control.is_monotonic_decreasing
    with pytest.raises(LookupError, match="return"):
        posterior.curve("return")


def test_every_row_has_a_confidence_sequence_around_its_interval(shop):
    for effect in fitted(shop, goal(kind="revenue", cap=0.99)).effects:
        assert effect.cs_low < effect.ci_low < effect.ci_high < effect.cs_high


def test_decisions_charts_and_the_effect_by_name_read_main_rows_alone(shop):
    posterior = fitted(shop, goal(kind="revenue", cap=0.99))
    assert len(posterior.main) == 1
    assert posterior.effect("m", "b").estimate == "main"
    assert len(xb.charts.effect(posterior).table.variant.unique()) == 1
    page = posterior._repr_html_()
    assert page.count("padding-left:2em") == 3
    assert posterior.summary().estimate.tolist() == ["main", "uncapped", "payers", "per payer"]


# --- triggered units -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout():
    """Only those who saw the checkout can differ."""
    rng = np.random.default_rng(6)
    saw = rng.random(2 * N) < 0.2
    spent = rng.normal(10, 4, 2 * N) + np.where(saw, 5.0, 0.0) + np.where(saw & (ARM == "b"), 1.0, 0.0)
    frame = pd.DataFrame({"arm": ARM, "m": spent, "saw": np.where(saw, "true", "false")})
    exp = experiment(goal(), segments=("saw",))
    cells = xb.load_cohort(exp, frame).cells
    cells = replace(cells, segments={TRIGGER_KEY: cells.segments["saw"]})
    return frame, xb.fit(replace(exp, segments=(), trigger="saw"), cells)


def test_the_effect_is_on_triggered_units_and_stands_diluted_beside_it(checkout):
    frame, posterior = checkout
    main, diluted = posterior.effects
    saw = frame[frame.saw == "true"]
    assert (main.estimate, diluted.estimate) == ("main", "all units")
    assert main.n_control == (saw.arm == "a").sum()
    assert diluted.n_control == N
    share = len(saw) / len(frame)
    assert diluted.effect_abs == pytest.approx(share * main.effect_abs)
    assert diluted.effect_rel == pytest.approx(diluted.effect_abs / frame.m[:N].mean())
    assert diluted.p_improvement == main.p_improvement
    assert np.trapezoid(diluted.absolute.y, diluted.absolute.x) == pytest.approx(1, abs=0.01)
    everyone = fitted(frame, goal()).effects[0]
    assert diluted.ci_high - diluted.ci_low < 0.6 * (everyone.ci_high - everyone.ci_low)
    assert everyone.ci_low < diluted.effect_abs < everyone.ci_high


def test_cells_that_do_not_know_who_was_triggered_are_refused(shop):
    exp = experiment(goal())
    cells = xb.load_cohort(exp, shop).cells
    with pytest.raises(PosteriorError, match="do not say which units were triggered"):
        xb.fit(replace(exp, trigger="saw"), cells)


# --- corners ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("control", "treatment"),
    [
        ((1000, 0), (1000, 0)),
        ((1000, 0), (1000, 12)),
        ((1000, 1000), (1000, 990)),
        ((10**9, 10**8), (10**9, 10**8 + 10**5)),
        ((1000, 10), (1000, 0)),
    ],
)
@pytest.mark.parametrize("prior", [xb.Prior(), xb.Prior("flat")], ids=["prior", "flat"])
@pytest.mark.parametrize("kind", ["conversion", "count"])
def test_extreme_counts_have_the_right_sign_and_no_hole(control, treatment, prior, kind):
    if kind == "count" and control[1] == control[0]:
        pytest.skip("counts have no upper end")
    from expnb.posterior.effects import exact_effects

    spread = (lambda n, k: k * (1 - k / n)) if kind == "conversion" else (lambda n, k: k * (1 - 1 / n))
    arms = [Moments(n, k / n, spread(n, k), 0.0, 1.0) for n, k in (control, treatment)]
    metric = xb.Metric(name="m", kind=kind, rope=0.01, margin=0.02)
    (effect,) = exact_effects([Comparison(metric, "b", "all", *arms, events=kind == "count")], [prior])
    sign = np.sign(treatment[1] - control[1])
    assert effect.p_improvement is not None
    assert np.sign(round(effect.p_improvement - 0.5, 3)) in {sign, 0.0 if prior.family != "flat" or sign == 0 else sign}
    if sign:
        assert (effect.p_improvement > 0.5) == (sign > 0)
    figures = [value for value in effect.row().values() if isinstance(value, float)]
    assert not any(math.isnan(value) for value in figures)
    assert (effect.effect_rel is None) == (control[1] == 0)


@pytest.mark.parametrize("units", [0, 1, 3])
def test_arms_with_hardly_a_unit_say_why_there_is_no_posterior(units):
    from expnb.posterior.effects import exact_effects

    arms = [Moments(100, 1.0, 100.0, 0, 2), Moments(units, 1.0 if units else 0.0, float(units > 1), 0, 2)]
    (effect,) = exact_effects([Comparison(xb.Metric(name="m", kind="mean"), "b", "all", *arms)], [xb.Prior()])
    assert effect.p_improvement is None
    assert effect.note == "no posterior: fewer than four units in an arm"


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ({"kind": "money"}, "kind"),
        ({"role": "guardrail", "margin": -0.01}, "cannot be negative"),
        ({"role": "guardrail"}, "no margin"),
    ],
)
def test_a_metric_that_makes_no_sense_is_refused_in_one_sentence(metric, says):
    with pytest.raises(SpecError, match=says):
        xb.Metric(**({"name": "m", "kind": "mean"} | metric))


def test_prior_and_data_that_disagree_say_so_for_every_kind():
    from expnb.posterior.effects import exact_effects

    for kind, arms, events in (
        ("mean", [Moments(5000, m, 5000.0, 0, 9) for m in (10.0, 17.2)], False),
        ("count", [Moments(5000, m, 5000 * m, 0, 9) for m in (1.0, 1.72)], True),
        ("mean", [Moments(100, m, 100.0, 0, 9) for m in (10.0, 17.2)], False),
    ):
        (effect,) = exact_effects(
            [Comparison(xb.Metric(name="m", kind=kind), "b", "all", *arms, events=events)], [xb.Prior()]
        )
        assert "prior and data disagree" in effect.note
        assert effect.effect_rel_post > 0.6


def test_families_are_in_the_order_of_care():
    assert tuple(FAMILIES.index(name) for name in ("binomial", "poisson", "normal", "student")) == (
        BINOMIAL,
        POISSON,
        NORMAL,
        STUDENT,
    )


@pytest.mark.parametrize("unit", [1e-60, 1e60])
def test_a_metric_beyond_double_precision_says_so_and_leaves_the_others(unit):
    from expnb.posterior.effects import exact_effects

    arms = [Moments(1000, mean, 999.0, mean - 3, mean + 3) for mean in (5.0, 5.1)]
    far = [Moments(1000, one.mean * unit, one.m2 * unit**2, one.low * unit, one.high * unit) for one in arms]
    metrics = [xb.Metric(name=name, kind="mean", margin=0.02) for name in ("near", "far")]
    pairs = [Comparison(metric, "b", "all", *own) for metric, own in zip(metrics, (arms, far), strict=True)]
    near, beyond = exact_effects(pairs, [xb.Prior()] * 2)
    assert near.note == ""
    assert near.p_improvement == pytest.approx(0.97, abs=0.03)
    assert beyond.note.startswith(f"no posterior: a mean of {5 * unit:.3g} with a standard error of")
    assert (beyond.p_improvement, beyond.mean_control) == (None, far[0].mean)
    assert beyond.p_value == pytest.approx(near.p_value, rel=1e-9)
