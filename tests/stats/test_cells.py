"""Cells: what is said of a cohort does not depend on how its rows were cut, ordered or shifted."""

import math
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stats.test_bins import bins_of, heavy

from expnb.errors import NameNotFoundError
from expnb.stats.bins import Bins, edge_above
from expnb.stats.cells import Cells, Logs, MetricCells, join
from expnb.stats.joint import Joint

DAYS = np.array(["2026-01-01", "2026-01-02", "2026-01-03"], dtype="datetime64[D]")


def cells_of(y, arm, *, x=None, d=None, segment=None, day=None, shift=0.0, x_shift=0.0, epochs=()):
    """Cells of rows: `x` is a covariate, NaN where it is missing; `d` a denominator."""
    y, arm = np.asarray(y, dtype=float), np.asarray(arm, dtype=str)
    segment = np.full(y.size, "s") if segment is None else np.asarray(segment, dtype=str)
    day = np.full(y.size, DAYS[0]) if day is None else np.asarray(day, dtype="datetime64[D]")
    keys = sorted(set(zip(arm.tolist(), segment.tolist(), day.tolist(), strict=True)))
    place = np.array(
        [keys.index(key) for key in zip(arm.tolist(), segment.tolist(), day.tolist(), strict=True)], dtype=np.int64
    )
    size = len(keys)

    def added(values):
        return np.array([math.fsum(values[place == number]) for number in range(size)])

    def joint(second, moved):
        there = ~np.isnan(second)
        gap = np.where(there, second - moved, 0.0)
        missing = added((~there).astype(float)).astype(np.int64)
        return Joint(moved, missing, added(gap), added(gap * gap), added(gap * (y - shift)), added(there * (y - shift)))

    n = added(np.ones(y.size)).astype(np.int64)
    none, positive = np.zeros_like(n), y > 0
    logs = np.log(np.where(positive, y, 1.0))
    metric = MetricCells(
        shift=shift,
        n_ok=n,
        n_null=none,
        n_nan=none,
        n_infinite=none,
        n_immature=none,
        s1=added(y - shift),
        s2=added((y - shift) ** 2),
        low=np.array([y[place == number].min() for number in range(size)]),
        high=np.array([y[place == number].max() for number in range(size)]),
        logs=Logs(added(positive.astype(float)).astype(np.int64), added(logs), added(logs**2)),
        covariate=None if x is None else joint(np.asarray(x, dtype=float), x_shift),
        denominator=None if d is None else joint(np.asarray(d, dtype=float), x_shift),
        bins=bins_of(y, place, shift),
    )
    return Cells(
        variant=np.array([key[0] for key in keys]),
        segments={"country": np.array([key[1] for key in keys])},
        day=np.array([key[2] for key in keys], dtype="datetime64[D]"),
        n=n,
        metrics={"m": metric},
        checks=(),
        source="rows",
        broken={"audience": added((y < 0).astype(float)).astype(np.int64)},
        epochs=epochs,
    )


def drawn(n=4_000, seed=1):
    """Arms, countries, days, values, and a covariate that goes with them; some are missing."""
    rng = np.random.default_rng(seed)
    arm, country, day = rng.choice(["a", "b"], n), rng.choice(["de", "fr"], n), rng.choice(DAYS, n)
    x = rng.normal(20, 4, n)
    y = 3 + 0.5 * x + (arm == "b") + rng.normal(0, 1, n)
    return y, arm, country, day, np.where(rng.random(n) < 0.1, np.nan, x)


def same(first, second, rel=1e-12):
    assert first.n == second.n
    assert first.mean == pytest.approx(second.mean, rel=rel)
    assert first.m2 == pytest.approx(second.m2, rel=max(rel, 1e-10))
    assert (first.low, first.high) == (second.low, second.high)


# --- algebra ----------------------------------------------------------------------------------


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 199), shift=st.floats(-50, 50), x_shift=st.floats(-50, 50))
def test_cells_of_parts_add_up_to_those_of_the_whole(seed, cut, shift, x_shift):
    y, arm, country, day, x = drawn(200, seed)
    whole = cells_of(y, arm, x=x, segment=country, day=day, shift=10.0, x_shift=20.0)
    left, right = (
        cells_of(y[part], arm[part], x=x[part], segment=country[part], day=day[part], shift=own, x_shift=x_own)
        for part, own, x_own in ((slice(cut), shift, x_shift), (slice(cut, None), 12.5, -3.0))
    )
    both = left + right
    assert both.fingerprint == whole.fingerprint == (right + left).fingerprint
    assert both.n.tolist() == whole.n.tolist()
    assert both.broken["audience"].tolist() == whole.broken["audience"].tolist()
    assert both.metrics["m"].logs.n.tolist() == whole.metrics["m"].logs.n.tolist()
    np.testing.assert_allclose(both.metrics["m"].logs.s2, whole.metrics["m"].logs.s2, rtol=1e-12)
    for name in ("a", "b"):
        same(both.moments("m", name), whole.moments("m", name), 1e-11)
        same(both.adjusted("m")[name], whole.adjusted("m")[name], 1e-10)
        assert both.capped("m", 12.0).moments("m", name).mean == pytest.approx(
            whole.capped("m", 12.0).moments("m", name).mean, rel=1e-11
        )


@settings(max_examples=40)
@given(seed=st.integers(0, 1000), gap=st.sampled_from([0.0, 1e3, 1e6, 1e9, -1e12]), off=st.floats(-3, 3))
def test_parts_far_apart_add_up_without_losing_a_digit(seed, gap, off):
    rng = np.random.default_rng(seed)
    arm, day = np.resize(["a", "b"], 200), np.resize(DAYS, 200)
    y, x = rng.choice([-1.0, 0.0, 1.0], 200), rng.choice([-1.0, 0.0, 1.0], 200)
    near, far = (
        cells_of(base + y[part], arm[part], x=base + x[part], day=day[part], shift=base + off, x_shift=base - off)
        for part, base in ((slice(80), 0.0), (slice(80, None), gap))
    )
    both, turned = near + far, far + near
    for cells in (both, turned, both.roll_up(), join([near.roll_up(), far.roll_up()])):
        for name in ("a", "b"):
            own = arm == name
            # Whole numbers around the middle: their squares add up without rounding.
            middle = gap * 0.625
            values = y[own] + np.where(np.arange(200)[own] < 80, -middle, gap - middle)
            others = x[own] + np.where(np.arange(200)[own] < 80, -middle, gap - middle)
            column = cells.metrics["m"]
            found = column.joint_moments(column.covariate, cells.variant == name)
            left, right = values - values.mean(), others - others.mean()
            assert cells.moments("m", name).m2 == pytest.approx(math.fsum(left**2), rel=1e-11)
            assert found.xx == pytest.approx(math.fsum(right**2), rel=1e-11)
            assert found.xy == pytest.approx(math.fsum(left * right), rel=1e-9, abs=1e-9)
    for cells, own, base in ((near, slice(80), 0.0), (far, slice(80, None), gap)):
        mine = y[own][arm[own] == "a"]
        assert cells.moments("m", "a").m2 == pytest.approx(((mine - mine.mean()) ** 2).sum(), rel=1e-9, abs=1e-9)
        assert cells.moments("m", "a").mean == pytest.approx(base + mine.mean(), rel=1e-14, abs=1e-12)


def test_the_values_that_may_be_listed_leave_nothing_to_be_worked_out():
    arm = np.resize(["a", "b"], 400)
    sizes = {"big": 200, "mid": 120, "least": 60, "tiny": 20}  # 10 of each arm
    country = np.repeat(list(sizes), list(sizes.values()))
    cells = cells_of(np.zeros(400), arm, segment=country)
    assert cells.large_values("country", ("a", "b"), min_cell=5) == ["big", "least", "mid", "tiny"]
    assert cells.large_values("country", ("a", "b"), min_cell=20) == ["big", "mid"]
    assert cells.large_values("country", ("a", "b"), min_cell=40) == ["big", "mid"]
    assert cells.large_values("country", ("a", "b"), min_cell=1000) == []


def test_parts_with_other_metrics_or_segments_are_refused():
    y, arm, country, day, _ = drawn(50)
    whole = cells_of(y, arm, segment=country, day=day)
    with pytest.raises(NameNotFoundError, match="metric in all parts"):
        join([whole, replace(whole, metrics={"other": whole.metrics["m"]})])
    with pytest.raises(NameNotFoundError, match="segment in all parts"):
        join([whole, replace(whole, segments={})])


def test_the_order_of_rows_never_matters():
    y, arm, country, day, x = drawn()
    order = np.random.default_rng(2).permutation(y.size)
    first = cells_of(y, arm, x=x, segment=country, day=day, shift=13.0, x_shift=20.0)
    other = cells_of(
        y[order], arm[order], x=x[order], segment=country[order], day=day[order], shift=12.75, x_shift=19.5
    )
    assert first.fingerprint == other.fingerprint
    same(first.adjusted("m")["b"], other.adjusted("m")["b"])


@given(st.floats(0.001, 1000))
def test_scaling_a_metric_scales_its_moments(scale):
    y, arm, *_ = drawn(100)
    plain, scaled = cells_of(y, arm, shift=10.0), cells_of(y * scale, arm, shift=10.0 * scale)
    one, other = plain.moments("m", "b"), scaled.moments("m", "b")
    assert other.mean == pytest.approx(one.mean * scale, rel=1e-12)
    assert other.se == pytest.approx(one.se * scale, rel=1e-10)


@given(st.floats(-1e3, 1e3))
def test_a_shift_there_and_back_changes_nothing(shift):
    y, arm, _, _, x = drawn(100)
    one = cells_of(y, arm, x=x, shift=13.0, x_shift=20.0).metrics["m"]
    moved = one.reshift(shift)
    direct = cells_of(y, arm, x=x, shift=shift, x_shift=20.0).metrics["m"]
    back = moved.reshift(13.0)
    for name in ("s1", "s2"):
        np.testing.assert_allclose(getattr(moved, name), getattr(direct, name), rtol=1e-9, atol=1e-6)
        np.testing.assert_allclose(getattr(back, name), getattr(one, name), rtol=1e-9, atol=1e-6)
    for name in ("cross", "own"):
        np.testing.assert_allclose(
            getattr(moved.covariate, name), getattr(direct.covariate, name), rtol=1e-9, atol=1e-6
        )


def test_cells_rolled_up_have_the_same_moments():
    y, arm, country, day, x = drawn()
    cells = cells_of(y, arm, x=x, segment=country, day=day, shift=13.0, x_shift=20.0)
    for rolled, size in ((cells.roll_up(), 2), (cells.roll_up(["country"]), 4), (cells.roll_up(by_day=True), 6)):
        assert rolled.n.size == size
        assert rolled.units == y.size
        for name in ("a", "b"):
            same(rolled.moments("m", name), cells.moments("m", name))
            same(rolled.adjusted("m")[name], cells.adjusted("m")[name])
            same(rolled.capped("m", 0.5).moments("m", name), cells.capped("m", 0.5).moments("m", name))
    with pytest.raises(NameNotFoundError, match="segment"):
        cells.roll_up(["contry"])


def test_some_cells_have_the_moments_of_their_rows():
    y, arm, country, day, x = drawn()
    cells = cells_of(y, arm, x=x, segment=country, day=day, shift=13.0)
    part = cells.where((cells.segments["country"] == "de") & (cells.day == DAYS[1]))
    own = (country == "de") & (day == DAYS[1])
    direct = cells_of(y[own], arm[own], x=x[own], segment=country[own], day=day[own], shift=13.0)
    assert part.fingerprint == direct.fingerprint
    same(part.moments("m", "a"), direct.moments("m", "a"))
    same(part.capped("m", 0.9).moments("m", "a"), direct.capped("m", 0.9).moments("m", "a"))
    assert list(cells.where(cells.n > 0, []).metrics) == []


# --- moments against their rows -----------------------------------------------------------------


@pytest.mark.parametrize("base", [0.0, 1e9, -1e6])
def test_moments_are_those_of_the_rows(base):
    gap = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], 5_000)
    arm = np.array(["a", "b"])[np.arange(5_000) % 2]
    found = cells_of(base + gap, arm, shift=base + 0.25).moments("m", "a")
    own = gap[arm == "a"]
    assert found.mean == pytest.approx(base + own.mean(), rel=1e-12, abs=1e-12)
    assert found.variance == pytest.approx(own.var(ddof=1), rel=1e-12)
    assert (found.low, found.high) == (base - 1, base + 1)


def test_equal_values_have_no_variance_whatever_the_shift():
    cells = cells_of(np.full(999, 0.1), np.resize(["a", "b"], 999), shift=0.3)
    assert cells.moments("m", "a").m2 == 0
    assert cells.moments("m", "a").mean == 0.1


def test_adjusted_means_are_those_of_a_regression_within_arms():
    y, arm, _, _, x = drawn()
    there = ~np.isnan(x)
    y, arm, x = y[there], arm[there], x[there]
    found = cells_of(y, arm, x=x, shift=13.0, x_shift=20.0).adjusted("m")
    design = np.column_stack([arm == "a", arm == "b", x - x.mean()]).astype(float)
    slopes, *_ = np.linalg.lstsq(design, y, rcond=None)
    assert [found["a"].mean, found["b"].mean] == pytest.approx(slopes[:2].tolist(), rel=1e-12)
    left = y - slopes[2] * (x - x.mean())
    for name in ("a", "b"):
        assert found[name].variance == pytest.approx(left[arm == name].var(ddof=1), rel=1e-10)
        assert found[name].variance < 0.5 * y[arm == name].var()


def test_a_unit_without_a_covariate_counts_with_its_mean():
    y, arm, _, _, x = drawn()
    filled = np.where(np.isnan(x), np.nanmean(x), x)
    wanted = cells_of(y, arm, x=filled, shift=13.0).adjusted("m")
    found = cells_of(y, arm, x=x, shift=13.0, x_shift=-40.0).adjusted("m")
    for name in ("a", "b"):
        assert found[name].mean == pytest.approx(wanted[name].mean, rel=1e-12)
        assert found[name].variance == pytest.approx(wanted[name].variance, rel=1e-10)


def test_a_constant_covariate_changes_nothing():
    y, arm, *_ = drawn()
    cells = cells_of(y, arm, x=np.full(y.size, 3.0), shift=13.0, x_shift=3.0)
    assert cells.adjusted("m")["a"].mean == cells.moments("m", "a").mean


def test_a_ratio_is_that_of_sums_and_its_error_that_of_the_delta_method_and_a_jackknife():
    rng = np.random.default_rng(8)
    views = rng.poisson(6, 3_000) + 1.0
    clicks = rng.binomial(views.astype(int), rng.beta(2, 8, 3_000)).astype(float)
    found = cells_of(clicks, np.full(3_000, "a"), d=views, shift=1.5, x_shift=6.0).moments("m", "a")
    ratio = clicks.sum() / views.sum()
    linear = (clicks - ratio * views) / views.mean()
    left_out = (clicks.sum() - clicks) / (views.sum() - views)
    jackknife = math.sqrt(2_999 / 3_000 * ((left_out - left_out.mean()) ** 2).sum())
    assert found.mean == pytest.approx(ratio, rel=1e-12)
    assert found.se == pytest.approx(math.sqrt(linear.var(ddof=1) / 3_000), rel=1e-10)
    assert found.se == pytest.approx(jackknife, rel=1e-3)
    assert found.se > 1.1 * math.sqrt(ratio * (1 - ratio) / views.sum())  # which rows taken as units would claim


# --- caps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [2.0, 30.0, 500.0])
def test_a_capped_metric_has_the_moments_of_capped_rows(cap):
    y, arm = heavy(40_000), np.resize(["a", "b"], 40_000)
    cells = cells_of(y, arm, shift=0.4).capped("m", cap)
    edge = cells.metrics["m"].cap
    assert cap <= edge <= cap * 1.02
    for name in ("a", "b"):
        own, found = np.minimum(y[arm == name], edge), cells.moments("m", name)
        assert found.mean == pytest.approx(math.fsum(own) / own.size, rel=1e-12)
        assert found.variance == pytest.approx(own.var(ddof=1), rel=1e-10)
        assert found.high == min(edge, own.max())


def test_a_cap_given_as_a_share_is_the_same_for_all_arms_and_not_0():
    y, arm = heavy(40_000), np.resize(["a", "b"], 40_000)
    y[arm == "b"] *= 3
    cells = cells_of(y, arm, shift=0.4).capped("m", 0.9)
    wanted = np.quantile(y[y > 0], 0.9)
    assert cells.metrics["m"].cap == pytest.approx(wanted, rel=0.03)
    assert cells.moments("m", "b").mean > 1.5 * cells.moments("m", "a").mean > 0


def test_a_cap_can_move_and_go():
    y, arm = heavy(20_000), np.resize(["a", "b"], 20_000)
    cells = cells_of(y, arm, shift=0.4)
    moved = cells.capped("m", 2.0).capped("m", 40.0)
    assert moved.moments("m", "a") == cells.capped("m", 40.0).moments("m", "a")
    assert moved.capped("m", None).moments("m", "a") == cells.moments("m", "a")
    assert cells.capped("m", float(y.max()) * 1.01).moments("m", "a") == cells.moments("m", "a")
    assert cells.capped("m", 2.0).moments("m", "a").mean < cells.moments("m", "a").mean


def test_a_cap_by_share_on_nothing_but_zeros_is_none():
    cells = cells_of(np.zeros(100), np.resize(["a", "b"], 100)).capped("m", 0.99)
    assert cells.metrics["m"].cap is None
    assert cells.moments("m", "a").mean == 0


def test_a_metric_without_bins_cannot_be_capped_afterwards():
    cells = cells_of([1.0, 2.0], ["a", "b"])
    bare = replace(cells, metrics={"m": replace(cells.metrics["m"], bins=None)})
    with pytest.raises(NameNotFoundError, match="metric with bins"):
        bare.capped("m", 2.0)


def test_the_edge_above_a_cap_is_a_bin_edge():
    assert edge_above(edge_above(7.0)) == pytest.approx(edge_above(7.0), rel=1e-12)


def test_a_quantile_metric_is_its_quantile_in_each_arm():
    rng = np.random.default_rng(9)
    y, arm = rng.lognormal(5, 1, 9_001), np.resize(["a", "b"], 9_001)
    cells = cells_of(y, arm, shift=250.0, day=rng.choice(DAYS, 9_001))
    cells = replace(cells, metrics={"m": replace(cells.metrics["m"], q=0.9)})
    own = y[arm == "b"]
    drawn_again = [np.quantile(rng.choice(own, own.size), 0.9) for _ in range(300)]
    assert cells.moments("m", "b").mean == pytest.approx(np.quantile(own, 0.9), rel=0.01)
    assert cells.moments("m", "b").se == pytest.approx(np.std(drawn_again), rel=0.25)


# --- epochs -----------------------------------------------------------------------------------


def simpson():
    """A treatment that is better on every day, and looks worse when days with other shares are pooled."""
    rng = np.random.default_rng(10)
    parts = []
    for day, n, share, base in ((DAYS[0], 8_000, 0.1, 10.0), (DAYS[1], 8_000, 0.9, 2.0)):
        arm = np.where(rng.random(n) < share, "b", "a")
        x = rng.normal(base, 1, n)
        parts.append((x + 1.0 * (arm == "b") + rng.normal(0, 0.5, n), arm, np.full(n, day), x))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def test_a_share_that_changed_does_not_pass_for_an_effect():
    y, arm, day, x = simpson()
    pooled = cells_of(y, arm, day=day, x=x, shift=6.0)
    kept = replace(pooled, epochs=(date(2026, 1, 2),))
    assert pooled.moments("m", "b").mean < pooled.moments("m", "a").mean - 3
    assert kept.moments("m", "b").mean - kept.moments("m", "a").mean == pytest.approx(1.0, abs=0.1)
    adjusted = kept.adjusted("m")
    assert adjusted["b"].mean - adjusted["a"].mean == pytest.approx(1.0, abs=0.03)
    assert adjusted["b"].se < kept.moments("m", "b").se
    rolled = kept.roll_up()
    assert rolled.moments("m", "b").mean == pytest.approx(kept.moments("m", "b").mean, rel=1e-12)


def test_epochs_are_weighted_by_their_units():
    y, arm, day, _ = simpson()
    cells = cells_of(y, arm, day=day, shift=6.0, epochs=(date(2026, 1, 2),))
    weights = [np.mean(day == DAYS[0]), np.mean(day == DAYS[1])]
    for name in ("a", "b"):
        strata = [y[(arm == name) & (day == one)] for one in DAYS[:2]]
        found = cells.moments("m", name)
        assert found.mean == pytest.approx(sum(w * s.mean() for w, s in zip(weights, strata, strict=True)), rel=1e-12)
        variance = sum(w**2 * s.var(ddof=1) / s.size for w, s in zip(weights, strata, strict=True))
        assert found.se == pytest.approx(math.sqrt(variance), rel=1e-10)


def test_an_epoch_in_which_an_arm_has_no_value_is_left_out_of_every_arm():
    y, arm, day, _ = simpson()
    cells = cells_of(y, arm, day=day, shift=6.0, epochs=(date(2026, 1, 2),))
    late = (cells.day == DAYS[1]) & (cells.variant == "a")
    column = cells.metrics["m"]
    open_ = replace(
        column,
        n_ok=np.where(late, 0, column.n_ok),
        n_immature=np.where(late, column.n_ok, 0),
        s1=np.where(late, 0.0, column.s1),
        s2=np.where(late, 0.0, column.s2),
        low=np.where(late, np.nan, column.low),
        high=np.where(late, np.nan, column.high),
    )
    found = replace(cells, metrics={"m": open_})
    first = y[(arm == "b") & (day == DAYS[0])]
    assert found.moments("m", "b").mean == pytest.approx(first.mean(), rel=1e-12)


def test_a_unit_without_a_day_belongs_to_the_first_epoch():
    cells = cells_of([1.0, 2.0], ["a", "b"], day=["NaT", "2026-01-03"], epochs=(date(2026, 1, 2),))
    assert sorted(cells.epoch.tolist()) == [0, 1]


def test_a_stray_day_does_not_stretch_the_experiment():
    day = ["1970-01-01", *["2026-01-01"] * 5, *["2026-01-03"] * 5]
    cells = cells_of(np.arange(11.0), np.resize(["a", "b"], 11), day=day)
    assert cells.days(least=2) == (date(2026, 1, 1), date(2026, 1, 3))
    assert cells.days() == (date(1970, 1, 1), date(2026, 1, 3))


# --- fingerprint ------------------------------------------------------------------------------


@settings(max_examples=30)
@given(row=st.integers(0, 299), seed=st.integers(0, 20), by=st.floats(0.01, 5))
@pytest.mark.parametrize("which", ["value", "covariate", "denominator"])
def test_one_changed_value_changes_the_fingerprint(which, row, seed, by):
    y, arm, country, day, x = drawn(300, seed)
    x = np.nan_to_num(x, nan=7.0)
    second = "d" if which == "denominator" else "x"
    first = cells_of(y, arm, segment=country, day=day, shift=13.0, x_shift=20.0, **{second: x})
    y, x = y.copy(), x.copy()
    (y if which == "value" else x)[row] += by
    other = cells_of(y, arm, segment=country, day=day, shift=13.0, x_shift=20.0, **{second: x})
    assert first.fingerprint != other.fingerprint


def test_covariates_of_two_units_exchanged_change_the_fingerprint():
    y, arm, _, _, x = drawn(300)
    x = np.nan_to_num(x, nan=7.0)
    swapped, (one, other) = x.copy(), np.flatnonzero(arm == "a")[:2]
    swapped[[one, other]] = x[[other, one]]
    assert cells_of(y, arm, x=x).fingerprint != cells_of(y, arm, x=swapped).fingerprint


def test_empty_cells_have_empty_moments():
    cells = cells_of([1.0, 2.0], ["a", "b"], x=[1.0, 2.0])
    assert cells.moments("m", "c").n == 0
    assert cells.moments("m", "a", np.zeros(2, dtype=bool)).n == 0
    assert isinstance(cells.metrics["m"].bins, Bins)
    with pytest.raises(NameNotFoundError, match="metric"):
        cells.moments("x", "a")
