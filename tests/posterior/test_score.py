"""Scores of priors: what they would say with the truth at hand, and on thousands of real experiments."""

import numpy as np
import pandas as pd
import pytest
from tests.posterior.past import frame, sample

import expnb as xb
from expnb import errors
from expnb.posterior.priors.learn import select
from expnb.posterior.priors.mixture import shrink
from expnb.posterior.priors.score import _held_out, log_predictive
from expnb.spec.prior import FLAT, Prior

LEARNT = "learnt from the others"


@pytest.fixture(scope="module")
def scored():
    """Two thousand experiments, of which 80 % do nothing."""
    _, log_ratio, se = sample("80 % null", 2000, np.random.default_rng(1))
    return xb.score_prior(frame(log_ratio, se), splits=4)


def test_the_learnt_prior_predicts_best_and_its_winners_keep_their_promise(scored):
    learnt, flat = scored.row(LEARNT), scored.row("flat")
    assert scored.rows[0] == learnt
    assert max(scored.rows, key=lambda row: row.replication) == learnt
    assert learnt.exaggeration == pytest.approx(1, abs=0.12)
    assert learnt.coverage == pytest.approx(0.95, abs=0.02)
    assert flat.exaggeration > 1.6
    assert flat.coverage < 0.9


def test_splitting_shows_the_exaggeration_that_the_truth_would_show():
    rng = np.random.default_rng(2)
    truth, log_ratio, se = sample("normal", 20_000, rng)
    half = log_ratio + se * rng.normal(size=len(se))
    won = np.abs(half) > 1.6449 * np.sqrt(2) * se
    with_truth = (np.sign(half) * half)[won].sum() / (np.sign(half) * truth)[won].sum()
    found = xb.score_prior(frame(log_ratio, se), Prior("normal", 0.02), splits=2)
    assert found.row("flat").exaggeration == pytest.approx(with_truth, rel=0.06)
    assert found.row("normal(0, 0.02)").exaggeration == pytest.approx(1, abs=0.06)
    assert found.row("normal(0, 0.02)").coverage == pytest.approx(0.95, abs=0.01)


def test_a_prior_never_sees_the_experiments_it_is_scored_on():
    rng = np.random.default_rng(3)
    _, log_ratio, se = sample("normal", 90, rng)
    past = select(frame(log_ratio, se, experiment=np.arange(90) // 3, variant=np.arange(90) % 3))
    parts = list(_held_out(past, 5, rng))
    assert sum(out.sum() for _, out in parts) == 90
    for prior, out in parts:
        assert not set(past.experiment[out]) & set(past.experiment[~out])
        assert prior.source == "learnt from 24 past experiments on all metrics"


@pytest.mark.parametrize(
    "prior",
    [FLAT, Prior(), Prior(family="learnt", scales=(0.02,), weights=(1.0,), null_share=0.5)],
    ids=lambda p: p.family,
)
def test_predictive_densities_integrate_to_one(prior):
    x = 12 * np.linspace(-1, 1, 12_001) ** 3
    assert np.trapezoid(np.exp(log_predictive(prior, x, np.full(len(x), 0.02))), x) == pytest.approx(1, abs=1e-4)


def test_uniform_rates_have_a_laplace_log_ratio():
    rng = np.random.default_rng(4)
    drawn = np.log(rng.random(200_000)) - np.log(rng.random(200_000)) + rng.normal(0, 0.3, 200_000)
    counts, edges = np.histogram(drawn, bins=np.linspace(-3, 3, 31))
    middle = (edges[1:] + edges[:-1]) / 2
    expected = np.exp(log_predictive(FLAT, middle, np.full(30, 0.3))) * np.diff(edges) * len(drawn)
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected) + 0.005 * expected).all()


def test_a_score_is_shown_as_a_table(scored):
    assert list(scored.table().columns) == ["prior", "log_density", "replication", "coverage", "exaggeration"]
    assert scored.table().dtypes.iloc[1:].eq("float64").all()
    assert repr(scored).startswith("priors on 2,000 arms of 2,000 held-out experiments, ")
    assert "<td style='text-align:left'>student_t(4, 0, 0.03)</td>" in scored._repr_html_()
    with pytest.raises(errors.NameNotFoundError, match="no prior is called 'flatt'. Did you mean 'flat'"):
        scored.row("flatt")


def test_the_same_seed_gives_the_same_score():
    _, log_ratio, se = sample("normal", 40, np.random.default_rng(5))
    given = frame(log_ratio, se)
    assert repr(xb.score_prior(given, seed=3)) == repr(xb.score_prior(given, seed=3))


def test_too_few_winners_are_not_summarised():
    found = xb.score_prior(frame(np.zeros(30), np.full(30, 0.02)), splits=1, seed=1)
    assert {row.coverage for row in found.rows} == {row.exaggeration for row in found.rows} == {None}
    assert "–" in repr(found)


@pytest.mark.parametrize("facts", [{"folds": 1}, {"splits": 0}])
def test_bad_folds_get_a_sentence(facts):
    with pytest.raises(errors.PosteriorError, match="it takes at least 2 folds and 1 split"):
        xb.score_prior(frame(np.zeros(30), np.full(30, 0.02)), **facts)


# --- real experiments -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def headlines(real_data):
    """Headline tests of Upworthy: every package against the first one of its test."""
    path = real_data / "upworthy" / "upworthy_packages.parquet"
    if not path.is_file():
        pytest.skip("no headline tests in the folder of real data")
    arms = pd.read_parquet(path).rename(columns={"clickability_test_id": "experiment"})
    arms["variant"] = arms.groupby("experiment").cumcount()
    first = arms.loc[arms.variant == 0, ["experiment", "clicks", "impressions"]]
    both = arms[arms.variant > 0].merge(first, on="experiment", suffixes=("", "_c"))
    both = both[(both.clicks > 0) & (both.clicks_c > 0)]
    rates = np.log(both.clicks / both.impressions) - np.log(both.clicks_c / both.impressions_c)
    se = np.sqrt(1 / both.clicks - 1 / both.impressions + 1 / both.clicks_c - 1 / both.impressions_c)
    facts = {"experiment": both.experiment.to_numpy(), "variant": both.variant.to_numpy()}
    randomised = ~both.possible_randomisation_problem.to_numpy(dtype=bool)
    return frame(rates.to_numpy(), se.to_numpy(), metric="click", randomised=randomised, **facts)


def test_one_prior_of_headline_tests_beats_the_uniform_one_by_far(headlines):
    found = xb.score_prior(headlines, metric="click", splits=2)
    learnt, uniform = found.row(LEARNT), found.row("flat")
    assert found.arms > 9_000
    assert learnt.log_density - uniform.log_density > 0.4  # natural logarithm, per arm; thousands in all
    assert learnt.replication - uniform.replication > 0.1
    assert learnt.coverage == pytest.approx(0.95, abs=0.015)
    assert learnt.exaggeration == pytest.approx(1, abs=0.15)
    assert uniform.exaggeration > 1.8


def test_tests_with_a_randomisation_problem_are_left_out(headlines):
    prior = xb.learn_prior(headlines, metric="click")
    count = headlines[headlines.randomised].experiment.nunique()
    assert count < headlines.experiment.nunique()
    assert prior.source == f"learnt from {count} past experiments on metric click"


def test_shrunk_headlines_are_ranked_by_evidence_too(headlines):
    prior = xb.learn_prior(headlines, metric="click")
    log_ratio, se = headlines.log_ratio.to_numpy(), headlines.se.to_numpy()
    made = shrink(prior, log_ratio, se).mean
    assert (np.abs(made) < np.abs(log_ratio) + 1e-12).all()
