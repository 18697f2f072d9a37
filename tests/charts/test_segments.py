"""The chart of segments: raw and pooled side by side, and the same in its table and sentence."""

from dataclasses import replace

import numpy as np
import pytest
import vl_convert

import expnb as xb
from expnb import errors
from expnb.charts.figure import OLDEST_VEGA_LITE
from expnb.charts.theme import BETTER, WORSE
from expnb.posterior.effect import PooledEffect

SEGMENTS = {"platform=desktop": (0.036, 0.038, 0.9), "platform=mobile": (0.183, 0.05, 0.95), "platform=tv": (-0.12, -0.004, 0.48)}  # fmt: skip
TOGETHER = PooledEffect(
    metric="bought", role="goal", direction="increase", variant="new", column="platform", segments=tuple(SEGMENTS), effect_rel_post=0.03,
    hdi_rel_low=-0.01, hdi_rel_high=0.08, p_improvement=0.9, spread=0.02, spread_low=0.001, spread_high=0.05, p_any_harmed=0.2, p_all_improve=0.4,
    margin=0.02, prior="student_t(4, 0, 0.03)",
)  # fmt: skip


@pytest.fixture
def by_platform(effect_of, posterior_of):
    """One treatment in three segments."""

    def make(direction="increase", variants=("new",), **facts):
        effects = [
            effect_of(
                metric="bought",
                variant=variant,
                segment=segment,
                direction=direction,
                effect_rel=raw,
                effect_rel_post=mean,
                hdi_rel_low=mean - 0.05,
                hdi_rel_high=mean + 0.05,
                p_improvement=p,
                shrinkage=0.7,
            )
            for variant in variants
            for segment, (raw, mean, p) in SEGMENTS.items()
        ]
        pooled = [replace(TOGETHER, direction=direction, variant=variant, **facts) for variant in variants]
        return replace(posterior_of(*effects, control="old"), pooled=tuple(pooled))

    return make


def lines(figure, block=1):
    """What is drawn, from top to bottom."""
    layers = figure.spec()["vconcat"][block]["layer"]
    return next(layer["data"]["values"] for layer in layers if "name" in layer["data"]["values"][0])


def test_the_typical_segment_comes_first_then_the_largest_pooled_effect(by_platform):
    drawn = lines(xb.charts.segments(by_platform()))
    assert [line["name"] for line in drawn] == ["typical segment", "mobile", "desktop", "tv"]
    assert [line["raw"] for line in drawn] == [None, 0.183, 0.036, -0.12]
    assert [line["mean"] for line in drawn] == [0.03, 0.05, 0.038, -0.004]
    assert [line["colour"] for line in drawn] == [BETTER, BETTER, BETTER, WORSE]
    assert drawn[1]["told"] == "+5.0 %, P(better) 95.0 %"


def test_less_is_better_turns_colours_around(by_platform):
    drawn = lines(xb.charts.segments(by_platform("decrease")))
    assert [line["colour"] for line in drawn] == [WORSE, WORSE, WORSE, BETTER]


def test_the_table_holds_every_number(by_platform):
    figure = xb.charts.segments(by_platform())
    told = figure.table.pivot_table(index="segment", columns="quantity", values="value")
    for line in lines(figure)[1:]:
        row = told.loc[f"platform={line['name']}"]
        drawn = [line[name] for name in ("raw", "mean", "low", "high")]
        assert drawn == pytest.approx([row[name] for name in ("raw", "pooled", "hdi_low", "hdi_high")], rel=1e-5)
    assert told.loc["", "p_any_harmed"] == 0.2


def test_the_sentence_says_what_pooling_did_and_whether_any_is_harmed(by_platform):
    sentence = xb.charts.segments(by_platform()).sentence
    assert "+3.0 % in the typical segment (95 % HDI −1.0 % to +8.0 %)" in sentence
    assert "to +5.0 % in mobile (raw +18.3 %)" in sentence
    assert "At least one of these 3 segments is harmed beyond 2 % with probability 20.0 %" in sentence
    assert "harmed" not in xb.charts.segments(by_platform(margin=None, p_any_harmed=None)).sentence


def test_every_treatment_has_a_block_on_one_axis(by_platform):
    spec = xb.charts.segments(by_platform(variants=("new", "newer"))).spec()
    blocks = spec["vconcat"][1:3]
    assert [block["title"]["text"] for block in blocks] == ["new, by platform", "newer, by platform"]
    domains = [layer["encoding"]["x"]["scale"]["domain"] for block in blocks for layer in block["layer"] if "scale" in layer["encoding"]["x"]]  # fmt: skip
    assert len({tuple(domain) for domain in domains}) == 1
    axes = [[bool(layer["encoding"]["x"].get("axis")) for layer in block["layer"] if "scale" in layer["encoding"]["x"]] for block in blocks]  # fmt: skip
    assert [any(axes[0]), all(axes[1])] == [False, True]


def test_what_is_not_there_is_an_error_that_says_so(by_platform, posterior_of, effect_of):
    with pytest.raises(errors.PosteriorError, match="no segments were pooled"):
        xb.charts.segments(posterior_of(effect_of()))
    with pytest.raises(errors.NameNotFoundError, match="bought"):
        xb.charts.segments(by_platform(), "boght")
    with pytest.raises(errors.NameNotFoundError, match="platform"):
        xb.charts.segments(by_platform(), by="plattform")


def test_a_metric_without_pooled_segments_is_told_why_and_which_have_some(by_platform, effect_of):
    posterior = by_platform()
    here, there = ({"metric": "profit", "variant": "new", "segment": f"platform={name}"} for name in ("mobile", "tv"))
    absent = {"effect_rel": None, "effect_rel_post": None, "relative": None, "scale": "absolute"}
    absolute, flat = {"scale": "absolute"}, {"prior": "flat"}
    for extra, why in (
        ([effect_of(**here, **absent), effect_of(**there, **absent)], "it has no relative effect"),
        ([effect_of(**here), effect_of(**there, **absent)], "fewer than two segments have a relative effect"),
        ([effect_of(**here, **absolute), effect_of(**there, **absolute)], "it is judged on the absolute scale"),
        ([effect_of(**here, **flat), effect_of(**there, **flat)], "its prior is flat"),
        ([effect_of(**here)], "fewer than two segments have enough units"),
    ):
        with pytest.raises(errors.PosteriorError, match=f"'profit'.*{why}.*Those of bought were") as raised:
            xb.charts.segments(replace(posterior, effects=(*posterior.effects, *extra)), "profit")
        assert "no metric is called" not in str(raised.value)


def test_segments_that_differ_at_their_end_have_different_labels(by_platform):
    posterior = by_platform()
    names = {"mobile": "application on a telephone", "tv": "application on a tablet"}

    def renamed(segment):
        column, _, value = segment.partition("=")
        return f"{column}={names.get(value, value)}"

    effects = tuple(replace(one, segment=renamed(one.segment)) for one in posterior.effects)
    pooled = tuple(replace(one, segments=tuple(map(renamed, one.segments))) for one in posterior.pooled)
    drawn = lines(xb.charts.segments(replace(posterior, effects=effects, pooled=pooled)))
    assert [line["name"] for line in drawn] == ["typical segment", "applicati…elephone", "desktop", "applicati…a tablet"]  # fmt: skip


def test_the_ring_of_a_raw_effect_shows_around_the_dot_over_it(by_platform):
    for view in xb.charts.segments(by_platform()).spec()["vconcat"][:2]:
        points = [layer["mark"] for layer in view["layer"] if layer["mark"]["type"] == "point"]
        ring, dot = (next(mark for mark in points if mark["filled"] is filled) for filled in (False, True))
        assert (ring["size"] / np.pi) ** 0.5 - ring["strokeWidth"] / 2 > (dot["size"] / np.pi) ** 0.5 + 0.5


@pytest.mark.parametrize("version", [OLDEST_VEGA_LITE, "6.1"])
def test_it_compiles_under_old_and_new_vega_lite(by_platform, version):
    diverging = replace(by_platform(), pooled=(replace(TOGETHER, effect_rel_post=float("inf")),))
    for posterior in (by_platform(), diverging):
        svg = vl_convert.vegalite_to_svg(xb.charts.segments(posterior).spec(), vl_version=version)
        assert "typical segment" in svg
        assert "better" in svg
    assert np.isinf(diverging.pooled[0].effect_rel_post)
