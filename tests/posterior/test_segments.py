"""Segment rows of a posterior: partially pooled, said so, and judged as before."""

import numpy as np
import pandas as pd
import pytest

import expnb as xb
from expnb.posterior.effects import exact_effects
from expnb.posterior.evidence import estimates
from expnb.posterior.exact.arms import StudentMean
from expnb.posterior.fit import fit_exact
from expnb.posterior.pooling.pool import pool
from expnb.posterior.pooling.segments import around_none, pool_segments, to_be_pooled

LEARNT = xb.Prior(family="learnt", scales=(0.01, 0.03), weights=(0.6, 0.4), null_share=0.5)
# units and conversions of old and new
PLATFORMS = {
    "desktop": ((9000, 1080), (9100, 1120)),
    "mobile": ((8000, 640), (7900, 720)),
    "tablet": ((700, 70), (650, 60)),
}


def units(platforms, arms=("old", "new")):
    """One row per unit."""
    rows = [
        pd.DataFrame({"variant": arm, "platform": name, "bought": np.arange(n) < k})
        for name, counts in platforms.items()
        for arm, (n, k) in zip(arms, counts, strict=True)
    ]
    frame = pd.concat(rows, ignore_index=True)
    return frame.assign(unit=np.arange(len(frame)), spent=1.0 + frame.index % 7 + frame["bought"])


def experiment(**other):
    metrics = (
        xb.Metric(name="bought", kind="conversion", role="goal", rope=0.005, margin=0.02),
        xb.Metric(name="spent", kind="mean", role="guardrail", margin=0.02),
    )
    facts = {"weights": {"old": 50, "new": 50}, "metrics": metrics, "segments": ("platform",)}
    return xb.Experiment(
        name="checkout", hypothesis="Fewer fields sell more.", owner="shop", flag="checkout", unit="unit", variant="variant", control="old",
        policy=xb.Policy(min_days=0), **(facts | other),
    )  # fmt: skip


@pytest.fixture(scope="module")
def pooled():
    checkout = experiment()
    return fit_exact(checkout, xb.load_cohort(checkout, units(PLATFORMS)))


def test_segments_are_drawn_together_and_say_by_how_much(pooled):
    raw = {name: pooled.effect("bought", "new", f"platform={name}") for name in PLATFORMS}
    assert raw["mobile"].effect_rel == pytest.approx(720 / 7900 / (640 / 8000) - 1)
    for effect in raw.values():
        assert effect.prior == "pooled over 3 segments by platform, student_t(4, 0, 0.03)"
        assert 0 < effect.shrinkage < 1
        together = pooled.pooled[0].effect_rel_post
        assert abs(effect.effect_rel_post - together) < abs(effect.effect_rel - together)
    assert raw["tablet"].shrinkage > raw["desktop"].shrinkage  # the fewer units, the more is borrowed
    assert pooled.effect("bought", "new").shrinkage is None


def test_the_pooled_effect_says_whether_any_segment_is_harmed(pooled):
    assert [(one.metric, one.variant, one.column) for one in pooled.pooled] == [
        ("bought", "new", "platform"),
        ("spent", "new", "platform"),
    ]
    together = pooled.pooled[0]
    harms = [pooled.effect("bought", "new", segment).p_harm for segment in together.segments]
    assert max(harms) <= together.p_any_harmed <= sum(harms)
    assert together.p_all_improve <= min(
        pooled.effect("bought", "new", segment).p_improvement for segment in together.segments
    )
    frame = pooled.segments()
    assert list(frame["segments"]) == [3, 3]
    for text in (repr(pooled), pooled._repr_html_()):
        assert "all 3 of platform" in text
        assert "P(any harmed)" in text
        assert f"shrunk {100 * pooled.effect('bought', 'new', 'platform=tablet').shrinkage:.0f} %" in text


def test_harm_of_a_segment_is_still_judged_without_a_prior(pooled):
    checkout = experiment()
    flat = fit_exact(checkout, xb.load_cohort(checkout, units(PLATFORMS)), prior=xb.Prior("flat"))
    for name in PLATFORMS:
        segment = f"platform={name}"
        stated = pooled.effect("bought", "new", segment)
        assert stated.p_harm_flat == flat.effect("bought", "new", segment).p_harm_flat
        assert stated.effect_abs_post is stated.absolute is None
        assert stated.ci_low is not None


def test_nothing_is_pooled_under_the_flat_prior_nor_over_one_segment():
    checkout = experiment()
    flat = fit_exact(checkout, xb.load_cohort(checkout, units(PLATFORMS)), prior=xb.Prior("flat"))
    only = fit_exact(checkout, xb.load_cohort(checkout, units({"mobile": PLATFORMS["mobile"]})))
    for posterior in (flat, only):
        assert posterior.pooled == ()
        effect = posterior.effect("bought", "new", "platform=mobile")
        assert effect.shrinkage is None
        assert effect.effect_abs_post is not None
        assert "pooled" not in effect.prior


def test_segments_on_an_absolute_scale_stay_as_they_are():
    goal = xb.Metric(name="bought", kind="conversion", role="goal", rope_abs=0.001, margin_abs=0.002)
    checkout = experiment(metrics=(goal,))
    posterior = fit_exact(checkout, xb.load_cohort(checkout, units(PLATFORMS)))
    assert posterior.pooled == ()
    assert posterior.effect("bought", "new", "platform=mobile").p_harm is not None


def test_a_segment_with_few_units_makes_all_of_its_kind_careful():
    small = PLATFORMS | {"watch": ((60, 6), (70, 8))}
    checkout = experiment()
    posterior = fit_exact(checkout, xb.load_cohort(checkout, units(small)))
    spent = next(one for one in posterior.pooled if one.metric == "spent")
    effects = [posterior.effect("spent", "new", segment) for segment in spent.segments]
    found = units(small).groupby(["variant", "platform"])["spent"].agg(["mean", "std", "size"])
    arms = []
    for arm in ("old", "new"):
        own = found.loc[arm].loc[[segment.partition("=")[2] for segment in spent.segments]].to_numpy().T
        arms.append(StudentMean(own[0], own[1] / np.sqrt(own[2]), own[2] - 1))
    expected = pool(*arms, xb.Prior(), np.zeros(1)).segments.mean
    assert [one.effect_rel_post for one in effects] == pytest.approx(expected, rel=1e-6)


def test_several_treatments_are_pooled_one_by_one():
    arms = {name: (*counts, counts[1]) for name, counts in PLATFORMS.items()}
    checkout = experiment(weights={"old": 1, "new": 1, "newer": 1}, metrics=experiment().metrics[:1])
    posterior = fit_exact(checkout, xb.load_cohort(checkout, units(arms, ("old", "new", "newer"))))
    assert [one.variant for one in posterior.pooled] == ["new", "newer"]
    effect = posterior.effect("bought", "newer", "platform=mobile")
    assert effect.p_best is None
    assert "P(best) is not stated" in effect.note
    assert posterior._repr_html_().count("P(best) is not stated") == 1


def test_a_learnt_prior_pools_with_its_point_around_none():
    checkout = experiment(metrics=experiment().metrics[:1])
    posterior = fit_exact(checkout, xb.load_cohort(checkout, units(PLATFORMS)), prior=LEARNT)
    effect = posterior.effect("bought", "new", "platform=mobile")
    assert effect.prior.startswith("pooled over 3 segments by platform, learnt (50 % no effect")
    assert effect.p_null is None
    assert posterior.effect("bought", "new").p_null > 0
    near = around_none(LEARNT)
    assert near.null_share == 0
    assert near.parts[0] == (0.005, 0.5)
    assert around_none(xb.Prior()) == xb.Prior()


@pytest.mark.parametrize("arms", [("old", "new"), ("old", "new", "newer")])
@pytest.mark.parametrize("prior", [xb.Prior(), LEARNT], ids=lambda prior: prior.family)
def test_what_pooling_replaces_is_not_worked_out_and_nothing_else_changes(arms, prior):
    three = {name: (*counts, (counts[1][0], counts[1][1] + 9)) for name, counts in PLATFORMS.items()}
    three["watch"] = ((60, 0), (70, 5), (50, 4))  # has no relative effect, so it stays as it is
    platforms = {name: counts[: len(arms)] for name, counts in three.items()}
    checkout = experiment(weights=dict.fromkeys(arms, 1))
    cells = xb.load_cohort(checkout, units(platforms, arms)).cells
    pairs = [pair for metric in checkout.metrics for pair in estimates(checkout, cells, metric)]
    priors = [prior] * len(pairs)
    pooled = to_be_pooled(pairs, priors)
    assert {pair.segment for pair, own in zip(pairs, pooled, strict=True) if own} >= {
        "platform=desktop",
        "platform=tablet",
    }
    assert not any(own for pair, own in zip(pairs, pooled, strict=True) if pair.segment == "all")
    whole, less = exact_effects(pairs, priors), exact_effects(pairs, priors, pooled=pooled)
    for own, full, short in zip(pooled, whole, less, strict=True):
        assert short.p_harm_flat == pytest.approx(full.p_harm_flat, abs=1e-9)
        if own:
            assert (short.p_improvement, short.effect_rel_post, short.relative, short.absolute) == (None,) * 4
    made, wanted = pool_segments(pairs, priors, less), pool_segments(pairs, priors, whole)
    assert made[1] == wanted[1]
    for one, other in zip(made[0], wanted[0], strict=True):
        assert one.row() == pytest.approx(other.row(), abs=1e-9, nan_ok=True)
        assert (one.relative is None, one.absolute is None) == (other.relative is None, other.absolute is None)
    assert [effect.row() for effect in fit_exact(checkout, cells, prior=prior).effects] == [
        one.row() for one in made[0]
    ]
