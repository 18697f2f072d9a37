"""The fast ways to an effect, by cumulants and on even grids, against the panels that serve every sample."""

from dataclasses import replace

import numpy as np
import pytest

from expnb.posterior.exact import sampled, smooth
from expnb.posterior.exact.arms import Binomial, NormalMean, Poisson
from expnb.posterior.exact.best import share_best
from expnb.posterior.exact.edgeworth import Edgeworth
from expnb.posterior.exact.engine import absolute_effect, both_effects, prob_best, relative_effect
from expnb.spec.prior import FLAT, Prior
from expnb.stats.normal import MANY, cdf

CUTS = np.array([0.0, 0.01, -0.01, -0.03])
ROWS = 40
LEARNT = Prior(family="learnt", scales=(0.01, 0.03, 0.08), weights=(0.3, 0.4, 0.3))
PRIORS = [FLAT, Prior(), Prior(family="normal", scale=0.02), LEARNT, replace(LEARNT, null_share=0.4)]


def arms(kind, number=2):
    """Arms of some comparisons, from a few conversions up to many thousands."""
    rng = np.random.default_rng(7)
    units = np.round(np.exp(rng.uniform(np.log(500), np.log(2e5), ROWS)))
    base = np.exp(rng.uniform(np.log(0.08), np.log(0.5), ROWS))
    lifts = [np.zeros(ROWS), *(rng.normal(0, 0.05, ROWS) for _ in range(number - 1))]
    if kind == "rates":
        return [Binomial(rng.binomial(units.astype(int), base * (1 + lift)).astype(float), units) for lift in lifts]
    if kind == "events":
        return [Poisson(rng.poisson(units * base * (1 + lift)).astype(float), units) for lift in lifts]
    if kind == "few":
        hits = [np.round(np.exp(rng.uniform(np.log(5), np.log(60), ROWS))) for _ in lifts]
        return [Binomial(hit, np.round(hit / base) + 60) for hit in hits]
    if kind == "far":
        return [Poisson(rng.poisson(units * base * np.exp(40 * lift)).astype(float) + 50, units) for lift in lifts]
    mean, se = 10 * base, 10 * base / np.sqrt(units) * 1.5
    return [NormalMean(mean * (1 + lift) + se * rng.standard_normal(ROWS), se) for lift in lifts]


def none(*_, **__):
    return iter(())


def agree(found, wanted):
    sd = wanted.sd
    assert np.abs(found.p_above - wanted.p_above).max() <= 1e-6
    assert (np.abs(found.mean - wanted.mean) <= 1e-4 * sd).all()
    ends = np.abs([found.hdi_low - wanted.hdi_low, found.hdi_high - wanted.hdi_high]).max(axis=0)
    width, other = found.hdi_high - found.hdi_low, wanted.hdi_high - wanted.hdi_low
    # beside a point at no effect many intervals are nearly as short, and panels miss the shortest by a little
    assert ((ends <= 1e-4 * sd) | ((wanted.null > 0) & (width <= (1 + 1e-4) * other))).all()
    assert np.allclose(found.sd, sd, rtol=1e-5)
    for name in ("loss", "gain"):
        size = getattr(wanted, name)
        stated = size > 1e-6 * sd
        assert np.allclose(getattr(found, name)[stated], size[stated], rtol=1e-4), name


@pytest.mark.parametrize("kind", ["few", "rates", "events", "far", "means"])
@pytest.mark.parametrize("effect", [relative_effect, absolute_effect])
@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: f"{prior.family} {prior.null_share}")
def test_all_ways_lead_to_the_same_figures(kind, effect, prior, monkeypatch):
    pair = arms(kind)
    found = [effect(*pair, prior, CUTS)]
    monkeypatch.setattr(smooth, "served", none)
    found.append(effect(*pair, prior, CUTS))
    monkeypatch.setattr(sampled, "curves", none)
    by_panels = effect(*pair, prior, CUTS)
    for each in found:
        agree(each, by_panels)


@pytest.mark.parametrize("prior", [FLAT, Prior()], ids=lambda prior: prior.id)
def test_few_and_many_conversions_stand_on_even_grids(prior):
    for kind in ("few", "rates", "events", "means"):
        pair = arms(kind)
        rows = [
            row for some, _ in sampled.curves(*pair, prior, np.ones(ROWS, dtype=bool), log_scale=True) for row in some
        ]
        assert len(rows) == len(set(rows)) > 0.6 * ROWS


def test_a_prior_that_the_data_contradict_is_left_to_panels():
    pair = [Binomial(np.array([hits]), np.array([1e6])) for hits in (1e5, 2e5)]
    left = np.ones(1, dtype=bool)
    sceptic = Prior(family="normal", scale=0.003)
    assert list(sampled.curves(*pair, sceptic, left, log_scale=True)) == []
    assert len(list(sampled.curves(*pair, Prior(), left, log_scale=True))) == 1
    found = relative_effect(*pair, sceptic, CUTS)
    assert 0.0 < found.hdi_low[0] < found.mean[0] < 0.5


def rates(first, second):
    return [Binomial(np.array([float(hits)]), np.array([float(units)])) for hits, units in (first, second)]


@pytest.mark.parametrize(
    ("prior", "first", "second", "interval"),  # by sums over the log ratio and the control's rate
    [
        (Prior(family="learnt", scales=(0.005, 0.02, 0.1), weights=(0.5, 0.3, 0.2)), (74, 759), (135, 759), (0.01535, 0.09853)),
        (Prior(scale=0.01), (60, 1695), (146, 1695), (0.0166, 0.0658)),
        (Prior(scale=0.003), (1133, 3239), (1367, 3239), (0.0145, 0.0958)),
    ],
)  # fmt: skip
def test_of_two_peaks_the_absolute_interval_is_the_shortest(prior, first, second, interval):
    _, absolute = both_effects(*rates(first, second), prior, np.zeros(1), np.zeros(1))
    assert (absolute.hdi_low[0], absolute.hdi_high[0]) == pytest.approx(interval, abs=6e-5)


def test_points_that_are_too_far_apart_for_the_data_are_left_to_panels():
    prior = Prior(family="learnt", scales=(0.002, 0.02, 0.2), weights=(0.3, 0.4, 0.3))
    pair = rates((364, 786), (9132, 27637))
    assert relative_effect(*pair, prior, CUTS).gain[0] < 1e-10
    assert absolute_effect(*pair, prior, np.array([-2.0, 5.0])).p_above.tolist() == [[1.0, 0.0]]


def test_the_integral_of_a_bell_on_an_even_grid_is_its_distribution_function():
    points = np.linspace(-8, 8, 48)[None, :]
    step = points[:, 1] - points[:, 0]
    bell = sampled.Samples(points[:, 0], step, np.exp(-0.5 * points**2) / np.sqrt(2 * np.pi))
    z = np.linspace(-6, 6, 97)[None, :]
    mass, density, slope = sampled.Integral.of(bell).at(z)
    height = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    assert mass == pytest.approx(cdf(z), abs=1e-8)
    assert density == pytest.approx(height, abs=1e-7)
    assert slope == pytest.approx(-z * height, abs=1e-5)


def test_most_large_samples_need_no_density():
    pair = arms("rates")
    rows = [row for some, _ in smooth.served(*pair, smooth.log_ratio) for row in some]
    assert len(rows) == len(set(rows)) > 0.8 * ROWS


@pytest.mark.parametrize("kind", ["rates", "events", "means"])
@pytest.mark.parametrize("largest", [True, False])
def test_the_best_of_three_agrees_on_the_lattice_and_on_nodes(kind, largest, monkeypatch):
    three = [arm.take(np.arange(3)) for arm in arms(kind, 3)]
    for prior in (FLAT, Prior()):
        found = prob_best(three, prior, largest=largest)
        monkeypatch.setattr("expnb.posterior.exact.lattice.shares", lambda *_, **__: iter(()))
        assert np.abs(found - share_best(three, prior, largest=largest)).max() <= 1e-6
        monkeypatch.undo()


def test_the_best_of_many_normal_means_with_equal_estimates_is_anyone():
    same = NormalMean(np.full(4, 3.0), np.full(4, 0.1))
    assert np.allclose(prob_best([same] * 5, FLAT, largest=True), 0.2, atol=1e-9)


def test_a_point_at_no_effect_is_not_better_than_control():
    pair = [Binomial(np.full(1, 1_000.0), np.full(1, 10_000.0))] * 3
    half = Prior(family="learnt", scales=(0.03,), weights=(1.0,), null_share=0.5)
    shares = prob_best(pair, half, largest=True)[0]
    assert shares[0] > 0.5
    assert shares.sum() == pytest.approx(1)


def test_cuts_may_differ_by_row():
    pair, cuts = arms("rates"), np.linspace(-0.02, 0.02, ROWS)[:, None]
    for effect in (relative_effect, absolute_effect):
        for prior in (FLAT, Prior()):
            found = effect(*pair, prior, cuts, chart=False).p_above[:, 0]
            one = [
                effect(*(arm.take(np.array([row])) for arm in pair), prior, cuts[row], chart=False) for row in (0, 7)
            ]
            assert found[[0, 7]] == pytest.approx([part.p_above[0, 0] for part in one], abs=1e-9)


def test_without_a_chart_the_figures_are_the_same():
    pair = arms("means")
    with_chart, without = (absolute_effect(*pair, Prior(), CUTS, chart=chart) for chart in (True, False))
    assert without.grid.shape == (ROWS, 0)
    assert np.array_equal(with_chart.p_above, without.p_above)
    assert np.array_equal(with_chart.hdi_low, without.hdi_low)


def test_a_chart_of_a_large_sample_integrates_to_one():
    for effect in (relative_effect, absolute_effect):
        for prior in (FLAT, Prior()):
            found = effect(*arms("rates"), prior, CUTS)
            area = np.trapezoid(found.density, found.grid, axis=1)
            assert np.allclose(area, 1, atol=2e-3)


def test_a_bell_has_no_terms():
    bell = Edgeworth.of(np.array([[2.0], [4.0], [0.0], [0.0], [0.0], [0.0]]))
    assert len(bell.terms) == 1
    assert bell.below(bell.z(np.array([[2.0 + 2 * 1.959963984540054]])))[0, 0] == pytest.approx(0.975, abs=1e-12)


def test_the_normal_distribution_function_is_one_function_at_any_size():
    z = np.linspace(-37, 9, MANY)
    assert np.allclose(cdf(z)[:50], cdf(z[:50]), rtol=1e-12)
    assert cdf(np.zeros((2, 3))).shape == (2, 3)
