"""The chart of effects: what it promises to draw, and where it promises to work."""

import json
import math

import altair as alt
import numpy as np
import pytest
import vl_convert

import expnb as xb
from expnb.charts import Figure
from expnb.charts.figure import SCHEMA, VEGA_LITE
from expnb.charts.rows import outline
from expnb.charts.theme import BETTER, TEXT, WORSE
from expnb.errors import NameNotFoundError
from expnb.posterior.effect import Density

NASTY = "<script>alert('1')</script> \"quoted\"\n& ünïcödé 指标 ' + datum.x"


def layers(figure: Figure, variant: str) -> list[dict]:
    """The layers of one treatment's row."""
    return next(view["layer"] for view in figure.spec()["vconcat"] if view.get("title", {}).get("text") == variant)


def texts(figure: Figure) -> list[str]:
    """Every label of the chart."""
    found = []

    def walk(node):
        if isinstance(node, dict):
            value = node.get("text")
            found.extend(
                [value]
                if isinstance(value, str)
                else [value["value"]]
                if isinstance(value, dict) and "value" in value
                else []
            )
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(figure.spec())
    return found


def area(figure: Figure, variant: str, side: str) -> dict:
    return next(
        layer
        for layer in layers(figure, variant)
        if layer["mark"]["type"] == "area" and layer["mark"]["description"].startswith(side)
    )


def points(layer: dict) -> list[tuple[float, float]]:
    return [(point["x"], point["y"]) for point in layer["data"]["values"]]


def integral(xy: list[tuple[float, float]]) -> float:
    x, y = np.array(xy).T
    return float(np.trapezoid(y, x))


# --- what is drawn -----------------------------------------------------------------------------


def test_shaded_area_is_the_probability_of_improvement(effect_of, posterior_of):
    one = effect_of(posterior=(-0.012, 0.02))
    figure = xb.charts.effect(posterior_of(one))
    better, worse = (
        integral(points(area(figure, "gate_40", "better"))),
        integral(points(area(figure, "gate_40", "worse"))),
    )
    assert better / (better + worse) == pytest.approx(one.p_improvement, abs=1e-3)
    assert f"P(better) {100 * one.p_improvement:.1f} %" in texts(figure)


@pytest.mark.parametrize(("direction", "sign"), [("increase", 1), ("decrease", -1)])
def test_better_side_follows_the_direction(effect_of, posterior_of, direction, sign):
    figure = xb.charts.effect(posterior_of(effect_of(direction=direction, posterior=(-0.012, 0.02))))
    better = area(figure, "gate_40", "better")
    assert better["mark"]["color"] == BETTER
    assert all(sign * x >= 0 for x, _ in points(better))
    assert area(figure, "gate_40", "worse")["mark"]["color"] == WORSE
    title = figure.spec()["vconcat"][-2]["encoding"]["x"]["axis"]["title"]
    assert title.endswith("better →") == (sign > 0)


@pytest.mark.parametrize(("direction", "harm"), [("increase", -0.02), ("decrease", 0.02)])
def test_margin_lies_on_the_harmful_side(effect_of, posterior_of, direction, harm):
    figure = xb.charts.effect(posterior_of(effect_of(direction=direction, margin=0.02)))
    dashed = [layer for layer in layers(figure, "gate_40") if layer["mark"].get("strokeDash")]
    assert [layer["data"]["values"][0]["x"] for layer in dashed] == [harm]
    assert any(text.startswith("margin ") for text in texts(figure))


def test_interval_rope_zero_and_raw_effect_are_marked_where_they_are(cookie_cats):
    figure, one = xb.charts.effect(cookie_cats), cookie_cats.effects[0]
    marks = [(layer["mark"]["type"], layer["data"]["values"][0]) for layer in layers(figure, "gate_40")]
    ends = pytest.approx((one.hdi_rel_low, one.hdi_rel_high), rel=1e-5)
    assert any(kind == "rule" and "low" in value and (value["low"], value["high"]) == ends for kind, value in marks)
    assert any(
        kind == "point" and value["mean"] == pytest.approx(one.effect_rel_post, rel=1e-5) for kind, value in marks
    )
    assert any(kind == "rect" and (value["low"], value["high"]) == (-0.005, 0.005) for kind, value in marks)
    assert any(kind == "rule" and value.get("x") == 0 for kind, value in marks)
    assert any(kind == "tick" and value["x"] == pytest.approx(one.effect_rel, rel=1e-5) for kind, value in marks)
    assert {"ROPE ±0.5 %", "margin −0.5 %", "raw effect −4.3 %"} <= set(texts(figure))


def test_title_says_metric_and_the_sizes_of_both_arms(cookie_cats):
    spec = json.dumps(xb.charts.effect(cookie_cats).spec(), ensure_ascii=False)
    assert "Effect on retention_7" in spec
    assert "more is better · control gate_30: 19.02 % of 44,700 units" in spec
    assert "18.20 % of 45,489 units" in spec


def test_unit_of_a_mean_stands_in_title_and_axis(effect_of, posterior_of):
    one = effect_of(metric="spend", kind="mean", unit="USD", means=(0.65, 1.42), scale="absolute", relative=None)
    spec = json.dumps(xb.charts.effect(posterior_of(one)).spec(), ensure_ascii=False)
    assert "in USD, more is better" in spec
    assert "absolute effect (USD)" in spec


def test_a_point_at_no_effect_is_a_bar_as_high_as_its_probability(effect_of, posterior_of):
    figure = xb.charts.effect(posterior_of(effect_of(p_null=0.41, works=0.2, p_improvement=0.55)))
    tips = [
        layer for layer in layers(figure, "gate_40") if "exactly no effect" in str(layer["encoding"].get("tooltip"))
    ]
    assert [(bar["mark"]["type"], bar["data"]["values"]) for bar in tips] == [("rule", [{"x": 0, "y": 0, "top": 0.41}])]
    assert "strokeCap" not in tips[0]["mark"]  # it would stand over the value
    assert "P(better) 55.0 %  ·  P(no effect) 41.0 %" in texts(figure)
    assert "exactly without effect with 41.0 %" in figure.sentence
    assert "The bar at 0 is the probability of exactly no effect" in figure.sentence
    assert float(figure.table.set_index("quantity")["value"]["p_null"]) == 0.41
    plain = xb.charts.effect(posterior_of(effect_of()))
    assert "exactly no effect" not in str(plain.spec())


@pytest.mark.parametrize(("p_null", "parts"), [(0.41, 2), (None, 1)])
def test_the_line_of_the_margin_does_not_run_through_a_label(effect_of, posterior_of, p_null, parts):
    one = effect_of(posterior=(0.02, 0.03), margin=0.02, p_null=p_null, p_improvement=0.55)
    figure = xb.charts.effect(posterior_of(one))
    drawn = layers(figure, "gate_40")
    label = next(layer for layer in drawn if str(layer["encoding"].get("text")).count("P(better)"))
    height = label["data"]["values"][0]["y"]
    lines = [layer["data"]["values"][0] for layer in drawn if layer["mark"].get("strokeDash")]
    assert len(lines) == parts
    if p_null:
        assert not any(line["y"] < height + 0.1 and line["top"] > height - 0.1 for line in lines)
    # It still reaches from the interval to its own label.
    name = next(layer for layer in drawn if str(layer["encoding"].get("text")).count("margin"))
    assert max(line["top"] for line in lines) > name["data"]["values"][0]["y"]
    assert min(line["y"] for line in lines) < 0


def test_large_numbers_are_written_alike(effect_of, posterior_of):
    one = effect_of(metric="wait", kind="mean", unit="µs", means=(1_974_812.0, 1_960_123.0), direction="decrease")
    figure = xb.charts.effect(posterior_of(one))
    spec = json.dumps(figure.spec(), ensure_ascii=False)
    assert "1,975,000 µs per unit" in spec
    assert "1,960,000 µs per unit" in spec
    absolute = effect_of(metric="wait", kind="mean", unit="µs", means=(1_974_812.0, 1_960_123.0), scale="absolute", relative=None)  # fmt: skip
    figure = xb.charts.effect(posterior_of(absolute))
    assert "e+" not in figure.sentence
    assert "e+" not in figure.svg()


def test_an_effect_of_nothing_has_no_negative_sign(effect_of, posterior_of):
    one = effect_of(posterior=(-1e-7, 0.002), means=(0.1, 0.1), rope=None, margin=None)
    figure = xb.charts.effect(posterior_of(one))
    assert "−0.0 %" not in figure.sentence
    assert not any("−0.00 %" in text for text in texts(figure))
    assert "relative effect +0.00 %" in figure.sentence


def test_what_the_probability_means_stands_under_the_goal_alone(effect_of, posterior_of):
    goal = effect_of(p_improvement=0.98, log_bayes_factor=1.762)
    other = effect_of(metric="retention_1", role="guardrail")
    posterior = posterior_of(goal, other)
    assert "gate_40 on retention_7: If 1 in 5 ideas of this kind works, this 0.98 means about 0.78." in xb.charts.effect(posterior).sentence  # fmt: skip
    assert "ideas of this kind" not in xb.charts.effect(posterior, "retention_1").sentence


def test_each_treatment_has_a_row_on_one_shared_axis(emails):
    figure = xb.charts.effect(emails)
    domains = {
        json.dumps(layer["encoding"]["x"]["scale"]["domain"])
        for variant in ("Mens E-Mail", "Womens E-Mail")
        for layer in layers(figure, variant)
    }
    assert len(domains) == 1
    low, high = json.loads(domains.pop())
    assert low < -0.01
    assert high > 0.80


def test_goal_is_drawn_unless_another_metric_is_named(effect_of, posterior_of):
    guard = effect_of(metric="retention_1", role="guardrail")
    posterior = posterior_of(guard, effect_of())
    assert "retention_7" in xb.charts.effect(posterior).sentence
    assert "retention_1" in xb.charts.effect(posterior, "retention_1").sentence


def test_unknown_metric_is_an_error_that_names_the_nearest(cookie_cats):
    with pytest.raises(NameNotFoundError, match=r"Did you mean 'retention_7'\?"):
        xb.charts.effect(cookie_cats, "retention_77")


def test_margin_far_away_does_not_squeeze_the_density(effect_of, posterior_of):
    figure = xb.charts.effect(posterior_of(effect_of(margin=0.9)))
    low, high = layers(figure, "gate_40")[0]["encoding"]["x"]["scale"]["domain"]
    assert high - low < 0.2
    assert not any(layer["mark"].get("strokeDash") for layer in layers(figure, "gate_40"))


def test_sentence_says_effect_interval_probability_and_prior(cookie_cats):
    assert xb.charts.effect(cookie_cats).sentence.startswith(
        "retention_7 under gate_40 against gate_30: relative effect −3.7 % (95 % HDI −6.3 % to −1.0 %), better with probability 0.3 %; raw effect −4.3 %."
    )
    assert "Prior student_t(4, 0, 0.03), exact engine." in xb.charts.effect(cookie_cats).sentence


def test_certainty_is_never_claimed(emails):
    assert texts(xb.charts.effect(emails)).count("P(better) over 99.99 %") == 2


def test_absolute_scale_where_no_relative_effect_exists(effect_of, posterior_of):
    one = effect_of(
        scale="absolute",
        relative=None,
        effect_rel=None,
        effect_rel_post=None,
        hdi_rel_low=None,
        hdi_rel_high=None,
        rope=0.001,
        note="no relative effect: nothing converted in control",
    )
    figure = xb.charts.effect(posterior_of(one))
    assert set(figure.table["scale"]) == {"absolute"}
    assert "ROPE ±0.1 pp" in texts(figure)
    assert "No relative effect: nothing converted in control." in figure.sentence


# --- the table twin ----------------------------------------------------------------------------


def test_table_holds_the_drawn_points_and_the_figures(cookie_cats):
    figure, one = xb.charts.effect(cookie_cats), cookie_cats.effects[0]
    density = figure.table[figure.table["quantity"] == "density"]
    drawn = sorted(set(points(area(figure, "gate_40", "better"))) | set(points(area(figure, "gate_40", "worse"))))
    told = density[["effect", "value"]].to_numpy()
    assert np.array(drawn) == pytest.approx(told, rel=1e-5)
    told = figure.table[figure.table["quantity"] != "density"].set_index("quantity")["value"]
    assert told["p_improvement"] == one.p_improvement
    assert (told["hdi_low"], told["hdi_high"], told["raw"]) == (one.hdi_rel_low, one.hdi_rel_high, one.effect_rel)


def test_no_density_has_more_than_400_points():
    x = np.linspace(-1, 1, 5001)
    kept, _ = outline(Density(x, np.exp(-(x**2) / 0.5)))
    assert len(kept) <= 400
    assert 0 in kept


# --- robustness --------------------------------------------------------------------------------


def test_missing_posterior_is_said_instead_of_drawn(missing, posterior_of):
    figure = xb.charts.effect(posterior_of(missing))
    assert "no posterior can be shown" in figure.sentence
    assert any("fewer than two units in an arm" in text for text in texts(figure))
    assert "fewer than two units" in figure.svg()
    assert len(figure.table[figure.table["quantity"] == "density"]) == 0


def test_an_empty_arm_and_a_diverging_mean_are_no_numbers_on_the_axis(effect_of, missing, posterior_of):
    from dataclasses import replace

    empty = replace(missing, variant="gate_50", n_treatment=0, mean_treatment=math.nan, effect_abs=math.nan)
    figure = xb.charts.effect(posterior_of(effect_of(effect_rel_post=math.inf), empty))
    assert "NaN" not in json.dumps(figure.spec())
    assert "Infinity" not in json.dumps(figure.spec())
    assert "no units" in figure.svg()


def test_one_missing_treatment_leaves_the_other_drawn(effect_of, missing, posterior_of):
    from dataclasses import replace

    figure = xb.charts.effect(posterior_of(effect_of(), replace(missing, variant="gate_50")))
    assert area(figure, "gate_40", "worse")
    assert "gate_50" in figure.svg()


def test_names_from_files_are_text_wherever_they_stand(effect_of, posterior_of):
    figure = xb.charts.effect(
        posterior_of(
            effect_of(metric=NASTY, variant=NASTY, kind="mean", unit=NASTY, scale="absolute", note=NASTY), control=NASTY
        )
    )
    svg = figure.svg()
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    assert "指标" in svg
    assert not any("alert" in json.dumps(part) for part in expressions(figure.spec()))


def expressions(node: object) -> list[object]:
    """Everything that Vega would evaluate."""
    if isinstance(node, dict):
        return [
            value
            for key, child in node.items()
            for value in (
                [child] if key in {"labelExpr", "expr", "signal", "calculate", "test"} else expressions(child)
            )
        ]
    return [value for child in node for value in expressions(child)] if isinstance(node, list) else []


@pytest.mark.parametrize("version", ["5.8", "5.21", "6.1"])
def test_specification_compiles_under_old_and_new_vega_lite(cookie_cats, emails, missing, posterior_of, version):
    for posterior in (cookie_cats, emails, posterior_of(missing)):
        assert vl_convert.vegalite_to_vega(xb.charts.effect(posterior).spec(), vl_version=version)["marks"]


def test_same_posterior_gives_the_same_bytes_whatever_altair_is_set_to(cookie_cats):
    first = json.dumps(xb.charts.effect(cookie_cats).spec()), xb.charts.effect(cookie_cats).svg()
    with alt.theme.enable("dark"), alt.data_transformers.enable("default", max_rows=1):
        second = json.dumps(xb.charts.effect(cookie_cats).spec()), xb.charts.effect(cookie_cats).svg()
    assert first == second


def test_charting_leaves_altairs_settings_alone(cookie_cats):
    before = (alt.renderers.active, alt.data_transformers.active, alt.theme.active)
    xb.charts.effect(cookie_cats)._repr_mimebundle_()
    assert (alt.renderers.active, alt.data_transformers.active, alt.theme.active) == before


def test_bundle_is_native_in_lab_drawn_elsewhere_and_a_sentence_in_a_terminal(cookie_cats):
    figure = xb.charts.effect(cookie_cats)
    data, metadata = figure._repr_mimebundle_()
    assert set(data) == {VEGA_LITE, "image/svg+xml", "text/plain"}
    assert data[VEGA_LITE]["$schema"] == SCHEMA
    assert data["text/plain"] == figure.sentence
    assert metadata[VEGA_LITE]["embed_options"]["actions"]["editor"] is False


def test_nothing_is_loaded_from_anywhere(cookie_cats):
    text = json.dumps(xb.charts.effect(cookie_cats).spec()).replace(SCHEMA, "")
    assert "http" not in text
    assert '"url"' not in text


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colour", [TEXT, BETTER, WORSE])
@pytest.mark.parametrize("ground", ["#ffffff", "#111111"])
def test_labels_are_legible_on_white_and_on_near_black(colour, ground):
    light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 3.5


def test_background_is_transparent(cookie_cats):
    spec = xb.charts.effect(cookie_cats).spec()
    assert spec["background"] == "transparent"
