"""Panels against densities whose integrals are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from expnb.errors import PosteriorError
from expnb.posterior.exact.grid import Panels, first_breaks, resolve, support
from expnb.posterior.exact.hdi import shortest_interval

Floats = NDArray[np.float64]


def solve(log_density: object, start: Floats, marks: Floats) -> Panels:
    assert callable(log_density)
    rows, none = np.zeros(1, dtype=np.intp), np.zeros(1)

    def density(_: NDArray[np.intp], x: Floats) -> Floats:
        return np.asarray(log_density(x))

    ends = support(density, rows, start[None, :], none)
    ((where, these),) = list(resolve(density, rows, first_breaks(ends, marks[None, :]), none))
    assert where.tolist() == [0]
    return these


@given(st.floats(-5, 5), st.floats(0.01, 3), st.floats(-6, 6))
@settings(max_examples=40, deadline=None)
def test_mass_below_any_point_is_that_of_the_normal(middle: float, sd: float, point: float) -> None:
    these = solve(lambda x: stats.norm.logpdf(x, middle, sd), np.linspace(-60, 60, 30), np.zeros(1))
    mass, density = these.at(np.array([[point]]))
    assert mass[0, 0] == pytest.approx(stats.norm.cdf(point, middle, sd), abs=1e-9)
    assert density[0, 0] * sd == pytest.approx(stats.norm.pdf(point, middle, sd) * sd, abs=1e-7)


def test_a_marked_spike_on_a_wide_base_is_resolved() -> None:
    both = [stats.norm(0, 1e-4), stats.norm(3, 1)]
    these = solve(
        lambda x: np.logaddexp(both[0].logpdf(x), both[1].logpdf(x)),
        np.linspace(-10, 15, 101),
        np.concatenate([-1e-3 * 4.0 ** np.arange(5), [0.0], 1e-3 * 4.0 ** np.arange(5)]),
    )
    points = np.array([-1e-4, 0.0, 2e-4, 1.0, 4.0])
    assert these.at(points[None, :])[0][0] == pytest.approx(0.5 * (both[0].cdf(points) + both[1].cdf(points)), abs=1e-8)


def test_support_keeps_what_a_moment_needs() -> None:
    rows, density = np.zeros(1, dtype=np.intp), (lambda _, x: np.where(x > 0, -3.0 * x, 40 * x))
    plain, second = (
        support(density, rows, np.linspace(-50, 100, 400)[None, :], np.array([moment])) for moment in (0.0, 2.0)
    )
    assert plain[0, 1] > 11
    assert second[0, 1] > 33


def test_interval_of_a_skewed_density_is_the_shortest() -> None:
    gamma = stats.gamma(3)
    these = solve(
        lambda x: np.where(x > 0, gamma.logpdf(np.maximum(x, 1e-300)), -1e9), np.linspace(1e-9, 60, 60), np.zeros(1)
    )
    low, high = shortest_interval(these, log_scale=False)
    tails = np.linspace(0, 0.05, 20_001)
    best = tails[np.argmin(gamma.ppf(tails + 0.95) - gamma.ppf(tails))]
    assert low[0] == pytest.approx(gamma.ppf(best), abs=1e-3)
    assert gamma.cdf(high[0]) - gamma.cdf(low[0]) == pytest.approx(0.95, abs=1e-8)
    assert gamma.pdf(low[0]) == pytest.approx(gamma.pdf(high[0]), abs=1e-6)


def test_interval_of_a_falling_density_starts_at_its_edge() -> None:
    these = solve(lambda x: -x, np.linspace(0, 50, 60), np.zeros(1))
    low, high = shortest_interval(these, log_scale=False)
    assert low[0] == 0.0
    assert high[0] == pytest.approx(-np.log(0.05), abs=1e-7)


def test_interval_of_the_exponential_is_not_the_exponential_of_the_interval() -> None:
    these = solve(lambda x: stats.norm.logpdf(x, 0, 0.5), np.linspace(-9, 9, 60), np.zeros(1))
    low, high = np.exp(shortest_interval(these, log_scale=True))
    lognormal = stats.lognorm(0.5)
    assert lognormal.pdf(low[0]) == pytest.approx(lognormal.pdf(high[0]), rel=1e-5)
    assert lognormal.cdf(high[0]) - lognormal.cdf(low[0]) == pytest.approx(0.95, abs=1e-8)


def test_what_has_no_mass_is_an_error_not_a_number() -> None:
    with pytest.raises(PosteriorError, match="finite mass"):
        solve(lambda x: np.full_like(x, np.nan), np.linspace(-1, 1, 30), np.zeros(1))
