"""Many experiments in one table: the figures of `fit`, and one sentence for every mistake."""

import numpy as np
import pandas as pd
import pytest

import expnb as xb
from expnb import errors
from expnb.posterior.comparison import Comparison
from expnb.posterior.effects import exact_effects
from expnb.spec.prior import FLAT, Prior
from expnb.stats.moments import Moments

PRIORS = [FLAT, Prior(), Prior(family="learnt", scales=(0.01, 0.05), weights=(0.5, 0.5), null_share=0.4)]
FIGURES = ("effect_rel_post", "hdi_abs_low", "hdi_rel_high", "p_improvement", "p_above_rope", "p_harm", "p_rope", "expected_loss_abs", "expected_loss_rel", "p_value", "ci_low")  # fmt: skip


def table(experiments=4):
    """Two metrics of three arms in some experiments."""
    rng = np.random.default_rng(3)
    rows = []
    for experiment in range(experiments):
        units = int(rng.integers(300, 30_000))
        for metric, kind, direction in (("buys", "conversion", "increase"), ("wait", "mean", "decrease")):
            for variant in ("control", "a", "b"):
                mean = rng.binomial(units, 0.2) / units if kind == "conversion" else rng.normal(5, 3 / np.sqrt(units))
                rows.append((experiment, metric, kind, direction, variant, units, mean, 9.0, 0.01, 0.02))
    names = ("experiment", "metric", "kind", "direction", "variant", "n", "mean", "variance", "rope", "margin")
    return pd.DataFrame(rows, columns=names)


def one_row(frame, metric, **figures):
    """The same with other figures of variant a of experiment 1."""
    frame = frame.copy()
    for name, value in figures.items():
        frame.loc[(frame.experiment == 1) & (frame.metric == metric) & (frame.variant == "a"), name] = value
    return frame


def shares(*arms):
    """One conversion, each arm as units and share."""
    rows = [
        ("gift", "bought", "conversion", name, *arm) for name, arm in zip(("control", "a", "b"), arms, strict=False)
    ]
    return pd.DataFrame(rows, columns=["experiment", "metric", "kind", "variant", "n", "mean"])


def by_one(frame, prior):
    """The effects of the same rows, one experiment and metric at a time."""
    effects = []
    for _, rows in frame.groupby(["experiment", "metric"], sort=False):
        first = rows.iloc[0]
        metric = xb.Metric(name=first.metric, kind=first.kind, direction=first.direction, rope=first.rope, margin=first.margin)  # fmt: skip
        arms = {}
        for row in rows.itertuples():
            m2 = row.n * row.mean * (1 - row.mean) if first.kind == "conversion" else (row.n - 1) * row.variance
            arms[row.variant] = Moments(row.n, row.mean, m2, 0.0, 1.0)
        pairs = [Comparison(metric, name, "all", arms["control"], arms[name]) for name in ("a", "b")]
        effects += exact_effects(pairs, [prior] * 2)
    return effects


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.family)
def test_a_table_of_many_has_the_figures_of_one_at_a_time(prior):
    frame = table()
    found, wanted = xb.compare(frame, prior=prior), by_one(frame, prior)
    assert found.variant.tolist() == [effect.variant for effect in wanted]
    for name in FIGURES:
        assert found[name].to_numpy() == pytest.approx([getattr(effect, name) for effect in wanted], rel=1e-7, abs=1e-9), name  # fmt: skip
    if prior == FLAT:
        assert found.p_best.to_numpy() == pytest.approx([effect.p_best for effect in wanted], abs=1e-7)
    else:
        assert found.p_best.isna().all()  # of three arms under a prior


def test_two_arms_have_a_best_one_under_any_prior():
    frame = table().query("variant != 'b'")
    found = xb.compare(frame)
    assert found.p_best.tolist() == found.p_improvement.tolist()


def test_the_order_of_the_rows_does_not_matter():
    frame = table()
    keys = ["experiment", "metric", "variant"]
    there = xb.compare(frame, prior=FLAT).set_index(keys).sort_index()
    back = xb.compare(frame.sample(frac=1, random_state=1), prior=FLAT).set_index(keys).sort_index()
    pd.testing.assert_frame_equal(there, back)


def test_an_arm_of_one_unit_has_no_posterior():
    frame = table(1)
    frame.loc[frame.variant == "a", "n"] = 1
    frame.loc[(frame.variant == "a") & (frame.metric == "buys"), "mean"] = 1.0
    found = xb.compare(frame, prior=FLAT).set_index(["metric", "variant"])
    assert np.isnan(found.loc[("wait", "a"), "p_improvement"])
    assert found.loc[("wait", "a"), "mean_treatment"] > 0
    assert found.loc[("wait", "a"), "note"] == "no posterior: fewer than four units in an arm"
    assert found.loc[("buys", "a"), "note"] == "no posterior: fewer than two units in an arm"
    assert (found.query("variant == 'b'").note == "").all()


def test_what_is_constant_and_what_has_no_ratio_say_so():
    frame = table(1).query("variant != 'b'")
    still = frame.metric == "wait"
    frame.loc[still, "variance"] = 0.0
    frame.loc[~still & (frame.variant == "control"), "mean"] = 0.0
    notes = xb.compare(frame).note.tolist()
    assert notes[0] == "no relative effect: nothing converted in control"
    assert notes[1].startswith("no posterior: all values are equal")


def test_a_prior_goes_by_the_name_of_its_family():
    frame = table(1)
    pd.testing.assert_frame_equal(xb.compare(frame, prior="flat"), xb.compare(frame, prior=FLAT))
    with pytest.raises(errors.SpecError, match="prior family is 'flatt'.*'flat'"):
        xb.compare(frame, prior="flatt")
    with pytest.raises(errors.SpecError, match="prior is 0.1; it is an xb.Prior"):
        xb.compare(frame, prior=0.1)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda f: f.drop(columns="n"), errors.SourceError, "no column 'n'"),
        (lambda f: f.drop(columns="variance"), errors.SourceError, "no column 'variance'"),
        (lambda f: f.assign(kind="median"), errors.SpecError, "median"),
        (lambda f: f.assign(direction="up"), errors.SpecError, "direction"),
        (lambda f: f[f.variant != "control"], errors.SourceError, "has no variant 'control'"),
        (lambda f: pd.concat([f, f.tail(1)]), errors.SourceError, "has variant 'b' twice"),
        (
            lambda f: f.assign(n=-1),
            errors.PosteriorError,
            "experiment 0, metric 'buys', variant 'control' has n -1; .*whole number",
        ),
        (lambda f: f.assign(n=10.5), errors.PosteriorError, "has n 10.5; .*whole number"),
        (lambda f: f.assign(n=1e19), errors.PosteriorError, r"has n 1e\+19; .*at most"),
        (
            lambda f: one_row(f, "buys", mean=10.0),
            errors.PosteriorError,
            "experiment 1, metric 'buys', variant 'a' has mean 10; of a conversion that is the share of units, 0 to 1. Write 0.1 for 10 %",
        ),
        (
            lambda f: one_row(f, "buys", mean=250.0),
            errors.PosteriorError,
            "has mean 250; of a conversion that is the share of units, 0 to 1. Divide conversions by units",
        ),
        (lambda f: one_row(f, "wait", mean=np.nan), errors.PosteriorError, "variant 'a' has mean nan; .* Leave out"),
        (
            lambda f: one_row(f, "wait", variance=np.nan),
            errors.PosteriorError,
            "experiment 1, metric 'wait', variant 'a' has no variance; .* Add the variance",
        ),
        (lambda f: one_row(f, "wait", variance=-2.0), errors.PosteriorError, "variant 'a' has variance -2; .* Check"),
        (
            lambda f: one_row(f, "wait", variance=1e200),
            errors.PosteriorError,
            r"variant 'a' has mean [\d.]+ and variance 1e\+200; .* another unit",
        ),
        (
            lambda f: one_row(f, "wait", mean=-1e60),
            errors.PosteriorError,
            r"variant 'a' has mean -1e\+60 and variance 9; .* another unit",
        ),
        (
            lambda f: f.astype({"mean": object}).pipe(one_row, "wait", mean="5,2"),
            errors.SourceError,
            "column 'mean' holds '5,2'; it needs numbers",
        ),
        (
            lambda f: one_row(f, "wait", margin=-0.02),
            errors.SpecError,
            "experiment 1, metric 'wait', variant 'a' has margin -0.02; it is a distance and cannot be negative. Write 0.005 for 0.5 %",
        ),
        (
            lambda f: f.assign(rope=2),
            errors.SpecError,
            "experiment 0, metric 'buys', variant 'control' has rope 2, which means 200 %; a relative rope lies below 1. Write 0.02 for 2 %",
        ),
        (lambda f: f.assign(margin=np.inf), errors.SpecError, "has margin inf, .* Write 0.005 for 0.5 %"),
        (
            lambda f: one_row(f, "buys", rope=0.05),
            errors.SpecError,
            "experiment 1, metric 'buys' has rope 0.01 for variant 'control' and rope 0.05 for variant 'a'; all variants share it. Give every row of this metric the same rope",
        ),
        (
            lambda f: one_row(f, "wait", margin=np.nan),
            errors.SpecError,
            "metric 'wait' has margin 0.02 for variant 'control' and no margin for variant 'a'",
        ),
        (
            lambda f: one_row(f, "buys", kind="mean"),
            errors.SpecError,
            "metric 'buys' has kind 'conversion' for variant 'control' and kind 'mean' for variant 'a'",
        ),
        (
            lambda f: one_row(f, "wait", direction="increase"),
            errors.SpecError,
            "metric 'wait' has direction 'decrease' for variant 'control' and direction 'increase' for variant 'a'",
        ),
        (lambda f: f.assign(kind="conv"), errors.SpecError, "metric kind is 'conv'; .*Did you mean 'conversion'"),
        (lambda f: f.to_dict("list"), errors.SourceError, "compare got a dict; it takes a pandas DataFrame"),
        (lambda f: f.to_dict("records"), errors.SourceError, "compare got a list; it takes a pandas DataFrame"),
        (lambda f: f.assign(experiment=None), errors.SourceError, "a row has no experiment"),
    ],
)
def test_what_cannot_be_compared_says_why(change, error, says):
    with pytest.raises(error, match=says):
        xb.compare(change(table()))


def test_metrics_without_rope_and_margin_agree_that_there_is_none():
    some = table(2)
    frame = some.assign(rope=some.rope.mask(some.metric == "wait"), margin=np.nan)
    assert xb.compare(frame).set_index("metric").p_above_rope.isna().to_dict() == {"buys": False, "wait": True}


def test_a_rounded_share_is_taken_as_whole_conversions_and_says_so():
    found = xb.compare(shares((20_001, 0.1234), (19_990, 0.131), (20_000, 0.13)))
    exact = xb.compare(shares((20_001, 2468 / 20_001), (19_990, 2619 / 19_990), (20_000, 0.13)))
    assert found.note.tolist() == [
        "conversions rounded to whole ones: control 2468.12 to 2468, treatment 2618.69 to 2619",
        "conversions rounded to whole ones: control 2468.12 to 2468",
    ]
    assert (exact.note == "").all()
    pd.testing.assert_frame_equal(found.drop(columns="note"), exact.drop(columns="note"))


@pytest.mark.parametrize("mean", [0.123, np.float64(np.float32(0.123)), 12.3 / 100])
def test_shares_of_whole_conversions_need_no_note(mean):
    assert xb.compare(shares((1_000_000, 0.123), (1_000_000, mean))).note.tolist() == [""]


@pytest.mark.parametrize(
    ("units", "share", "conversions"), [(10, 0.25, "2.5"), (7, 0.5, "3.5"), (1000, 0.123456789, "123.457")]
)
def test_a_share_that_no_count_of_units_gives_is_refused(units, share, conversions):
    says = f"experiment 'gift', metric 'bought', variant 'a' has mean {share} of n {units}, which is {conversions} conversions; .* kind 'mean'"
    with pytest.raises(errors.PosteriorError, match=says):
        xb.compare(shares((1000, 0.2), (units, share)))


def test_a_note_on_rounding_stands_beside_the_reason_of_missing_figures():
    found = xb.compare(shares((1000, 0.0), (1003, 0.12)))
    assert found.note.tolist() == [
        "no relative effect: nothing converted in control; conversions rounded to whole ones: treatment 120.36 to 120"
    ]


def test_an_arm_of_one_unit_needs_no_variance():
    frame = one_row(table(2), "wait", n=1, variance=np.nan)
    found = xb.compare(frame).query("experiment == 1 and metric == 'wait' and variant == 'a'")
    assert found.note.tolist() == ["no posterior: fewer than four units in an arm"]


@pytest.mark.parametrize("n", [50, 5000])
def test_an_error_below_rounding_gives_no_posterior_and_leaves_the_other_rows(n):
    frame = table(2)
    wait = frame.metric == "wait"
    frame.loc[wait, "n"] = n
    wanted = xb.compare(frame)
    tiny = wait & (frame.experiment == 1)
    found = xb.compare(frame.assign(variance=frame.variance.mask(tiny, 1e-320)))
    (row, _) = np.flatnonzero((found.metric == "wait") & (found.experiment == 1))
    note = found.note[row]
    assert note.startswith("no posterior: a mean of ")
    assert "is beyond what can be worked out" in note
    assert np.isnan(found.p_improvement[row])
    others = ~((found.metric == "wait") & (found.experiment == 1))
    pd.testing.assert_frame_equal(found[others], wanted[others])
