"""Quality checks: closed forms, thresholds, sentences, and a healthy twin of every case that trips."""

import math
from datetime import date, timedelta

import numpy as np
import pytest
from scipy.stats import binom, chi2, norm, ttest_ind_from_stats

from expnb.stats.anytime import above_p, chi_square_tail, log_normal_e, spend, uneven_p, unlike_z
from expnb.stats.checks import (
    constant,
    counts_of,
    cumulative,
    days_missing,
    drifted_names,
    drifting_names,
    expectation,
    hidden,
    immature,
    lost_by_arm,
    lost_digits,
    outcome_before_exposure,
    outlier,
    outside_days,
    part_of,
    pre_period_imbalance,
    unusable_values,
)
from expnb.stats.moments import Moments

UNITS = {"a": 10_000, "b": 10_000}


@pytest.mark.parametrize("df", range(1, 9))
@pytest.mark.parametrize("statistic", [0.0, 1e-6, 0.5, 3.0, 20.0, 200.0])
def test_chi_square_tail_equals_the_incomplete_gamma_function(df, statistic):
    assert chi_square_tail(statistic, df) == pytest.approx(chi2.sf(statistic, df), rel=1e-12, abs=1e-300)


def test_all_looks_together_spend_no_more_than_alpha():
    spent = sum(spend(0.01, look) for look in range(1, 100_000))
    assert 0.00999 < spent < 0.01


def test_one_player_that_carries_the_variance_is_an_outlier():
    check = outlier("rounds", value=49_854, mean=52.5, m2=2.9e9, arm="gate_30")
    assert check.outcome == "warn"
    assert "has 9,000,000 (mean 10,250) and" in outlier("rounds", value=9e6, mean=10_250.4, m2=9e13).sentence
    assert "one unit of gate_30 has 49,854 (mean 52.5) and carries 86 % of the variance of its arm" in check.sentence
    assert outlier("rounds", value=200, mean=52.5, m2=2.9e9) is None
    assert outlier("rounds", value=5, mean=5, m2=0) is None


def test_unusable_values_are_counted_by_cause():
    check = unusable_values("spend", null=3, nan=2, infinite=1, total=100)
    assert check.sentence == "spend: 3 empty and 2 NaN and 1 infinite of 100 values were left out."
    assert unusable_values("spend", null=0, nan=0, infinite=0, total=100) is None


def test_neither_a_small_part_nor_a_small_rest_is_given():
    assert part_of(500, 1_000) == "500 of 1,000"
    assert part_of(3, 1_000) == "fewer than 20 of 1,000"
    assert part_of(997, 1_000) == "all but fewer than 20 of 1,000"
    check = unusable_values("spend", null=3, nan=0, infinite=0, total=1_000, min_cell=20)
    assert (check.value, "3" in check.sentence) == (None, False)


def test_values_lost_evenly_do_not_block_and_unevenly_do():
    assert lost_by_arm("spend", {"a": 200, "b": 210}, UNITS) is None
    assert lost_by_arm("spend", {"a": 0, "b": 0}, UNITS) is None
    assert lost_by_arm("spend", UNITS, UNITS) is None
    check = lost_by_arm("spend", {"a": 200, "b": 400}, UNITS)
    assert check.outcome == "block"
    assert "values are missing unevenly (a 2.00 %, b 4.00 %" in check.sentence


def test_a_single_lost_value_never_blocks_however_small_its_arm():
    assert lost_by_arm("spend", {"a": 0, "b": 1}, {"a": 19_000, "b": 1_000}) is None


def test_hits_and_misses_are_equally_uneven():
    hits = {"a": 9_800, "b": 9_600}
    misses = {"a": 200, "b": 400}
    assert uneven_p(hits, UNITS) == uneven_p(misses, UNITS) < 0.001


def test_a_rare_event_looked_at_daily_is_called_uneven_in_fewer_than_1_in_1000():
    rng, called = np.random.default_rng(3), 0
    for _ in range(60):
        units = np.cumsum(rng.multinomial(1_000, [0.95, 0.05], size=28), axis=0)
        steps = np.diff(units, axis=0, prepend=0)
        hits = np.cumsum(rng.binomial(steps, 0.02), axis=0)
        called += any(
            uneven_p({"a": int(h[0]), "b": int(h[1])}, {"a": int(n[0]), "b": int(n[1])}) <= 0.001
            for h, n in zip(hits, units, strict=True)
        )
    assert called == 0


def test_200_looks_at_an_even_share_are_called_uneven_in_fewer_than_1_in_1000_also_where_hits_and_misses_change_places():
    rng, called, places = np.random.default_rng(5), 0, set()
    for _ in range(30):
        units = np.cumsum(rng.multinomial(50, [0.5, 0.5], size=200), axis=0)
        hits = np.cumsum(rng.binomial(np.diff(units, axis=0, prepend=0), 0.5), axis=0)
        places |= set((2 * hits.sum(axis=1) > units.sum(axis=1)).tolist())
        looks = zip(hits.tolist(), units.tolist(), strict=True)
        called += any(
            uneven_p(dict(zip("ab", h, strict=True)), dict(zip("ab", n, strict=True))) <= 0.001 for h, n in looks
        )
    assert places == {True, False}
    assert called == 0  # 0 in 20,000 runs


def test_windows_that_are_not_over_are_said_and_warn_when_most_are():
    check = immature("spend", 300, 1_000)
    assert (check.outcome, check.value) == ("ok", 0.3)
    assert "the window of 300 of 1,000 units is not over; they are left out" in check.sentence
    assert immature("spend", 501, 1_000).outcome == "warn"
    assert immature("spend", 500, 1_000).outcome == "ok"
    assert immature("spend", 0, 1_000) is None
    assert "990" not in immature("spend", 990, 1_000).sentence


def test_a_metric_of_equal_values_can_teach_nothing():
    check = constant("spend", 4.0, 4.0)
    assert (check.outcome, check.value) == ("warn", 4.0)
    assert "every value is 4, so nothing can be learnt" in check.sentence
    assert constant("spend", 4.0, 5.0) is None
    assert constant("spend", math.nan, math.nan) is None


@pytest.mark.parametrize(
    "name", ["Control", "control ", " CONTROL\t", "ｃｏｎｔｒｏｌ", "con\u200btrol", "control\u00a0"]
)
def test_an_arm_under_another_spelling_is_found(name):
    found = drifted_names(["control", name, "treatment"], ["control", "treatment"])
    assert found == {name: "control"}
    check = drifting_names("version", found)
    assert check.outcome == "block"
    assert f"{name!r} for 'control'" in check.sentence


def test_other_names_and_declared_ones_do_not_drift():
    assert drifted_names(["control", "Control", "new"], ["control", "Control"]) == {}
    assert drifting_names("version", {}) is None


def days(*counts):
    return {date(2026, 3, 1) + timedelta(days=place): arms for place, arms in enumerate(counts)}


def test_days_without_units_are_named():
    full = {"a": 500, "b": 500}
    assert days_missing(days(full, full, full), {"a": 1, "b": 1}) is None
    assert days_missing({}, {"a": 1, "b": 1}) is None
    check = days_missing(days(full, {}, {}, full, {"a": 900}), {"a": 1, "b": 1})
    assert (check.outcome, check.value) == ("warn", 3)
    assert "2 of 5 days have no unit (2026-03-02, 2026-03-03)" in check.sentence
    assert "on 1 days an arm has no unit (b on 2026-03-05)" in check.sentence


def test_at_most_five_days_are_named():
    check = days_missing({date(1970, 1, 1): {"a": 1}, date(2026, 3, 1): {"a": 1}}, {"a": 1, "b": 1})
    assert "(1970-01-02, 1970-01-03, 1970-01-04, 1970-01-05, 1970-01-06 and 20,507 more)" in check.sentence
    assert (date(2026, 3, 1) - date(1970, 1, 1)).days - 1 - 5 == 20_507


def test_a_rare_arm_may_miss_a_small_day_by_chance():
    weights = {"a": 95, "b": 5}  # 0.95 ** 100 = 0.006, 0.95 ** 500 = 7e-12
    assert days_missing(days({"a": 100}, {"a": 95, "b": 5}), weights) is None
    assert days_missing(days({"a": 500}, {"a": 95, "b": 5}), weights).outcome == "warn"
    assert days_missing(days({"a": 12}, {"a": 6, "b": 6}), {"a": 1, "b": 1}) is None  # too few units to ask


def test_a_day_after_the_weights_changed_is_held_against_the_new_ones():
    counts, even = days({"a": 50, "b": 50}, {"a": 300}), {"a": 1, "b": 1}
    assert days_missing(counts, even).outcome == "warn"
    assert days_missing(counts, even, later={date(2026, 3, 2): {"a": 99, "b": 1}}) is None


def test_an_expectation_that_holds_is_said():
    check = expectation("audience", {"a": 0, "b": 0}, UNITS, 0.001)
    assert (check.outcome, check.value) == ("ok", 0.0)
    assert "holds for all 20,000 units" in check.sentence


def test_an_expectation_broken_by_few_warns_and_by_many_blocks():
    few = expectation("audience", {"a": 10, "b": 10}, UNITS, 0.001)
    assert few.outcome == "warn"
    assert "is broken by 20 of 20,000 exposed units (0.10 %); up to 0.10 % are tolerated" in few.sentence
    many = expectation("audience", {"a": 40, "b": 45}, UNITS, 0.001)
    assert (many.outcome, many.value) == ("block", 85 / 20_000)
    assert "at most 0.10 % are tolerated" in many.sentence


def test_one_stray_among_the_first_units_warns_but_without_tolerance_it_blocks():
    few = {"a": 25, "b": 25}
    check = expectation("audience", {"a": 1, "b": 0}, few, 0.001)
    assert (check.outcome, check.value) == ("warn", None)
    assert (
        "fewer than 20 of 50 exposed units; up to 0.10 % are tolerated, and so few more may be chance" in check.sentence
    )
    assert expectation("audience", {"a": 1, "b": 0}, few, 0.0).outcome == "block"


def test_an_expectation_broken_unevenly_blocks_within_what_is_tolerated():
    check = expectation("audience", {"a": 60, "b": 0}, UNITS, 0.05)
    assert check.outcome == "block"
    assert "unevenly by arm" in check.sentence
    assert "b fewer than 20 of 10,000" in check.sentence


def test_the_evidence_for_more_than_tolerated_has_mean_one_at_the_tolerance():
    n, share = 40, 0.05  # the ratio 2 ** 5 and more would be no probability
    ratios = [1.1, 1.25, 1.5, 2, 4, 8, 16]
    for k in (0, 3, 12):
        mean = np.mean([binom.pmf(k, n, r * share) / binom.pmf(k, n, share) for r in ratios])
        assert above_p(k, n, share) == pytest.approx(min(1, 1 / mean))


def moments(rng_mean, sd, n):
    return Moments(n, rng_mean, (n - 1) * sd**2, 0.0, 1e6)


@pytest.mark.parametrize(("n_a", "n_b", "sd_b", "gap"), [(30, 60, 2, 0.5), (500, 9_000, 5, 0.3), (20, 20, 1, 2.0)])
def test_unlike_arms_are_judged_by_the_less_sure_of_welch_and_student(n_a, n_b, sd_b, gap):
    a, b = moments(10, 3, n_a), moments(10 + gap, sd_b, n_b)
    p = [ttest_ind_from_stats(10, 3, n_a, 10 + gap, sd_b, n_b, equal_var=equal).pvalue for equal in (True, False)]
    assert unlike_z(a, b) == pytest.approx(norm.isf(max(p) / 2), abs=0.02)
    assert unlike_z(b, a) == -unlike_z(a, b)


def test_arms_without_spread_or_units_are_not_compared():
    assert unlike_z(moments(1, 0, 100), moments(1, 0, 100)) is None
    assert unlike_z(moments(1, 1, 1), moments(1, 1, 100)) is None
    assert pre_period_imbalance("spend", {"a": moments(1, 1, 10), "b": moments(9, 1, 100)}) is None


def test_the_mixture_of_normal_effects_is_the_ratio_of_two_normal_densities():
    n, concentration, z = 5_000.0, 1e3, 2.7
    oracle = norm.logpdf(z, scale=math.sqrt(1 + n / concentration)) - norm.logpdf(z)
    assert log_normal_e(z, n, concentration) == pytest.approx(oracle)


def test_arms_that_were_alike_before_pass_unusual_ones_warn_and_unlike_ones_block():
    control = moments(10, 5, 20_000)  # se of a difference: 0.05
    outcomes = {
        gap: pre_period_imbalance("spend", {"c": control, "t": moments(10 + gap, 5, 20_000)}).outcome
        for gap in (0.05, 0.15, -0.15, 0.3, -0.3)
    }
    assert outcomes == {0.05: "ok", 0.15: "warn", -0.15: "warn", 0.3: "block", -0.3: "block"}
    check = pre_period_imbalance("spend", {"c": control, "t": moments(10.3, 5, 20_000)})
    assert "before the exposure t and c differ by +3.00 % (means 10.3 and 10)" in check.sentence
    alike = pre_period_imbalance("spend", {"c": control, "t": moments(10.1, 5, 20_000)})
    assert alike.sentence == "spend: no difference was seen before the exposure; p = 0.046 at this look."


def test_many_treatments_are_adjusted_for():
    control, odd, even = moments(10, 5, 20_000), moments(10.14, 5, 20_000), moments(10, 5, 20_000)
    assert pre_period_imbalance("spend", {"c": control, "t": odd}).outcome == "warn"
    arms = {"c": control, "t": odd} | {f"t{place}": even for place in range(4)}
    assert pre_period_imbalance("spend", arms).outcome == "ok"


def test_outcomes_before_the_exposure_warn_and_more_than_1_in_1000_block():
    assert outcome_before_exposure("spend", 0, 50_000) is None
    assert outcome_before_exposure("spend", 50, 50_000).outcome == "warn"
    check = outcome_before_exposure("spend", 51, 50_000)
    assert check.outcome == "block"
    assert "51 of 50,000 units have an outcome dated before their exposure" in check.sentence


@pytest.mark.parametrize(
    ("counts", "unknown"),
    [
        ({"a": 100, "b": 90}, set()),
        ({"a": 100, "b": 5}, {"a", "b"}),
        ({"a": 100, "b": 5, "c": 40}, {"b", "c"}),
        ({"a": 100, "b": 5, "c": 40, "d": 0}, {"b", "d"}),
        ({"a": 3}, {"a"}),
        ({}, set()),
    ],
)
def test_no_small_count_can_be_worked_out_from_a_total(counts, unknown):
    assert set(hidden(counts, min_cell=20)) == unknown
    for name, words in counts_of(counts, min_cell=20).items():
        assert (words == f"{counts[name]:,}") == (name not in unknown)
        assert words in {"not shown", "fewer than 20", f"{counts[name]:,}"}


def test_rows_outside_of_the_agreed_days_warn_when_they_are_most():
    days = (date(2026, 3, 1), date(2026, 3, 9))
    assert outside_days(0, 100, *days) is None
    assert outside_days(30, 100, *days).outcome == "ok"
    check = outside_days(3000, 100, *days, what="rows")
    assert (check.outcome, check.value) == ("warn", 3000)
    assert "3,000 rows are dated outside of 2026-03-01 to 2026-03-09 and were left out, more than" in check.sentence
    few = outside_days(3, 100, *days)
    assert few.value is None
    assert "fewer than 20 units" in few.sentence


def test_a_variance_that_lost_digits_warns_and_one_that_is_noise_blocks():
    assert lost_digits("spend", {}) is None
    assert lost_digits("spend", {"a": 6.0, "b": 0.1}) is None
    assert lost_digits("spend", {"a": 7.4, "b": 0.1}).outcome == "warn"
    check = lost_digits("spend", {"a": 7.4, "b": 13.2})
    assert check.outcome == "block"
    assert "the variance of b has lost 13 of 16 digits" in check.sentence
    assert "has lost all of its digits" in lost_digits("spend", {"a": 16.0}).sentence


def test_totals_that_never_fall_for_a_week_look_cumulative():
    daily = [100, 120, 90, 110, 130, 80, 95, 105]
    running = np.cumsum(daily).tolist()
    assert cumulative("users", {"a": running, "b": daily}) is None
    assert cumulative("users", {"a": running[:6], "b": running[:6]}) is None
    assert cumulative("users", {"a": [5] * 8}) is None
    assert cumulative("users", {}) is None
    check = cumulative("users", {"a": running, "b": running})
    assert check.outcome == "warn"
    assert "never fall over 8 days" in check.sentence
    assert "cumulative = true" in check.sentence
    assert cumulative("users", {"a": daily}) is None
