"""A plan as curves over days: every number of the table is drawn, names stand apart, and it compiles."""

import itertools
from datetime import date

import pytest
import vl_convert

import expnb as xb
from expnb.charts.figure import OLDEST_VEGA_LITE
from expnb.charts.plan import _APART, _places


def make_plan(units, guardrails=(), **policy):
    experiment = xb.Experiment(
        name="button", hypothesis="A larger button sells more.", owner="shop", flag="button", unit="user", variant="arm", control="old",
        weights={"old": 50.0, "new": 50.0}, start=date(2026, 1, 1), end=date(2026, 3, 1), policy=xb.Policy(**policy),
        metrics=(xb.Metric(name="bought", kind="conversion", role="goal", rope=0.005, margin=0.03), *guardrails),
    )  # fmt: skip
    return xb.plan_experiment(experiment, baseline=0.1, daily_units=units, days=21, rollouts=200)


@pytest.fixture(scope="module")
def plan():
    return make_plan(100_000)


def lines(figure, panel):
    """Points of every curve of a panel."""
    layers = figure.spec()["vconcat"][panel]["layer"]
    return [
        [(row["day"], row["value"]) for row in layer["data"]["values"]]
        for layer in layers
        if layer["mark"]["type"] == "line"
    ]


def test_the_curves_are_the_shares_of_the_table(plan):
    figure = xb.charts.plan(plan)
    drawn, table = lines(figure, 0), plan.table()
    assert figure.table.equals(table)
    for curve, column in zip(drawn, ("shipped", "rolled_back", "concluded_flat"), strict=True):
        assert curve[0] == (0, 0)
        assert [value for _, value in curve[1:-1]] == pytest.approx(table[column].tolist())
        assert curve[-1][1] == curve[-2][1]


def test_the_smallest_effects_are_under_them(plan):
    (curve,) = lines(xb.charts.plan(plan), 1)
    known = plan.table().dropna()
    assert [day for day, _ in curve[:-1]] == known["day"].tolist()
    assert [value for _, value in curve[:-1]] == pytest.approx(known["detectable"].tolist(), rel=1e-5)


@pytest.mark.parametrize("values", [(0.36, 0.35, 0.0), (0.0, 0.0, 0.0), (0.1, 0.4, 0.39)])
def test_names_at_the_ends_of_curves_stand_apart(values):
    places = sorted(_places(values, (0.0, 0.4), 200))
    assert all(second - first >= _APART - 1e-9 for first, second in itertools.pairwise(places))
    assert places[-1] <= 200


def test_where_nothing_is_detectable_it_is_said_and_the_way_out_too():
    figure = xb.charts.plan(
        make_plan(4_000, (xb.Metric(name="kept", kind="conversion", role="guardrail", margin=0.01),))
    )
    text = str(figure.spec())
    assert "ships with probability 80 %: none by day 21." in text
    assert "cannot be shown by day 21" in text.replace("\\n", " ").replace("\u00a0", " ")


@pytest.mark.parametrize("version", [OLDEST_VEGA_LITE, "6.1"])
@pytest.mark.parametrize("policy", [{}, {"aim": "non_inferiority"}])
def test_the_chart_compiles(version, policy):
    figure = xb.charts.plan(make_plan(60_000, **policy))
    drawn = vl_convert.vegalite_to_svg(figure.spec(), vl_version=version)
    assert "<svg" in drawn
    assert "by day 21 the policy has shipped with probability" in figure.sentence
