import subprocess
import sys

import numpy as np
import pytest

from expnb.errors import EngineError, NameNotFoundError, PosteriorError, SpecError
from expnb.models import Sampling, sample
from expnb.models.agreement import Gap
from expnb.models.environment import compile_folder, pytensor_flags
from expnb.models.fit import fit
from expnb.models.pymc_fit import _agreement
from expnb.models.sampler import Diagnostics, compiled_shapes
from expnb.spec.metric import Metric
from expnb.spec.prior import Prior

METRIC = "retention_7"
GOAL = Metric(name=METRIC, kind="conversion", role="goal", rope=0.005)


@pytest.fixture(scope="module")
def cookie_fits(cookie_cats):
    return fit(*cookie_cats, seed=20), fit(*cookie_cats, engine="pymc", seed=20)


@pytest.fixture(scope="module")
def three_arm_fits(three_arms):
    return fit(*three_arms, seed=20), fit(*three_arms, engine="pymc", seed=20)


def monte_carlo_errors(sampled, exact, draws):
    return abs(sampled - exact) / np.sqrt(max(exact * (1 - exact), 1 / draws) / draws)


# --- agreement: two independent computations of one posterior ---


@pytest.mark.slow
def test_sampling_and_quadrature_agree_on_cookie_cats(cookie_fits):
    exact, sampled = (posterior.effect(METRIC, "gate_40") for posterior in cookie_fits)
    for name in ("p_improvement", "p_above_rope", "p_rope", "p_harm", "p_best"):
        assert monte_carlo_errors(getattr(sampled, name), getattr(exact, name), 2000) < 4, name
    assert sampled.p_harm_flat == exact.p_harm_flat
    width = exact.hdi_rel_high - exact.hdi_rel_low
    for name in ("effect_rel_post", "hdi_rel_low", "hdi_rel_high"):
        assert getattr(sampled, name) == pytest.approx(getattr(exact, name), abs=0.05 * width), name
    assert sampled.effect_abs_post == pytest.approx(
        exact.effect_abs_post, abs=0.05 * (exact.hdi_abs_high - exact.hdi_abs_low)
    )
    assert sampled.expected_loss_rel == pytest.approx(exact.expected_loss_rel, rel=0.05)


@pytest.mark.slow
def test_every_effect_and_the_best_arm_agree_with_three_arms(three_arm_fits):
    exact, sampled = three_arm_fits
    for treatment in ("a", "b"):
        for name in ("p_improvement", "p_above_rope", "p_best"):
            figures = [getattr(posterior.effect(METRIC, treatment), name) for posterior in (sampled, exact)]
            assert monte_carlo_errors(*figures, 1500) < 4, (treatment, name)


@pytest.mark.slow
def test_agreement_of_the_engines_is_a_check_of_the_posterior(cookie_fits, three_arm_fits):
    for _, sampled in (cookie_fits, three_arm_fits):
        (check,) = [check for check in sampled.checks if check.name == f"engines:{METRIC}"]
        assert check.outcome == "ok"
        assert 0 <= check.value <= 4


def test_engines_that_differ_warn_the_caller_too():
    with pytest.warns(RuntimeWarning, match=r"retention_7: the engines differ by 10\.0 Monte Carlo errors"):
        (check,) = _agreement(GOAL, [Gap("P(improvement) of a, all", 0.6, 0.5, 2500.0)])
    assert check.outcome == "warn"


@pytest.mark.slow
def test_a_sampled_posterior_says_what_made_it(cookie_fits):
    exact, sampled = cookie_fits
    assert (sampled.engine, sampled.seed, sampled.prior) == ("pymc", 20, exact.prior)
    assert {"pymc", "nutpie", "arviz", "expnb"} <= set(sampled.versions)
    assert sampled.fingerprint == exact.fingerprint
    density = sampled.effect(METRIC, "gate_40").relative
    assert np.trapezoid(density.y, density.x) == pytest.approx(1.0, abs=1e-3)


# --- sampling ---


@pytest.mark.slow
def test_a_second_fit_of_the_same_shape_compiles_nothing_and_repeats_its_draws(cookie_cats, cookie_fits):
    before = compiled_shapes()
    again = fit(*cookie_cats, engine="pymc", seed=20)
    fit(*cookie_cats, engine="pymc", prior=Prior(scale=0.1), seed=20)
    assert compiled_shapes() == before
    assert again.effect(METRIC, "gate_40").p_improvement == cookie_fits[1].effect(METRIC, "gate_40").p_improvement


@pytest.mark.slow
def test_a_trace_holds_the_draws_behind_the_posterior_under_the_names_of_the_arms(cookie_cats, cookie_fits):
    trace = sample(*cookie_cats, METRIC, seed=20)
    effect = cookie_fits[1].effect(METRIC, "gate_40")
    assert trace.draws("effect_rel").shape == (4, 1000, 1)
    assert trace.draws("effect_rel").mean() == pytest.approx(effect.effect_rel_post, rel=1e-12)
    arviz = trace.to_arviz()
    assert arviz.posterior["rate"].sel(variant="gate_40").shape == (4, 1000)
    assert arviz.posterior["effect_abs"].sel(treatment="gate_40").shape == (4, 1000)
    assert arviz.posterior.attrs["metric"] == METRIC


@pytest.mark.slow
def test_a_run_too_short_to_trust_states_no_probability(cookie_cats):
    with pytest.raises(
        EngineError,
        match=r"did not converge.*bulk ESS \d+ \(at least 400\).*No probability is stated. Use engine='exact'",
    ):
        fit(*cookie_cats, engine="pymc", sampling=Sampling(draws=20, tune=5))


@pytest.mark.slow
@pytest.mark.parametrize(
    "counts",
    [
        {"c": (100, 10), "t": (100, 14)},
        {"c": (10**7, 10**6), "t": (10**7, 1_001_500)},
        {"c": (100, 97), "t": (100, 99)},
        {"c": (10**7, 9_990_000), "t": (1_000, 1_000)},
    ],
    ids=["200 units", "20 million units", "rates near 1", "very unequal arms"],
)
def test_any_size_and_any_rate_samples_without_divergences_at_the_first_attempt(experiment_of, cells_of, counts):
    trace = sample(experiment_of(*counts), cells_of(counts), METRIC, seed=1)
    assert (trace.diagnostics.problems, trace.diagnostics.tune) == ((), 1000)


def test_a_diagnostic_that_does_not_exist_forbids_a_probability():
    assert Diagnostics(np.nan, 4000.0, 4000.0, 0, 1000, 0.9).problems == ("r-hat nan (at most 1.01)",)
    assert Diagnostics(1.0, 4000.0, np.nan, 0, 1000, 0.9).problems == ("tail ESS nan (at least 400)",)


def test_one_divergence_forbids_a_probability():
    assert Diagnostics(1.0, 4000.0, 4000.0, 1, 1000, 0.9).problems == ("1 divergent transitions (none is tolerated)",)
    assert Diagnostics(1.01, 400.0, 400.0, 0, 1000, 0.9).problems == ()


# --- options ---


def test_the_exact_engine_is_the_default(cookie_cats):
    assert fit(*cookie_cats).engine == "exact"


def test_an_unknown_engine_is_named_with_the_nearest_one(cookie_cats):
    with pytest.raises(NameNotFoundError, match=r"no engine is called 'pymcc'\. Did you mean 'pymc'\?"):
        fit(*cookie_cats, engine="pymcc")


def test_options_of_the_sampler_are_refused_where_nothing_is_sampled(cookie_cats):
    with pytest.raises(PosteriorError, match="the exact engine does not sample"):
        fit(*cookie_cats, sampling=Sampling(draws=500))


def test_a_metric_without_a_model_is_refused_before_anything_is_sampled(experiment_of, cells_of):
    spend = Metric(name="spend", kind="ratio", numerator="spend", denominator="visits", role="guardrail", margin=0.01)
    counts = {"control": (100, 10), "a": (100, 12)}
    with pytest.raises(EngineError, match="metric 'spend' is a ratio"):
        fit(experiment_of(*counts, metrics=(GOAL, spend)), cells_of(counts, metrics=(METRIC, "spend")), engine="pymc")


@pytest.mark.parametrize("option", ["draws", "tune", "chains"])
def test_a_run_without_diagnostics_cannot_be_asked_for(option):
    with pytest.raises(PosteriorError, match=f"{option} = 0; it must be at least"):
        Sampling(**{option: 0})


@pytest.mark.parametrize("option", ["draws", "tune", "chains"])
@pytest.mark.parametrize("value", ["1000", 600.5, 1.5, 600.0, None, True])
def test_a_length_that_is_no_whole_number_gets_a_sentence(option, value):
    with pytest.raises(SpecError) as caught:
        Sampling(**{option: value})
    assert str(caught.value).startswith(f"sampling has {option} = {value!r}; it is a whole number. Write {option}=")


def test_a_length_may_be_a_whole_number_of_numpy():
    assert Sampling(draws=np.int64(600)).draws == 600


def test_an_arm_with_one_unit_has_no_sampled_posterior_and_says_why(experiment_of, cells_of):
    counts = {"control": (100, 10), "a": (1, 0)}
    posterior = fit(experiment_of(*counts), cells_of(counts), engine="pymc")
    (effect,) = posterior.effects
    assert (effect.p_improvement, effect.p_best, effect.engine) == (None, None, "pymc")
    assert effect.note == "no posterior: fewer than 20 units in an arm, which are not shown"


@pytest.mark.slow
def test_an_arm_without_a_posterior_leaves_the_others_theirs_but_no_best_arm(experiment_of, cells_of):
    counts = {"control": (100, 10), "a": (1, 0), "b": (100, 12)}
    empty, sampled = fit(experiment_of(*counts), cells_of(counts), engine="pymc").effects
    assert (empty.p_improvement, empty.p_best, sampled.p_best) == (None, None, None)
    assert 0 < sampled.p_improvement < 1


# --- imports ---


def test_importing_the_verb_does_not_import_pymc():
    code = "import sys, expnb.models.fit; sys.exit(bool({'pymc', 'pytensor', 'arviz', 'nutpie'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_flags_that_the_user_set_for_pytensor_stay():
    ours = f"blas__ldflags=,base_compiledir={compile_folder()}"
    assert pytensor_flags("") == ours
    assert pytensor_flags("floatX=float64") == f"floatX=float64,{ours}"
    assert pytensor_flags("base_compiledir=/tmp/mine") == "base_compiledir=/tmp/mine,blas__ldflags="
    assert pytensor_flags("", "[global]\nbase_compiledir = /tmp/mine") == "blas__ldflags="


def test_a_prior_goes_by_the_name_of_its_family(cookie_cats):
    named, given = fit(*cookie_cats, prior="flat"), fit(*cookie_cats, prior=Prior(family="flat"))
    assert [e.p_improvement for e in named.effects] == [e.p_improvement for e in given.effects]
    assert named.prior == "flat"
    with pytest.raises(SpecError, match="prior family is 'flatt'"):
        fit(*cookie_cats, prior="flatt")
