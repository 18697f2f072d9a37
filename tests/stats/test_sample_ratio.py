"""Sample ratio: published figures, closed forms, and error rates over many looks."""

import math

import numpy as np
import pytest
from scipy.stats import betabinom, binom, chi2, chisquare, dirichlet_multinomial, multinomial

from expnb.stats.anytime import anytime_p, holm, log_multinomial_e
from expnb.stats.sample_ratio import (
    sample_ratio,
    sample_ratio_anytime_p,
    sample_ratio_by,
    sample_ratio_p,
)


def sample_ratio_views(counts, weights):
    """Views with one set of weights throughout."""
    return sample_ratio_by(
        {view: {value: [(arms, weights)] for value, arms in values.items()} for view, values in counts.items()}
    )


EVEN = {"a": 50, "b": 50}
COOKIE_CATS = ({"gate_30": 44_700, "gate_40": 45_489}, {"gate_30": 50, "gate_40": 50})


def arms(*counts):
    return dict(zip("abc", counts, strict=False))


def test_sample_ratio_of_cookie_cats_is_the_published_0_009():
    p = sample_ratio_p([COOKIE_CATS])
    assert p == pytest.approx(chisquare([44_700, 45_489]).pvalue)
    assert round(p, 3) == 0.009


def test_a_p_of_0_009_at_this_look_warns_and_does_not_block():
    check = sample_ratio([COOKIE_CATS])
    assert check.outcome == "warn"
    assert "p = 0.0086" in check.sentence
    assert "gate_30 44,700 (expected 45,094), gate_40 45,489 (expected 45,094)" in check.sentence
    assert "gate_40 has 0.9 % more units than promised" in check.sentence


def test_the_e_value_is_the_ratio_of_beta_binomial_and_binomial():
    for concentration in (1e2, 1e4, 1e6):
        found = log_multinomial_e([5_100, 900], [0.85, 0.15], concentration)
        oracle = betabinom.logpmf(900, 6_000, 0.15 * concentration, 0.85 * concentration) - binom.logpmf(
            900, 6_000, 0.15
        )
        assert found == pytest.approx(oracle, abs=1e-6)


def test_the_e_value_of_three_arms_is_the_ratio_of_dirichlet_multinomial_and_multinomial():
    counts, shares = np.array([5_000, 3_100, 1_900]), np.array([0.5, 0.3, 0.2])
    oracle = dirichlet_multinomial.logpmf(counts, 1e3 * shares, 10_000) - multinomial.logpmf(counts, 10_000, shares)
    assert log_multinomial_e(counts.tolist(), shares.tolist(), 1e3) == pytest.approx(oracle, abs=1e-6)


def test_under_the_promised_weights_the_mean_of_the_e_value_is_one():
    n, share, concentration = 60, 0.2, 100.0
    mean = sum(
        binom.pmf(k, n, share) * math.exp(log_multinomial_e([n - k, k], [1 - share, share], concentration))
        for k in range(n + 1)
    )
    assert mean == pytest.approx(1.0)


def test_the_p_over_all_looks_is_one_over_the_mean_of_e_values():
    assert anytime_p([math.log(300), math.log(100)]) == pytest.approx(1 / 200)
    assert anytime_p([-5.0, -700.0]) == 1.0
    assert anytime_p([5_000.0, 0.0]) == 0.0


@pytest.mark.parametrize("weights", [arms(50, 50), arms(95, 5), arms(1, 1, 1)], ids=str)
def test_200_looks_at_healthy_data_block_fewer_than_1_in_1000(weights):
    rng = np.random.default_rng(7)
    shares = np.array(list(weights.values())) / sum(weights.values())
    runs, blocked, naive = 30, 0, 0
    for _ in range(runs):
        looks = np.cumsum(rng.multinomial(450, shares, size=200), axis=0).tolist()
        blocked += any(sample_ratio_anytime_p([(arms(*counts), weights)]) <= 0.001 for counts in looks)
        naive += any(sample_ratio_p([(arms(*counts), weights)]) < 0.05 for counts in looks)
    assert blocked == 0  # 0.0002 in 40,000 runs; 30 runs at 0.001 would block with probability 0.03
    assert naive > runs / 4  # the same looks, taken as if each was the only one


@pytest.mark.parametrize(("lost", "units"), [(0.05, 90_000), (0.02, 1_000_000), (0.01, 4_000_000)])
def test_imbalances_of_1_2_and_5_percent_block_when_units_suffice(lost, units):
    a = round(units / (2 - lost))
    check = sample_ratio([(arms(a, units - a), EVEN)])
    assert check.outcome == "block"
    assert check.value <= 0.001
    assert f"b has {100 * (1 - (units - a) / (units / 2)):.1f} % fewer units" in check.sentence


def test_the_weights_are_those_that_were_promised():
    assert sample_ratio([(arms(9_500, 500), arms(95, 5))]).outcome == "ok"
    assert sample_ratio([(arms(9_500, 500), EVEN)]).outcome == "block"


def test_a_missing_arm_blocks():
    assert sample_ratio([({"a": 100}, EVEN)]).outcome == "block"


def test_both_p_values_are_written_alike_also_where_they_are_too_small_for_a_number():
    check = sample_ratio([(arms(100_000, 1), EVEN)])
    assert "p < 1e-300 at this look, p < 1e-300 over all looks (0.001 blocks)" in check.sentence


def test_of_many_arms_those_farthest_from_their_promise_are_named():
    names = [f"h{place}" for place in range(14)]
    counts = dict.fromkeys(names, 2_200) | {"h8": 2_100, "h1": 2_280, "h7": 2_140}
    weights = dict.fromkeys(names, 1.0)
    sentence = sample_ratio([(counts, weights)]).sentence
    assert "of 14 arms the farthest are h8 2,100 (expected 2,194), h1 2,280 (expected 2,194), h7 2,140" in sentence
    assert len(sentence) < 300
    few = sample_ratio([(counts | {"h3": 5}, weights)], min_cell=20).sentence
    assert "14 arms, among them h3 fewer than 20 (expected 7.1 %), h0 2,200 (expected 7.1 %)" in few
    assert "2,100" not in few  # the smallest but one, which a total less all others would give away


def test_without_units_nothing_is_claimed():
    assert (sample_ratio([({}, EVEN)]).outcome, sample_ratio([({}, EVEN)]).value) == ("ok", 1.0)


def test_weights_that_changed_are_tested_each_against_their_own_and_never_pooled():
    epochs = [(arms(9_000, 1_000), arms(90, 10)), (arms(5_000, 5_000), EVEN)]
    assert sample_ratio(epochs).outcome == "ok"
    assert sample_ratio([(arms(14_000, 6_000), EVEN)]).outcome == "block"


def test_opposite_imbalances_of_two_epochs_do_not_cancel():
    epochs = [(arms(5_300, 4_700), EVEN), (arms(4_700, 5_300), EVEN)]
    assert sample_ratio([(arms(10_000, 10_000), EVEN)]).outcome == "ok"
    check = sample_ratio(epochs)
    assert check.outcome == "block"
    assert "epoch 1: b has 6.0 % fewer units than promised" in check.sentence
    assert "epoch 2: b has 6.0 % more units than promised" in check.sentence


def test_chi_squares_and_e_values_of_epochs_add_up():
    one, two = (arms(5_100, 4_900), EVEN), (arms(910, 90), arms(90, 10))
    statistic = chisquare([5_100, 4_900]).statistic + chisquare([910, 90], [900, 100]).statistic
    assert sample_ratio_p([one, two]) == pytest.approx(chi2.sf(statistic, 2))
    logs = [
        betabinom.logpmf(5_100, 10_000, c / 2, c / 2)
        - binom.logpmf(5_100, 10_000, 0.5)
        + betabinom.logpmf(90, 1_000, 0.1 * c, 0.9 * c)
        - binom.logpmf(90, 1_000, 0.1)
        for c in (1e2, 1e3, 1e4, 1e5, 1e6)
    ]
    assert sample_ratio_anytime_p([one, two]) == pytest.approx(min(1, 1 / np.mean(np.exp(logs))))


def test_an_epoch_without_units_changes_nothing():
    assert sample_ratio_p([COOKIE_CATS, ({}, EVEN)]) == sample_ratio_p([COOKIE_CATS])
    assert sample_ratio_anytime_p([COOKIE_CATS, ({}, EVEN)]) == sample_ratio_anytime_p([COOKIE_CATS])


def test_a_small_arm_is_not_shown_nor_can_be_worked_out():
    check = sample_ratio([(arms(100, 7), EVEN)], min_cell=20)
    assert check.outcome == "block"
    assert check.value == 0.001
    assert "b fewer than 20 (expected 50.0 %)" in check.sentence
    assert not any(text in check.sentence for text in ("107", "54", " 7 ", "93"))


COUNTRIES = {
    "DE": arms(10_000, 9_000),
    "FR": arms(5_000, 5_030),
    "IT": arms(4_980, 5_000),
    "tiny": arms(15, 1),
}


def test_views_name_the_worst_value_and_never_block():
    (check,) = sample_ratio_views({"country": COUNTRIES}, EVEN)
    assert (check.name, check.outcome) == ("sample_ratio:country", "warn")
    assert "'DE' is the worst of 3: b has 5.3 % fewer units than promised" in check.sentence
    assert check.value == pytest.approx(3 * chisquare([10_000, 9_000]).pvalue)


def test_views_are_adjusted_over_all_values_of_all_views():
    days = {str(day): arms(5_000, 5_000) for day in range(97)}
    mild = {"DE": arms(5_000, 5_320), "FR": arms(5_000, 5_000), "IT": arms(5_000, 5_000)}
    assert sample_ratio_views({"country": mild}, EVEN)[0].outcome == "warn"
    country, day = sample_ratio_views({"country": mild, "day": days}, EVEN)
    assert (country.outcome, day.outcome) == ("ok", "ok")
    assert country.value == pytest.approx(100 * chisquare([5_000, 5_320]).pvalue)


def test_a_view_shows_a_value_that_lacks_an_arm_without_its_count():
    (check,) = sample_ratio_views({"country": {"DE": arms(3_000, 3)}}, EVEN)
    assert (check.outcome, check.value) == ("warn", None)
    assert "an arm has fewer than 20 units" in check.sentence
    assert "3" not in check.sentence


def test_a_view_with_small_values_only_says_that_nothing_was_tested():
    (check,) = sample_ratio_views({"country": {"tiny": arms(15, 1)}}, EVEN)
    assert (check.outcome, check.value) == ("ok", None)
    assert "no value has enough units" in check.sentence


def test_days_are_held_against_the_weights_of_their_epoch():
    days = {"1": [(arms(900, 100), arms(90, 10))], "2": [(arms(500, 500), EVEN)]}
    assert sample_ratio_by({"day": days})[0].outcome == "ok"


def test_holm_gives_the_figures_of_the_textbook():
    # Wright (1992), Adjusted p-values for simultaneous inference: smallest times m, next times m - 1, never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
