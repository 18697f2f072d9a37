import numpy as np
import pytest
from scipy import stats

from expnb.errors import EngineError, NameNotFoundError
from expnb.models import build
from expnb.models.conversion import conversion_data, conversion_model
from expnb.posterior.exact.arms import Binomial
from expnb.spec.metric import Metric
from expnb.spec.prior import FLAT, Prior

COUNTS = Binomial(np.array([30.0, 41.0, 20.0]), np.array([120.0, 110.0, 90.0]))
VARIANTS = ("control", "a", "b")


def standard(counts, prior):
    numbers = conversion_data(counts, prior)
    return numbers["centre"], numbers["spread"]


LEARNT = Prior(family="learnt", scales=(0.02, 0.2), weights=(0.6, 0.4), null_share=0.5)
PRIORS = [Prior(), Prior(family="normal", scale=0.2), FLAT]


def rates_of(standardised, prior):
    centre, spread = standard(COUNTS, prior)
    return 1 / (1 + np.exp(-(centre + spread @ standardised)))


def parameters(standardised, prior):
    """What the prior is stated on: the rates themselves, or control's rate and the log ratios."""
    rates = rates_of(standardised, prior)
    return rates if prior.family == "flat" else np.concatenate([rates[:1], np.log(rates[1:] / rates[0])])


def log_density(standardised, prior):
    """Likelihood times prior times the numeric derivative of the parameters; a Beta(1, 1) is 1."""
    steps = 1e-5 * np.eye(3)
    jacobian = np.stack(
        [(parameters(standardised + step, prior) - parameters(standardised - step, prior)) / 2e-5 for step in steps]
    )
    believed = {"student_t": stats.t(prior.df, scale=prior.scale), "normal": stats.norm(scale=prior.scale)}.get(
        prior.family
    )
    total = (
        stats.binom.logpmf(COUNTS.successes, COUNTS.units, rates_of(standardised, prior)).sum()
        + np.linalg.slogdet(jacobian)[1]
    )
    return total if believed is None else total + believed.logpdf(parameters(standardised, prior)[1:]).sum()


@pytest.mark.slow
@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.family)
def test_the_density_of_the_model_is_likelihood_times_prior_up_to_one_constant(prior):
    log_p = conversion_model(COUNTS, prior, VARIANTS).compile_logp(mode="FAST_COMPILE")
    points = np.random.default_rng(1).normal(0, 2, (8, 3))
    constant = [float(log_p({"standardised": point})) - log_density(point, prior) for point in points]
    assert np.ptp(constant) < 1e-5


@pytest.mark.slow
def test_build_hands_out_named_coordinates_and_quantities(three_arms):
    model = build(*three_arms, "retention_7")
    assert model.coords == {"variant": ("control", "a", "b"), "treatment": ("a", "b")}
    assert {name: model.named_vars_to_dims[name] for name in ("rate", "effect_rel", "effect_abs", "conversions")} == {
        "rate": ("variant",),
        "effect_rel": ("treatment",),
        "effect_abs": ("treatment",),
        "conversions": ("variant",),
    }


@pytest.mark.slow
def test_build_can_leave_other_treatments_out(three_arms):
    assert build(*three_arms, "retention_7", treatments=["b"]).coords["variant"] == ("control", "b")


def test_build_refuses_a_metric_without_a_model(experiment_of, cells_of):
    spend = Metric(name="spend", kind="quantile", q=0.9, role="goal", rope=0.01)
    counts = {"control": (100, 10), "a": (100, 12)}
    with pytest.raises(
        EngineError,
        match=r"metric 'spend' is a quantile, for which the pymc engine has no model\. Use engine='exact', or leave the metric out\.",
    ):
        build(experiment_of(*counts, metrics=(spend,)), cells_of(counts, metrics=("spend",)), "spend")


@pytest.mark.parametrize("options", [{"treatments": ["c"]}, {"segment": "country=DE"}])
def test_build_names_what_it_does_not_know(three_arms, options):
    with pytest.raises(NameNotFoundError, match="is called"):
        build(*three_arms, "retention_7", **options)


@pytest.mark.parametrize(
    ("units", "conversions"),
    [
        ((100, 100), (10, 14)),
        ((10**7, 10**7), (10**6, 1_001_500)),
        ((10**7, 100), (10**6, 30)),
        ((100, 100), (100, 100)),
        ((1000, 1000), (50, 0)),
        ((2, 2), (0, 0)),
    ],
)
@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.family)
def test_the_scale_given_to_the_sampler_is_finite_and_at_the_top_of_the_density(units, conversions, prior):
    counts = Binomial(np.array(conversions, dtype=float), np.array(units, dtype=float))
    centre, spread = standard(counts, prior)
    assert np.isfinite(spread).all()
    assert (np.diag(spread) > 0).all()

    def height(log_odds):
        log_rate, log_miss = -np.logaddexp(0, -log_odds), -np.logaddexp(0, log_odds)
        total = (counts.successes * log_rate + (counts.units - counts.successes) * log_miss).sum() + log_miss.sum()
        if prior.family == "flat":
            return total + log_rate.sum()
        ratio = log_rate[1] - log_rate[0]
        shape = stats.norm(scale=prior.scale) if prior.family == "normal" else stats.t(prior.df, scale=prior.scale)
        return total + log_rate[0] + shape.logpdf(ratio)

    for step in (1e-2, -1e-2):
        for axis in np.eye(2):
            assert height(centre) >= height(centre + spread @ (step * axis)) - 1e-6
