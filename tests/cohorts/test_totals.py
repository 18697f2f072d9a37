"""Tables of totals: the same moments as the units they sum, and one sentence for totals that cannot be."""

import math
from dataclasses import replace
from datetime import date

import ibis
import numpy as np
import pandas as pd
import pytest

import expnb as xb
from expnb import errors
from expnb.spec.experiment import Epoch, Expectation, Totals
from expnb.spec.metric import TotalsColumns

DAYS = [date(2026, 3, day) for day in range(1, 10)]
ARMS = ("a", "b")
SUMS = TotalsColumns(sum="spend_sum", squares="spend_squares")
MEANS = TotalsColumns(mean="spend_mean", variance="spend_variance")
BOUGHT = xb.Metric(name="bought", kind="conversion", role="goal", rope=0.01)
SPEND = xb.Metric(name="spend", kind="mean")
VISITS = xb.Metric(name="visits", kind="count")
METRICS = (BOUGHT, SPEND, VISITS)


@pytest.fixture(scope="module")
def units():
    """Six thousand units of two arms, two countries and nine days."""
    rng = np.random.default_rng(8)
    size = 6000
    arm = rng.choice(ARMS, size)
    return pd.DataFrame(
        {
            "id": np.arange(size),
            "arm": arm,
            "country": rng.choice(["DE", "FR"], size, p=[0.7, 0.3]),
            "seen": pd.to_datetime(rng.choice(DAYS, size)),
            "bought": rng.random(size) < np.where(arm == "a", 0.1, 0.13),
            "spend": 1000 + rng.gamma(2.0, 3.0, size),
            "visits": rng.poisson(3, size),
        }
    )


def experiment(*metrics, shape="unit", **changes):
    """An experiment on `units`, or on totals of them."""
    totals = Totals(units="n") if shape == "totals" else None
    base = xb.Experiment(
        name="checkout",
        hypothesis="More people buy.",
        owner="shop",
        flag="checkout",
        unit="id",
        variant="arm",
        control="a",
        weights={"a": 50, "b": 50},
        shape=shape,
        totals=totals,
        metrics=metrics or METRICS,
        policy=xb.Policy(ladder=(1, 100), learn_at=100, min_days=0, min_units=100),
    )
    return replace(base, **changes)


def totals_of(frame, *keys):
    """Sums per arm, and per whatever else is named, as a warehouse would make them."""
    grouped = frame.groupby(["arm", *keys])
    parts = {"n": grouped.size(), "bought": grouped.bought.sum()}
    for name in ("spend", "visits"):
        parts |= {
            f"{name}_sum": grouped[name].sum(),
            f"{name}_squares": grouped[name].agg(lambda values: (values.astype(float) ** 2).sum()),
            f"{name}_mean": grouped[name].mean(),
            f"{name}_variance": grouped[name].var(),
        }
    return pd.DataFrame(parts).reset_index()


def summed(name):
    return TotalsColumns(sum=f"{name}_sum", squares=f"{name}_squares")


def averaged(name):
    return TotalsColumns(mean=f"{name}_mean", variance=f"{name}_variance")


WAYS = {"sums": summed, "means": averaged}


def with_totals(way):
    columns = WAYS[way]
    return (BOUGHT, replace(SPEND, totals=columns("spend")), replace(VISITS, totals=columns("visits")))


def load(exp, frame):
    return xb.load_cohort(exp, frame)


def check(cohort, name):
    """The check of that name, or None."""
    return next((found for found in cohort.checks if found.name == name), None)


# --- the same numbers -------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [(), ("seen",), ("country",), ("country", "seen")], ids=" and ".join)
@pytest.mark.parametrize("way", WAYS)
def test_totals_have_the_moments_of_their_units(way, keys, units):
    places = {
        "segments": ("country",) if "country" in keys else (),
        "exposed_at": "seen" if "seen" in keys else "",
    }
    cells = load(experiment(*with_totals(way), shape="totals", **places), totals_of(units, *keys)).cells
    # the sum of squares of values near 1000 has lost digits of a variance near 18 before we see it
    near = 1e-12 if way == "means" else 1e-10
    for arm in ARMS:
        own = units[units.arm == arm]
        assert cells.count(arm) == len(own)
        bought = cells.moments("bought", arm)
        assert bought.mean * bought.n == pytest.approx(own.bought.sum(), abs=1e-9)
        for name in ("spend", "visits"):
            found = cells.moments(name, arm)
            assert found.n == len(own)
            assert found.mean == pytest.approx(own[name].mean(), rel=1e-12)
            assert found.variance == pytest.approx(own[name].var(), rel=near)


@pytest.mark.parametrize("way", WAYS)
def test_totals_and_units_give_the_same_posterior(way, units):
    from_units = xb.fit(experiment(), load(experiment(), units))
    totals = experiment(*with_totals(way), shape="totals")
    from_totals = xb.fit(totals, load(totals, totals_of(units)))
    for name in ("bought", "spend", "visits"):
        one, other = from_units.effect(name, "b"), from_totals.effect(name, "b")
        for field in ("effect_abs", "effect_rel_post", "hdi_rel_low", "hdi_rel_high", "p_improvement", "p_value"):
            assert getattr(other, field) == pytest.approx(getattr(one, field), rel=1e-6)


def test_segments_and_days_of_totals_are_those_of_the_units(units):
    exp = experiment(*with_totals("sums"), shape="totals", segments=("country",), exposed_at="seen")
    cells = load(exp, totals_of(units, "country", "seen")).cells
    assert cells.days() == (DAYS[0], DAYS[-1])
    for country in ("DE", "FR"):
        own = units[(units.arm == "b") & (units.country == country)]
        found = cells.moments("spend", "b", cells.segments["country"] == country)
        assert (found.n, found.mean) == (len(own), pytest.approx(own.spend.mean(), rel=1e-12))
    for day in DAYS:
        own = units[(units.arm == "a") & (units.seen == pd.Timestamp(day))]
        assert cells.moments("bought", "a", cells.day == np.datetime64(day)).mean == pytest.approx(own.bought.mean())


@pytest.mark.parametrize("way", WAYS)
def test_totals_added_up_over_days_keep_their_moments(way, units):
    exp = experiment(*with_totals(way), shape="totals", exposed_at="seen")
    cells = load(exp, totals_of(units, "seen")).cells
    rolled = cells.roll_up()
    assert rolled.n.size == 2
    for name in ("bought", "spend", "visits"):
        one, other = cells.moments(name, "b"), rolled.moments(name, "b")
        assert (one.n, one.low, one.high) == (other.n, other.low, other.high)
        assert other.mean == pytest.approx(one.mean, rel=1e-12)
        assert other.variance == pytest.approx(one.variance, rel=1e-9)


def test_a_metric_may_count_its_own_units(units):
    table = totals_of(units)
    table["clicks"], table["orders"] = [800, 900], [80, 99]
    orders = replace(BOUGHT, name="orders", column="orders", totals=TotalsColumns(units="clicks", sum="orders"))
    cohort = load(experiment(orders, replace(SPEND, totals=SUMS), shape="totals"), table)
    assert cohort.cells.units == 6000
    found = cohort.cells.moments("orders", "b")
    assert (found.n, found.mean) == (900, pytest.approx(0.11))
    assert cohort.cells.moments("spend", "b").n == (units.arm == "b").sum()


@pytest.mark.parametrize("base", [0.0, 1e6, 1e9])
def test_means_and_variances_keep_their_digits_on_a_large_base(base, units):
    moved = units.assign(spend=units.spend + base)
    exp = experiment(BOUGHT, replace(SPEND, totals=MEANS), shape="totals", exposed_at="seen")
    found = load(exp, totals_of(moved, "seen")).cells.moments("spend", "a")
    assert found.variance == pytest.approx((moved.spend - base)[moved.arm == "a"].var(), rel=1e-6)


def test_conversions_may_be_given_as_a_mean(units):
    table = totals_of(units)
    table["rate"], table["spread"] = table.bought / table.n, np.nan
    rate = replace(BOUGHT, totals=TotalsColumns(mean="rate", variance="spread"))
    found = load(experiment(rate, shape="totals"), table).cells.moments("bought", "b")
    assert found.mean * found.n == pytest.approx(table.bought[1], abs=1e-9)


def test_a_single_unit_needs_no_variance():
    frame = pd.DataFrame(
        {"arm": ["a", "a", "b", "b"], "seen": pd.to_datetime(DAYS[:2] * 2), "n": [1, 40, 40, 1]}
    ).assign(bought=1, spend_mean=[5.0, 7.0, 6.0, 4.0], spend_variance=[np.nan, 2.0, 2.0, np.nan])
    exp = experiment(BOUGHT, replace(SPEND, totals=MEANS), shape="totals", exposed_at="seen")
    found = load(exp, frame).cells.moments("spend", "a")
    assert (found.n, found.mean) == (41, pytest.approx((5 + 40 * 7) / 41))
    assert found.m2 == pytest.approx(39 * 2 + (7 - 5) ** 2 * 40 / 41)


def test_totals_may_be_sums_that_an_engine_makes_of_its_rows(units):
    rows = ibis.duckdb.connect().create_table("units", units.assign(cents=(units.spend * 100).astype(int)))
    value = rows.cents
    table = rows.group_by(["arm", "seen"]).aggregate(
        n=rows.count(), bought=rows.bought.sum(), cents=value.sum(), squares=(value * value).sum()
    )
    cents = xb.Metric(name="cents", kind="count", totals=TotalsColumns(sum="cents", squares="squares"))
    cells = load(experiment(BOUGHT, cents, shape="totals", exposed_at="seen"), table).cells
    own = (units.spend * 100).astype(int)[units.arm == "b"]
    assert cells.moments("cents", "b").mean == pytest.approx(own.mean(), rel=1e-12)
    assert cells.moments("cents", "b").variance == pytest.approx(own.var(), rel=1e-9)


def test_one_table_may_hold_many_experiments(units):
    table = totals_of(units)
    both = pd.concat([table.assign(test="checkout"), table.assign(test="other", n=table.n * 7)])
    exp = experiment(BOUGHT, shape="totals", experiment_column="test")
    assert load(exp, both).cells.units == 6000
    with pytest.raises(errors.EmptyCohortError):
        load(replace(exp, name="third"), both)


def test_days_outside_the_agreed_ones_are_left_out(units):
    exp = experiment(BOUGHT, shape="totals", exposed_at="seen", start=DAYS[2], end=DAYS[5])
    cells = load(exp, totals_of(units, "seen")).cells
    assert cells.days() == (DAYS[2], DAYS[5])
    assert cells.units == units.seen.between(pd.Timestamp(DAYS[2]), pd.Timestamp(DAYS[5])).sum()


def test_an_hour_belongs_to_a_day_of_the_experiments_zone(units):
    table = totals_of(units).assign(seen=pd.Timestamp("2026-03-01 23:30", tz="UTC"))
    exp = experiment(BOUGHT, shape="totals", exposed_at="seen", timezone="Asia/Tokyo")
    assert load(exp, table).cells.days() == (date(2026, 3, 2), date(2026, 3, 2))


def test_a_row_without_a_segment_is_a_segment_of_its_own(units):
    table = totals_of(units, "country").replace({"country": {"FR": None}})
    cells = load(experiment(BOUGHT, shape="totals", segments=("country",)), table).cells
    assert cells.segment_values("country") == ["(none)", "DE"]


def test_a_count_in_totals_is_not_taken_for_a_negative_or_an_outlier(units):
    cohort = load(experiment(*with_totals("sums"), shape="totals"), totals_of(units))
    assert cohort.cells.moments("visits", "a").low == 0
    assert not [found for found in cohort.checks if found.name.startswith(("outlier", "constant"))]


def test_totals_of_nothing_but_zeros_are_constant(units):
    table = totals_of(units.assign(visits=0))
    cohort = load(experiment(*with_totals("sums"), shape="totals"), table)
    assert "every value is 0" in check(cohort, "constant:visits").sentence


# --- totals that are not there yet ------------------------------------------------------------


def test_totals_that_are_not_there_yet_are_immature_and_left_out(units):
    table = totals_of(units, "seen")
    late = table.seen >= pd.Timestamp(DAYS[6])
    table["bought"] = table.bought.astype(float).where(~late)
    cohort = load(experiment(BOUGHT, replace(SPEND, totals=MEANS), shape="totals", exposed_at="seen"), table)
    closed = units[(units.arm == "b") & (units.seen < pd.Timestamp(DAYS[6]))]
    found = cohort.cells.moments("bought", "b")
    assert (found.n, found.mean) == (len(closed), pytest.approx(closed.bought.mean()))
    sentence = check(cohort, "immature:bought").sentence
    assert f"{table.n[late].sum():,} of 6,000 units have no total for some day" in sentence
    assert "window" not in sentence
    assert cohort.cells.moments("spend", "b").n == (units.arm == "b").sum()


def test_rows_outside_of_the_agreed_days_are_counted_and_said(units):
    table = totals_of(units, "seen")
    days = {"start": DAYS[1], "end": DAYS[3]}
    outside = ~table.seen.between(pd.Timestamp(DAYS[1]), pd.Timestamp(DAYS[3]))
    cohort = load(experiment(BOUGHT, shape="totals", exposed_at="seen", **days), table)
    assert check(cohort, "outside").sentence.startswith(f"{outside.sum()} rows are dated outside of")


def test_immature_units_are_held_against_the_units_of_their_own_metric(units):
    table = totals_of(units, "seen").assign(clicks=10)
    table["orders"] = np.where(table.seen == pd.Timestamp(DAYS[0]), 3.0, np.nan)
    orders = replace(BOUGHT, name="orders", column="orders", totals=TotalsColumns(units="clicks", sum="orders"))
    found = check(load(experiment(orders, shape="totals", exposed_at="seen"), table), "immature:orders")
    assert "160 of 180 units have no total for some day" in found.sentence
    assert found.outcome == "warn"  # more than half


def test_totals_missing_for_one_arm_alone_warn(units):
    table = totals_of(units, "seen")
    table["bought"] = table.bought.astype(float).where((table.arm == "a") | (table.seen < pd.Timestamp(DAYS[7])))
    found = check(load(experiment(BOUGHT, shape="totals", exposed_at="seen"), table), "gaps:bought")
    assert found.outcome == "warn"
    assert "in 2 of 9 days or segments some arms have a total and others have none" in found.sentence


def test_rows_that_do_not_say_their_units_are_left_out_and_counted(units):
    table = totals_of(units, "seen").assign(clicks=20.0, orders=4.0)
    table.loc[table.seen == pd.Timestamp(DAYS[8]), ["clicks", "orders"]] = np.nan
    orders = replace(BOUGHT, name="orders", column="orders", totals=TotalsColumns(units="clicks", sum="orders"))
    cohort = load(experiment(orders, shape="totals", exposed_at="seen"), table)
    assert cohort.cells.moments("orders", "a").n == 160
    assert "2 of 18 rows do not say how many units they hold" in check(cohort, "uncounted:orders").sentence


def test_an_arm_without_any_total_gives_no_figure(units):
    table = totals_of(units).assign(spend_variance=lambda f: f.spend_variance.where(f.arm == "a"))
    exp = experiment(BOUGHT, replace(SPEND, totals=MEANS), shape="totals")
    effect = xb.fit(exp, load(exp, table)).effect("spend", "b")
    assert (effect.effect_abs, effect.p_improvement) == (None, None)
    assert effect.note


# --- running totals ---------------------------------------------------------------------------


def running(units):
    """Totals of all units up to each day."""
    parts = [totals_of(units[units.seen <= pd.Timestamp(day)]).assign(seen=pd.Timestamp(day)) for day in DAYS]
    return pd.concat(parts, ignore_index=True)


def cumulative(*metrics, **changes):
    return experiment(
        *(metrics or with_totals("means")),
        shape="totals",
        exposed_at="seen",
        totals=Totals(units="n", cumulative=True),
        **changes,
    )


def test_of_running_totals_only_the_last_row_counts(units):
    cells = load(cumulative(), running(units).sample(frac=1, random_state=2)).cells
    assert cells.units == 6000
    own = units[units.arm == "b"]
    assert cells.moments("spend", "b").mean == pytest.approx(own.spend.mean(), rel=1e-12)
    assert cells.moments("spend", "b").variance == pytest.approx(own.spend.var(), rel=1e-12)
    assert np.isnat(cells.day).all()  # nobody can tell on which days they came


def test_running_totals_may_count_time_in_numbers(units):
    table = running(units)
    table["seen"] = (table.seen - table.seen.min()).dt.days * 0.5
    assert load(cumulative(), table).cells.units == 6000


def test_running_totals_end_with_the_last_agreed_day(units):
    exp = cumulative(start=DAYS[0], end=DAYS[3])
    assert load(exp, running(units)).cells.units == (units.seen <= pd.Timestamp(DAYS[3])).sum()


def test_running_totals_that_are_not_declared_are_recognised(units):
    exp = experiment(BOUGHT, shape="totals", exposed_at="seen")
    found = check(load(exp, running(units)), "cumulative:n")
    assert found.outcome == "warn"
    assert "write cumulative = true" in found.sentence
    assert check(load(exp, totals_of(units, "seen")), "cumulative:n") is None


def test_running_totals_by_segment_are_recognised(units):
    parts = [
        totals_of(units[units.seen <= pd.Timestamp(day)], "country").assign(seen=pd.Timestamp(day)) for day in DAYS
    ]
    exp = experiment(BOUGHT, shape="totals", exposed_at="seen", segments=("country",))
    assert check(load(exp, pd.concat(parts)), "cumulative:n") is not None


def test_running_totals_that_fall_warn(units):
    table = running(units)
    table.loc[(table.arm == "b") & (table.seen == pd.Timestamp(DAYS[4])), "n"] += 2000
    found = check(load(cumulative(BOUGHT), table), "cumulative")
    assert found.outcome == "warn"
    assert "fall from one row to the next: b 1 time." in found.sentence
    assert check(load(cumulative(BOUGHT), running(units)), "cumulative") is None


def test_running_totals_that_end_at_different_times_warn(units):
    table = running(units)
    table = table[(table.arm == "a") | (table.seen < pd.Timestamp(DAYS[8]))]
    found = check(load(cumulative(BOUGHT), table), "cumulative:end")
    assert found.outcome == "warn"
    assert "a 2026-03-09" in found.sentence
    assert "b 2026-03-08" in found.sentence


# --- totals that cannot be --------------------------------------------------------------------

CONVERSIONS = "conversions are whole numbers from 0 to the number of units"
BAD_TOTALS = {
    "more conversions than units": (
        {"bought": [10**6, 3]},
        errors.MetricValuesError,
        f"1,000,000 conversions of .*; {CONVERSIONS}",
    ),
    "negative conversions": ({"bought": [-3, 3]}, errors.MetricValuesError, f"-3 conversions of .*; {CONVERSIONS}"),
    "broken conversions": ({"bought": [3.5, 3]}, errors.MetricValuesError, f"3.5 conversions of .*; {CONVERSIONS}"),
    "infinite conversions": (
        {"bought": [math.inf, 3]},
        errors.MetricValuesError,
        "column 'bought' holds an infinite total",
    ),
    "negative units": (
        {"n": [-5, 5]},
        errors.MetricValuesError,
        "column 'n' counts units and holds -5; units are whole numbers from 0",
    ),
    "half units": ({"n": [2999.5, 3000]}, errors.MetricValuesError, "column 'n' counts units and holds 2999.5"),
    "unknown units": ({"n": [None, 3000]}, errors.MetricValuesError, "column 'n' counts units and holds nan"),
    "squares too small": (
        {"spend_squares": [1.0, 1.0]},
        errors.MetricValuesError,
        "a sum of squares is smaller than the squared sum allows, which no values have",
    ),
    "text": (
        {"spend_sum": ["1,000", "2,000"]},
        errors.CohortError,
        "column 'spend_sum' holds string, and totals are numbers",
    ),
    "negative count": (
        {"visits_sum": [-4.0, 9000.0]},
        errors.MetricValuesError,
        "column 'visits_sum' goes down to -4; a count is never below 0",
    ),
    "unknown arm": ({"arm": ["a", "c"]}, errors.ArmsError, "holds the arm 'c'"),
    "no arm": ({"arm": ["a", None]}, errors.NullArmError, "no value in the arm column 'arm'"),
    "two rows for one arm": (
        {"arm": ["a", "a"]},
        errors.CohortError,
        "arm a has more than one row; a table of totals has one per arm",
    ),
}


@pytest.mark.parametrize("case", BAD_TOTALS)
def test_totals_that_cannot_be_are_one_sentence(case, units):
    columns, error, sentence = BAD_TOTALS[case]
    with pytest.raises(error, match=sentence):
        load(experiment(*with_totals("sums"), shape="totals"), totals_of(units).assign(**columns))


def test_a_negative_variance_is_no_variance(units):
    table = totals_of(units).assign(spend_variance=[-1.0, 2.0])
    with pytest.raises(errors.MetricValuesError, match="'spend_variance' holds -1; a variance is never below 0"):
        load(experiment(*with_totals("means"), shape="totals"), table)


def test_a_total_of_no_units_is_refused(units):
    table = totals_of(units, "country").assign(n=lambda f: f.n.where(f.country == "DE", 0), bought=0)
    exp = experiment(BOUGHT, replace(SPEND, totals=SUMS), shape="totals", segments=("country",))
    with pytest.raises(errors.MetricValuesError, match="column 'spend_sum' holds a total of 0 units"):
        load(exp, table)


def test_two_rows_for_one_arm_and_day_name_both(units):
    table = pd.concat([totals_of(units, "seen"), totals_of(units, "seen").tail(1)])
    exp = experiment(BOUGHT, shape="totals", exposed_at="seen")
    with pytest.raises(errors.CohortError, match="arm b, seen 2026-03-09.* has more than one row"):
        load(exp, table)


def test_two_running_totals_at_one_time_are_refused(units):
    with pytest.raises(errors.CohortError, match="has more than one row"):
        load(cumulative(), pd.concat([running(units), running(units).tail(1)]))


@pytest.mark.parametrize("column", ["n", "bought", "spend_squares", "arm"])
def test_a_missing_column_offers_the_ones_there_are(column, units):
    with pytest.raises(errors.ColumnNotFoundError, match=f"cohort has no column '{column}'"):
        load(experiment(*with_totals("sums"), shape="totals"), totals_of(units).drop(columns=column))


def test_no_row_is_no_cohort(units):
    with pytest.raises(errors.EmptyCohortError):
        load(experiment(BOUGHT, shape="totals"), totals_of(units).head(0))


def test_totals_that_no_row_has_yet_are_refused(units):
    table = totals_of(units).assign(bought=pd.Series([np.nan, np.nan]))
    with pytest.raises(errors.MetricValuesError, match="no row has its totals yet"):
        load(experiment(BOUGHT, shape="totals"), table)


RATIO = xb.Metric(name="per_visit", kind="ratio", numerator="spend_sum", denominator="visits_sum")
UNITS_NEEDED = {
    "ratio": (RATIO, "a ratio cannot be made from totals: its error needs the single units"),
    "quantile": (xb.Metric(name="spend", kind="quantile", q=0.9), "a quantile cannot be made from totals"),
    "cap": (replace(SPEND, cap=0.99, totals=SUMS), "cap = 0.99 is read from single units"),
    "covariate": (replace(SPEND, covariate="before", totals=SUMS), "covariate = 'before' is read from single units"),
    "sql": (xb.Metric(name="spend", kind="mean", sql="a * b"), r"sql = 'a \* b' is read from single units"),
    "sum alone": (SPEND, "its totals name {'sum': 'spend'}; give the columns sum and squares, or mean and variance"),
    "sum and mean": (
        replace(SPEND, totals=TotalsColumns(sum="spend_sum", mean="spend_mean")),
        "its totals name {'sum': 'spend_sum', 'mean': 'spend_mean'}",
    ),
}


@pytest.mark.parametrize("case", UNITS_NEEDED)
def test_what_needs_single_units_is_refused_of_totals(case, units):
    metric, sentence = UNITS_NEEDED[case]
    with pytest.raises(errors.MetricValuesError, match=sentence):
        load(experiment(BOUGHT, metric, shape="totals"), totals_of(units))


def test_expectations_look_at_units_not_at_totals(units):
    exp = experiment(BOUGHT, shape="totals", expect=(Expectation(name="audience", sql="country = 'DE'"),))
    with pytest.raises(errors.CohortError, match="expectation 'audience' looks at single units"):
        load(exp, totals_of(units))


def test_running_totals_need_a_time(units):
    with pytest.raises(errors.CohortError, match="cumulative totals need a time, to tell which row is the last"):
        load(replace(cumulative(BOUGHT), exposed_at=""), running(units))


@pytest.mark.parametrize("numbers", [False, True], ids=["times", "numbers"])
def test_running_totals_need_the_time_of_every_row(numbers, units):
    table = running(units)
    if numbers:
        table["seen"] = (table.seen - table.seen.min()).dt.days.astype(float)
    table.loc[3, "seen"] = np.nan if numbers else pd.NaT
    with pytest.raises(errors.CohortError, match="1 rows have no value in 'seen'"):
        load(cumulative(BOUGHT), table)


def test_running_totals_cannot_be_told_apart_after_the_weights_changed(units):
    exp = cumulative(BOUGHT, epochs=(Epoch(start=DAYS[4], weights={"a": 90, "b": 10}),))
    with pytest.raises(errors.CohortError, match="before and after the weights changed"):
        load(exp, running(units))


def test_text_is_no_day_of_totals(units):
    table = totals_of(units, "seen").assign(seen=lambda f: f.seen.dt.strftime("%Y-%m-%d"))
    exp = experiment(BOUGHT, shape="totals", exposed_at="seen")
    with pytest.raises(errors.CohortError, match="column 'seen' holds string, not times; days cannot be counted"):
        load(exp, table)


def test_a_row_of_totals_without_a_day_is_counted_and_told(units):
    table = totals_of(units, "seen")
    table.loc[0, "seen"] = pd.NaT
    cohort = load(experiment(BOUGHT, shape="totals", exposed_at="seen"), table)
    assert cohort.cells.units == 6000
    assert f"{table.n[0]:,} units have no value in 'seen'" in check(cohort, "exposed_at").sentence
