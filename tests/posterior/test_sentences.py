"""What stands beside the probability of a goal: what it means where many ideas do nothing."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import expnb as xb
from expnb.errors import PosteriorError
from expnb.posterior.fit import fit_exact


@pytest.fixture(scope="module")
def shop():
    metrics = (
        xb.Metric(name="bought", kind="conversion", role="goal", rope=0.005, margin=0.02),
        xb.Metric(name="left", kind="conversion", role="guardrail", direction="decrease", margin=0.05),
    )
    experiment = xb.Experiment(
        name="checkout", hypothesis="Fewer fields sell more.", owner="shop", flag="checkout", unit="unit", variant="variant", control="old",
        weights={"old": 1, "new": 1, "newer": 1}, metrics=metrics, policy=xb.Policy(min_days=0),
    )  # fmt: skip
    arms = [
        pd.DataFrame({"variant": name, "bought": np.arange(10_000) < k, "left": np.arange(10_000) % 9 == 0})
        for name, k in (("old", 1200), ("new", 1290), ("newer", 1205))
    ]
    frame = pd.concat(arms, ignore_index=True)
    return experiment, xb.load_cohort(experiment, frame.assign(unit=np.arange(len(frame))))


def about(sentence):
    """The last number of a sentence."""
    return float(re.findall(r"0\.\d+", sentence)[-1])


def test_a_sentence_per_goal_and_treatment_stands_in_text_and_html(shop):
    posterior = fit_exact(*shop)
    sentences = posterior.plain_odds()
    assert [sentence.split(":")[0] for sentence in sentences] == ["new on bought", "newer on bought"]
    assert all("If 1 in 5 ideas of this kind works" in sentence for sentence in sentences)
    for text in (repr(posterior), posterior._repr_html_()):
        assert all(text.count(sentence) == 1 for sentence in sentences)
    assert posterior.plain_odds(metric="left") == ()


@pytest.mark.parametrize("works", [0.1, 0.2, 0.35])
def test_the_sentence_is_exact_what_a_prior_with_such_a_point_says(shop, works):
    sceptical = fit_exact(*shop)
    point = xb.Prior(family="learnt", scales=(0.03,), weights=(1.0,), null_share=1 - 2 * works)
    counted = fit_exact(*shop, prior=point)
    for sentence, other in zip(sceptical.plain_odds(works), counted.plain_odds(), strict=True):
        variant = sentence.split(" ")[0]
        effect = counted.effect("bought", variant)
        assert about(sentence) == pytest.approx(effect.p_improvement, abs=0.006)
        assert about(other) == pytest.approx(sceptical.effect("bought", variant).p_improvement, abs=0.006)
        assert effect.works == pytest.approx(works)


def test_a_learnt_prior_counts_already(shop):
    learnt = xb.Prior(family="learnt", scales=(0.03,), weights=(1.0,), null_share=0.6)
    posterior = fit_exact(*shop, prior=learnt)
    effect = posterior.effect("bought", "new")
    assert f"That 1 in 5 ideas of this kind works is counted in this {effect.p_improvement:.2f}" in posterior.plain_odds()[0]  # fmt: skip
    assert posterior.plain_odds(0.1) == posterior.plain_odds()


def test_less_is_better_leaves_the_point_out_of_improvement_and_harm(shop):
    learnt = xb.Prior(family="learnt", scales=(0.03,), weights=(1.0,), null_share=0.6)
    effect = fit_exact(*shop, prior=learnt).effect("left", "new")
    assert effect.p_null > 0.5
    assert effect.p_improvement == pytest.approx((1 - effect.p_null) / 2, abs=0.005)  # as many left in both arms
    assert effect.p_harm < (1 - effect.p_null) / 2
    assert effect.p_harm_flat == fit_exact(*shop).effect("left", "new").p_harm_flat


def test_only_a_learnt_prior_states_a_point(shop):
    frame = fit_exact(*shop).summary()
    assert frame["p_null"].isna().all()
    without = xb.Prior(family="learnt", scales=(0.03,), weights=(1.0,))
    assert (fit_exact(*shop, prior=without).summary()["p_null"] == 0).all()


@pytest.mark.parametrize("works", [0, 0.6, -0.1])
@pytest.mark.parametrize("prior", [xb.Prior(), xb.Prior("flat")], ids=lambda prior: prior.family)
def test_a_share_of_ideas_that_cannot_be_is_refused_as_everywhere(shop, works, prior):
    with pytest.raises(PosteriorError) as wanted:
        xb.plain_odds(0.9, works)
    with pytest.raises(PosteriorError) as caught:
        fit_exact(*shop, prior=prior).plain_odds(works)
    assert str(caught.value) == str(wanted.value)


def test_no_sentence_where_it_could_not_be_exact(shop, nothing):
    for posterior in (fit_exact(*shop, prior=xb.Prior("flat")), nothing):
        assert posterior.plain_odds() == posterior.plain_odds(0.1) == ()
        assert "1 in 5" not in repr(posterior) + posterior._repr_html_()


# --- how figures are written ---


@pytest.fixture(scope="module")
def nothing(shop):
    """Nobody bought, so that no relative effect exists."""
    experiment, _ = shop
    frame = pd.DataFrame({"unit": np.arange(30_000), "bought": 0, "left": np.arange(30_000) // 3 % 9 == 0})
    return fit_exact(experiment, xb.load_cohort(experiment, frame.assign(variant=["old", "new", "newer"] * 10_000)))


def test_columns_of_the_text_are_those_of_the_html(shop):
    posterior = fit_exact(*shop)
    header = repr(posterior).splitlines()[1]
    assert header == "  metric | treatment | segment | control | treated | raw effect | posterior effect (95 % HDI) | P(improvement) | P(best)"  # fmt: skip
    assert re.findall(r"<th[^>]*>(.*?)</th>", posterior._repr_html_()) == [
        name.replace(" %", "&nbsp;%") for name in header.strip().split(" | ")
    ]


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.99998, "over 99.99 %"),
        (1.0, "over 99.99 %"),
        (0.0, "under 0.01 %"),
        (0.00002, "under 0.01 %"),
        (0.9996, "99.96 %"),
        (0.0004, "0.04 %"),
        (0.909, "90.9 %"),
    ],
)
def test_a_probability_is_never_rounded_to_certainty(shop, p, text):
    posterior = fit_exact(*shop)
    one = replace(posterior.effect("left", "new"), p_improvement=p, p_best=p)
    made = replace(posterior, effects=(one,))
    assert repr(made).endswith(f" | {text} | {text}")
    assert made._repr_html_().count(f">{text}</td>") == 2


def test_no_effect_has_no_sign_of_a_loss(nothing):
    for text in (repr(nothing), nothing._repr_html_()):
        assert "-0.00 " not in text
        assert not re.search(r"\de-\d", text)
        assert "+0 (-0.0" in text
        assert "+0.00 % (-" in text


def test_an_effect_is_printed_without_its_densities(shop):
    effect = fit_exact(*shop).effect("bought", "new")
    assert "array(" not in repr(effect)
    assert len(repr(effect)) < 3000
    x = effect.relative.x
    assert repr(effect.relative) == f"Density({len(x)} points from {x[0]:.4g} to {x[-1]:.4g})"
