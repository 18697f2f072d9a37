"""Every kind of metric, sampled: the same answers as quadrature where both have a model, and honest refusals."""

from dataclasses import replace

import numpy as np
import pytest

from expnb.errors import EngineError, NameNotFoundError, PosteriorError
from expnb.models import Sampling, build, sample
from expnb.models.arviz_bridge import ess
from expnb.models.fit import fit
from expnb.models.hurdle import Payers, tail
from expnb.posterior.evidence import comparisons
from expnb.posterior.pooling.pool import pool
from expnb.posterior.table import Table
from expnb.spec.metric import Metric
from expnb.spec.prior import FLAT, Prior

CLICKS = Metric(name="clicks", kind="count", role="guardrail", margin=0.02, direction="decrease")
SPEND = Metric(name="spend", kind="revenue", role="goal", rope=0.01)
LEARNT = Prior(family="learnt", scales=(0.02, 0.1), weights=(0.5, 0.5), null_share=0.5)


def errors(happened, exact):
    size = ess(happened, "mean") if happened.std() > 0 else happened.size
    return abs(happened.mean() - exact) / np.sqrt(max(exact * (1 - exact), 1 / size) / size)


@pytest.fixture(scope="module")
def shop(experiment_of, cells_from):
    """A guardrail that decreases and a goal, two segments of 2,000 units per arm."""
    rng = np.random.default_rng(8)
    variants, platforms = ["c", "t", "c", "t"], ["ios", "ios", "web", "web"]
    clicks = [rng.poisson(rate, 2000) for rate in (0.8, 0.78, 1.1, 1.05)]
    spend = [
        np.where(rng.random(2000) < share, np.exp(rng.normal(2, 0.7, 2000)), 0.0) for share in (0.2, 0.22, 0.2, 0.21)
    ]
    cells = cells_from({"clicks": clicks, "spend": spend}, variants, {"platform": platforms})
    return experiment_of("c", "t", metrics=(SPEND, CLICKS), segments=("platform",)), cells


@pytest.fixture(scope="module")
def shop_fits(shop):
    """Without segments: each of them is another shape to compile."""
    experiment, cells = replace(shop[0], segments=()), shop[1]
    return fit(experiment, cells, seed=20), fit(experiment, cells, engine="pymc", seed=20)


@pytest.fixture(scope="module")
def segment_fits(shop, experiment_of):
    metrics = (replace(CLICKS, role="goal", rope=0.01),)
    experiment, cells = replace(shop[0], metrics=metrics), shop[1]
    return fit(experiment, cells, seed=20), fit(experiment, cells, engine="pymc", seed=20)


@pytest.mark.slow
@pytest.mark.parametrize("fits", ["shop_fits", "segment_fits"])
def test_revenue_and_counts_agree_in_all_segments(fits, request):
    exact, sampled = request.getfixturevalue(fits)
    assert [(one.metric, one.segment, one.estimate) for one in sampled.effects] == [
        (one.metric, one.segment, one.estimate) for one in exact.effects
    ]
    for one, other in zip(exact.main, sampled.main, strict=True):
        assert other.engine == "pymc"
        for name in ("p_improvement", "p_above_rope", "p_rope", "p_harm", "p_best", "effect_abs_post", "shrinkage"):
            found, expected = getattr(other, name), getattr(one, name)
            assert (found is None) == (expected is None), name
            if expected is not None and name.startswith("p_"):
                error = np.sqrt(max(expected * (1 - expected), 1 / 2000) / 2000)
                assert abs(found - expected) < 4 * error, (one.metric, one.segment, name)
        assert other.effect_rel_post == pytest.approx(
            one.effect_rel_post, abs=0.05 * (one.hdi_rel_high - one.hdi_rel_low)
        )
        assert (other.scale, other.prior, other.rope, other.margin) == (one.scale, one.prior, one.rope, one.margin)
    for one, other in zip(exact.pooled, sampled.pooled, strict=True):
        assert (other.metric, other.segments, other.prior) == (one.metric, one.segments, one.prior)
        for name in ("p_improvement", "p_any_harmed", "p_all_improve"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), abs=4 * np.sqrt(0.25 / 1500)), name
        assert other.spread == pytest.approx(one.spread, rel=0.1)
        assert other.hdi_rel_high == pytest.approx(one.hdi_rel_high, abs=0.1 * (one.hdi_rel_high - one.hdi_rel_low))
    assert {check.name for check in sampled.checks} == {
        f"engines:{name}" for name in {one.metric for one in exact.main}
    }
    assert {check.outcome for check in sampled.checks} == {"ok"}


@pytest.mark.slow
def test_rows_that_explain_are_the_exact_engine_s(shop_fits):
    exact, sampled = shop_fits
    others = [one for one in sampled.effects if one.estimate != "main"]
    assert {one.estimate for one in others} == {"payers", "per payer"}
    assert {one.engine for one in others} == {"exact"}
    assert [one.row() for one in others] == [one.row() for one in exact.effects if one.estimate != "main"]


@pytest.mark.slow
def test_every_metric_has_its_own_prior(experiment_of, cells_of):
    counts = {"c": (4000, 400), "t": (4000, 430)}
    goal = Metric(name="retention_7", kind="conversion", role="goal", rope=0.01, prior=Prior(scale=0.1))
    numbers = build(experiment_of(*counts, metrics=(goal,)), cells_of(counts), "retention_7")
    assert float(numbers["prior_scale"].get_value()) == 0.1


@pytest.mark.slow
def test_a_learnt_prior_s_point_at_no_effect_is_in_the_draws(cells_of, experiment_of):
    counts = {"c": (4000, 400), "t": (4000, 430)}
    experiment, cells = experiment_of(*counts), cells_of(counts)
    exact = fit(experiment, cells, prior=LEARNT).effect("retention_7", "t")
    posterior = fit(experiment, cells, prior=LEARNT, engine="pymc", seed=3)
    sampled = posterior.effect("retention_7", "t")
    assert 0.1 < sampled.p_null < 0.9
    for name in ("p_null", "p_improvement", "p_rope", "p_harm", "p_best"):
        expected = getattr(exact, name)
        assert getattr(sampled, name) == pytest.approx(expected, abs=4 * np.sqrt(0.25 / 1500)), name
    assert posterior.checks[-1].outcome == "ok"
    assert np.trapezoid(sampled.relative.y, sampled.relative.x) == pytest.approx(1.0, abs=1e-2)


@pytest.mark.slow
def test_pooled_segments_agree_with_the_grid(shop):
    experiment, cells = shop
    trace = sample(experiment, cells, "clicks", by="platform", seed=2, sampling=Sampling(draws=2000))
    pairs = [pair for pair in comparisons(experiment, cells, CLICKS) if pair.segment != "all"]
    table = Table(pairs)
    arms = table.arms(np.arange(2), int(table.family.max()))
    grid = pool(*arms, Prior(), np.array([0.0]), sign=-1, margin=0.02)
    mu, delta = trace.draws("mu"), trace.draws("log_ratio")
    assert errors((mu > 0).astype(float), grid.effect.p_above[0, 0]) < 4
    assert errors((np.expm1(delta) > 0.02).any(axis=2).astype(float), grid.p_any_harmed) < 4
    for segment in range(2):
        assert errors((delta[..., segment] > 0).astype(float), grid.segments.p_above[segment, 0]) < 4
    assert trace.to_arviz().posterior["effect_rel"].sel(segment="platform=web").shape == (4, 2000)
    assert set(trace.summary()["of"]) == {"", "platform=ios", "platform=web"}
    assert "Trace of clicks, t against c, pooled by platform" in trace._repr_html_()


@pytest.mark.slow
def test_models_of_other_families_have_names_that_a_reader_knows(shop):
    model = build(*shop, "spend", family="hurdle")
    assert model.coords == {"variant": ("c", "t"), "treatment": ("t",)}
    assert {"mean", "share", "per_payer", "effect_rel", "effect_share_rel", "payers"} <= set(model.named_vars)
    model = build(*shop, "clicks", family="negative_binomial", segment="platform=ios")
    assert {"rate", "overdispersion", "effect_rel", "values"} <= set(model.named_vars)
    model = build(*shop, "clicks", by="platform")
    assert model.coords == {"segment": ("platform=ios", "platform=web")}


@pytest.mark.slow
def test_the_hurdle_gives_what_independent_draws_of_its_parts_give(shop):
    trace = sample(*shop, "spend", family="hurdle", prior=FLAT, seed=1)
    rng, size = np.random.default_rng(2), 200_000
    column = shop[1].metrics["spend"]
    means = []
    for cells in ([0, 2], [1, 3]):
        units, n = column.n_ok[cells].sum(), column.logs.n[cells].sum()
        level = column.logs.s1[cells].sum() / n
        squares = column.logs.s2[cells].sum() - n * level**2
        share = rng.beta(n + 1, units - n + 1, size)
        var = squares / rng.chisquare(n - 1, size)
        means.append(share * np.exp(rng.normal(level, np.sqrt(var / n)) + var / 2))
    ratio = means[1] / means[0] - 1
    found = trace.draws("effect_rel")[..., 0]
    assert errors((found > 0).astype(float), (ratio > 0).mean()) < 4
    assert found.mean() == pytest.approx(ratio.mean(), abs=4 * found.std() / np.sqrt(ess(found, "bulk")))
    assert trace.checks[0].outcome == "ok"
    both = (1 + trace.draws("effect_share_rel")) * (1 + trace.draws("effect_per_payer_rel")) - 1
    assert both == pytest.approx(trace.draws("effect_rel"))


# --- tails -------------------------------------------------------------------------------------


def payers(values):
    logs = [np.log(part) for part in values]
    n = np.array([part.size for part in logs], dtype=float)
    return Payers(
        n * 20,
        n,
        np.array([part.mean() for part in logs]),
        np.array([part.size * part.var() for part in logs]),
        np.array([part.mean() for part in values]),
        np.array([part.std() / np.sqrt(part.size) for part in values]),
    )


@pytest.mark.parametrize("sd", [0.7, 1.1, 2.0])
def test_log_normal_payments_pass(sd):
    rng = np.random.default_rng(3)
    outcomes = [
        tail("spend", payers([np.exp(rng.normal(1, sd, 2500)) for _ in range(2)]), ["c", "t"]).outcome
        for _ in range(40)
    ]
    assert outcomes.count("warn") <= 1


@pytest.mark.parametrize("shape", ["gamma", "pareto", "whales"])
def test_payments_with_another_tail_do_not(shape):
    rng = np.random.default_rng(3)

    def some():
        if shape == "gamma":
            return rng.gamma(0.7, 10.0, 2500)
        if shape == "pareto":
            return 1.0 + rng.pareto(2.2, 20_000)
        return np.exp(rng.normal(1, 1, 20_000)) * np.where(rng.random(20_000) < 0.01, 50.0, 1.0)

    found = [tail("spend", payers([some(), some()]), ["c", "t"]) for _ in range(20)]
    assert sum(check.outcome == "warn" for check in found) >= {"gamma": 20, "pareto": 2, "whales": 20}[shape]
    assert "spend: payments are not LogNormal" in next(check for check in found if check.outcome == "warn").sentence


# --- refusals ----------------------------------------------------------------------------------


def test_one_sentence_each(shop, experiment_of, cells_of):
    counts = {"c": (100, 10), "t": (100, 12)}
    with pytest.raises(NameNotFoundError, match="no family is called 'hurdles'. Did you mean 'hurdle'?"):
        build(*shop, "spend", family="hurdles")
    with pytest.raises(
        EngineError, match="metric 'clicks' is a count; family='hurdle' is for a revenue. Leave the family out."
    ):
        build(*shop, "clicks", family="hurdle")
    with pytest.raises(NameNotFoundError, match="no segment column is called 'country'"):
        build(*shop, "spend", by="country")
    with pytest.raises(PosteriorError, match="cannot be pooled under the flat prior"):
        build(*shop, "spend", by="platform", prior=FLAT)
    orders = Metric(name="retention_7", kind="count", role="goal", rope=0.01)
    with pytest.raises(EngineError, match="reduced without a histogram.*Give the metric a cap"):
        build(experiment_of(*counts, metrics=(orders,)), cells_of(counts), "retention_7", family="negative_binomial")


def test_a_model_needs_payers(experiment_of, cells_from):
    spend = [np.where(np.arange(200) < 5, 3.0 + np.arange(200), 0.0)] * 2
    with pytest.raises(PosteriorError, match=r"the arms have \[5, 5\] payers; the hurdle model needs at least 30"):
        build(
            experiment_of("c", "t", metrics=(SPEND,)),
            cells_from({"spend": spend}, ["c", "t"]),
            "spend",
            family="hurdle",
        )
