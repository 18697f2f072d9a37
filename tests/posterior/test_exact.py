"""Exact posteriors against quadrature written another way: two dimensions, over the control's mean and the log ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import special, stats

from expnb.errors import PosteriorError
from expnb.posterior.exact import Binomial, NormalMean, Quantity, absolute_effect, prob_best, relative_effect
from expnb.spec.prior import Prior

Floats = NDArray[np.float64]

FLAT = Prior("flat")
PRIORS = [FLAT, Prior(), Prior(scale=0.3), Prior(scale=0.003), Prior("normal")]
CUTS = np.array([0.0, 0.005, -0.005, -0.02, 0.0123])
NODES, WEIGHTS = np.polynomial.legendre.leggauss(10)
STEPS = np.array([0.05, 0.15, 0.3, 0.5, 0.75, 1, 1.3, 1.6, 2, 2.4, 2.8, 3.3, 3.8, 4.4, 5, 5.7, 6.4, 7.2, 8, 9, 11, 14, 20, 40, 100])

# control successes, units, treatment successes, units
COUNTS = [
    (300, 30_000, 330, 30_000),
    (15, 100, 12, 100),
    (0, 30, 0, 30),
    (30, 30, 30, 30),
    (1, 30, 0, 30),
    (2, 30, 1, 40),
    (29, 30, 30, 30),
    (9_998, 10_000, 9_990, 10_000),
    (950, 19_000, 40, 1_000),  # 95 % against 5 % of the units
    (3, 100, 330, 10_000),
    (50, 1_000, 86, 1_000),  # +72 %
    (500, 1_000, 50, 1_000),  # -90 %
    (100, 10_000_000, 120, 10_000_000),
    (5_000_000, 10_000_000, 5_003_000, 10_000_000),
]
# control mean, its error, treatment mean, its error
MEANS = [
    (10.0, 0.1, 10.2, 0.1),
    (10.0, 1.0, 17.2, 1.0),
    (10.0, 0.05, 1.0, 0.02),
    (1e9, 1.0, 1e9 + 1.0, 1.0),
    (1e-12, 1e-14, 1.02e-12, 3e-14),
    (10.0, 0.02, 9.0, 2.0),
    (10.0, 1.1, 3.0, 2.0),
    (10.0, 0.3, 10.0, 0.015),
]


def one(*values: float) -> list[Floats]:
    return [np.array([float(value)]) for value in values]


def rates(counts: tuple[float, float, float, float]) -> tuple[Binomial, Binomial]:
    k_c, n_c, k_t, n_t = one(*counts)
    return Binomial(k_c, n_c), Binomial(k_t, n_t)


def means(values: tuple[float, float, float, float]) -> tuple[NormalMean, NormalMean]:
    m_c, s_c, m_t, s_t = one(*values)
    return NormalMean(m_c, s_c), NormalMean(m_t, s_t)


# --- the other way: Gauss-Legendre panels in two dimensions, broken at every cut ---------------


def nodes(breaks: Floats) -> tuple[Floats, Floats]:
    breaks = np.unique(breaks)
    half = 0.5 * np.diff(breaks)
    return ((breaks[:-1] + half)[:, None] + half[:, None] * NODES).ravel(), (half[:, None] * WEIGHTS).ravel()


def log_prior(prior: Prior, lam: Floats) -> Floats:
    if prior.family == "flat":
        return np.zeros_like(lam)
    return np.asarray(stats.norm.logpdf(lam, 0, prior.scale) if prior.family == "normal" else stats.t.logpdf(lam / prior.scale, prior.df))


@dataclass(frozen=True)
class Reference:
    """Nodes of the joint posterior: effect and weight, weights adding up to 1."""

    effect: Floats
    weight: Floats

    def mean_of(self, values: Floats) -> float:
        return float(values @ self.weight)

    @property
    def mean(self) -> float:
        return self.mean_of(self.effect)

    @property
    def sd(self) -> float:
        return math.sqrt(self.mean_of((self.effect - self.mean) ** 2))


def ladder(middle: float, scale: float) -> Floats:
    return np.concatenate([[middle], middle - scale * STEPS, middle + scale * STEPS])


def lam_breaks(prior: Prior, middle: float, spread: float, upper: float, extra: Floats) -> Floats:
    breaks = [ladder(middle, spread), extra, np.linspace(-40, 40, 21)]
    if prior.family != "flat":
        breaks += [ladder(0.0, prior.scale), np.geomspace(100 * prior.scale, 120 * prior.scale + 40, 12), -np.geomspace(100 * prior.scale, 120 * prior.scale + 40, 12)]
    return np.append(np.unique(np.clip(np.concatenate(breaks), -40, upper)), upper)


def joint(arms: tuple[Binomial, Binomial] | tuple[NormalMean, NormalMean], prior: Prior, cuts_abs: Floats) -> tuple[Reference, Reference]:
    """The joint posterior of the relative and of the absolute effect: control mean outside, log ratio inside, breaks where an effect equals a cut."""
    control, treatment = arms
    if isinstance(control, Binomial) and isinstance(treatment, Binomial):
        k_c, f_c, k_t, f_t = (float(a[0]) for a in (control.successes, control.failures, treatment.successes, treatment.failures))
        middle = (k_c + 1) / (k_c + f_c + 2)
        spread_c = math.sqrt(middle * (1 - middle) / (k_c + f_c))
        edge = np.geomspace(1e-12, 0.5, 24)
        cut_edges = np.concatenate([-cuts_abs, 1 - cuts_abs, 1 / (1 + CUTS)])
        breaks = np.clip(np.concatenate([[0, 1], edge, 1 - edge, cut_edges, ladder(middle, spread_c), np.linspace(-14, 14, 29) * spread_c + middle]), 0, 1)
        m, weight = nodes(breaks)
        log_c = special.xlogy(k_c, m) + special.xlog1py(f_c, -m)
        spread, estimate = math.sqrt((f_t + 0.5) / ((k_t + 0.5) * (k_t + f_t + 1))), (k_t + 0.5) / (k_t + f_t + 1)
        top = 1.0

        def log_t(x: Floats) -> Floats:
            x = np.clip(x, 1e-300, 1.0)
            return np.asarray(special.xlogy(k_t, x) + special.xlog1py(f_t, -x))
    else:
        assert isinstance(control, NormalMean)
        assert isinstance(treatment, NormalMean)
        c, s_c, estimate, s_t = (float(a[0]) for a in (control.mean, control.se, treatment.mean, treatment.se))
        sharp = np.concatenate([ladder((cross - c) / s_c, s_t / s_c) for cross in np.concatenate([estimate / (1 + CUTS), estimate - cuts_abs])])
        z, weight = nodes(np.clip(np.concatenate([np.linspace(-9, 9, 25), sharp if 3 * s_t < s_c else sharp[:0]]), max(-9, -0.95 * c / s_c), 9))
        m, log_c = c + s_c * z, -0.5 * z**2
        spread, top = min(1.0, s_t / estimate), math.inf

        def log_t(x: Floats) -> Floats:
            return -0.5 * ((x - estimate) / s_t) ** 2

    keep = log_c > log_c.max() - (250 if prior.family == "normal" else 36)  # a Normal prior may pull far away
    logs, weights, lams, sizes = [], [], [], []
    for value, share, base in zip(m[keep], weight[keep], log_c[keep], strict=True):
        ratio = 1 + np.concatenate([CUTS, cuts_abs / value])
        breaks = lam_breaks(prior, math.log(estimate / value), spread, min(40.0, math.log(top / value)), np.log(ratio[ratio > 0]))
        lam, inner = nodes(breaks)
        logs.append(log_t(value * np.exp(lam)) + log_prior(prior, lam) + base + (lam + math.log(value) if prior.family == "flat" else 0))
        weights.append(inner * share)
        lams.append(lam)
        sizes.append(np.full_like(lam, value))
    log_f, effect = np.concatenate(logs), np.expm1(np.concatenate(lams))
    mass = np.exp(log_f - log_f.max()) * np.concatenate(weights)
    mass /= mass.sum()
    return Reference(effect, mass), Reference(effect * np.concatenate(sizes), mass)


def assert_agree(found: Quantity, wanted: Reference, cuts: Floats, *, moments: float = 2, tolerance: float = 2e-8) -> None:
    sd = wanted.sd
    for i, cut in enumerate(cuts):
        assert found.p_above[0, i] == pytest.approx(wanted.mean_of(wanted.effect > cut), abs=tolerance), cut
    assert found.loss[0] == pytest.approx(wanted.mean_of(np.maximum(-wanted.effect, 0)), rel=1e-5, abs=1e-12 * sd)
    if moments >= 1:
        assert found.gain[0] == pytest.approx(wanted.mean_of(np.maximum(wanted.effect, 0)), rel=1e-5, abs=1e-12 * sd)
        assert found.mean[0] == pytest.approx(wanted.mean, abs=1e-6 * sd)
    if moments >= 2:
        assert found.sd[0] == pytest.approx(sd, rel=1e-5)
    inside = (wanted.effect > found.hdi_low[0]) & (wanted.effect < found.hdi_high[0])
    assert wanted.mean_of(inside) == pytest.approx(0.95, abs=2e-2)


def name(value: object) -> str:
    return value.id if isinstance(value, Prior) else "-".join(f"{v:g}" for v in value)  # type: ignore[attr-defined]


CASES = [(counts, prior) for counts in COUNTS for prior in (FLAT, Prior(), Prior(scale=0.3))]
CASES += [(counts, prior) for counts in COUNTS[:3] + COUNTS[10:12] for prior in (Prior(scale=0.003), Prior("normal"))]


@pytest.mark.parametrize(("counts", "prior"), CASES, ids=name)
def test_effects_of_rates_equal_quadrature_in_two_dimensions(counts: tuple[float, float, float, float], prior: Prior) -> None:
    arms = rates(counts)
    cuts_abs = CUTS * (counts[0] + 1) / (counts[1] + 2)
    relative, absolute = joint(arms, prior, cuts_abs)
    moments = min(counts[0] + {"flat": 0, "student_t": 1, "normal": 2}[prior.family], 2)
    found = relative_effect(*arms, prior, CUTS)
    assert np.isinf(found.sd[0]) == (moments < 2)
    assert np.isinf(found.mean[0]) == (moments < 1)
    assert_agree(found, relative, CUTS, moments=moments)
    # without any success and with a prior, the density of the difference has a pole at 0
    tolerance = 2e-7 if counts[0] + counts[2] == 0 else 2e-8
    assert_agree(absolute_effect(*arms, prior, cuts_abs), absolute, cuts_abs, tolerance=tolerance)


@pytest.mark.parametrize("prior", [FLAT, Prior(), Prior(scale=0.3)], ids=name)
@pytest.mark.parametrize("values", MEANS, ids=name)
def test_effects_of_means_equal_quadrature_in_two_dimensions(values: tuple[float, float, float, float], prior: Prior) -> None:
    arms = means(values)
    cuts_abs = CUTS * values[0]
    relative, absolute = joint(arms, prior, cuts_abs)
    assert_agree(relative_effect(*arms, prior, CUTS), relative, CUTS)
    if prior.family != "flat":
        assert_agree(absolute_effect(*arms, prior, cuts_abs), absolute, cuts_abs)
