"""Shrunk estimates in closed form, against quadrature written another way."""

import numpy as np
import pytest
from scipy import stats

from expnb.posterior.priors.mixture import components, shrink
from expnb.posterior.priors.plain import null_probability
from expnb.spec.prior import FLAT, Prior

LEARNT = Prior(family="learnt", scales=(0.005, 0.03), weights=(0.6, 0.4), null_share=0.5)
CASES = [(0.03, 0.01), (-0.002, 0.01), (0.4, 0.02), (0.0, 0.05), (-0.08, 0.03)]


def by_quadrature(prior, y, se):
    """Evidence, P(null), mean, P(> 0) and P(<= 0.01) with a fine grid; none of it shared with the mixture."""
    x = np.unique(
        np.concatenate([np.linspace(y - 10 * se, y + 10 * se, 200_001), 0.2 * np.linspace(-1, 1, 200_001) ** 3])
    )
    joint = np.exp(prior.log_density(x) - prior.log_mass) * stats.norm(x, se).pdf(y)
    slope = np.trapezoid(joint, x)
    at_null = prior.null_share * stats.norm(0, se).pdf(y)
    evidence = at_null + (1 - prior.null_share) * slope
    part = (1 - prior.null_share) / evidence
    below = part * np.trapezoid(np.where(x <= 0.01, joint, 0), x) + at_null / evidence
    return (
        evidence,
        at_null / evidence,
        part * np.trapezoid(x * joint, x),
        part * np.trapezoid(np.where(x > 0, joint, 0), x),
        below,
    )


@pytest.mark.parametrize(
    "prior", [Prior(), Prior("normal", 0.02), LEARNT, Prior("student_t", 0.02, 8.0)], ids=lambda p: p.family
)
def test_posteriors_equal_quadrature(prior):
    y, se = np.array(CASES).T
    made = shrink(prior, y, se)
    found = zip(
        np.exp(made.log_evidence), made.null, made.mean, made.above_zero, made.cdf(np.full(len(y), 0.01)), strict=True
    )
    for row, (one_y, one_se) in zip(found, CASES, strict=True):
        assert row == pytest.approx(by_quadrature(prior, one_y, one_se), abs=2e-4, rel=2e-4)


def test_the_null_is_what_the_marginal_likelihoods_say():
    y, se = np.array(CASES).T
    made = shrink(LEARNT, y, se)
    continuous = Prior(family="learnt", scales=LEARNT.scales, weights=LEARNT.weights)
    log_integral = shrink(continuous, y, se).log_evidence
    at_null = stats.norm(0, se).logpdf(y)
    stated = [null_probability(*pair, LEARNT.null_share) for pair in zip(at_null, log_integral, strict=True)]
    assert made.null == pytest.approx(stated, abs=1e-12)


def test_the_flat_prior_keeps_the_raw_estimate():
    y, se = np.array(CASES).T
    made = shrink(FLAT, y, se)
    assert made.mean == pytest.approx(y)
    assert made.quantile(0.975) == pytest.approx(y + 1.959964 * se)
    assert made.null.tolist() == [0] * len(y)


def test_quantiles_turn_the_distribution_function_around():
    y, se = np.array(CASES).T
    made = shrink(LEARNT, y, se)
    for share in (0.025, 0.3, 0.5, 0.975):
        at = made.quantile(share)
        assert (made.cdf(at) >= share - 1e-9).all()
        assert (made.cdf(at - 1e-7) <= share + 1e-4).all()
    assert made.quantile(0.5)[3] == 0  # a likely null is the median


def test_mixtures_have_the_mass_and_variance_of_their_prior():
    weight, variance = components(LEARNT)
    assert weight.sum() == pytest.approx(1)
    # The Student-t's variance sits in its tail; what lies beyond 1000 scales is left out.
    assert weight @ variance == pytest.approx(LEARNT.sd**2, rel=1e-3)
