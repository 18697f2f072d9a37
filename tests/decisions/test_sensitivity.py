"""One verdict under several priors: rows, sentence, actions and chart."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import vl_convert
from tests.decisions.conftest import NOW

import expnb as xb
from expnb import errors
from expnb.charts.figure import OLDEST_VEGA_LITE
from expnb.posterior.fit import fit_exact

LEARNT = xb.Prior(family="learnt", scales=(0.005, 0.03), weights=(0.6, 0.4), null_share=0.6, source="learnt from 57 past experiments")  # fmt: skip


def units(converted, n=20_000):
    """Arms of n units of which so many converted and as many came back."""
    arms = [
        pd.DataFrame({"version": arm, "retention_7": np.arange(n) < k, "retention_1": np.arange(n) % 2 == 0})
        for arm, k in zip(("gate_30", "gate_40"), converted, strict=True)
    ]
    frame = pd.concat(arms, ignore_index=True)
    return frame.assign(userid=np.arange(len(frame)))


@pytest.fixture(scope="module")
def gate():
    metrics = (
        xb.Metric(name="retention_7", kind="conversion", role="goal", rope=0.005, margin=0.02),
        xb.Metric(name="retention_1", kind="conversion", role="guardrail", margin=0.02),
    )
    return xb.Experiment(
        name="gate_position", hypothesis="A later gate keeps more players.", owner="games", flag="gate-position", unit="userid", variant="version",
        control="gate_30", weights={"gate_30": 50, "gate_40": 50}, metrics=metrics, policy=xb.Policy(min_days=0), segments=(),
    )  # fmt: skip


def fitted(gate, converted, **other):
    cohort = xb.load_cohort(gate, units(converted))
    return cohort, xb.sensitivity(gate, cohort, **other)


def test_every_prior_gives_the_figures_of_its_own_fit(gate):
    cohort, strip = fitted(gate, (2400, 2600), learnt=LEARNT)
    assert [row.under for row in strip.rows] == ["sceptical", "learnt", "flat"] * 2
    for prior, row in zip((xb.Prior(), LEARNT, xb.Prior("flat")), strip.rows, strict=False):
        effect = fit_exact(gate, cohort, prior=prior).effect("retention_7", "gate_40")
        assert (row.effect, row.hdi_low, row.hdi_high) == (
            effect.effect_rel_post,
            effect.hdi_rel_low,
            effect.hdi_rel_high,
        )
        assert (row.p_improvement, row.p_above_rope, row.p_harm) == (effect.p_improvement, effect.p_above_rope, effect.p_harm)  # fmt: skip
        assert row.raw == effect.effect_rel
        assert row.p_null == effect.p_null


def test_a_verdict_that_depends_on_the_prior_is_said_to(gate):
    _, strip = fitted(gate, (2400, 2600), learnt=LEARNT)
    verdicts = {row.under: row.verdict for row in strip.rows if row.metric == "retention_7"}
    assert verdicts == {"sceptical": "ship rule met", "learnt": "ship rule not met", "flat": "ship rule met"}
    assert strip.depends
    assert strip.sentence.startswith(
        "The verdict depends on the prior. For retention_7 under gate_40: ship rule met under sceptical and flat, ship rule not met under learnt."
    )


def test_a_verdict_that_does_not_depend_on_it_is_said_too(gate):
    _, strip = fitted(gate, (2400, 3400), learnt=LEARNT)
    assert not strip.depends
    assert "For retention_7 under gate_40: ship rule met under all of them." in strip.sentence
    assert "retention_1 under gate_40: within the margin under all of them" in strip.sentence


def test_harm_and_no_difference_are_verdicts(gate):
    _, harmed = fitted(gate, (2400, 1500))
    assert {row.verdict for row in harmed.rows if row.role == "goal"} == {"harmed"}
    alike = replace(gate, metrics=(replace(gate.metrics[0], rope=0.2, margin=0.2), gate.metrics[1]))
    _, same = fitted(alike, (2400, 2405))
    assert {row.verdict for row in same.rows if row.role == "goal"} == {"no difference that matters"}


def test_the_experiments_own_prior_is_compared_under_its_name(gate):
    _, learnt = fitted(replace(gate, prior=LEARNT), (2400, 2600))
    assert [row.under for row in learnt.rows[:3]] == ["sceptical", "learnt", "flat"]
    _, stated = fitted(replace(gate, prior=xb.Prior("normal", 0.01)), (2400, 2600))
    assert [row.under for row in stated.rows[:3]] == ["sceptical", "stated", "flat"]
    one = replace(gate, metrics=(replace(gate.metrics[0], prior=LEARNT), gate.metrics[1]))
    _, mixed = fitted(one, (2400, 2600))
    assert [row.under for row in mixed.rows] == ["sceptical", "learnt", "flat", "sceptical", "flat"]
    assert "both" in mixed.sentence


def test_with_a_flag_every_prior_has_its_action(gate, flag_at):
    _, strip = fitted(gate, (2400, 2600), learnt=LEARNT, flag=flag_at(100), now=NOW)
    assert strip.actions == {"sceptical": "ship", "learnt": "hold", "flat": "ship"}
    assert "The policy says: ship under sceptical and flat, hold under learnt." in strip.sentence
    assert list(strip.table()["action"][:3]) == ["ship", "hold", "ship"]


def test_half_a_question_is_refused(gate, flag_at):
    cohort = xb.load_cohort(gate, units((2400, 2600)))
    with pytest.raises(errors.SpecError, match="flag and now"):
        xb.sensitivity(gate, cohort, flag=flag_at(100))
    with pytest.raises(errors.SpecError, match="not learnt"):
        xb.sensitivity(gate, cohort, learnt=xb.Prior())


def test_text_table_and_chart_say_the_same(gate):
    _, strip = fitted(gate, (2400, 2600), learnt=LEARNT)
    table = strip.table()
    assert len(table) == len(strip.rows)
    for text in (repr(strip), strip._repr_html_()):
        assert strip.sentence in text
        assert "ship rule not met" in text
    figure = xb.charts.sensitivity(strip)
    assert figure.table.equals(table)
    assert figure.sentence.startswith(strip.sentence_on("retention_7"))
    layers = figure.spec()["vconcat"][1]["layer"]
    drawn = next(layer["data"]["values"] for layer in layers if "name" in layer["data"]["values"][0])
    assert [line["name"] for line in drawn] == ["sceptical", "learnt", "flat"]
    assert [line["mean"] for line in drawn] == pytest.approx(list(table["effect"][:3]), rel=1e-5)
    assert [line["told"].split(" · ")[1] for line in drawn] == ["may ship", "may not ship", "may ship"]
    with pytest.raises(errors.NameNotFoundError, match="retention_7"):
        xb.charts.sensitivity(strip, "retention_77")


def test_the_caption_speaks_of_the_drawn_metric_alone(gate, flag_at):
    _, strip = fitted(gate, (2400, 2600), learnt=LEARNT, flag=flag_at(100), now=NOW)
    goal, guard = (xb.charts.sensitivity(strip, name).sentence for name in ("retention_7", "retention_1"))
    assert goal.startswith("The verdict depends on the prior. For retention_7 under gate_40: ship rule met under")
    assert "retention_1" not in goal
    assert "The policy says: ship under sceptical and flat, hold under learnt." in goal
    assert guard.startswith("The verdict does not depend on the prior. For retention_1 under gate_40: within the margin under all")  # fmt: skip
    assert "retention_7" not in guard
    told = fitted(replace(gate, metrics=(gate.metrics[0], replace(gate.metrics[1], role="info"))), (2400, 2600))[1]
    assert xb.charts.sensitivity(told, "retention_1").sentence.startswith("No rule asks about retention_1.")
    with pytest.raises(errors.NameNotFoundError, match="retention_7"):
        strip.sentence_on("retention_77")


def test_without_a_relative_effect_there_is_one_posterior_and_the_caption_says_why(gate):
    _, strip = fitted(gate, (0, 40), learnt=LEARNT)
    figure = xb.charts.sensitivity(strip)
    layers = figure.spec()["vconcat"][1]["layer"]
    drawn = next(layer["data"]["values"] for layer in layers if "name" in layer["data"]["values"][0])
    assert [line["name"] for line in drawn] == ["every prior"]
    assert "Sceptical: flat" not in figure.sentence
    assert "retention_7 has no relative effect, on which priors lie: every prior is flat here and gives the same posterior." in figure.sentence  # fmt: skip
    assert len(figure.table[figure.table.metric == "retention_7"]) == 3


def test_the_axis_of_an_absolute_effect_has_its_unit(gate):
    profit = xb.Metric(name="profit", kind="mean", role="info", unit="EUR")
    frame = units((2400, 2600)).assign(profit=lambda made: np.random.default_rng(3).normal(0.0, 20.0, len(made)))
    experiment = replace(gate, metrics=(*gate.metrics, profit))
    strip = xb.sensitivity(experiment, xb.load_cohort(experiment, frame))
    spec = xb.charts.sensitivity(strip, "profit").spec()
    assert "← worse · absolute effect (EUR) · better →" in str(spec)


def test_what_stands_beside_a_line_is_not_cut(gate):
    _, strip = fitted(gate, (2400, 2600))
    sure = replace(strip, rows=tuple(replace(row, p_improvement=1.0, verdict="within the margin") for row in strip.rows))  # fmt: skip
    assert "P(better) over 99.99 % · within margin" in str(xb.charts.sensitivity(sure).spec())


def test_ticks_keep_a_distance_from_each_other(gate):
    _, strip = fitted(gate, (2400, 2600))
    layer = xb.charts.sensitivity(strip).spec()["vconcat"][1]["layer"][0]
    axis = layer["encoding"]["x"]["axis"]
    assert axis["labelOverlap"]
    assert axis["labelSeparation"] >= 8
    assert axis["tickCount"] <= 4


def test_an_effect_of_nothing_has_no_negative_sign(gate):
    text = repr(fitted(gate, (0, 0))[1])
    assert "-0.00 %" not in text
    assert "-0 " not in text


@pytest.mark.parametrize("version", [OLDEST_VEGA_LITE, "6.1"])
def test_the_chart_compiles_under_old_and_new_vega_lite(gate, version):
    absolute = replace(gate, metrics=(xb.Metric(name="retention_7", kind="conversion", role="goal", rope_abs=0.001, margin_abs=0.01), gate.metrics[1]))  # fmt: skip
    for experiment in (gate, absolute):
        _, strip = fitted(experiment, (2400, 2600), learnt=LEARNT)
        for metric in ("retention_7", "retention_1"):
            assert "sceptical" in vl_convert.vegalite_to_svg(xb.charts.sensitivity(strip, metric).spec(), vl_version=version)  # fmt: skip


def test_a_metric_without_a_relative_effect_is_compared_on_the_absolute_scale(gate):
    strip = fitted(gate, (0, 40), learnt=LEARNT)[1]
    row = strip.rows[0]
    assert (row.scale, row.raw) == ("absolute", pytest.approx(40 / 20_000))
    assert "pp" in str(xb.charts.sensitivity(strip).spec())
