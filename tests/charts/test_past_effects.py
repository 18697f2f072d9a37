"""The chart of past effects: what it draws, and that its table says the same."""

import numpy as np
import pytest
import vl_convert
from tests.posterior.past import frame, sample

import expnb as xb
from expnb import errors
from expnb.charts.figure import OLDEST_VEGA_LITE
from expnb.charts.past_effects import MOST
from expnb.posterior.priors.mixture import shrink

QUANTITIES = ["raw", "raw_low", "raw_high", "shrunk", "low", "high", "p_above_zero", "p_no_effect"]


def history(count, **facts):
    _, log_ratio, se = sample("80 % null", count, np.random.default_rng(3))
    return frame(log_ratio, se, **facts)


def dumbbells(figure):
    """What is drawn of each effect, in the order of the chart."""
    layers = figure.spec()["vconcat"][1]["layer"]
    return next(layer["data"]["values"] for layer in layers if "name" in layer["data"]["values"][0])


@pytest.fixture(scope="module")
def drawn():
    past = history(25)
    prior = xb.learn_prior(past)
    return past, prior, xb.charts.past_effects(past, prior)


def test_raw_and_shrunk_effects_are_drawn_largest_first(drawn):
    past, prior, figure = drawn
    rows = dumbbells(figure)
    order = np.argsort(-past.log_ratio)
    made = shrink(prior, past.log_ratio.to_numpy(), past.se.to_numpy())
    assert [row["raw"] for row in rows] == pytest.approx(np.expm1(past.log_ratio[order]), rel=1e-5)
    # The mean of the relative effect, as everywhere else, here from its quantiles.
    mean = np.mean([np.expm1(made.quantile(share)) for share in (np.arange(300) + 0.5) / 300], axis=0)
    assert [row["shrunk"] for row in rows] == pytest.approx(mean[order], rel=1e-3, abs=1e-5)
    assert [row["name"] for row in rows] == [str(past.experiment[i]) for i in order]


def test_the_table_holds_every_number(drawn):
    past, _, figure = drawn
    wide = figure.table.pivot_table(index="experiment", columns="quantity", values="value")
    assert set(wide.columns) == set(QUANTITIES)
    assert len(wide) == len(past)
    for row in dumbbells(figure):
        for quantity in ("raw", "shrunk", "low", "high"):
            assert row[quantity] == pytest.approx(wide.loc[row["name"], quantity], rel=1e-5)


def test_the_sentence_names_the_prior_and_both_ends(drawn):
    _, prior, figure = drawn
    assert figure.sentence.startswith("25 past effects from 25 experiments. The largest measured +")
    assert figure.sentence.endswith(f"Prior: {prior.id}.")
    assert figure.spec()["description"] == figure.sentence


def test_of_many_effects_some_are_picked_evenly_and_the_table_has_all():
    past = history(400)
    figure = xb.charts.past_effects(past, xb.Prior())
    raw = [row["raw"] for row in dumbbells(figure)]
    assert len(raw) == MOST
    assert (raw[0], raw[-1]) == pytest.approx(
        (np.expm1(past.log_ratio.max()), np.expm1(past.log_ratio.min())), rel=1e-5
    )
    assert figure.table.experiment.nunique() == 400
    assert "400 past effects from 400 experiments, 30 of them drawn, picked evenly." in figure.sentence


def test_arms_are_named_where_there_are_several():
    past = history(6, experiment=[0, 0, 0, 1, 1, 1], variant=["a", "b", "c"] * 2)
    assert {row["name"] for row in dumbbells(xb.charts.past_effects(past, xb.Prior()))} == {
        f"{experiment} · {variant}" for experiment in "01" for variant in "abc"
    }


def test_shrunk_is_the_mean_of_the_relative_effect():
    past = frame(np.array([0.3]), np.array([0.2]))
    figure = xb.charts.past_effects(past, xb.Prior("normal", 0.2))
    # Normal(0.15, 0.2**2 / 2): the mean of its exponential lies half a variance higher.
    assert dumbbells(figure)[0]["shrunk"] == pytest.approx(np.expm1(0.15 + 0.01), rel=1e-5)
    assert "is expected to be +17.4 %" in figure.sentence


def test_every_row_can_be_told_from_the_others():
    names = [f"a long experiment about the checkout button number {i}" for i in range(40)]
    rows = dumbbells(xb.charts.past_effects(history(40, experiment=names), xb.Prior()))
    assert len({row["name"] for row in rows}) == MOST
    assert all(row["name"].endswith(tuple("0123456789")) for row in rows)
    several = history(4, experiment=["a", "a", "b", "b"], metric=["visits", "orders"] * 2, variant="new")
    told = {row["name"] for row in dumbbells(xb.charts.past_effects(several, xb.Prior()))}
    assert told == {"a · visits", "a · orders", "b · visits", "b · orders"}


def test_the_ring_of_a_raw_effect_shows_around_the_dot_over_it(drawn):
    for view in drawn[2].spec()["vconcat"][:2]:
        points = [layer["mark"] for layer in view["layer"] if layer["mark"]["type"] == "point"]
        ring, dot = (next(mark for mark in points if mark["filled"] is filled) for filled in (False, True))
        inner = (ring["size"] / np.pi) ** 0.5 - ring["strokeWidth"] / 2
        assert inner > (dot["size"] / np.pi) ** 0.5 + 0.5


def test_experiments_that_were_not_randomised_are_not_drawn():
    past = history(5, randomised=[True, True, False, True, True])
    assert len(dumbbells(xb.charts.past_effects(past, xb.Prior()))) == 4


def test_nasty_names_stay_text():
    past = history(3, experiment=["<script>x</script> ' + datum.raw", "\n\n", "指标" * 80])
    figure = xb.charts.past_effects(past, xb.Prior())
    assert "<script>" not in figure.svg()
    assert max(len(row["name"]) for row in dumbbells(figure)) <= 26


@pytest.mark.parametrize("prior", [xb.Prior(), xb.Prior("flat")], ids=lambda prior: prior.id)
def test_one_effect_of_nothing_can_be_drawn(prior):
    figure = xb.charts.past_effects(frame(np.zeros(1), np.full(1, 0.01)), prior)
    assert vl_convert.vegalite_to_vega(figure.spec(), vl_version=OLDEST_VEGA_LITE)["marks"]
    assert figure.sentence.startswith("1 past effect from 1 experiment.")


def test_nothing_to_draw_gets_a_sentence():
    with pytest.raises(errors.PosteriorError, match="there is no past effect to draw"):
        xb.charts.past_effects(history(3, randomised=False), xb.Prior())
