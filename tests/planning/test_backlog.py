"""The value of proposals: against direct simulation, and what is read, ranked and refused."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri

import expnb as xb
from expnb.errors import PathNotFoundError, SpecError
from expnb.planning.backlog import Proposal, chance_to_ship, expected_gain, prioritise, read_proposals
from expnb.planning.belief import Belief
from expnb.planning.goal import GoalRule
from expnb.spec.prior import FLAT

LEARNT = xb.Prior(family="learnt", scales=(0.01, 0.04), weights=(0.6, 0.4), null_share=0.5)
PRIORS = [xb.Prior(), xb.Prior(family="normal", scale=0.03), LEARNT]


def rule_of(prior, direction="increase"):
    metric = xb.Metric(name="bought", kind="mean", role="goal", rope=0.005, direction=direction)
    return GoalRule(xb.Policy(), metric, Belief.of(prior))


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.family)
@pytest.mark.parametrize("direction", ["increase", "decrease"])
@pytest.mark.parametrize("error", [0.004, 0.03])
def test_gain_and_chance_are_those_of_simulated_experiments(prior, direction, error):
    rng = np.random.default_rng(2)
    draws = 400_000
    null = rng.random(draws) < prior.null_share
    scale = rng.choice([scale for scale, _ in prior.parts], draws, p=[weight for _, weight in prior.parts])
    tail = rng.standard_normal(draws) if prior.family == "normal" else rng.standard_t(prior.df, draws)
    truth = np.where(null, 0.0, scale * tail)
    rule = rule_of(prior, direction)
    cut = float(rule.cut(np.array([error]))[0])
    sign = 1 if rule.up else -1
    ships = sign * (truth + error * rng.standard_normal(draws) - cut) > 0
    values = np.where(ships & (np.abs(truth) <= math.log(2)), sign * np.expm1(truth), 0.0)
    found = expected_gain(rule, error, cut)
    assert found == pytest.approx(values.mean(), abs=4 * values.std() / math.sqrt(draws))
    assert chance_to_ship(rule, error, cut) == pytest.approx(ships.mean(), abs=4 * math.sqrt(ships.mean() / draws))


def test_under_a_normal_prior_the_gain_is_the_closed_form():
    # E[(exp(L) - 1) 1{X > c}] for L ~ Normal(0, t), X | L ~ Normal(L, s): exp(t^2 / 2) Phi((t^2 - c) / d) - Phi(-c / d), d^2 = t^2 + s^2.
    scale, error, cut = 0.03, 0.02, 0.025
    d = math.hypot(scale, error)
    expected = math.exp(scale**2 / 2) * ndtr((scale**2 - cut) / d) - ndtr(-cut / d)
    assert expected_gain(rule_of(xb.Prior(family="normal", scale=scale)), error, cut) == pytest.approx(
        expected, rel=1e-4
    )


def proposal(name="form", **other):
    return Proposal(**({"name": name, "metric": "bought", "mean": 0.1, "reach": 10_000} | other))


@pytest.mark.parametrize("direction", ["increase", "decrease"])
def test_more_traffic_is_worth_more_however_precise_the_data_get(direction):
    reach = np.geomspace(1e3, 1e13, 60)
    rows = [prioritise([proposal(reach=each, mean=0.9, direction=direction)]).rows[0] for each in reach]
    chances, gains = [row.chance for row in rows], np.array([row.gain for row in rows])
    assert chances == sorted(chances)
    assert (np.diff(gains) >= -1e-7).all()
    assert gains[-1] == pytest.approx(gains[30], rel=0.01)
    assert (np.diff([row.value for row in rows]) > 0).all()
    assert rows[-1].days_needed == 1


def test_value_is_gain_times_reach_less_cost():
    (row,) = prioritise([proposal(cost=500)], months=6).rows
    assert row.per_month == pytest.approx(row.gain * 0.1 * 10_000 * 30)
    assert row.value == pytest.approx(6 * row.per_month - 500)
    assert row.per_cost == pytest.approx(6 * row.per_month / 500)
    money = prioritise([proposal(cost=500, value_per_unit=3)], months=6).rows[0]
    assert money.value == pytest.approx(18 * row.per_month - 500)


def test_the_days_needed_are_those_of_the_analytic_power_of_a_typical_idea():
    prior = xb.Prior(family="normal", scale=0.05)
    one = proposal()
    (row,) = prioritise([one], prior=prior).rows
    rope = math.log1p(0.005)
    typical = 0.05 * ndtri(1 - 0.5 * ndtr(-rope / 0.05))  # median of the effects above the rope
    rule = rule_of(prior)

    def power(days):
        error = one.error(np.array([days]))
        return ndtr((typical - rule.cut(error)) / error)[0]

    assert power(row.days_needed) >= 0.795
    assert power(row.days_needed / 1.1) < 0.8


def test_more_reach_longer_runs_and_bolder_ideas_come_first():
    found = prioritise(
        [
            proposal("small", reach=1_000),
            proposal("large", reach=50_000),
            proposal("middle", reach=10_000),
            proposal("dull", reach=10_000, prior=xb.Prior(scale=0.003)),
            proposal("short", reach=10_000, weeks=1),
        ]
    )
    names = [row.proposal.name for row in found.rows]
    assert names[0] == "large"
    assert names.index("middle") < names.index("short")
    assert names.index("middle") < names.index("dull")
    table = found.table()
    assert table["rank"].tolist() == [1, 2, 3, 4, 5]
    assert table["value"].is_monotonic_decreasing
    assert table.set_index("name").loc["short", "days"] == 7


def test_a_frame_is_read_and_empty_cells_are_left_out():
    frame = pd.DataFrame(
        {"name": ["form", "price"], "metric": ["bought", "revenue"], "mean": [0.1, 4.0], "sd": [np.nan, 20.0],
         "reach": [10_000, 8_000], "cost": [2_000.0, np.nan], "value_per_unit": [12.0, 1.0], "weeks": [np.nan, 6]}
    )  # fmt: skip
    found = prioritise(frame, prior=LEARNT)
    by_name = {row.proposal.name: row for row in found.rows}
    assert by_name["form"].proposal.sd is None
    assert (by_name["price"].proposal.cost, by_name["price"].days) == (0.0, 42)
    assert found.unit == "money"
    assert {row.prior for row in found.rows} == {LEARNT.id}


def test_a_file_is_read(tmp_path):
    file = tmp_path / "ideas.csv"
    file.write_text("name,metric,mean,reach,weeks\n7,bought,0.1,10000,\nprice,bought,0.1,500,2\n")
    assert [(one.name, one.weeks) for one in read_proposals(file)] == [("7", None), ("price", 2)]
    file.write_text("name,metric,mean,reach\nform,bought,high,10000\n")
    with pytest.raises(SpecError, match="mean is 'high'; it is a number above 0"):
        read_proposals(file)
    file.write_text("")
    with pytest.raises(SpecError, match=r"ideas.csv cannot be read as CSV"):
        read_proposals(file)
    with pytest.raises(PathNotFoundError, match="Did you mean 'ideas.csv'"):
        read_proposals(tmp_path / "idea.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,metric,mean,reach\na,bought,0.1,10\nb,bought,0.1,\n", "proposal 'b' has no reach: its cell is empty"),
        ("name,metric,mean,reach\n,bought,0.1,10\n", "proposal number 1 has no name: its cell is empty"),
        (
            "name,metric,mean,reach,prior\na,bought,0.1,10,0.05\n",
            "has a column 'prior', and a file cannot hold a prior",
        ),
        ("name,metric,mean,reach\na,bought,0.1,10\na,bought,0.1,20\n", "two proposals are called 'a'"),
        ("name;metric;mean;reach\na;bought;0,1;10\n", "ideas.csv is separated by semicolons"),
        ("name,metric,mean,reach,rope\na,bought,0.1,10,0.5%\n", "rope is '0.5%'; it is a number"),
        ("name,metric,mean,reach,rope\na,bought,0.1,10,5\n", "rope is 5; it lies between 0 and 1"),
        ("name,metric,mean,reach,cost\na,bought,0.1,10,much\n", "cost is 'much'; it is a number"),
    ],
)
def test_a_file_that_cannot_be_ranked_is_one_sentence(tmp_path, text, message):
    file = tmp_path / "ideas.csv"
    file.write_text(text)
    with pytest.raises(SpecError, match=message):
        read_proposals(file)


def test_what_does_not_pay_is_said():
    found = prioritise([proposal(reach=500, cost=1e6), proposal("large", reach=100_000)])
    assert found.sentences[-1].endswith("It is not worth its cost.")
    assert str(found).startswith("1. large: worth ")
    assert found._repr_html_().count("<tr>") == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": 0}, "mean is 0"),
        ({"mean": 4.0}, "Add sd"),
        ({"reach": math.inf}, "reach is inf"),
        ({"cost": -1}, "cannot be negative"),
        ({"treatment_share": 1.0}, "lies between 0 and 1"),
        ({"direction": "up"}, "direction is 'up'"),
        ({"prior": 0.05}, r"prior is 0.05; it is an xb.Prior"),
    ],
)
def test_an_impossible_proposal_is_refused(change, message):
    with pytest.raises(SpecError, match=message):
        proposal(**change)


def test_what_cannot_be_compared_or_read_is_refused():
    with pytest.raises(SpecError, match="Give each a value_per_unit"):
        prioritise([proposal(), proposal("other", metric="sessions")])
    with pytest.raises(SpecError, match="two proposals are called 'form'"):
        prioritise([proposal(), proposal()])
    with pytest.raises(SpecError, match="there are no proposals"):
        prioritise([])
    with pytest.raises(SpecError, match="the prior on proposal 'form' is flat"):
        prioritise([proposal()], prior=FLAT)
    with pytest.raises(SpecError, match="Did you mean 'reach'"):
        prioritise(pd.DataFrame({"name": ["a"], "reachs": [1]}))
    with pytest.raises(SpecError, match="no column 'metric'"):
        prioritise(pd.DataFrame({"name": ["a"], "reach": [1]}))
    with pytest.raises(SpecError, match="months is 0"):
        prioritise([proposal()], months=0)
