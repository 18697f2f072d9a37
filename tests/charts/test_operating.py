"""How simulated rollouts ended, as bars of 100 %."""

from datetime import date
from itertools import pairwise

import pytest
import vl_convert

import expnb as xb
from expnb.charts.figure import OLDEST_VEGA_LITE


@pytest.fixture(scope="module")
def found():
    experiment = xb.Experiment(
        name="button", hypothesis="A larger button sells more.", owner="shop", flag="button", unit="user", variant="arm", control="old",
        weights={"old": 50.0, "new": 50.0}, start=date(2026, 1, 1), end=date(2026, 3, 1),
        metrics=(xb.Metric(name="bought", kind="conversion", role="goal", rope=0.005),),
    )  # fmt: skip
    return xb.simulate_policy(
        experiment, baseline=0.1, effects=(0.0, 0.05, -0.2), traffic=(20_000, 200_000), rollouts=200
    )


def bars(figure):
    """Ends of all bars, by block and true effect."""
    out = {}
    for block in figure.spec()["vconcat"][1:-1]:
        for layer in block["layer"]:
            if layer["mark"]["type"] == "bar":
                for row in layer["data"]["values"]:
                    out.setdefault((block["title"]["text"], row["effect"]), []).append((row["from"], row["to"]))
    return out


def test_bars_fill_the_width_without_gap_or_overlap(found):
    for ends in bars(xb.charts.operating(found)).values():
        edges = sorted(ends)
        assert edges[0][0] == 0
        assert edges[-1][1] == pytest.approx(1)
        for before, after in pairwise(edges):
            assert after[0] == pytest.approx(before[1])


def test_a_harm_is_an_orange_bar_and_a_lift_a_blue_one(found):
    drawn = bars(xb.charts.operating(found))
    assert len(drawn) == 6
    assert drawn["200,000 units per day", "true effect: bought -20 %"] == [(0, 1.0)]


@pytest.mark.parametrize("version", [OLDEST_VEGA_LITE, "6.1"])
def test_the_chart_compiles_and_its_table_has_every_number(found, version):
    figure = xb.charts.operating(found)
    assert "<svg" in vl_convert.vegalite_to_svg(figure.spec(), vl_version=version)
    assert figure.table.equals(found.table())
    assert "200 simulated rollouts of button" in figure.sentence
