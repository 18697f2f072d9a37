"""What a probability means at a share of working ideas: against worlds in which it can be counted."""

import math

import numpy as np
import pytest

from expnb.errors import PosteriorError
from expnb.posterior.priors.mixture import shrink
from expnb.posterior.priors.plain import counted_odds, null_probability, plain_odds
from expnb.spec.prior import FLAT, Prior

TAU, SE = 0.03, 0.02
KEPT = TAU**2 / (TAU**2 + SE**2)


@pytest.mark.parametrize("works", [0.1, 0.2, 0.35])
@pytest.mark.parametrize("under", ["sceptical", "flat"])
def test_plain_odds_are_the_share_that_works(works, under):
    """A million ideas, of which `works` improve and as many harm: among those stated at about 0.95 and more, count."""
    rng = np.random.default_rng(1)
    truth = np.where(rng.random(1_000_000) < 2 * works, rng.normal(0, TAU, 1_000_000), 0.0)
    made = shrink(
        Prior("normal", TAU) if under == "sceptical" else FLAT, rng.normal(truth, SE), np.full(len(truth), SE)
    )
    stated = made.above_zero
    for low, high in ((0.85, 0.87), (0.945, 0.955), (0.978, 0.982)):
        chosen = (stated > low) & (stated < high)
        counted = (truth[chosen] > 0).mean()
        plain = np.mean([plain_odds(p, works, under=under, kept=KEPT).value for p in stated[chosen][:500]])
        assert plain == pytest.approx(counted, abs=4 * math.sqrt(0.25 / chosen.sum()) + 0.002)


def test_a_given_bayes_factor_gives_the_posterior_of_the_point():
    rng = np.random.default_rng(2)
    log_ratio, se = rng.normal(0, 0.04, 20), np.full(20, SE)
    whole = Prior(family="learnt", scales=(TAU,), weights=(1.0,), null_share=0.6)
    effects = Prior("student_t", TAU)
    factors = (
        np.exp(shrink(effects, log_ratio, se).log_evidence + 0.5 * (log_ratio / se) ** 2) * se * math.sqrt(2 * math.pi)
    )
    stated = shrink(effects, log_ratio, se).above_zero
    plain = [plain_odds(p, 0.2, bayes_factor=factor).value for p, factor in zip(stated, factors, strict=True)]
    assert plain == pytest.approx(shrink(whole, log_ratio, se).above_zero, abs=1e-9)


def test_where_half_of_the_ideas_work_the_stated_probability_holds():
    assert [plain_odds(p, 0.5).value for p in (0.0, 0.02, 0.5, 0.98, 1.0)] == [0.0, 0.02, 0.5, 0.98, 1.0]


def test_fewer_working_ideas_mean_a_lower_probability():
    values = [plain_odds(0.98, works).value for works in (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)]
    assert values == sorted(values)


@pytest.mark.parametrize(
    ("p", "works", "sentence"),
    [
        (0.98, 0.2, "If 1 in 5 ideas of this kind works, this 0.98 means about 0.78."),
        (0.98, 0.4, "If 2 in 5 ideas of this kind work, this 0.98 means about 0.94."),
        (0.9996, 0.12, "If 1 in 8 ideas of this kind works, this 0.9996 means about 0.98."),
        (0.98, 0.05, "If 5 % of ideas of this kind work, this 0.98 means about 0.39."),
        (0.9999, 0.12, "If 1 in 8 ideas of this kind works, this 0.9999 means about 0.995."),
        (1.0, 0.2, "This probability of over 0.9999 holds even if only 1 in 5 ideas of this kind works."),
        (0.0, 0.4, "This probability of under 0.0001 holds even if only 2 in 5 ideas of this kind work."),
        (0.98, 0.5, "This probability of 0.98 holds even if only 1 in 2 ideas of this kind works."),
    ],
)
def test_the_sentence_is_one_that_people_say(p, works, sentence):
    assert plain_odds(p, works).sentence == str(plain_odds(p, works)) == sentence


def test_the_null_has_its_prior_probability_where_data_say_nothing():
    assert null_probability(-3.0, -3.0, 0.6) == pytest.approx(0.6)
    assert null_probability(-3.0, 5.0, 0.0) == 0
    assert null_probability(-3000.0, -1.0, 0.6) == 0
    assert null_probability(-1.0, -3000.0, 0.6) == 1
    assert null_probability(-math.inf, -3.0, 0.6) == 0


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: null_probability(0, 0, 1.2), "null_share is 1.2; it is a probability from 0 to 1"),
        (lambda: null_probability(-math.inf, -math.inf, 0.5), "the log likelihoods are -inf and -inf; at least one of them must be finite"),
        (lambda: plain_odds(1.2, 0.2), "p is 1.2; it is a probability from 0 to 1"),
        (lambda: plain_odds(math.nan, 0.2), "p is nan"),
        (lambda: plain_odds(0.9, 0.0), "works is 0.0; it is the share of ideas that work, above 0 and at most 0.5"),
        (lambda: plain_odds(0.9, 20), "works is 20; it is the share of ideas that work"),
        (lambda: plain_odds(0.9, 0.2, kept=1.0), "kept is 1.0; it is the share of the raw effect that stays"),
        (lambda: plain_odds(0.9, 0.2, bayes_factor=0.0), "bayes_factor is 0.0; it lies above 0"),
    ],
)  # fmt: skip
def test_a_bad_number_gets_a_sentence(call, sentence):
    with pytest.raises(PosteriorError) as caught:
        call()
    assert sentence in str(caught.value)


def test_probabilities_that_count_the_nulls_say_so():
    text = counted_odds(0.74, 0.2, 0.24)
    assert text == "That 1 in 5 ideas of this kind works is counted in this 0.74; if every idea did something, it would be about 0.97."  # fmt: skip
    assert "about 0.50" in counted_odds(0.0, 0.01, 1.0)


def test_a_probability_that_would_be_the_same_without_nulls_is_said_once():
    text = counted_odds(1.0, 0.2, 1e-9)
    assert text == "That 1 in 5 ideas of this kind works is counted in this over 0.9999; it would be the same if every idea did something."  # fmt: skip
