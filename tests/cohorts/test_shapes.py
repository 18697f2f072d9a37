"""Shapes: whatever a row is, units come out, each once, with what they did in their time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from tests.cohorts.test_kinds import cells_of, experiment_of, metric_of

import expnb as xb
from expnb.cohorts.cohort import load_cohort
from expnb.errors import CohortError, ColumnNotFoundError, MetricValuesError, SpecError, UnitError
from expnb.spec.experiment import Events

START = pd.Timestamp("2026-03-01")


# --- many rows per unit -------------------------------------------------------------------------


def sessions(n=800, seed=1):
    """Users with some sessions each; those of a user are alike."""
    rng = np.random.default_rng(seed)
    count = rng.integers(1, 9, n)
    user = np.repeat(np.arange(n), count)
    own = np.repeat(rng.normal(10, 3, n), count)
    frame = pd.DataFrame({"user": user, "arm": np.where(user % 2, "b", "a"), "y": own + rng.normal(0, 1, user.size)})
    frame["yes"] = (frame.y > 11).astype(int)
    return frame.assign(views=rng.poisson(4, user.size) + 1.0).sample(frac=1, random_state=2)


def clustered(frame, top, bottom):
    """A ratio of sums over users, and its error by the sandwich of a regression with clusters."""
    total = frame.groupby("user")[[top, bottom]].sum()
    ratio = total[top].sum() / total[bottom].sum()
    left = total[top] - ratio * total[bottom]
    n = len(total)
    return ratio, np.sqrt((left**2).sum() / total[bottom].sum() ** 2 * n / (n - 1))


@pytest.mark.parametrize("kind", ["mean", "conversion", "ratio"])
def test_a_mean_of_rows_is_a_ratio_of_unit_totals_with_errors_of_units(kind):
    frame = sessions().assign(one=1.0)
    column = "yes" if kind == "conversion" else "y"
    metric = {
        "mean": metric_of("mean"),
        "conversion": xb.Metric(name="m", kind="conversion", column="yes"),
        "ratio": metric_of("ratio", numerator="y", denominator="views"),
    }[kind]
    found = cells_of(metric, frame, shape="rows").moments("m", "a")
    ratio, error = clustered(frame[frame.arm == "a"], column, "views" if kind == "ratio" else "one")
    assert found.n == 400
    assert found.mean == pytest.approx(ratio, rel=1e-12)
    assert found.se == pytest.approx(error, rel=1e-10)
    if kind == "mean":
        rows = frame.y[frame.arm == "a"]
        assert found.se > 1.5 * rows.std() / np.sqrt(rows.size)


@pytest.mark.parametrize("kind", ["count", "revenue"])
def test_sums_of_rows_are_those_of_units(kind):
    frame = sessions()
    total = frame[frame.arm == "b"].groupby("user").views.sum()
    found = cells_of(xb.Metric(name="m", kind=kind, column="views"), frame, shape="rows").moments("m", "b")
    assert (found.n, found.mean) == (400, pytest.approx(total.mean(), rel=1e-12))
    assert found.variance == pytest.approx(total.var(), rel=1e-10)


def test_rows_without_a_value_are_left_out_of_their_unit():
    frame = sessions()
    frame.loc[frame.index[::7], "y"] = np.nan
    frame.loc[frame.user == 4, "y"] = np.nan
    there = frame[frame.y.notna()].assign(one=1.0)
    found = cells_of(metric_of("mean"), frame, shape="rows").moments("m", "a")
    ratio, error = clustered(there[there.arm == "a"], "y", "one")
    assert found.n == there[there.arm == "a"].user.nunique() < 400
    assert (found.mean, found.se) == (pytest.approx(ratio, rel=1e-12), pytest.approx(error, rel=1e-10))


def named(cohort, name):
    return next((check for check in cohort.checks if check.name == name), None)


@pytest.mark.parametrize("kind", ["count", "revenue", "mean"])
def test_rows_without_a_value_are_counted_and_said(kind):
    import pyarrow as pa

    frame = sessions()
    values = [None if row % 9 == 0 else value for row, value in enumerate(frame.views)]
    blank = sum(value is None for value in values)
    table = pa.Table.from_pandas(frame.drop(columns="views"), preserve_index=False).append_column(
        "views", pa.array(values, pa.float64())
    )
    cohort = load_cohort(experiment_of(xb.Metric(name="m", kind=kind, column="views"), shape="rows"), table)
    check = named(cohort, "blank:m")
    assert (check.value, check.outcome) == (blank, "warn")
    assert f"{blank:,} rows have no value" in check.sentence
    if kind != "mean":  # the sum is that of the other rows
        own = frame.assign(views=values)[frame.arm == "a"].groupby("user").views.sum(min_count=1).dropna()
        assert cohort.cells.moments("m", "a").mean == pytest.approx(own.mean(), rel=1e-12)
    assert named(load_cohort(experiment_of(metric_of("mean"), shape="rows"), frame), "blank:m") is None


def test_units_whose_segment_varies_are_counted_and_said():
    frame = sessions().assign(device="web", city="x")
    several = frame.user.duplicated(keep=False)
    moved = set(frame.user[several].unique()[:200])
    frame.loc[~frame.user.duplicated() & frame.user.isin(moved), "device"] = "app"
    cohort = load_cohort(experiment_of(metric_of("mean"), shape="rows", segments=("device", "city")), frame)
    found = named(cohort, "varied:device")
    assert (found.outcome, found.value) == ("warn", 0.25)
    assert "more than one value in 200 of 800 units (25.0 %)" in found.sentence
    assert named(cohort, "varied:city") is None
    assert cohort.cells.n[cohort.cells.segments["device"] == "app"].sum() == 200


@pytest.mark.parametrize(("value", "words"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
@pytest.mark.parametrize("kind", ["count", "revenue"])
def test_a_row_that_is_no_number_makes_the_sum_of_its_unit_unknown(kind, value, words):
    import pyarrow as pa

    frame = sessions()
    spoilt = [4, 5, 6, 8, 400, 402]
    first = ~frame.user.duplicated() & frame.user.isin(spoilt)
    values = np.where(first, value, frame.views)
    table = pa.Table.from_pandas(frame.drop(columns="views"), preserve_index=False).append_column(
        "views", pa.array(values)
    )
    experiment = experiment_of(xb.Metric(name="m", kind=kind, column="views"), shape="rows", min_cell=1)
    cohort = load_cohort(experiment, table)
    assert f"6 {words} of 800 values were left out" in named(cohort, "values:m").sentence
    assert named(cohort, "blank:m") is None
    own = frame[(frame.arm == "a") & ~frame.user.isin(spoilt)].groupby("user").views.sum()
    found = cohort.cells.moments("m", "a")
    assert (found.n, found.mean) == (own.size, pytest.approx(own.mean(), rel=1e-12))


def test_a_unit_in_two_arms_is_refused_with_the_count():
    frame = sessions()
    moved = frame[frame.user.isin([0, 2, 4])].assign(arm="b")
    with pytest.raises(UnitError, match="3 units of column 'user' were seen in two arms"):
        cells_of(metric_of("mean"), pd.concat([frame, moved]), shape="rows")


def test_rows_without_a_unit_are_refused_with_the_count():
    frame = sessions().astype({"user": "Int64"})
    frame.iloc[[1, 5, 9], 0] = pd.NA
    with pytest.raises(UnitError, match="3 rows have no value in the unit column 'user'"):
        cells_of(metric_of("mean"), frame, shape="rows")


def test_repeated_units_are_refused_and_told_how_to_be_summed():
    with pytest.raises(UnitError, match=r'occur more than once .* Set shape = "rows" to sum the rows of a unit'):
        cells_of(metric_of("mean"), sessions())


def test_a_row_that_is_neither_0_nor_1_is_refused_with_the_count():
    frame = sessions()
    frame.iloc[[3, 4], 3] = 2
    with pytest.raises(MetricValuesError, match=r"2 values of column 'yes' are neither 0 nor 1"):
        cells_of(xb.Metric(name="m", kind="conversion", column="yes"), frame, shape="rows")


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (metric_of("quantile", q=0.9), "a quantile of rows"),
        (metric_of("mean", cap=0.99), "takes neither a cap nor a covariate"),
        (metric_of("mean", covariate="views"), "takes neither a cap nor a covariate"),
    ],
)
def test_what_rows_cannot_give_is_refused(metric, words):
    with pytest.raises(MetricValuesError, match=words):
        cells_of(metric, sessions(), shape="rows")


def test_units_of_many_experiments_in_one_table_are_not_mixed():
    first = sessions().assign(test="checkout")
    second = sessions(seed=5).assign(test="other", y=1e6).assign(arm=lambda f: np.where(f.user % 3, "a", "b"))
    both = cells_of(metric_of("mean"), pd.concat([second, first]), shape="rows", experiment_column="test")
    assert both.fingerprint == cells_of(metric_of("mean"), first, shape="rows").fingerprint


# --- windows ------------------------------------------------------------------------------------


def visits(kind, zone=None):
    """One user a day for thirty days, each retained."""
    seen = pd.Series(START + pd.to_timedelta(np.arange(60) // 2, unit="D"))
    if kind == "date":
        seen = seen.dt.date
    else:
        seen = seen + pd.Timedelta(hours=12)
        seen = seen if zone is None else seen.dt.tz_localize(zone)
    return pd.DataFrame({"user": range(60), "arm": ["a", "b"] * 30, "yes": [0, 1] * 30, "y": 1, "seen": seen})


WINDOW = xb.Metric(name="m", kind="retention", column="y", from_days=7, window_days=8)


@pytest.mark.parametrize(
    ("kind", "zone", "as_of", "closed"),
    [
        # Complete until the 30th at 12:00: an exposure until the 22nd at 12:00 has had its eight days.
        ("timestamp", None, None, 22),
        ("timestamp", "UTC", None, 22),
        # A date counts from the end of its day, and the last one is complete: until the 31st at 0:00.
        ("date", None, None, 22),
        ("timestamp", None, datetime(2026, 3, 20, 11, 59, tzinfo=UTC), 11),
        ("timestamp", "UTC", datetime(2026, 3, 20, 12, tzinfo=UTC), 12),
        ("date", None, datetime(2026, 3, 20, tzinfo=UTC), 11),
        ("timestamp", "UTC", datetime(2026, 5, 1, tzinfo=UTC), 30),
    ],
)
def test_units_whose_window_is_open_are_counted_and_left_out(kind, zone, as_of, closed):
    experiment = experiment_of(WINDOW, exposed_at="seen")
    cohort = load_cohort(experiment, visits(kind, zone), as_of=as_of)
    column = cohort.cells.metrics["m"]
    assert (column.n_ok.sum(), column.n_immature.sum()) == (2 * closed, 60 - 2 * closed)
    assert any(check.name.startswith("immature") for check in cohort.checks) == (closed < 30)


def test_times_without_a_zone_are_those_of_the_workspace():
    experiment = experiment_of(WINDOW, exposed_at="seen", timezone="Asia/Tokyo")
    as_of = datetime(2026, 3, 20, 3, tzinfo=UTC)  # noon in Tokyo
    assert load_cohort(experiment, visits("timestamp"), as_of=as_of).cells.metrics["m"].n_ok.sum() == 24
    early = load_cohort(experiment, visits("timestamp"), as_of=as_of - timedelta(minutes=1))
    assert early.cells.metrics["m"].n_ok.sum() == 22


def test_a_window_that_is_open_for_all_is_refused():
    with pytest.raises(MetricValuesError, match="the window of all 60 units is still open"):
        load_cohort(
            experiment_of(WINDOW, exposed_at="seen"), visits("timestamp"), as_of=datetime(2026, 3, 2, tzinfo=UTC)
        )


def test_a_window_without_a_time_of_exposure_is_refused():
    with pytest.raises(CohortError, match="has a window, and the experiment has no exposed_at"):
        load_cohort(experiment_of(WINDOW), visits("timestamp"))


# --- outcomes before the exposure ---------------------------------------------------------------


def purchases(early, n=2000, kind="timestamp"):
    """Every tenth unit buys; `early` of them a day before they were exposed."""
    frame = pd.DataFrame({"user": range(n), "arm": ["a", "b"] * (n // 2), "city": ["x", "x", "y", "y"] * (n // 4)})
    seen = START + pd.to_timedelta(np.arange(n) % 5, unit="D") + pd.Timedelta(hours=12)
    bought = pd.Series(seen).where(frame.user % 10 == 0)
    when = bought + pd.Timedelta(hours=1)
    when[frame.user < 10 * early] -= pd.Timedelta(days=1)
    frame = frame.assign(yes=bought.notna().astype(int), seen=seen, bought_at=when)
    return frame if kind == "timestamp" else frame.assign(**{kind: frame[kind].dt.date})


BOUGHT = xb.Metric(name="bought", kind="conversion", role="goal", column="yes", rope=0.01, at="bought_at")


def before(cohort):
    return next((check for check in cohort.checks if check.name == "before:bought"), None)


@pytest.mark.parametrize("kind", ["timestamp", "seen", "bought_at"])
@pytest.mark.parametrize("shape", ["unit", "rows"])
@pytest.mark.parametrize(("early", "outcome"), [(0, None), (2, "warn"), (3, "block")])
def test_outcomes_before_the_exposure_are_counted_and_said(early, outcome, shape, kind):
    experiment = experiment_of(BOUGHT, exposed_at="seen", shape=shape, min_cell=1)
    found = before(load_cohort(experiment, purchases(early, kind=kind)))
    assert (found.outcome if found else None) == outcome
    if found:
        assert f"bought: {early} of 2,000 units have an outcome dated before their exposure" in found.sentence


def test_outcomes_before_the_exposure_add_up_over_files_and_are_kept(tmp_path):
    frame = purchases(30)
    for number, part in enumerate((frame.iloc[::2], frame.iloc[1::2])):
        part.to_parquet(tmp_path / f"part_{number}.parquet")
    experiment = experiment_of(BOUGHT, exposed_at="seen", segments=("city",))
    read = lambda: load_cohort(experiment, tmp_path / "part_*.parquet", cache=tmp_path / "cells")  # noqa: E731
    first, again = read(), read()
    assert again.note.startswith("The data did not change")
    for cells in (first.cells, again.cells, first.cells.roll_up(["city"]), first.cells.where(first.cells.n > 0)):
        assert int(cells.broken["before:bought"].sum()) == 30
    assert before(first) == before(again) == before(load_cohort(experiment, frame))
    city = first.cells.roll_up(["city"])
    early = frame[(frame.user < 300) & (frame.user % 10 == 0)]
    for value, n in early.city.value_counts().items():
        assert city.broken["before:bought"][city.segments["city"] == value].sum() == n


def test_outcomes_before_the_exposure_are_those_of_their_own_experiment():
    frames = [purchases(30).assign(test="checkout"), purchases(0).assign(test="other")]
    experiments = [
        experiment_of(BOUGHT, name=name, exposed_at="seen", experiment_column="test") for name in ("checkout", "other")
    ]
    found = xb.load_cohorts(experiments, pd.concat(frames))
    assert [before(found[name]) is None for name in ("checkout", "other")] == [False, True]


@pytest.mark.parametrize(
    "fields",
    [{}, {"shape": "events", "exposed_at": "seen", "events": Events(at="at", kind="what")}],
    ids=["not exposed", "events"],
)
def test_the_time_of_an_outcome_needs_that_of_the_exposure(fields):
    with pytest.raises(SpecError, match="has at = 'bought_at', shape is .* or remove it"):
        experiment_of(replace(BOUGHT, event="buy" if fields else ""), **fields)


def test_a_time_of_outcomes_that_is_no_time_is_refused():
    with pytest.raises(CohortError, match="column 'bought_at' holds int64, not times"):
        load_cohort(experiment_of(BOUGHT, exposed_at="seen"), purchases(0).assign(bought_at=1))
    with pytest.raises(ColumnNotFoundError, match="bought_at"):
        load_cohort(experiment_of(BOUGHT, exposed_at="seen"), purchases(0).drop(columns="bought_at"))


# --- events -------------------------------------------------------------------------------------


def world(n=600, seed=3):
    """Assignments, some of them repeated, and events before and after."""
    rng = np.random.default_rng(seed)
    user = np.arange(n)
    at = START + pd.to_timedelta(rng.integers(0, 10 * 86_400, n), unit="s")
    people = pd.DataFrame(
        {"user": user, "arm": np.where(user % 2, "b", "a"), "seen": at, "city": "x", "age": rng.normal(40, 9, n)}
    )
    again = people.sample(frac=0.3, random_state=1).assign(seen=lambda f: f.seen + pd.Timedelta(hours=30))
    m = 12 * n
    events = pd.DataFrame(
        {
            "user": rng.integers(0, int(1.1 * n), m),
            "at": START + pd.to_timedelta(rng.integers(-10 * 86_400, 25 * 86_400, m), unit="s"),
            "what": rng.choice(["view", "buy", "open", "load"], m, p=[0.5, 0.2, 0.2, 0.1]),
            "amount": rng.gamma(2, 5, m).round(2),
            "weight": rng.gamma(2, 1, m),
        }
    )
    events = events[~events.user.isin([0, 1, 2, 3])]
    return pd.concat([people, again]).sample(frac=1, random_state=4), events


METRICS = (
    xb.Metric(name="converted", kind="conversion", role="goal", rope=0.01, event="buy", window_days=7),
    xb.Metric(name="buys", kind="count", event="buy", window_days=7),
    xb.Metric(name="spend", kind="revenue", event="buy", window_days=7, covariate="pre_period"),
    xb.Metric(name="later", kind="retention", event="open", from_days=3, window_days=5),
    xb.Metric(name="rate", kind="ratio", numerator="buy", denominator="view", window_days=7),
    xb.Metric(name="value", kind="ratio", numerator="buy", denominator="view", column="weight", window_days=7),
    xb.Metric(name="loading", kind="duration", event="load", window_days=7),
    xb.Metric(name="aged", kind="mean", event="buy", column="weight", window_days=7, covariate="age"),
)
SPEC = {"at": "at", "kind": "what", "value": "amount", "pre_days": 5, "lateness_days": 1}
AS_OF = datetime(2026, 3, 17, tzinfo=UTC)


def told(people, events, *, exposure="", from_assignment=True):
    """The same with pandas: one row per user, NaN where a window is open or nothing was seen."""
    first = people.groupby("user").agg(arm=("arm", "first"), seen=("seen", "min"), age=("age", "mean"))
    if exposure:
        shown = events[events.what == exposure].merge(first[["seen"]], left_on="user", right_index=True)
        if from_assignment:
            shown = shown[shown["at"] >= shown.seen]
        first = first.drop(columns="seen").join(shown.groupby("user")["at"].min().rename("seen"), how="inner")
    joined = events.merge(first, left_on="user", right_index=True)
    age = (joined["at"] - joined.seen).dt.total_seconds() / 86_400
    end = pd.Timestamp(AS_OF.replace(tzinfo=None))

    def of(rows, column=None):
        rows = joined[rows].groupby("user")
        found = rows.size() if column is None else rows[column].sum()
        return found.reindex(first.index).fillna(0.0)

    week, before = (age >= 0) & (age < 7), (age < 0) & (age >= -5)
    buy, view = joined.what == "buy", joined.what == "view"
    loads = joined[week & (joined.what == "load")].groupby("user").amount.mean().reindex(first.index)
    result = first.assign(
        buys=of(week & buy),
        spend=of(week & buy, "amount"),
        pre=of(before & buy, "amount"),
        later=(of((age >= 3) & (age < 5) & (joined.what == "open")) > 0).astype(float),
        views=of(week & view),
        weight=of(week & buy, "weight"),
        aged=of(week & buy, "weight"),
        loading=loads,
        closed=first.seen + pd.Timedelta(days=8) <= end,
        closed_later=first.seen + pd.Timedelta(days=6) <= end,
    )
    return result.assign(converted=(result.buys > 0).astype(float))


def events_of(people, events, metrics=METRICS, exposed_at="seen", **spec):
    experiment = experiment_of(*metrics, shape="events", exposed_at=exposed_at, events=Events(**{**SPEC, **spec}))
    return load_cohort(experiment, people, events=events, as_of=AS_OF)


@pytest.mark.parametrize(
    ("exposure", "exposed_at"), [("", "seen"), ("open", "seen"), ("open", "")], ids=["assigned", "both", "event"]
)
def test_events_give_the_same_as_pandas(exposure, exposed_at):
    people, events = world()
    wanted = told(people, events, exposure=exposure, from_assignment=bool(exposed_at))
    cells = events_of(people, events, exposed_at=exposed_at, exposure=exposure).cells
    assert cells.units == len(wanted)
    assert cells.metrics["buys"].n_immature.sum() == (~wanted.closed).sum() > 0
    for arm in ("a", "b"):
        own = wanted[(wanted.arm == arm) & wanted.closed]
        late = wanted[(wanted.arm == arm) & wanted.closed_later]
        for name in ("converted", "buys", "spend", "aged", "loading", "later"):
            values = (late if name == "later" else own)[name].dropna()
            found = cells.moments(name, arm)
            assert found.n == len(values)
            assert found.mean == pytest.approx(values.mean(), rel=1e-12)
            assert found.m2 == pytest.approx(((values - values.mean()) ** 2).sum(), rel=1e-10)
        for name, top in (("rate", "buys"), ("value", "weight")):
            found, ratio = cells.moments(name, arm), own[top].sum() / own.views.sum()
            linear = (own[top] - ratio * own.views) / own.views.mean()
            assert (found.n, found.mean) == (len(own), pytest.approx(ratio, rel=1e-12))
            assert found.variance == pytest.approx(linear.var(), rel=1e-10)
    closed = wanted[wanted.closed]
    for name, value, covariate in (("spend", "spend", "pre"), ("aged", "aged", "age")):
        x = closed[covariate] - closed[covariate].mean()
        design = np.column_stack([closed.arm == "a", closed.arm == "b", x]).astype(float)
        slopes, *_ = np.linalg.lstsq(design, closed[value].to_numpy(), rcond=None)
        assert cells.adjusted(name)["b"].mean == pytest.approx(slopes[1], rel=1e-10)


def test_units_without_events_count_0_and_each_unit_once():
    people, events = world()
    column = events_of(people, events[events.user > 50]).cells.metrics["buys"]
    assert column.n_null.sum() == 0
    assert column.n_ok.sum() + column.n_immature.sum() == 600
    assert np.nanmin(column.low) == 0


def test_a_unit_belongs_to_the_day_of_its_first_exposure():
    people, events = world()
    cells = events_of(people, events).cells
    wanted = people.groupby("user").seen.min().dt.date.value_counts()
    for day, n in wanted.items():
        assert cells.n[cells.day == np.datetime64(day)].sum() == n


def test_days_are_chosen_by_the_exposure_also_where_it_is_an_event():
    people, events = world()
    wanted = told(people, events, exposure="open", from_assignment=False)
    first, last = (START + pd.Timedelta(days=2)).date(), (START + pd.Timedelta(days=5)).date()
    experiment = experiment_of(*METRICS, shape="events", events=Events(**SPEC, exposure="open"), start=first, end=last)
    cells = load_cohort(experiment, people, events=events, as_of=AS_OF).cells
    # Events before the pre-period are not read, so that a unit may count from its first exposure after them.
    assert cells.days()[0] >= first
    assert cells.days()[1] <= last
    assert cells.units >= wanted.seen.dt.date.between(first, last).sum() > 0


def test_an_assignment_that_moved_is_refused():
    people, events = world()
    moved = people[people.user == 7].head(1).assign(arm="a")
    with pytest.raises(UnitError, match="1 units of column 'user' were seen in two arms"):
        events_of(pd.concat([people, moved]), events)


def test_assignments_without_a_unit_are_refused():
    people, events = world()
    people = people.astype({"user": "Int64"})
    people.iloc[:2, 0] = pd.NA
    with pytest.raises(UnitError, match="2 rows have no value in the unit column"):
        events_of(people, events)


def test_the_last_event_says_until_when_the_data_are_complete():
    people, events = world()
    experiment = experiment_of(*METRICS, shape="events", exposed_at="seen", events=Events(**SPEC))
    cells = load_cohort(
        experiment, people, events=events[events["at"] < pd.Timestamp(AS_OF.replace(tzinfo=None))]
    ).cells
    open_ = cells.metrics["buys"].n_immature.sum()
    assert open_ == pytest.approx((~told(people, events).closed).sum(), abs=2)
    assert open_ > 0


@pytest.mark.parametrize(
    ("metric", "spec", "words"),
    [
        (xb.Metric(name="m", kind="revenue", event="buy"), {"value": ""}, "needs the value of an event"),
        (xb.Metric(name="m", kind="count", event="buy", sql="amount * 2"), {}, "an expression is read from the rows"),
        (xb.Metric(name="m", kind="count", event="buy", covariate="pre_period"), {"pre_days": 0}, "pre_days is 0"),
    ],
)
def test_what_events_cannot_give_is_refused(metric, spec, words):
    people, events = world(60)
    with pytest.raises(MetricValuesError, match=words):
        events_of(people, events, (METRICS[0], metric), **spec)


def test_assignments_of_other_experiments_are_not_mixed_in():
    people, events = world()
    other = people.assign(
        test="other", arm=np.where(people.user % 3, "a", "b"), seen=people.seen - pd.Timedelta(days=1)
    )
    experiment = experiment_of(*METRICS, shape="events", exposed_at="seen", events=Events(**SPEC))
    shared = experiment_of(*METRICS, shape="events", exposed_at="seen", events=Events(**SPEC), experiment_column="test")
    both = pd.concat([other, people.assign(test="checkout")])
    found = load_cohort(shared, both, events=events, as_of=AS_OF).cells
    assert found.fingerprint == load_cohort(experiment, people, events=events, as_of=AS_OF).cells.fingerprint


@pytest.mark.parametrize(
    ("amount", "words"), [(np.nan, "NaN"), (None, "empty"), (np.inf, "infinite"), (-np.inf, "infinite")]
)
@pytest.mark.parametrize("metric", ["spend", "aged", "loading", "value"])
def test_amounts_of_events_that_are_missing_are_said_and_their_units_left_out(metric, amount, words):
    import pyarrow as pa

    people, events = world()
    wanted = told(people, events)
    wanted = wanted[wanted.closed]
    what, column = {
        "spend": ("buy", "amount"), "aged": ("buy", "weight"), "loading": ("load", "amount"), "value": ("buy", "weight")
    }[metric]  # fmt: skip
    first = people.groupby("user").seen.min()
    age = (events["at"] - events.user.map(first)).dt.total_seconds() / 86_400
    counts = (events.what == what) & (age >= 0) & (age < 7) & events.user.isin(wanted.index)
    spoilt = events[counts].drop_duplicates("user").index[:5]
    lost = set(events.user[spoilt])
    table = pa.Table.from_pandas(events, preserve_index=False)
    place = set(np.flatnonzero(events.index.isin(spoilt)).tolist())
    values = [amount if row in place else value for row, value in enumerate(table[column].to_pylist())]
    table = table.set_column(table.column_names.index(column), column, pa.array(values, pa.float64()))
    experiment = experiment_of(*METRICS, shape="events", exposed_at="seen", events=Events(**SPEC), min_cell=1)
    cohort = load_cohort(experiment, people, events=table, as_of=AS_OF)
    check = next(check for check in cohort.checks if check.name == f"values:{metric}")
    if metric in {"spend", "aged"}:  # the others have units without a value of their own
        assert f"5 {words} of 600 values were left out" in check.sentence
    assert words in check.sentence
    for arm in ("a", "b"):
        own = wanted[(wanted.arm == arm) & ~wanted.index.isin(lost)]
        found = cohort.cells.moments(metric, arm)
        values = own[{"spend": "spend", "aged": "aged", "loading": "loading", "value": "weight"}[metric]].dropna()
        mean = values.sum() / own.views.sum() if metric == "value" else values.mean()
        assert (found.n, found.mean) == (len(values), pytest.approx(mean, rel=1e-12))


def test_amounts_before_the_exposure_that_are_missing_make_no_covariate_of_0():
    people, events = world()
    first = people.groupby("user").seen.min()
    age = (events["at"] - events.user.map(first)).dt.total_seconds() / 86_400
    before = (events.what == "buy") & (age < 0) & (age >= -5)
    spoilt = events.assign(amount=events.amount.mask(before & (events.user % 7 == 0)))
    lost = events.user[before & (events.user % 7 == 0)].nunique()
    column = events_of(people, spoilt).cells.metrics["spend"]
    whole = events_of(people, events).cells.metrics["spend"]
    assert whole.covariate.n_missing.sum() == 0
    assert 0 < column.covariate.n_missing.sum() <= lost
    assert column.n_ok.sum() == whole.n_ok.sum()
