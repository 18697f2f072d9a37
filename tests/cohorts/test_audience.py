"""The audience: only its units are analysed, and those outside who carry an arm are counted, never lost in silence."""

from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest
from tests.cohorts.test_kinds import experiment_of, metric_of

import expnb as xb
from expnb.cohorts.cohort import load_cohort, load_cohorts
from expnb.errors import CohortError, EmptyCohortError, UnitError
from expnb.spec.experiment import Events, Totals
from expnb.spec.metric import TotalsColumns

GERMAN = {"country": ("AT", "DE")}


def users(n=4000, outside=0, seed=1):
    """Users of Germany and Austria, and the last of them from elsewhere or from nowhere."""
    rng = np.random.default_rng(seed)
    country = np.resize(["DE", "AT", "DE"], n).astype(object)
    country[n - outside :] = np.resize(["FR", None], outside)
    frame = pd.DataFrame({"user": np.arange(n), "arm": np.resize(["a", "b"], n), "country": country})
    return frame.assign(
        yes=rng.integers(0, 2, n), y=rng.normal(10, 2, n), platform=np.resize(["ios", "ios", "web", "web"], n)
    )


def check_of(cohort, name):
    return {check.name: check for check in cohort.checks}[name]


def test_only_units_of_the_audience_are_analysed():
    frame = users(outside=1000)
    cells = load_cohort(experiment_of(metric_of("mean"), audience=GERMAN), frame).cells
    inside = frame[frame.country.isin(["DE", "AT"])]
    for arm in ("a", "b"):
        assert cells.count(arm) == (inside.arm == arm).sum()
        assert cells.moments("m", arm).mean == pytest.approx(inside.y[inside.arm == arm].mean(), rel=1e-12)


def test_every_attribute_has_to_match():
    frame = users()
    both = experiment_of(audience={**GERMAN, "platform": ("ios",)})
    assert load_cohort(both, frame).cells.units == (frame.platform == "ios").sum()


def test_units_outside_that_carry_an_arm_are_counted_and_block():
    check = check_of(load_cohort(experiment_of(audience=GERMAN), users(outside=100)), "audience")
    assert check.outcome == "block"
    assert check.value == pytest.approx(100 / 4000)
    assert "country AT or DE" in check.sentence
    assert "100 of 4,000" in check.sentence
    assert "Those outside were left out." in check.sentence


def test_one_stray_unit_outside_does_not_hold_a_rollout():
    assert check_of(load_cohort(experiment_of(audience=GERMAN), users(outside=1)), "audience").outcome == "warn"


def test_a_clean_audience_is_said_to_be_one():
    check = check_of(load_cohort(experiment_of(audience=GERMAN), users()), "audience")
    assert check.outcome == "ok"
    assert "holds for all 4,000 units" in check.sentence


def test_rows_outside_without_an_arm_of_the_experiment_are_nobody_exposed():
    frame = users(outside=300)
    frame.loc[~frame.country.isin(["DE", "AT"]), "arm"] = "off"
    cohort = load_cohort(experiment_of(audience=GERMAN), frame)
    assert check_of(cohort, "audience").outcome == "ok"
    assert cohort.cells.units == 3700


def test_a_leak_of_one_arm_alone_is_told_by_arm():
    frame = users(outside=60)
    frame.loc[frame.index[-60:], "arm"] = "b"
    check = check_of(load_cohort(experiment_of(audience=GERMAN), frame), "audience")
    assert check.outcome == "block"
    assert "unevenly by arm" in check.sentence


def test_an_attribute_without_a_column_is_said_not_to_be_checked():
    cohort = load_cohort(experiment_of(audience={**GERMAN, "app": ("7",)}), users())
    check = check_of(cohort, "audience:app")
    assert check.outcome == "warn"
    assert "not checked by 'app'" in check.sentence
    assert cohort.cells.units == 4000


def test_an_allow_list_lets_in_the_units_it_names_and_shows_none_of_them():
    listed = experiment_of(audience={"user": tuple(map(str, range(0, 4000, 4)))}, weights={"a": 50, "b": 50})
    frame = users().assign(arm=np.resize(["a", "x", "x", "x", "b", "x", "x", "x"], 4000))
    cohort = load_cohort(listed, frame)
    assert cohort.cells.units == 1000
    assert "1000 named units" in check_of(cohort, "audience").sentence
    assert check_of(cohort, "audience").outcome == "ok"


def test_whole_numbers_compare_as_their_text_and_decimals_are_refused():
    frame = users().assign(region=np.resize([49, 43], 4000))
    assert (
        load_cohort(
            experiment_of(audience={"region": ("49",)}, weights={"a": 1, "b": 1}),
            frame.assign(arm=np.resize(["a", "a", "b", "b"], 4000)),
        ).cells.units
        == 2000
    )
    with pytest.raises(CohortError, match="49 would be '49.0'"):
        load_cohort(experiment_of(audience={"region": ("49",)}), frame.astype({"region": float}))


def test_when_everybody_is_outside_the_error_says_so():
    with pytest.raises(CohortError, match="all units with an arm, 4,000, are outside of the audience .country de"):
        load_cohort(experiment_of(audience={"country": ("de",)}), users())


def test_when_nobody_outside_has_an_arm_the_data_are_empty():
    with pytest.raises(EmptyCohortError):
        load_cohort(experiment_of(audience={"country": ("de",)}), users().assign(arm="off"))


def test_a_unit_of_many_rows_is_in_with_all_of_them_when_one_is():
    frame = pd.concat([users(400), users(400).assign(country="FR", y=100.0)])
    sums = experiment_of(xb.Metric(name="m", kind="revenue", column="y"), shape="rows", audience=GERMAN)
    cohort = load_cohort(sums, frame)
    total = frame.groupby("user").y.sum()
    assert cohort.cells.units == 400
    assert cohort.cells.moments("m", "a").mean == pytest.approx(total.iloc[::2].mean(), rel=1e-12)
    assert check_of(cohort, "audience").outcome == "ok"


def test_units_of_many_rows_outside_count_once():
    away = users(600).assign(user=np.arange(600) + 10_000, country="FR")
    frame = pd.concat([users(3000), away, away])
    cohort = load_cohort(experiment_of(metric_of("mean"), shape="rows", audience=GERMAN), frame)
    assert check_of(cohort, "audience").value == pytest.approx(600 / 3600)


def test_a_row_without_a_unit_is_refused_with_an_audience_too():
    frame = users(200).astype({"user": object})
    frame.loc[0, "user"] = None
    with pytest.raises(UnitError, match="1 rows have no value"):
        load_cohort(experiment_of(metric_of("mean"), shape="rows", audience=GERMAN), frame)


def test_of_events_only_exposed_units_outside_are_leaks():
    people = users(1000, outside=200).assign(seen=pd.Timestamp("2026-03-01"))
    shown = people.user[people.user < 900]
    log = pd.DataFrame({"user": shown, "at": pd.Timestamp("2026-03-02"), "what": "shown"})
    asked = experiment_of(
        xb.Metric(name="goal", kind="conversion", role="goal", event="shown", rope=0.01),
        shape="events",
        exposed_at="seen",
        events=Events(at="at", kind="what", exposure="shown"),
        audience=GERMAN,
    )
    cohort = load_cohort(asked, people, events=log)
    assert cohort.cells.units == 800
    assert check_of(cohort, "audience").value == pytest.approx(100 / 900)
    assert "exposure" not in {check.name for check in cohort.checks}


def test_totals_are_of_the_audience_alone():
    rows = pd.DataFrame(
        {"arm": ["a", "b"], "country": ["DE", "DE"], "n": [500, 500], "bought": [50, 60], "region": ["x", "x"]}
    )
    goal = xb.Metric(name="goal", kind="conversion", role="goal", rope=0.01, totals=TotalsColumns(sum="bought"))
    asked = experiment_of(goal, shape="totals", totals=Totals(units="n"), audience=GERMAN)
    assert load_cohort(asked, rows).cells.units == 1000
    assert "audience:country" in {check.name for check in load_cohort(asked, rows.drop(columns="country")).checks}
    with pytest.raises(CohortError, match="a row with country 'FR' outside of the audience"):
        load_cohort(asked, rows.assign(country=["DE", "FR"]))


def test_the_cache_does_not_mix_audiences_and_keeps_what_was_found(tmp_path):
    frame = users(outside=100)
    (tmp_path / "days").mkdir()
    for number, part in enumerate((frame.iloc[:2000], frame.iloc[2000:])):
        part.to_parquet(tmp_path / "days" / f"{number}.parquet")
    source, cache = str(tmp_path / "days" / "*.parquet"), tmp_path / "cells"
    german, everybody = experiment_of(audience={**GERMAN, "app": ("7",)}), experiment_of()
    for _ in range(2):
        first = load_cohort(german, source, cache=cache)
        assert first.cells.units == 3900
        assert check_of(first, "audience").value == pytest.approx(0.025)
        assert check_of(first, "audience:app").outcome == "warn"
        assert load_cohort(everybody, source, cache=cache).cells.units == 4000
    assert "come from the cache" in first.note


def test_experiments_on_one_table_keep_their_own_audiences():
    frame = pd.concat([users(outside=300).assign(test="x"), users(outside=300, seed=2).assign(test="y")])
    fields = {"experiment_column": "test"}
    found = load_cohorts([experiment_of(name="x", audience=GERMAN, **fields), experiment_of(name="y", **fields)], frame)
    assert (found["x"].cells.units, found["y"].cells.units) == (3700, 4000)
    assert check_of(found["x"], "audience").value == pytest.approx(300 / 4000)
    assert "audience" not in {check.name for check in found["y"].checks}


def test_days_that_were_not_agreed_are_no_leak():
    frame = users(outside=400)
    frame["seen"] = pd.Timestamp("2026-03-01")
    frame.loc[frame.index[-400:], "seen"] = pd.Timestamp("2026-05-01")
    dated = replace(experiment_of(exposed_at="seen", audience=GERMAN), start=date(2026, 3, 1), end=date(2026, 3, 31))
    assert check_of(load_cohort(dated, frame), "audience").outcome == "ok"
