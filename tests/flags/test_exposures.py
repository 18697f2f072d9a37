"""Logged exposures: a re-bucketing is dated and named, leakage is counted, and no unit is."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from expnb.errors import CohortError, ColumnNotFoundError, FlagError, SpecError, UnitError
from expnb.flags.bucketing import assign_all
from expnb.flags.exposures import check_exposures
from expnb.spec.flag import Eligibility, Exposure, FlagRef, FlagState

FLAG = "gate-position"
START = datetime(2026, 3, 1, tzinfo=UTC)
HALF = Exposure({"gate_30": 50, "gate_40": 50}, "gate_30", 50)
UNITS = [f"user-{number}" for number in range(6_000)]


def log_of(exposure, days, generation="2", units=UNITS, first_day=0, **attributes):
    """What services of a hash generation log: each unit once, on one of so many days."""
    answers = assign_all(FLAG, exposure, units, attributes, generation=generation)
    rows = [
        {
            "unit": unit,
            "variant": variant,
            "at": START + timedelta(days=first_day + place % days, hours=12),
            **{name: values[place] for name, values in attributes.items()},
        }
        for place, (unit, variant) in enumerate(zip(units, answers, strict=True))
        if variant != "off"
    ]
    return pd.DataFrame(rows)


def state(exposure, days, *, enabled=True):
    ref = FlagRef(FLAG, "production")
    return FlagState(ref, exposure, str(days), enabled=enabled, changed_at=START + timedelta(days=days))


@pytest.mark.parametrize("exposure", [HALF, replace(HALF, enrolled=1), replace(HALF, enrolled=100)], ids=str)
def test_what_the_flag_served_is_found_in_order(exposure):
    found = check_exposures(FLAG, exposure, log_of(exposure, 1, units=[f"u{n}" for n in range(20_000)]), time="at")
    assert found.ok
    assert (found.outside, found.several, found.unknown, found.changed_on) == (0, 0, 0, None)
    assert "those of hash generation 2, for which the flag is made. No exposure lies outside the gate." in str(found)


@pytest.mark.parametrize("to", ["1", "3"])
def test_a_rebucketing_in_the_middle_is_dated_and_both_generations_are_named(to):
    log = pd.concat([log_of(HALF, 4), log_of(HALF, 3, to, first_day=4)])
    found = check_exposures(FLAG, HALF, log, time="at")
    assert not found.ok
    assert found.changed_on == date(2026, 3, 5)
    assert [day.fits for day in found.days] == [("2",)] * 4 + [(to,)] * 3
    assert (
        f"Re-bucketed on 2026-03-05: the exposures before it are those of hash generation 2, the newest are those of hash generation {to}"
        in str(found)
    )
    # Held against the generation of its day, no exposure lies outside; half of the units in both gates changed the arm.
    assert found.outside == 0
    assert found.several == pytest.approx(6_000 * 0.25 / 2, abs=4 * (6_000 * 0.125 * 0.875) ** 0.5)
    assert "units got more than one variant" in str(found)


def test_a_sample_ratio_check_cannot_see_what_this_check_finds():
    log = log_of(replace(HALF, enrolled=100), 2, "3")
    counts = log["variant"].value_counts()
    assert counts["gate_30"] == pytest.approx(3_000, abs=4 * 1_500**0.5)
    assert not check_exposures(FLAG, replace(HALF, enrolled=100), log, time="at").ok


def test_services_that_are_updated_one_by_one_are_explained_by_two_generations_together():
    old, new = log_of(HALF, 1, units=UNITS[:3_000]), log_of(HALF, 1, "3", units=UNITS[3_000:])
    found = check_exposures(
        FLAG,
        HALF,
        pd.concat(
            [log_of(HALF, 1), old.assign(at=START + timedelta(days=1)), new.assign(at=START + timedelta(days=1))]
        ),
        time="at",
    )
    assert [day.fits for day in found.days] == [("2",), ("2", "3")]
    assert found.changed_on == date(2026, 3, 2)
    assert "hash generations 2 and 3" in str(found)


def test_services_that_were_never_of_the_flags_generation_are_named():
    found = check_exposures(FLAG, HALF, log_of(HALF, 2, "1"), time="at")
    assert found.changed_on is None
    assert "hash generation 1, but the flag is made for generation 2" in str(found)


def test_units_that_are_not_the_targeting_keys_fit_no_generation():
    log = log_of(HALF, 1)
    found = check_exposures(FLAG, HALF, log.assign(unit="hashed-" + log["unit"]), time="at")
    assert found.days[0].fits == ()
    assert "no known hash generation" in str(found)
    assert "targeting keys" in str(found)


@pytest.mark.parametrize("leaked", [1, 25, 400])
def test_exposures_outside_the_gate_are_counted_once_they_may_be_shown(leaked):
    small = replace(HALF, enrolled=20)
    inside = log_of(small, 1)
    outside = log_of(replace(HALF, enrolled=100), 1)
    outside = outside[~outside["unit"].isin(inside["unit"])].head(leaked)
    found = check_exposures(FLAG, small, pd.concat([inside, outside]), time="at")
    assert found.days[0].fits == ("2",)  # the variants are those of the flag: it is the gate that leaks
    assert not found.ok
    assert found.outside == (leaked if leaked >= 20 else None)
    assert ("Fewer than 20 exposures" if leaked < 20 else f"{leaked} exposures could not") in str(found)


def test_each_exposure_is_held_against_what_the_flag_served_at_its_time():
    small, large = replace(HALF, enrolled=5), replace(HALF, enrolled=50)
    states = [state(replace(HALF, enrolled=0), 0), state(small, 1), state(large, 3)]
    log = pd.concat([log_of(small, 2, first_day=1), log_of(large, 2, first_day=3)])
    assert check_exposures(FLAG, states, log, time="at").ok
    early = pd.concat([log_of(large, 2, first_day=1), log_of(large, 2, first_day=3)])
    found = check_exposures(FLAG, states, early, time="at")
    wrong = len(log_of(large, 1)) - len(log_of(small, 1))
    assert found.outside == wrong
    assert [day.outside for day in found.days][2:] == [0, 0]


def test_exposures_while_the_flag_was_killed_or_not_yet_made_are_outside():
    states = [state(HALF, 1), state(HALF, 2, enabled=False)]
    found = check_exposures(FLAG, states, log_of(HALF, 3), time="at")
    assert [day.outside for day in found.days] == [found.days[0].exposures, 0, found.days[2].exposures]


def test_a_service_may_lag_behind_a_change_but_not_for_long():
    states = [state(replace(HALF, enrolled=50), 0), state(replace(HALF, enrolled=0), 1)]
    log = log_of(HALF, 1)
    for seconds, outside in ((30, 0), (90, len(log))):
        late = log.assign(at=START + timedelta(days=1, seconds=seconds))
        assert check_exposures(FLAG, states, late, time="at", lag_seconds=60).outside == outside


def test_drop_ship_and_undo_are_in_order_and_a_dropped_variant_is_not():
    three = Exposure({"a": 40, "b": 25, "c": 35}, "a", 60)
    dropped, shipped = replace(three, dropped=("b",)), replace(three, serve="c", holdback=10)
    states = [state(exposure, day) for day, exposure in enumerate((three, dropped, shipped, three))]
    log = pd.concat([log_of(served.exposure, 1, first_day=day) for day, served in enumerate(states)])
    assert check_exposures(FLAG, states, log, time="at").ok
    late = log_of(three, 1, first_day=1)
    found = check_exposures(FLAG, states, pd.concat([log, late[late["variant"] == "b"]]), time="at")
    assert found.outside == (late["variant"] == "b").sum()
    assert found.changed_on is None


def test_audience_layer_and_holdout_are_held_against_the_attributes_in_the_log():
    narrow = replace(HALF, eligibility=Eligibility({"country": ("DE", "AT")}, "checkout", (0, 50), 5))
    countries = [("DE", "AT", "CH", "")[number % 4] for number in range(len(UNITS))]
    log = log_of(narrow, 2, country=countries)
    assert check_exposures(FLAG, narrow, log, time="at").ok
    anybody = log_of(HALF, 2, country=countries)
    found = check_exposures(FLAG, narrow, anybody, time="at")
    assert found.outside == len(anybody) - len(log)
    with pytest.raises(ColumnNotFoundError, match="country"):
        check_exposures(FLAG, narrow, log.drop(columns="country"), time="at")


def test_exposures_without_a_unit_and_to_unknown_variants_are_told():
    log = pd.concat([log_of(HALF, 1), pd.DataFrame({"unit": [None] * 300, "variant": "gate_30", "at": START})])
    found = check_exposures(FLAG, HALF, log, time="at")
    assert found.outside == 300
    assert found.days[0].fits == ("2",)  # of those that have a unit
    found = check_exposures(FLAG, HALF, log_of(HALF, 1).replace({"variant": {"gate_40": "gate_50"}}), time="at")
    assert found.unknown == (log_of(HALF, 1)["variant"] == "gate_40").sum()
    assert "variants that the flag does not have" in str(found)


def test_a_day_with_few_exposures_says_nothing_but_its_date():
    log = pd.concat([log_of(HALF, 1), log_of(HALF, 1, first_day=1, units=UNITS[:20])])
    found = check_exposures(FLAG, HALF, log, time="at", min_cell=20)
    assert found.days[1].exposures is None
    assert found.days[1].agree == {}
    row = found.table().iloc[1]
    assert row.drop(["day", "fits"]).isna().all()


def test_no_output_names_a_unit():
    log = log_of(HALF, 1)
    leaked = log_of(replace(HALF, enrolled=100), 1).head(40)
    found = check_exposures(FLAG, HALF, pd.concat([log, leaked]), time="at")
    texts = [str(found), repr(found), found._repr_html_(), found.table().to_csv()]
    assert not any("user-" in text for text in texts)


@pytest.mark.parametrize(
    "make",
    [
        lambda log: log,
        pl.from_pandas,
        lambda log: pa.Table.from_pandas(log, preserve_index=False),
        lambda log: log.to_dict("list"),
        lambda log: log.assign(at=log["at"].map(datetime.isoformat)),
        lambda log: log.assign(at=log["at"].dt.tz_localize(None)),
    ],
    ids=["pandas", "polars", "arrow", "mapping", "times as text", "times without zone"],
)
def test_a_log_may_come_as_any_table(make):
    log = pd.concat([log_of(HALF, 2), log_of(HALF, 1, "3", first_day=2)])
    assert check_exposures(FLAG, HALF, make(log), time="at").changed_on == date(2026, 3, 3)


def test_units_may_be_whole_numbers_and_columns_have_other_names():
    log = log_of(HALF, 1, units=[str(number) for number in range(2_000)])
    log = log.assign(unit=log["unit"].astype(int)).rename(columns={"unit": "visitor", "variant": "arm"})
    assert check_exposures(FLAG, HALF, log, unit="visitor", variant="arm", time="at").ok


def test_without_times_an_exposure_is_in_order_if_the_flag_could_have_made_it_at_some_time():
    small, large = replace(HALF, enrolled=5), replace(HALF, enrolled=50)
    found = check_exposures(FLAG, [state(small, 0), state(large, 1)], log_of(large, 3))
    assert found.ok
    assert [day.day for day in found.days] == [None]
    beyond = log_of(replace(HALF, enrolled=60), 3)
    found = check_exposures(FLAG, [state(small, 0), state(large, 1)], beyond)
    assert found.outside == len(beyond) - len(log_of(large, 3))


@pytest.mark.parametrize("weights", [{"only": 1}, {"a": 1, "b": 99}], ids=str)
def test_one_arm_and_lopsided_splits_are_told_apart_too(weights):
    exposure = Exposure(weights, min(weights), 50)
    log = pd.concat([log_of(exposure, 1), log_of(exposure, 1, "3", first_day=1)])
    assert check_exposures(FLAG, exposure, log, time="at").changed_on == date(2026, 3, 2)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda log: log.drop(columns="variant"), ColumnNotFoundError, "variant"),
        (lambda log: log.assign(variant="off"), CohortError, "names no variant"),
        (lambda log: log.assign(unit=1.5), UnitError, "of type float"),
        (lambda log: log.assign(at="soon"), CohortError, "holds no times"),
        (lambda log: log.assign(at=pd.NaT), CohortError, "have no time"),
    ],
)
def test_a_log_that_cannot_be_read_is_refused(change, error, words):
    with pytest.raises(error, match=words):
        check_exposures(FLAG, HALF, change(log_of(HALF, 1)), time="at")


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(SpecError, match="no state of the flag"):
        check_exposures(FLAG, [], log_of(HALF, 1), time="at")
    with pytest.raises(FlagError, match="published are 1, 2, 3"):
        check_exposures(FLAG, HALF, log_of(HALF, 1), time="at", generation="4")
