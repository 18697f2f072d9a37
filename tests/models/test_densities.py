"""The density of every model is likelihood times prior, in the units that an analyst thinks in; written anew with scipy."""

import numpy as np
import pytest
from scipy import stats

from expnb.errors import PosteriorError
from expnb.models.conversion import conversion_data, conversion_model
from expnb.models.count import (
    Histogram,
    count_data,
    count_model,
    negative_binomial_data,
    negative_binomial_model,
)
from expnb.models.hurdle import Payers, hurdle_data, hurdle_model
from expnb.models.mean import mean_data, mean_model
from expnb.models.segments import segments_data, segments_model
from expnb.posterior.exact.arms import Binomial, NormalMean, Poisson, StudentMean
from expnb.spec.prior import FLAT, Prior

pytestmark = pytest.mark.slow

VARIANTS = ("control", "a", "b")
MIXTURE = Prior(family="learnt", scales=(0.02, 0.2), weights=(0.6, 0.4))
LEARNT = Prior(family="learnt", scales=(0.02, 0.2), weights=(0.6, 0.4), null_share=0.3)
NORMAL = NormalMean(np.array([10.0, 10.5, 9.0]), np.array([0.5, 0.6, 0.4]))
STUDENT = StudentMean(NORMAL.mean, NORMAL.se, np.array([11.0, 40.0, 6.0]))
EVENTS = Poisson(np.array([30.0, 44.0, 25.0]), np.array([20.0, 21.0, 22.0]))
SHARES = Binomial(np.array([30.0, 41.0, 20.0]), np.array([120.0, 110.0, 90.0]))
FRACTIONS = Binomial(np.array([30.5, 41.25, 20.0]), np.array([120.25, 110.0, 90.5]))
VALUES = Histogram(
    np.array([1.2, 1.5, 1.1]),
    np.array([0.1, 0.1, 0.1]),
    np.array([0, 0, 0, 1, 1, 2, 2]),
    np.array([0.0, 1.0, 4.0, 0.0, 3.0, 0.0, 2.0]),
    np.array([50.0, 30.0, 12.0, 40.0, 30.0, 60.0, 50.0]),
)
PAYERS = Payers(
    np.array([900.0, 950.0, 920.0]),
    np.array([80.0, 95.0, 70.0]),
    np.array([2.0, 2.1, 1.9]),
    np.array([60.0, 70.0, 50.0]),
    np.full(3, 10.0),
    np.full(3, 1.0),
)


def belief(prior, log_ratio):
    """Log density of the prior without its point."""
    if prior.family == "flat":
        return 0.0
    if prior.family == "normal":
        return stats.norm.logpdf(log_ratio, scale=prior.scale).sum()
    parts = [weight * stats.t.pdf(log_ratio, prior.df, scale=scale) for scale, weight in prior.parts]
    return np.log(sum(parts)).sum()


def spread(total, jacobian_of, log_p, size, *, seed=1):
    """How much the model's density and ours differ by more than a constant; `jacobian_of` maps what is sampled to what the prior is stated on."""
    found = []
    for point in np.random.default_rng(seed).normal(0, 1, (6, size)):
        steps = 1e-5 * np.eye(size)
        jacobian = np.stack([(jacobian_of(point + step) - jacobian_of(point - step)) / 2e-5 for step in steps])
        found.append(float(log_p(point)) - total(point) - np.linalg.slogdet(jacobian)[1])
    return np.ptp(found)


def placed(numbers, point):
    return numbers["centre"] + numbers["spread"] @ point


def on_ratio(mean, prior):
    return mean if prior.family == "flat" else np.concatenate([mean[:1], np.log(mean[1:] / mean[0])])


def compiled(model):
    return model.compile_logp(mode="FAST_COMPILE")


@pytest.mark.parametrize("prior", [Prior(), MIXTURE, FLAT], ids=["student_t", "mixture", "flat"])
@pytest.mark.parametrize("arms", [NORMAL, STUDENT], ids=["normal", "student"])
def test_means(arms, prior):
    numbers, log_p = mean_data(arms, prior), compiled(mean_model(arms, prior, VARIANTS))
    shape = stats.norm() if arms is NORMAL else stats.t(arms.df)

    def mean(point):
        return placed(numbers, point) if prior is FLAT else np.exp(placed(numbers, point))

    def total(point):
        prior_part = 0.0 if prior is FLAT else belief(prior, np.log(mean(point)[1:] / mean(point)[0]))
        return shape.logpdf((arms.mean - mean(point)) / arms.se).sum() + prior_part

    assert spread(total, lambda z: on_ratio(mean(z), prior), lambda z: log_p({"standardised": z}), 3) < 1e-5


@pytest.mark.parametrize("prior", [Prior(family="normal", scale=0.1), FLAT], ids=["normal", "flat"])
def test_counts(prior):
    numbers, log_p = count_data(EVENTS, prior), compiled(count_model(EVENTS, prior, VARIANTS))

    def rate(point):
        return np.exp(placed(numbers, point))

    def total(point):
        own = stats.poisson.logpmf(EVENTS.total, EVENTS.units * rate(point)).sum()
        return own + belief(prior, np.log(rate(point)[1:] / rate(point)[0]))

    assert spread(total, lambda z: on_ratio(rate(z), prior), lambda z: log_p({"standardised": z}), 3) < 1e-5


@pytest.mark.parametrize("arms", [SHARES, FRACTIONS], ids=["whole", "not whole"])
def test_shares_of_units_in_clusters_count_as_fewer_independent_ones(arms):
    numbers, log_p = conversion_data(arms, Prior()), compiled(conversion_model(arms, Prior(), VARIANTS))

    def rate(point):
        return 1 / (1 + np.exp(-placed(numbers, point)))

    def total(point):
        p = rate(point)
        own = (arms.successes * np.log(p) + arms.failures * np.log1p(-p)).sum()
        return own + belief(Prior(), np.log(p[1:] / p[0]))

    assert spread(total, lambda z: on_ratio(rate(z), Prior()), lambda z: log_p({"standardised": z}), 3) < 1e-5


@pytest.mark.parametrize("kind", ["conversion", "mean", "mean of few", "count", "negative Binomial"])
def test_a_point_at_no_effect_weighs_the_control_s_mean_against_the_treatment_s_own(kind):
    """Density of a draw: every treatment either has an effect, or the control's mean and a log ratio of no meaning."""
    arms, model, data = {
        "conversion": (SHARES, conversion_model, conversion_data),
        "mean": (NORMAL, mean_model, mean_data),
        "mean of few": (STUDENT, mean_model, mean_data),
        "count": (EVENTS, count_model, count_data),
        "negative Binomial": (VALUES, negative_binomial_model, negative_binomial_data),
    }[kind]
    numbers, log_p = data(arms, LEARNT), compiled(model(arms, LEARNT, VARIANTS))
    root = 0.8

    def mean(point):
        place = placed(numbers, point)
        return 1 / (1 + np.exp(-place)) if kind == "conversion" else np.exp(place)

    def likelihood(at, arm):
        if kind == "conversion":
            return stats.binom.logpmf(arms.successes[arm], arms.units[arm], at)
        if kind == "mean":
            return stats.norm.logpdf(arms.mean[arm], at, arms.se[arm])
        if kind == "mean of few":
            return stats.t.logpdf((arms.mean[arm] - at) / arms.se[arm], arms.df[arm])
        if kind == "count":
            return stats.poisson.logpmf(arms.total[arm], arms.units[arm] * at)
        own, size = arms.variant == arm, root**-2
        return (arms.units * stats.nbinom.logpmf(arms.value, size, size / (size + at)))[own].sum()

    def total(point):
        m = mean(point)
        out = likelihood(m[0], 0)
        for arm in (1, 2):
            lam = np.log(m[arm] / m[0])
            some = np.log1p(-LEARNT.null_share) + belief(LEARNT, lam) + likelihood(m[arm], arm)
            stand_in = stats.norm.logpdf(lam, numbers["likely"][arm - 1], numbers["likely_sd"][arm - 1])
            none = np.log(LEARNT.null_share) + stand_in + likelihood(m[0], arm)
            out += np.logaddexp(some, none)
        return out

    def log_density(point):
        extra = {} if kind != "negative Binomial" else {"root_overdispersion_log__": np.full(3, np.log(root))}
        return log_p({"standardised": point, "coin_interval__": np.zeros(2), **extra})

    assert spread(total, lambda z: on_ratio(mean(z), LEARNT), log_density, 3) < 1e-5


def test_counts_in_bursts():
    numbers = negative_binomial_data(VALUES, Prior())
    log_p = compiled(negative_binomial_model(VALUES, Prior(), VARIANTS))

    def split(point):
        return np.exp(placed(numbers, point[:3])), np.exp(point[3:])

    def total(point):
        rate, root = split(point)
        size, mu = root[VALUES.variant] ** -2, rate[VALUES.variant]
        own = (VALUES.units * stats.nbinom.logpmf(VALUES.value, size, size / (size + mu))).sum()
        return own + stats.halfnorm.logpdf(root).sum() + belief(Prior(), np.log(rate[1:] / rate[0]))

    def stated(point):
        rate, root = split(point)
        return np.concatenate([on_ratio(rate, Prior()), root])

    def log_density(point):
        return log_p({"standardised": point[:3], "root_overdispersion_log__": point[3:]})

    assert spread(total, stated, log_density, 6) < 1e-5


@pytest.mark.parametrize("prior", [Prior(), FLAT], ids=["student_t", "flat"])
def test_the_hurdle(prior):
    numbers, log_p = hurdle_data(PAYERS, prior), compiled(hurdle_model(PAYERS, prior, VARIANTS))

    def split(point):
        own = [
            numbers[f"{name}_centre"] + numbers[f"{name}_spread"] * z
            for name, z in (("share", point[3:6]), ("log_sd", point[6:]))
        ]
        share, log_sd = 1 / (1 + np.exp(-own[0])), np.exp(own[1])
        log_mean = placed(numbers, point[:3])
        return log_mean, share, log_sd, log_mean - np.log(share) - log_sd**2 / 2

    def total(point):
        log_mean, share, sd, level = split(point)
        own = stats.binom.logpmf(PAYERS.payers, PAYERS.units, share)
        # Every payment's logarithm, from their mean and squares; 1 / sd is the reference prior.
        squares = PAYERS.log_squares + PAYERS.payers * (PAYERS.log_mean - level) ** 2
        own = own - PAYERS.payers * np.log(sd) - squares / (2 * sd**2) - np.log(sd)
        return own.sum() + belief(prior, log_mean[1:] - log_mean[0])

    def stated(point):
        log_mean, share, sd, level = split(point)
        first = level if prior is FLAT else np.concatenate([level[:1], log_mean[1:] - log_mean[0]])
        return np.concatenate([first, share, sd])

    def log_density(point):
        return log_p(
            {
                "standardised": point[:3],
                "share_standardised": point[3:6],
                "log_sd_standardised": point[6:],
            }
        )

    assert spread(total, stated, log_density, 9) < 1e-4


def test_the_hurdle_knows_no_point_at_no_effect():
    with pytest.raises(PosteriorError, match="knows no prior with a point at no effect"):
        hurdle_model(PAYERS, LEARNT, VARIANTS)


@pytest.mark.parametrize("prior", [Prior(), LEARNT], ids=["student_t", "learnt"])
@pytest.mark.parametrize("kind", ["conversion", "mean", "mean of few", "count"])
def test_segments(kind, prior):
    control, treatment = {
        "conversion": (SHARES, Binomial(SHARES.successes + 2, SHARES.units)),
        "mean": (NORMAL, NormalMean(NORMAL.mean + 0.2, NORMAL.se)),
        "mean of few": (STUDENT, StudentMean(STUDENT.mean + 0.2, STUDENT.se, STUDENT.df)),
        "count": (EVENTS, Poisson(EVENTS.total + 3, EVENTS.units)),
    }[kind]
    numbers = segments_data(control, treatment, prior)
    log_p = compiled(segments_model(control, treatment, prior, ["x", "y", "z"]))

    def split(point):
        mu, tau = 0.1 * point[0], np.exp(point[1] - 4)
        place = numbers["centre"] + numbers["spread"] * point[5:]
        mean = 1 / (1 + np.exp(-place)) if kind == "conversion" else np.exp(place)
        return mu, tau, mu + tau * point[2:5], mean

    def likelihood(arm, mean):
        if kind == "conversion":
            return stats.binom.logpmf(arm.successes, arm.units, mean).sum()
        if kind == "count":
            return stats.poisson.logpmf(arm.total, arm.units * mean).sum()
        shape = stats.norm() if kind == "mean" else stats.t(arm.df)
        return shape.logpdf((arm.mean - mean) / arm.se).sum()

    def total(point):
        mu, tau, delta, mean = split(point)
        believed = np.log1p(-prior.null_share) + belief(prior, np.array([mu]))
        if prior.null_share:  # a Student-t of half the smallest scale
            near = stats.t.logpdf(mu, prior.df, scale=0.5 * min(prior.scales))
            believed = np.logaddexp(believed, np.log(prior.null_share) + near)
        pooled = believed + stats.halfnorm.logpdf(tau, scale=prior.scale) + stats.norm.logpdf(delta, mu, tau).sum()
        return pooled + likelihood(control, mean) + likelihood(treatment, mean * np.exp(delta))

    def stated(point):
        mu, tau, delta, mean = split(point)
        return np.concatenate([[mu, tau], delta, mean])

    def log_density(point):
        mu, tau, _, _ = split(point)
        # PyMC's own density is in mu, log tau and the deviations: ours is brought there by `stated`, in 0.1 mu.
        return log_p({"mu": mu, "tau_log__": np.log(tau), "deviation": point[2:5], "standardised": point[5:]})

    assert spread(total, stated, log_density, 8) < 1e-4
