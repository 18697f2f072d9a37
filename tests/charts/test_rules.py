"""The rules of a decision, drawn."""

import math
from dataclasses import replace

import pytest
import vl_convert

import expnb as xb
from expnb.charts.figure import OLDEST_VEGA_LITE
from expnb.charts.theme import BETTER, FAINT, WORSE


@pytest.fixture
def decision(demo):
    exp = demo.experiment("gate_position")
    return demo.decide(exp, xb.fit(exp, demo.load(exp)))


def drawn(figure, mark):
    """Rows of all marks of a kind, with their colour."""
    layers = figure.spec()["vconcat"][0]["layer"]
    return [
        (row | {"colour": layer["mark"].get("color")})
        for layer in layers
        if layer["mark"]["type"] == mark
        for row in layer["data"]["values"]
    ]


def test_every_rule_about_a_probability_has_a_dot_a_line_and_words(decision):
    figure = xb.charts.rules(decision)
    asked = [rule for rule in decision.rules if rule.name in {"harm", "guardrail", "ship_above_rope", "conclude_flat"}]
    assert len(drawn(figure, "circle")) == len(drawn(figure, "tick")) == len(drawn(figure, "text")) == len(asked) == 5
    assert {row["words"] for row in drawn(figure, "text")} >= {
        "✗ 99.70 % (closes the gate at 99.67 %)",
        "✓ 86.04 % (50.00 % needed)",
    }


def test_dots_and_lines_stand_at_their_odds(decision):
    figure = xb.charts.rules(decision)
    dots, lines = ({row["rule"]: row["x"] for row in drawn(figure, mark)} for mark in ("circle", "tick"))
    rule = next(rule for rule in decision.rules if rule.name == "guardrail")
    name = "retention_1: within the margin"
    assert dots[name] == pytest.approx(math.log(rule.value / (1 - rule.value)), abs=1e-5)
    assert lines[name] == 0  # 50 %


def test_only_what_stops_a_ramp_stands_out(decision):
    colours = {row["rule"]: row["colour"] for row in drawn(xb.charts.rules(decision), "circle")}
    assert colours["retention_7: harm beyond the margin"] == WORSE
    assert colours["retention_1: harm beyond the margin"] == BETTER
    assert colours["retention_7: better than the rope"] == FAINT


def test_what_is_not_known_has_words_and_no_dot(decision):
    rules = tuple(
        replace(rule, value=None, outcome="unknown") if rule.name == "guardrail" else rule for rule in decision.rules
    )
    figure = xb.charts.rules(replace(decision, rules=rules))
    assert len(drawn(figure, "circle")) == 4
    assert "? not known" in {row["words"] for row in drawn(figure, "text")}


@pytest.mark.parametrize("version", [OLDEST_VEGA_LITE, "6.1"])
def test_the_chart_compiles_and_its_table_has_every_rule(decision, version):
    figure = xb.charts.rules(decision)
    assert "<svg" in vl_convert.vegalite_to_svg(figure.spec(), vl_version=version)
    assert list(figure.table["outcome"]) == [rule.outcome for rule in decision.rules]
    assert figure.sentence.startswith("gate_position: Roll back")
