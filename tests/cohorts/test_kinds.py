"""Kinds of metrics: each gives the numbers of its rows, whatever is missing among them, or one clear sentence."""

import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import expnb as xb
from expnb.cohorts import reduce as reduction
from expnb.cohorts.cohort import load_cohort
from expnb.errors import CohortError, MetricValuesError, NullArmError
from expnb.spec.experiment import Experiment

N = 4_000
LATE = 1_500  # beyond the rows that the pilot sees
NAN, INF = math.nan, math.inf


def experiment_of(*metrics, **fields):
    """An experiment with two arms; the goal is there only because there has to be one."""
    given = {
        "name": "checkout",
        "hypothesis": "It helps.",
        "owner": "team",
        "flag": "checkout",
        "unit": "user",
        "variant": "arm",
        "control": "a",
        "weights": {"a": 50, "b": 50},
        "policy": xb.Policy(min_days=0),
    }
    goal = xb.Metric(name="goal", kind="conversion", role="goal", column="yes", rope=0.01)
    metrics = metrics if any(one.role == "goal" for one in metrics) else (*metrics, goal)
    return Experiment(**{**given, **fields}, metrics=metrics)


def frame_of(n=N, **columns):
    """Rows of which each is a unit."""
    rows = {"user": np.arange(n), "arm": np.resize(["a", "b"], n), "yes": np.resize([0, 1, 0, 0, 1], n)}
    return pa.table({**rows, **columns})


def metric_of(kind, **fields):
    return xb.Metric(name="m", kind=kind, **({"column": "y"} if kind != "ratio" else {}), **fields)


def cells_of(metric, frame, **fields):
    return load_cohort(experiment_of(metric, **fields), frame).cells


def agree(found, values):
    """Moments are those of the values, added up without rounding."""
    values = np.asarray(values, dtype=float)
    mean = math.fsum(values) / values.size
    assert found.n == values.size
    assert found.mean == pytest.approx(mean, rel=1e-12, abs=1e-300)
    assert found.m2 == pytest.approx(math.fsum((values - mean) ** 2), rel=1e-10)
    assert (found.low, found.high) == pytest.approx((values.min(), values.max()), rel=1e-12)


def values_of(kind, rng):
    return {
        "conversion": lambda: rng.integers(0, 2, N).astype(float),
        "retention": lambda: rng.integers(0, 2, N).astype(float),
        "mean": lambda: rng.normal(-3, 40, N),
        "count": lambda: rng.poisson(2, N).astype(float),
        "revenue": lambda: np.where(rng.random(N) < 0.1, rng.lognormal(3, 1, N), 0.0),
        "duration": lambda: rng.gamma(2, 30, N),
    }[kind]()


PLAIN = ("conversion", "mean", "count", "revenue", "duration")
SPOILS = {
    "complete": (),
    "null in the first row": ((0, None),),
    "null after the pilot": ((LATE, None),),
    "NaN after the pilot": ((LATE, NAN),),
    "all kinds after the pilot": ((LATE, NAN), (LATE + 1, None), (LATE + 2, INF), (LATE + 3, -INF)),
}


@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("spoil", SPOILS)
def test_moments_are_those_of_usable_values(kind, spoil):
    values = values_of(kind, np.random.default_rng(1)).tolist()
    for row, value in SPOILS[spoil]:
        values[row] = value
    cells = cells_of(metric_of(kind), frame_of(y=pa.array(values, pa.float64())))
    usable = np.array([math.nan if v is None or math.isinf(v) else v for v in values])
    arm = np.resize(["a", "b"], N)
    column = cells.metrics["m"]
    for name in ("a", "b"):
        agree(cells.moments("m", name), usable[(arm == name) & ~np.isnan(usable)])
    causes = [value for _, value in SPOILS[spoil]]
    assert column.n_null.sum() == sum(value is None for value in causes)
    assert column.n_nan.sum() == sum(value is not None and math.isnan(value) for value in causes)
    assert column.n_infinite.sum() == sum(value is not None and math.isinf(value) for value in causes)
    if column.bins is not None:
        assert column.bins.n.sum() == column.n_ok.sum()


@pytest.mark.parametrize("kind", ["revenue", "duration"])
@pytest.mark.parametrize("spoil", [None, NAN])
def test_logarithms_are_those_of_positive_values(kind, spoil):
    values = values_of("revenue", np.random.default_rng(2))
    values[LATE] = NAN if spoil is not None else 0.0
    logs = cells_of(metric_of(kind), frame_of(y=values)).metrics["m"].logs
    wanted = np.log(values[np.nan_to_num(values) > 0])
    assert logs.n.sum() == wanted.size
    assert math.fsum(logs.s1) == pytest.approx(math.fsum(wanted), rel=1e-12)
    assert math.fsum(logs.s2) == pytest.approx(math.fsum(wanted**2), rel=1e-12)


@pytest.mark.parametrize("values", [pa.array(np.resize([True, False, False], N)), np.resize([1, 0, 0], N).astype("i1")])
def test_yes_and_no_count_as_1_and_0(values):
    found = cells_of(metric_of("conversion"), frame_of(y=values)).moments("m", "a")
    wanted = np.asarray(values).astype(float)[::2]
    agree(found, wanted)


def test_small_whole_numbers_do_not_overflow():
    agree(cells_of(metric_of("mean"), frame_of(y=np.full(N, 100, "i1"))).moments("m", "a"), np.full(N // 2, 100.0))


@pytest.mark.parametrize("first", ["complete", "masked"])
def test_values_on_a_large_base_keep_their_digits(first):
    gap = np.random.default_rng(3).choice([-1.0, 1.0], N)
    values = 1e9 + gap
    values[0 if first == "masked" else LATE] = NAN
    there = ~np.isnan(values)
    own = (np.arange(N) % 2 == 0) & there
    found = cells_of(metric_of("mean"), frame_of(y=values)).moments("m", "a")
    assert found.mean == pytest.approx(1e9 + gap[own].mean(), rel=1e-15)
    assert found.variance == pytest.approx(gap[own].var(ddof=1), rel=1e-12)


@pytest.mark.parametrize("spoil", [None, NAN])
def test_a_pilot_that_misses_the_mean_is_done_again_also_where_a_value_is_missing(spoil):
    gap = np.random.default_rng(4).choice([-1.0, 1.0], 3 * N)
    values = np.where(np.arange(3 * N) < 1000, 0.0, 1e9 + gap)
    arm = np.where(np.arange(3 * N) < 1000, "b", np.resize(["a", "a", "b"], 3 * N))
    if spoil is not None:
        values[-3] = spoil
    frame = frame_of(3 * N, y=values).set_column(1, "arm", pa.array(arm))
    own = (arm == "a") & ~np.isnan(values)
    found = cells_of(metric_of("mean"), frame).moments("m", "a")
    assert found.variance == pytest.approx(gap[own].var(ddof=1), rel=1e-9)


def test_a_segment_of_zeros_does_not_cost_the_others_their_digits():
    gap = np.random.default_rng(5).choice([-1.0, 1.0], N)
    segment = np.where(np.arange(N) < N - 100, "most", "none")
    values = np.where(segment == "most", 1e9 + gap, 0.0)
    cells = cells_of(metric_of("mean"), frame_of(y=values, country=segment), segments=("country",))
    own = (segment == "most") & (np.arange(N) % 2 == 0)
    found = cells.moments("m", "a", cells.segments["country"] == "most")
    assert found.variance == pytest.approx(gap[own].var(ddof=1), rel=1e-9)


def test_a_share_stays_a_share_where_another_metric_reads_its_column():
    values = np.ones(N)
    values[[7, 8]] = 0
    twin = xb.Metric(name="twin", kind="mean", column="y")
    cells = load_cohort(experiment_of(metric_of("conversion"), twin), frame_of(y=values)).cells
    assert cells.moments("m", "a").mean == pytest.approx(1 - 1 / (N / 2))
    assert cells.moments("twin", "a").mean == pytest.approx(1 - 1 / (N / 2))


def counted(monkeypatch):
    """How many of the statements that were asked made cells."""
    asked = []
    real = reduction.cells_statement

    def watched(units, shifts, complete, masked):
        asked.append((len(complete), len(masked)))
        return real(units, shifts, complete, masked)

    monkeypatch.setattr(reduction, "cells_statement", watched)
    return asked


def test_complete_values_are_read_once_and_others_again(monkeypatch):
    asked = counted(monkeypatch)
    values = np.random.default_rng(6).normal(5, 2, N)
    cells_of(metric_of("mean"), frame_of(y=values))
    assert asked == [(2, 0)]
    asked.clear()
    values[LATE] = NAN
    cells_of(metric_of("mean"), frame_of(y=values))
    assert asked == [(2, 0), (0, 1)]
    asked.clear()
    values[0] = NAN
    cells_of(metric_of("mean"), frame_of(y=values))
    assert asked == [(1, 1)]


def test_small_cells_of_zeros_are_no_reason_to_read_again(monkeypatch):
    asked = counted(monkeypatch)
    values = values_of("revenue", np.random.default_rng(7))
    many = np.resize([f"c{number}" for number in range(60)], N)
    cells_of(metric_of("revenue"), frame_of(y=values, country=many), segments=("country",))
    assert asked == [(2, 0)]


# --- ratio ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [None, "numerator", "denominator", "both"])
@pytest.mark.parametrize("value", [NAN, None, INF])
def test_a_ratio_leaves_out_units_that_lack_one_of_the_two(spoil, value):
    rng = np.random.default_rng(8)
    views, clicks = (rng.poisson(5, N) + 1.0).tolist(), rng.poisson(2, N).astype(float).tolist()
    if spoil in {"numerator", "both"}:
        clicks[LATE] = value
    if spoil in {"denominator", "both"}:
        views[LATE + 2] = value
    frame = frame_of(clicks=pa.array(clicks, pa.float64()), views=pa.array(views, pa.float64()))
    found = cells_of(metric_of("ratio", numerator="clicks", denominator="views"), frame).moments("m", "a")
    y, x = np.array(clicks, dtype=float)[::2], np.array(views, dtype=float)[::2]
    there = np.isfinite(y) & np.isfinite(x)
    y, x = y[there], x[there]
    assert found.n == y.size
    assert found.mean == pytest.approx(y.sum() / x.sum(), rel=1e-12)
    linear = (y - found.mean * x) / x.mean()
    assert found.variance == pytest.approx(linear.var(ddof=1), rel=1e-10)


def test_a_ratio_of_one_column_that_another_metric_reads_too():
    rng = np.random.default_rng(9)
    views, clicks = rng.poisson(5, N) + 1.0, rng.poisson(2, N).astype(float)
    views[LATE] = NAN
    mean = xb.Metric(name="clicks", kind="mean")
    ratio = metric_of("ratio", numerator="clicks", denominator="views")
    cells = load_cohort(experiment_of(mean, ratio), frame_of(clicks=clicks, views=views)).cells
    agree(cells.moments("clicks", "a"), clicks[::2])
    assert cells.moments("m", "a").n == N // 2 - 1


@pytest.mark.parametrize("kind", ["ratio", "quantile"])
def test_what_cannot_be_adjusted_takes_no_covariate(kind):
    extra = {"numerator": "yes", "denominator": "y"} if kind == "ratio" else {"q": 0.5}
    with pytest.raises(MetricValuesError, match=f"a {kind} takes no covariate"):
        cells_of(metric_of(kind, covariate="y", **extra), frame_of(y=np.arange(float(N))))


# --- covariate --------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [(), (0,), (LATE,), tuple(range(LATE, LATE + 400))])
@pytest.mark.parametrize("value_gap", [(), (LATE + 1,)])
def test_an_adjusted_mean_is_that_of_a_regression_within_arms(gap, value_gap):
    rng = np.random.default_rng(10)
    x = rng.normal(100, 15, N)
    y = x + rng.normal(0, 5, N) + (np.arange(N) % 2)
    x[list(gap)] = NAN
    y[list(value_gap)] = NAN
    found = cells_of(metric_of("mean", covariate="x"), frame_of(y=y, x=x)).adjusted("m")
    there = ~np.isnan(y)
    arm, y, x = np.resize(["a", "b"], N)[there], y[there], x[there]
    x = np.where(np.isnan(x), np.nanmean(x), x)
    design = np.column_stack([arm == "a", arm == "b", x - x.mean()]).astype(float)
    slopes, *_ = np.linalg.lstsq(design, y, rcond=None)
    assert [found["a"].mean, found["b"].mean] == pytest.approx(slopes[:2].tolist(), rel=1e-11)


def test_the_order_of_rows_does_not_change_what_a_missing_covariate_counts_as():
    rng = np.random.default_rng(11)
    x = np.sort(rng.normal(100, 15, N))
    frame = frame_of(y=x + rng.normal(0, 5, N), x=np.where(rng.random(N) < 0.1, NAN, x))
    metric = metric_of("mean", covariate="x")
    first, other = cells_of(metric, frame), cells_of(metric, frame.take(np.arange(N)[::-1]))
    assert (first.metrics["m"].covariate.shift != other.metrics["m"].covariate.shift).all()
    assert first.fingerprint == other.fingerprint
    assert first.adjusted("m")["a"].mean == pytest.approx(other.adjusted("m")["a"].mean, rel=1e-12)


# --- quantile and cap ---------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_a_quantile_is_that_of_numpy(q):
    values = np.random.default_rng(12).normal(50, 40, N)
    found = cells_of(metric_of("quantile", q=q), frame_of(y=values)).moments("m", "b")
    assert found.mean == pytest.approx(np.quantile(values[1::2], q), rel=0.01, abs=0.2)


def test_values_too_small_for_a_bin_are_still_in_order():
    values = np.where(np.arange(N) % 4 < 2, 1e-30, 5.0)
    found = cells_of(metric_of("quantile", q=0.25), frame_of(y=values)).moments("m", "a")
    assert found.mean == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("cap", [0.9, 30.0])
def test_a_cap_is_that_of_numpy(cap):
    values = values_of("revenue", np.random.default_rng(13))
    cells = cells_of(metric_of("revenue", cap=cap), frame_of(y=values))
    edge = cells.metrics["m"].cap
    wanted = np.quantile(values[values > 0], 0.9) if cap < 1 else cap
    assert wanted * 0.98 <= edge <= wanted * 1.03
    own, found = np.minimum(values[::2], edge), cells.moments("m", "a")
    assert found.mean == pytest.approx(math.fsum(own) / own.size, rel=1e-12)
    assert found.variance == pytest.approx(own.var(ddof=1), rel=1e-10)


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [3, LATE])
@pytest.mark.parametrize("value", [0.5, 2.0, -1.0])
def test_a_share_that_is_neither_0_nor_1_is_refused_with_the_count(row, value):
    values = np.resize([0.0, 1.0, 1.0], N)
    values[[row, row + 1]] = value
    with pytest.raises(MetricValuesError, match=r"2 values of column 'y' are neither 0 nor 1"):
        cells_of(metric_of("conversion"), frame_of(y=values))


@pytest.mark.parametrize("kind", ["count", "duration"])
def test_what_cannot_be_negative_is_refused(kind):
    values = np.resize([1.0, 2.0], N)
    values[LATE] = -3
    with pytest.raises(MetricValuesError, match=f"goes down to -3; a {kind} is never below 0"):
        cells_of(metric_of(kind), frame_of(y=values))


@pytest.mark.parametrize("row", [0, LATE])
@pytest.mark.parametrize("value", [1e200, -1e200, 1e308])
def test_values_whose_squares_are_no_numbers_are_refused(row, value):
    values = np.resize([1.0, 2.0], N)
    values[[row, row + 2]] = value
    with pytest.raises(MetricValuesError, match="squares are too large for a number"):
        cells_of(metric_of("mean"), frame_of(y=values))


def test_a_denominator_whose_squares_are_no_numbers_is_refused():
    views = np.resize([1.0, 2.0], N)
    views[LATE] = 1e200
    with pytest.raises(MetricValuesError, match="squares are too large for a number"):
        cells_of(metric_of("ratio", numerator="yes", denominator="views"), frame_of(views=views))


def test_a_metric_without_a_value_in_one_arm_says_so():
    values = np.where(np.arange(N) % 2, NAN, 1.0 + np.arange(N))
    cohort = load_cohort(experiment_of(metric_of("mean")), frame_of(y=values))
    assert cohort.cells.moments("m", "b").n == 0
    assert cohort.cells.moments("m", "a").n == N // 2
    assert any(check.name.startswith("lost") and check.outcome != "ok" for check in cohort.checks)


def test_a_metric_without_any_value_is_refused():
    with pytest.raises(MetricValuesError, match="has no usable value in any row"):
        cells_of(metric_of("mean"), frame_of(y=pa.array([None] * N, pa.float64())))


def test_text_is_no_number():
    with pytest.raises(MetricValuesError, match="holds string, not numbers"):
        cells_of(metric_of("mean"), frame_of(y=np.resize(["1", "2"], N)))


# --- segments with many values --------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["unit", "rows"])
def test_a_segment_of_ids_is_refused_before_anything_is_grouped_by_it(shape, tmp_path, monkeypatch):
    import duckdb

    path = tmp_path / "cohort.parquet"
    duckdb.execute(
        f"COPY (SELECT i AS user, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END AS arm, i % 3 = 0 AS yes, 'id' || i AS city FROM range(2000000) AS t(i)) TO '{path}'"  # noqa: S608 - a path of ours
    )
    asked = counted(monkeypatch)
    experiment = experiment_of(segments=("city",), shape=shape)
    with pytest.raises(
        CohortError, match=r"segment 'city' has about [\d,]{9} values, .* make about [\d,]{9} cells"
    ) as caught:
        load_cohort(experiment, path)
    assert "1,000,000 are the most" in str(caught.value)
    assert asked == []


def test_a_segment_with_many_but_not_too_many_values_is_read():
    frame = frame_of(city=np.resize([f"c{number}" for number in range(300)], N))
    cells = load_cohort(experiment_of(segments=("city",)), frame).cells
    assert len(cells.segment_values("city")) == 300


def test_a_segment_that_holds_ids_is_refused_also_where_they_are_few():
    frame = frame_of(4_000, city=[f"id{number // 2}" for number in range(4_000)])
    assert len(load_cohort(experiment_of(segments=("city",)), frame.slice(0, 900)).cells.segment_values("city")) == 450
    frame = frame_of(4_000, city=[f"id{number}" for number in range(4_000)])
    with pytest.raises(
        CohortError, match=r"segment 'city' has 1,000 values in the first 1,000 rows, as ids have; a seg"
    ):
        load_cohort(experiment_of(segments=("city",)), frame)


@pytest.mark.parametrize("shape", ["unit", "rows"])
def test_the_unit_is_no_segment(shape):
    with pytest.raises(CohortError, match="segment 'user' is the unit column"):
        load_cohort(experiment_of(segments=("user",), shape=shape), frame_of(200))


def test_a_segment_value_that_would_pass_for_a_missing_one_is_refused():
    frame = frame_of(9, city=["x", None, "(none)"] * 3)
    with pytest.raises(
        CohortError, match=r"segment 'city' has units without a value and others with the value '\(none\)'"
    ):
        load_cohort(experiment_of(segments=("city",)), frame)


@pytest.mark.parametrize("name", ["None", "nan", ""])
def test_a_row_without_an_arm_belongs_to_no_arm_whatever_it_is_called(name):
    weights = {"control": name, "weights": {name: 1, "b": 1}} if name else {}
    arms = [None if row % 10 == 0 else (name or "a") if row % 2 else "b" for row in range(N)]
    frame = frame_of().set_column(1, "arm", pa.array(arms, pa.string()))
    with pytest.raises(NullArmError, match=f"{N // 10:,} rows have no value in the arm column 'arm'"):
        load_cohort(experiment_of(**weights), frame)


@pytest.mark.parametrize(("kind", "shape"), [("count", "unit"), ("count", "rows")])
@pytest.mark.parametrize("values", [(0.5, 1.5), (0.0, 2.25), (1e3, 1e3 + 0.5)])
def test_a_count_with_fractions_is_refused(kind, shape, values):
    frame = frame_of(y=np.resize([*values, 3.0], N))
    with pytest.raises(MetricValuesError, match="holds fractions; a count is 0, 1, 2"):
        load_cohort(experiment_of(metric_of(kind), shape=shape), frame)
    load_cohort(experiment_of(metric_of(kind), shape=shape), frame_of(y=np.floor(frame["y"].to_numpy())))


def test_a_missing_segment_value_is_a_segment_of_its_own():
    frame = pd.DataFrame({"user": range(8), "arm": list("ab") * 4, "yes": [0, 1] * 4, "city": ["x", None] * 4})
    assert load_cohort(experiment_of(segments=("city",)), frame).cells.segment_values("city") == ["(none)", "x"]


def far_apart(by, gap, rng):
    """Values of which half lie far from the others, by arm or by city; whole numbers, so that sums of theirs are exact."""
    far = (np.arange(N) % 2 if by == "arm" else np.arange(N) // 2 % 2) == 1
    return far, rng.choice([-1.0, 0.0, 1.0], N) + np.where(far, gap, 0.0)


@pytest.mark.parametrize("gap", [1e3, 1e5, 1e7, 1e9, 1e12])
@pytest.mark.parametrize("by", ["arm", "segment"])
@pytest.mark.parametrize("hole", [False, True], ids=["complete", "masked"])
def test_groups_far_apart_keep_all_digits_of_their_variances(by, gap, hole):
    far, y = far_apart(by, gap, np.random.default_rng(1))
    y[LATE] = NAN if hole else y[LATE]
    city = np.where(far, "far", None)  # a segment may be empty
    cohort = load_cohort(experiment_of(metric_of("mean"), segments=("city",)), frame_of(y=y, city=city))
    assert not [check for check in cohort.checks if check.name == "digits:m"]
    arms, there = np.resize(["a", "b"], N), ~np.isnan(y)
    for arm in "ab":
        for value, group in (("far", far), ("(none)", ~far)):
            own = group & (arms == arm) & there
            if own.any():
                found = cohort.cells.moments("m", arm, cohort.cells.segments["city"] == value)
                base = gap if value == "far" else 0.0
                assert found.mean == pytest.approx(base + (y[own] - base).mean(), rel=1e-14)
                assert found.variance == pytest.approx((y[own] - base).var(ddof=1), rel=1e-10)
        own = (arms == arm) & there
        agree(cohort.cells.moments("m", arm), y[own])


@pytest.mark.parametrize("gap", [1e7, 1e9])
def test_ratios_and_covariates_of_arms_far_apart_keep_their_digits(gap):
    rng = np.random.default_rng(2)
    far, x = far_apart("arm", gap, rng)
    y = x + rng.choice([-1.0, 0.0, 1.0], N) + 5.0
    frame = frame_of(y=y, x=x)
    covariate = cells_of(metric_of("mean", covariate="x"), frame)
    ratio = cells_of(metric_of("ratio", numerator="y", denominator="x"), frame) if gap == 1e7 else None
    for arm, own, base in (("a", ~far, 0.0), ("b", far, gap)):
        column = covariate.metrics["m"]
        found = column.joint_moments(column.covariate, covariate.variant == arm)
        one, other = y[own] - base, x[own] - base
        assert found.yy == pytest.approx(((one - one.mean()) ** 2).sum(), rel=1e-10)
        assert found.xx == pytest.approx(((other - other.mean()) ** 2).sum(), rel=1e-10)
        assert found.xy == pytest.approx(((one - one.mean()) * (other - other.mean())).sum(), rel=1e-10)
        if ratio is not None and arm == "b":
            whole = ratio.moments("m", "b")
            value = y[own].sum() / x[own].sum()
            linear = (y[own] - value * x[own]) / x[own].mean()
            assert whole.mean == pytest.approx(value, rel=1e-14)
            assert whole.se == pytest.approx(math.sqrt(linear.var(ddof=1) / own.sum()), rel=1e-6)


def test_a_cap_over_arms_far_apart_is_that_of_numpy():
    far, y = far_apart("arm", 1e8, np.random.default_rng(3))
    y = np.abs(y)
    cells = cells_of(metric_of("revenue", cap=1e8), frame_of(y=y))
    edge = cells.metrics["m"].cap
    for arm, own in (("a", ~far), ("b", far)):
        agree(cells.moments("m", arm), np.minimum(y[own], edge))
        agree(cells.roll_up().moments("m", arm), np.minimum(y[own], edge))


@pytest.mark.parametrize(("gap", "outcome"), [(0.0, None), (1e3, None), (1e5, "warn"), (1e7, "block"), (1e9, "block")])
def test_more_groups_far_apart_than_can_have_their_own_sums_are_said(gap, outcome, monkeypatch):
    monkeypatch.setattr(reduction, "MOST_SHIFTS", 0)
    far, y = far_apart("segment", gap, np.random.default_rng(1))
    y += np.random.default_rng(2).normal(0, 1, N)
    cohort = load_cohort(
        experiment_of(metric_of("mean"), segments=("city",)), frame_of(y=y, city=np.where(far, "far", "near"))
    )
    check = next((check for check in cohort.checks if check.name == "digits:m"), None)
    assert (check.outcome if check else None) == outcome
