"""How new the data are: by their own days, up to now, also where few units come in per day."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

import expnb as xb
from expnb.decisions.rules import days_rule, fresh_rule, is_due
from expnb.spec.experiment import Totals
from expnb.spec.metric import TotalsColumns

FIRST = date(2017, 2, 1)
NOW = datetime(2017, 2, 20, 12, tzinfo=UTC)


def players(*days, per_day=16):
    """So many units on each day, half of them in each arm; None for no day."""
    day = np.repeat(pd.to_datetime(list(days)), per_day)
    return pd.DataFrame(
        {
            "userid": np.arange(day.size),
            "version": np.resize(["gate_30", "gate_40"], day.size),
            "retention_7": np.resize([1, 0, 0, 1, 0], day.size),
            "retention_1": np.resize([1, 1, 0], day.size),
            "ts": day + pd.Timedelta(hours=3),
        }
    )


@pytest.fixture
def dated(gate_position):
    """An experiment that goes on, and knows the day of each unit."""
    return replace(gate_position, start=None, end=None, exposed_at="ts")


def fitted(experiment, frame):
    return xb.fit(experiment, xb.load_cohort(experiment, frame))


def fresh(experiment, frame, now=NOW):
    """The rule, and the one on days of data."""
    posterior = fitted(experiment, frame)
    return next(fresh_rule(experiment, posterior, now), None), days_rule(posterior, experiment.policy, now)


def days(first, n):
    return [first + timedelta(days=number) for number in range(n)]


def test_few_units_a_day_are_dated_all_the_same(dated):
    rule, in_ = fresh(dated, players(*days(FIRST, 10)))
    assert rule.outcome == "unknown"
    # The day before has 32 units on it and after it; of the last one alone fewer than 20 would be told.
    assert rule.sentence.startswith("The last day of data, 2017-02-09, lies 11 days before today")
    assert in_.value == 8
    assert fresh(dated, players(*days(FIRST, 19)))[0].outcome == "met"


def test_where_no_day_is_known_nobody_can_tell_how_old_the_data_are(dated):
    frame = players(*days(FIRST, 3)).assign(ts=pd.NaT)
    rule, in_ = fresh(dated, frame.astype({"ts": "datetime64[ns]"}))
    assert (rule.outcome, rule.value) == ("unknown", None)
    assert rule.sentence == (
        "How old the data are is not known: fewer than 20 units have a date. Load data with dates before exposure is raised."
    )
    assert in_.outcome == "unknown"


def test_units_from_the_future_make_no_data_fresh(dated):
    frame = players(*days(FIRST, 10), date(2017, 9, 1), per_day=50)
    rule, in_ = fresh(dated, frame)
    assert rule.outcome == "unknown"
    assert rule.value == 10
    assert rule.sentence.startswith("The last day of data, 2017-02-10, lies 10 days before today")
    assert "Units that are dated after today, up to 2017-09-01, do not count." in rule.sentence
    assert in_.value == 10
    assert "10 days of data are in, without those in the future (7 needed" in in_.sentence
    assert "future" not in fresh(dated, players(*days(FIRST, 10), per_day=50))[1].sentence


def test_a_few_units_from_the_future_make_no_old_day_new(dated):
    frame = pd.concat([players(*days(FIRST, 5), per_day=50), players(date(2017, 2, 19), date(2017, 9, 1), per_day=10)])
    frame["userid"] = np.arange(len(frame))  # 20 units on or after the 19th, of which 10 are real
    rule, _ = fresh(dated, frame)
    assert rule.value == 15
    assert "2017-09-01" not in rule.sentence


def test_units_from_the_future_alone_say_nothing(dated):
    rule, in_ = fresh(dated, players(*days(date(2017, 9, 1), 2), per_day=50))
    assert (rule.outcome, rule.value) == ("unknown", None)
    assert "they are dated after today, up to 2017-09-02. Correct the dates" in rule.sentence
    assert in_.value == 0


def test_a_verdict_is_not_due_on_days_that_are_still_to_come(dated, ask):
    policy = replace(dated.policy, verdict_days=7)
    judged = replace(ask(), watermark=date(2017, 2, 9), decided_at=NOW - timedelta(days=10))
    until_the_tenth = players(*days(FIRST, 10), per_day=50)
    ahead = players(*days(FIRST, 10), date(2017, 9, 1), per_day=50)
    assert not is_due(fitted(dated, until_the_tenth), policy, NOW, judged)
    assert not is_due(fitted(dated, ahead), policy, NOW, judged)
    assert is_due(fitted(dated, players(*days(FIRST, 15), per_day=50)), policy, NOW, judged)


def test_today_is_that_of_the_experiment(dated):
    auckland = replace(dated, timezone="Pacific/Auckland")
    late = datetime(2017, 2, 10, 20, tzinfo=UTC)  # the 11th, in Auckland
    frame = players(*days(FIRST, 10), per_day=50)
    local = frame.assign(ts=(frame["ts"] + pd.Timedelta(days=1)).dt.tz_localize(ZoneInfo("Pacific/Auckland")))
    rule, in_ = fresh(auckland, local, late)
    assert "The last day of data, 2017-02-11, lies 0 days before today" in rule.sentence
    assert "future" not in in_.sentence


@pytest.mark.parametrize("edit", [{}, {"end": date(2017, 3, 30)}], ids=str)
def test_days_that_were_agreed_say_nothing_of_how_new_the_data_are(gate_position, edit):
    undated = replace(gate_position, **edit)
    frame = players(*days(FIRST, 10), per_day=50).drop(columns="ts")
    rule, in_ = fresh(undated, frame)
    assert rule is None
    assert in_.outcome == "met"


@pytest.mark.parametrize("cumulative", [False, True])
def test_totals_are_as_new_as_their_own_days(gate_position, cumulative):
    metrics = tuple(
        replace(metric, column="", totals=TotalsColumns(sum=metric.name)) for metric in gate_position.metrics
    )
    totals = replace(
        gate_position,
        shape="totals",
        totals=Totals(units="n", cumulative=cumulative),
        metrics=metrics,
        exposed_at="ts",
        end=date(2017, 3, 30),
    )
    ran = days(FIRST, 10)
    step = np.arange(1, 11) if cumulative else 1
    rows = [
        pd.DataFrame({"version": arm, "ts": pd.to_datetime(ran), "n": 100 * step, "retention_7": 20 * step, "retention_1": 40 * step})
        for arm in ("gate_30", "gate_40")
    ]  # fmt: skip
    rule, _ = fresh(totals, pd.concat(rows))
    if cumulative:  # of a running total only the last row is read, and it belongs to no day
        assert rule is None
    else:
        assert rule.sentence.startswith("The last day of data, 2017-02-10, lies 10 days before today")
