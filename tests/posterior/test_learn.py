"""Priors learnt from past experiments: in worlds whose truth is known, and on rows that nobody should learn from."""

import numpy as np
import pandas as pd
import pytest
from tests.posterior.past import frame, sample

import expnb as xb
from expnb import errors
from expnb.posterior.priors.learn import _LOG_TAUS, _few, _posterior, select
from expnb.posterior.priors.mixture import shrink
from expnb.spec.prior import Prior

NEW = 200  # experiments to come, per learnt prior


def to_come(world: str, past: int, repeats: int, seed: int = 1) -> dict[str, float]:
    """How learnt priors serve experiments to come; a winner is what flat P(effect > 0) > 0.95 says."""
    rng = np.random.default_rng(seed)
    sums = dict.fromkeys(("truth", "raw", "shrunk", "winners", "inside", "raw inside", "sure", "right", "stated"), 0.0)
    for _ in range(repeats):
        _, log_ratio, se = sample(world, past, rng)
        prior = xb.learn_prior(frame(log_ratio, se))
        truth, log_ratio, se = sample(world, NEW, rng)
        made = shrink(prior, log_ratio, se)
        won, above = log_ratio > 1.6449 * se, made.above_zero
        inside = (made.cdf(truth) >= 0.025) & (made.cdf(truth - 1e-12) <= 0.975)
        sums["truth"] += truth[won].sum()
        sums["raw"] += log_ratio[won].sum()
        sums["shrunk"] += made.mean[won].sum()
        sums["winners"] += won.sum()
        sums["inside"] += inside[won].sum()
        sums["raw inside"] += (np.abs(log_ratio - truth) < 1.96 * se)[won].sum()
        sums["sure"] += (above > 0.9).sum()
        sums["stated"] += above[above > 0.9].sum()
        sums["right"] += (truth[above > 0.9] > 0).sum()
    return {
        "raw exaggeration": sums["raw"] / sums["truth"],
        "exaggeration": sums["shrunk"] / sums["truth"],
        "coverage": sums["inside"] / sums["winners"],
        "raw coverage": sums["raw inside"] / sums["winners"],
        "stated - true": (sums["stated"] - sums["right"]) / sums["sure"],
    }


# --- what it is good for ----------------------------------------------------------------------------


@pytest.mark.parametrize("past", [20, 50, 200])
@pytest.mark.parametrize("world", ["normal", "student_t(3)"])
def test_winners_keep_what_they_promise(world, past):
    found = to_come(world, past, repeats=60 if past < 200 else 20)
    assert 1.85 < found["raw exaggeration"] < 2.3  # twice, without a prior
    assert found["exaggeration"] == pytest.approx(1, abs=0.12)
    assert found["coverage"] > (0.93 if world == "normal" else 0.91)
    assert found["raw coverage"] < 0.88


@pytest.mark.parametrize("past", [20, 50, 200])
def test_stated_probabilities_are_honest_where_most_changes_do_nothing(past):
    found = to_come("80 % null", past, repeats=60 if past < 200 else 20)
    assert abs(found["stated - true"]) < 0.03
    assert found["exaggeration"] == pytest.approx(1, abs=0.12)


def test_large_effects_are_believed_from_twenty_experiments_on():
    found = to_come("large", 20, repeats=10)
    assert found["exaggeration"] == pytest.approx(1, abs=0.02)


def test_scale_and_share_of_nulls_are_found_with_many_experiments():
    rng = np.random.default_rng(4)
    truth = np.where(rng.random(4000) < 0.6, 0.0, 0.04 * rng.standard_t(4, 4000))
    prior = xb.learn_prior(frame(rng.normal(truth, 0.01), np.full(4000, 0.01)))
    assert prior.null_share == pytest.approx(0.6, abs=0.04)
    assert prior.scale == pytest.approx(0.04, rel=0.12)


def test_sampling_noise_is_no_part_of_the_prior():
    rng = np.random.default_rng(5)
    priors = [
        xb.learn_prior(frame(rng.normal(rng.normal(0, 0.02, 400), se), np.full(400, se))) for se in (0.005, 0.02, 0.04)
    ]
    sds = [prior.sd for prior in priors]
    assert sds == pytest.approx([0.022] * 3, rel=0.35)
    nothing = xb.learn_prior(frame(rng.normal(0, 0.02, 400), np.full(400, 0.02)))
    assert nothing.sd < 0.008


def test_few_experiments_are_trusted_less_than_many():
    rng = np.random.default_rng(6)
    _, log_ratio, se = sample("normal", 400, rng)

    def spread(n: int) -> float:
        scales, _ = _posterior(select(frame(log_ratio[:n], se[:n])), 4.0)
        mean = scales @ _LOG_TAUS
        return float(np.sqrt(scales @ (_LOG_TAUS - mean) ** 2))

    assert spread(20) > 1.8 * spread(400)


def test_a_few_scales_stand_for_the_whole_posterior():
    rng = np.random.default_rng(8)
    for n in (20, 60):
        _, log_ratio, se = sample("student_t(3)", n, rng)
        past = select(frame(log_ratio, se))
        weights, null = _posterior(past, 4.0)
        scales, few = _few(_LOG_TAUS, weights)
        assert len(scales) <= 5
        assert sum(few) == pytest.approx(1, abs=1e-9)
        pairs = ((scales, few), (tuple(np.exp(_LOG_TAUS)), tuple(weights)))
        short, whole = (
            shrink(Prior(family="learnt", scales=s, weights=w, null_share=null), log_ratio, se) for s, w in pairs
        )
        assert short.above_zero == pytest.approx(whole.above_zero, abs=1e-3)
        assert short.mean == pytest.approx(whole.mean, abs=4e-4)


def test_arms_that_share_a_control_count_less_each():
    """The posterior of the log variance of effects should be off by as much as it says: 1 standard deviation."""
    rng = np.random.default_rng(3)
    tau = np.exp(_LOG_TAUS)
    arms, off = 8, {"weighted": [], "all": []}
    for _ in range(25):
        quality = rng.normal(size=(100, arms + 1))
        noise = rng.normal(0, 0.03 / np.sqrt(2), (100, arms + 1))
        measured = 0.03 / np.sqrt(2) * (quality[:, 1:] - quality[:, :1]) + noise[:, 1:] - noise[:, :1]
        facts = {"experiment": np.repeat(np.arange(100), arms), "variant": np.tile(np.arange(arms), 100)}
        given = frame(measured.ravel(), np.full(100 * arms, 0.03), **facts)
        for name, one in (("weighted", given), ("all", given.assign(experiment=np.arange(len(given))))):
            scales, null = _posterior(select(one), 4.0)
            log_variance = 2 * np.log(tau)
            mean = scales @ log_variance
            sd = np.sqrt(scales @ (log_variance - mean) ** 2 + 1e-9)
            off[name].append((mean + np.log1p(-null), sd))
    spread = {name: np.std([m for m, _ in found]) / np.mean([s for _, s in found]) for name, found in off.items()}
    assert spread["weighted"] < 1.25
    assert spread["all"] > 1.4 * spread["weighted"]


def test_the_same_effects_in_another_order_give_the_same_prior():
    rng = np.random.default_rng(9)
    _, log_ratio, se = sample("normal", 57, rng)
    given = frame(log_ratio, se)
    assert xb.learn_prior(given) == xb.learn_prior(given.sample(frac=1, random_state=1))


def test_a_prior_does_not_depend_on_which_arm_is_called_control():
    rng = np.random.default_rng(9)
    _, log_ratio, se = sample("normal", 57, rng)
    assert xb.learn_prior(frame(log_ratio, se)) == xb.learn_prior(frame(-log_ratio, se))


# --- which experiments it is learnt from --------------------------------------------------------------


def history(*groups: tuple[int, str, str]) -> pd.DataFrame:
    """Experiments by (how many, metric, kind)."""
    rng, parts = np.random.default_rng(2), []
    for number, (count, metric, kind) in enumerate(groups):
        names = [f"{number}-{i}" for i in range(count)]
        _, log_ratio, se = sample("normal", count, rng)
        parts.append(frame(log_ratio, se, experiment=names, metric=metric, kind=kind))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("groups", "metric", "kind", "source"),
    [
        ([(20, "signup", "conversion"), (30, "buy", "conversion")], "signup", "", "20 past experiments on metric signup"),
        ([(19, "signup", "conversion"), (30, "buy", "conversion")], "signup", "", "49 past experiments on metrics of kind conversion"),
        ([(19, "signup", "conversion"), (30, "spend", "revenue")], "signup", "", "49 past experiments on all metrics"),
        ([(5, "buy", "conversion"), (30, "spend", "revenue")], "signup", "revenue", "30 past experiments on metrics of kind revenue"),
        ([(30, "spend", "revenue")], "", "", "30 past experiments on all metrics"),
    ],
)  # fmt: skip
def test_the_closest_twenty_experiments_are_used(groups, metric, kind, source):
    assert xb.learn_prior(history(*groups), metric=metric, kind=kind).source == f"learnt from {source}"


def test_experiments_are_counted_not_arms():
    given = history((19, "signup", "conversion"))
    with pytest.raises(errors.PosteriorError, match="19 past experiments are usable; a prior is learnt from 20 on"):
        xb.learn_prior(pd.concat([given, given.assign(variant="c")]), metric="signup")


def test_experiments_that_were_not_randomised_teach_nothing():
    given = history((25, "signup", "conversion")).assign(randomised=True)
    given.loc[:5, "randomised"] = False
    with pytest.raises(errors.PosteriorError, match="19 past experiments are usable"):
        xb.learn_prior(given)
    more = history((45, "signup", "conversion")).assign(randomised=[True] * 25 + [False] * 20)
    kept = more[more.randomised]
    assert xb.learn_prior(more) == xb.learn_prior(kept)


# --- what nobody should learn from ---------------------------------------------------------------------


def spoilt(**facts: object) -> pd.DataFrame:
    """Thirty good rows, of which the fourth is spoilt."""
    given = history((30, "signup", "conversion")).astype(dict.fromkeys(facts, object))
    for name, value in facts.items():
        given.loc[3, name] = value
    return given


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        (spoilt(log_ratio=np.inf), errors.PosteriorError, "experiment '0-3', arm 'b': log_ratio is inf; it must be finite; leave out arms in which nothing converted."),
        (spoilt(log_ratio=None), errors.PosteriorError, "log_ratio is None; it must be finite"),
        (spoilt(se=0.0), errors.PosteriorError, "experiment '0-3', arm 'b': se is 0.0; it must be finite and above 0; leave out arms without one."),
        (spoilt(se=-0.1), errors.PosteriorError, "se is -0.1; it must be finite and above 0"),
        (spoilt(se=np.nan), errors.PosteriorError, "se is nan; it must be finite and above 0"),
        (spoilt(se="wide"), errors.PosteriorError, "column 'se' of the past effects holds object, not numbers. Convert it"),
        (spoilt(experiment="0-2"), errors.PosteriorError, "experiment '0-2' has the arm 'b' twice on metric 'signup'; an arm has one final result. Keep its last look."),
        (spoilt(kind="convertion"), errors.SpecError, "metric kind is 'convertion'; it is one of conversion,"),
        (spoilt().drop(columns="se"), errors.PosteriorError, "past effects have no column 'se'; they need experiment, metric, kind, variant, log_ratio, se. Rename or add it."),
        (spoilt().head(3), errors.PosteriorError, "3 past experiments are usable; a prior is learnt from 20 on. Until then use the default, xb.Prior(), or collect more."),
        (spoilt().head(1), errors.PosteriorError, "1 past experiment is usable"),
        (spoilt().head(0), errors.PosteriorError, "0 past experiments are usable"),
    ],
)  # fmt: skip
def test_a_bad_row_gets_a_sentence(given, error, sentence):
    with pytest.raises(error) as caught:
        xb.learn_prior(given, metric="signup")
    assert sentence in str(caught.value)


def test_an_unknown_kind_or_degrees_of_freedom_get_a_sentence():
    with pytest.raises(errors.SpecError, match=r"metric kind is 'convertion'.*Did you mean 'conversion'"):
        xb.learn_prior(spoilt(), kind="convertion")
    with pytest.raises(errors.SpecError, match="prior df is 0; it must be above 0"):
        xb.learn_prior(spoilt(), df=0)
