"""The mixture of Normals that simulations believe in is the prior of the exact engine."""

import numpy as np
import pytest

import expnb as xb
from expnb.planning.belief import Belief
from expnb.posterior.exact.arms import NormalMean
from expnb.posterior.exact.engine import relative_effect
from expnb.spec.prior import FLAT, HARM_PRIOR

LEARNT = xb.Prior(family="learnt", scales=(0.01, 0.03, 0.1), weights=(0.3, 0.5, 0.2), null_share=0.4)
PRIORS = [xb.Prior(), HARM_PRIOR, xb.Prior(family="normal", scale=0.05), LEARNT, FLAT]


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.family)
@pytest.mark.parametrize("error", [0.0005, 0.002])
def test_posteriors_are_those_of_the_exact_engine(prior, error):
    effects = error * np.array([0.0, 1.0, -3.0, 2.0])
    cuts = error * np.array([0.5, -0.5, -2.0])
    mean, own = np.exp(effects), error / np.sqrt(2)  # of both arms alike, so that their logarithms lean alike
    control, treatment = NormalMean(np.full(4, 1.0), np.full(4, own)), NormalMean(mean, mean * own)
    exact = relative_effect(control, treatment, prior, cuts, chart=False)
    found = Belief.of(prior).given(effects, np.full(4, error))
    above = np.stack([found.above(np.log1p(cut)) for cut in cuts], axis=1)
    assert above == pytest.approx(exact.p_above, abs=error)  # the logarithm of a Normal mean is a bell to that order
    assert found.expected_loss(increase=True) == pytest.approx(exact.loss, abs=2 * error**2)
    assert found.expected_loss(increase=False) == pytest.approx(exact.gain, abs=2 * error**2)


def test_against_quadrature():
    prior, estimate, error = xb.Prior(), 0.04, 0.02
    lam = np.linspace(-3, 3, 2_000_001)
    density = np.exp(prior.log_density(lam) - 0.5 * ((estimate - lam) / error) ** 2)
    found = Belief.of(prior).given(np.array([estimate]), np.array([error]))
    for cut in (-0.02, 0.0, 0.01):
        assert found.above(cut)[0] == pytest.approx(density[lam > cut].sum() / density.sum(), abs=1e-5)
    loss = (density * np.maximum(0, -np.expm1(lam))).sum() / density.sum()
    assert found.expected_loss(increase=True)[0] == pytest.approx(loss, rel=1e-3)


def test_a_point_at_no_effect_is_on_neither_side():
    belief = Belief.of(LEARNT).given(np.zeros(1), np.full(1, 1e-3))
    assert belief.above(1e-9)[0] + (1 - belief.above(-1e-9)[0]) < 0.4
