"""Quality checks: published figures, closed forms, thresholds."""

import pytest
from scipy.stats import chi2, chisquare

from expnb.stats.checks import chi_square_tail, outlier, sample_ratio, sample_ratio_p, spend, unusable_values


@pytest.mark.parametrize("df", range(1, 9))
@pytest.mark.parametrize("statistic", [0.0, 1e-6, 0.5, 3.0, 20.0, 200.0])
def test_chi_square_tail_equals_the_incomplete_gamma_function(df, statistic):
    assert chi_square_tail(statistic, df) == pytest.approx(chi2.sf(statistic, df), rel=1e-12, abs=1e-300)


def test_sample_ratio_of_cookie_cats_is_the_published_0_009():
    p = sample_ratio_p({"gate_30": 44_700, "gate_40": 45_489}, {"gate_30": 50, "gate_40": 50})
    assert p == pytest.approx(chisquare([44_700, 45_489]).pvalue)
    assert round(p, 3) == 0.009


def test_sample_ratio_uses_the_real_weights():
    counts = {"a": 9_500, "b": 500}
    assert sample_ratio(counts, {"a": 95, "b": 5}).outcome == "ok"
    assert sample_ratio(counts, {"a": 50, "b": 50}).outcome == "block"


def test_sample_ratio_between_the_thresholds_warns_and_does_not_block():
    check = sample_ratio({"a": 44_700, "b": 45_489}, {"a": 1, "b": 1})
    assert check.outcome == "warn"
    assert "p = 0.0086" in check.sentence


def test_a_missing_arm_blocks():
    assert sample_ratio({"a": 100}, {"a": 1, "b": 1}).outcome == "block"


def test_all_looks_together_spend_no_more_than_alpha():
    spent = sum(spend(0.01, look) for look in range(1, 100_000))
    assert 0.00999 < spent < 0.01


def test_one_player_that_carries_the_variance_is_an_outlier():
    check = outlier("rounds", value=49_854, mean=52.5, m2=2.9e9)
    assert check.outcome == "warn"
    assert "49,854" in check.sentence
    assert outlier("rounds", value=200, mean=52.5, m2=2.9e9) is None
    assert outlier("rounds", value=5, mean=5, m2=0) is None


def test_unusable_values_are_counted_by_cause():
    check = unusable_values("spend", null=3, nan=2, infinite=1, total=100)
    assert check.sentence == "spend: 3 empty and 2 NaN and 1 infinite of 100 values were left out."
    assert unusable_values("spend", null=0, nan=0, infinite=0, total=100) is None
