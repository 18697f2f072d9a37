"""Cohorts: any source gives the same cells, and bad data one clear sentence."""

from dataclasses import replace

import duckdb
import ibis
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tests.bad_input import BAD_COHORTS

import expnb as xb
from expnb import errors
from expnb.stats.checks import Check

SOURCES = {
    "pandas": lambda frame, folder: frame,
    "polars": lambda frame, folder: pl.from_pandas(frame),
    "polars lazy": lambda frame, folder: pl.from_pandas(frame).lazy(),
    "arrow": lambda frame, folder: pa.Table.from_pandas(frame),
    "duckdb": lambda frame, folder: duckdb.connect().from_arrow(pa.Table.from_pandas(frame)),
    "ibis": lambda frame, folder: ibis.memtable(frame),
    "parquet": lambda frame, folder: _written(frame, folder / "cohort.parquet"),
    "csv": lambda frame, folder: _written(frame, folder / "cohort.csv"),
    "glob": lambda frame, folder: _split(frame, folder),
}


def _written(frame, path):
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


def _split(frame, folder):
    for number, part in enumerate((frame.iloc[::2], frame.iloc[1::2])):
        part.to_parquet(folder / f"day-{number}.parquet")
    return str(folder / "day-*.parquet")


@pytest.fixture(scope="module")
def fingerprint(players):
    """Of the Cookie Cats statistics, by hand: units, players retained on day 7 and on day 1."""
    table = players.groupby("version")[["retention_7", "retention_1"]].agg(["size", "sum"])
    return {name: row.tolist() for name, row in table.iterrows()}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_numbers(source, players, gate_position, fingerprint, tmp_path):
    cells = xb.load_cohort(gate_position, SOURCES[source](players, tmp_path)).cells
    for name, (n, seventh, _, first) in fingerprint.items():
        assert cells.count(name) == n
        assert cells.moments("retention_7", name).mean * n == pytest.approx(seventh, abs=1e-9)
        assert cells.moments("retention_1", name).mean * n == pytest.approx(first, abs=1e-9)


def test_the_fingerprint_does_not_depend_on_source_or_row_order(players, gate_position):
    first = xb.load_cohort(gate_position, players).cells.fingerprint
    shuffled = players.sample(frac=1, random_state=1)
    assert xb.load_cohort(gate_position, pl.from_pandas(shuffled)).cells.fingerprint == first


def test_one_changed_row_changes_the_fingerprint(players, gate_position):
    changed = players.copy()
    changed.loc[0, "retention_7"] = 1
    assert (
        xb.load_cohort(gate_position, players).cells.fingerprint
        != xb.load_cohort(gate_position, changed).cells.fingerprint
    )


def test_a_cohort_says_at_once_that_its_arms_are_uneven(players, gate_position):
    cohort = xb.load_cohort(gate_position, players)
    assert [check.name for check in cohort.checks if check.outcome == "warn"] == ["sample_ratio"]
    assert "p = 0.0086" in repr(cohort)
    assert "p = 0.0086" in cohort._repr_html_()


def test_what_is_wrong_stands_first_and_numbers_under_their_headings(players, gate_position):
    cohort = xb.load_cohort(gate_position, players.drop(players.index[players.version == "gate_40"][:3000]))
    marked = replace(
        cohort,
        cells=replace(
            cohort.cells,
            checks=tuple(Check(name, None, name, f"It is {name}.") for name in ("ok", "warn", "block", "warn")),
        ),
    )
    assert repr(marked).splitlines()[1:] == ["✗ It is block.", "⚠ It is warn.", "⚠ It is warn.", "✓ It is ok."]
    page = marked._repr_html_()
    assert page.index("It is block") < page.index("It is warn") < page.index("It is ok")
    right = "style='text-align:right;white-space:nowrap'"
    assert f"<th {right}>units</th><th {right}>promised</th>" in page
    assert f"<td {right}>44,700</td><td {right}>50.0 %</td>" in page


def test_many_arms_are_counted_in_the_first_line(gate_position):
    names = [f"h{place}" for place in range(7)]
    exp = replace(gate_position, control="h0", weights=dict.fromkeys(names, 1.0), unit="row")
    frame = pd.DataFrame({"version": names * 300, "retention_7": [0, 1, 0] * 700, "retention_1": [0, 1, 0] * 700})
    lines = repr(xb.load_cohort(exp, frame)).splitlines()
    assert lines[0].endswith("(7 arms)")
    assert max(map(len, lines)) < 300


@pytest.mark.parametrize("case", BAD_COHORTS)
def test_bad_data_is_one_sentence_before_any_effect(case, players, gate_position):
    spoil, error, sentence = BAD_COHORTS[case]
    with pytest.raises(error) as caught:
        xb.load_cohort(gate_position, spoil(players))
    assert sentence in str(caught.value)


def test_no_error_shows_a_unit_id(players, gate_position):
    named = players.assign(userid="player-" + players.userid.astype(str))
    with pytest.raises(errors.UnitError) as caught:
        xb.load_cohort(gate_position, pd.concat([named, named.head(3)]))
    assert "player-" not in str(caught.value)


@pytest.mark.parametrize("way", ["frame", "csv"])
@pytest.mark.parametrize(("column", "said"), [("rounds", "'player-7'"), ("userid", "a value")])
def test_a_value_of_another_type_is_named_but_never_a_unit_id(way, column, said, players, gate_position, tmp_path):
    metric = xb.Metric(name="rounds", kind="mean", role="goal", rope=0.1)
    frame = players.assign(rounds=1)
    frame[column] = frame[column].astype(object).where(np.arange(len(frame)) != 80_000, "player-7")
    frame.to_csv(tmp_path / "a.csv", index=False)
    source = frame if way == "frame" else tmp_path / "a.csv"
    where = r"\(str\) among" if way == "frame" else "in line 80002 of"
    with pytest.raises(errors.ColumnValueError, match=rf"column '{column}' holds {said} {where}") as caught:
        xb.load_cohort(replace(gate_position, metrics=(metric,)), source)
    assert caught.value.__cause__ is None


def test_a_missing_file_offers_the_nearest_name(tmp_path, players, gate_position):
    players.to_parquet(tmp_path / "cohort.parquet")
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'cohort.parquet'\?"):
        xb.load_cohort(gate_position, tmp_path / "cohrt.parquet")


def test_an_unknown_kind_of_source_lists_the_known_ones(gate_position, tmp_path):
    with pytest.raises(TypeError, match=r"cannot be made from a builtins\.int; pass a parquet or CSV path"):
        xb.load_cohort(gate_position, 3)
    (tmp_path / "cohort.xlsx").touch()
    with pytest.raises(errors.SourceError, match=r"ends in '\.xlsx'; known are \.parquet"):
        xb.load_cohort(gate_position, tmp_path / "cohort.xlsx")


@pytest.fixture
def spend_experiment(gate_position):
    """With money as an information metric, so that means and outliers show."""
    return replace(gate_position, metrics=(*gate_position.metrics, xb.Metric(name="spend", kind="mean", unit="USD")))


def spend(players, values):
    return players.assign(spend=np.resize(np.asarray(values, dtype=float), len(players)))


def test_nan_infinity_and_nothing_are_left_out_and_counted(players, spend_experiment):
    frame = pa.Table.from_pandas(spend(players, [1.0, 2.0]).assign(spend=lambda f: f.spend.where(f.index > 5)))
    column = frame.column("spend").to_pylist()
    column[6:10] = [float("nan"), float("nan"), float("inf"), float("-inf")]
    column[10:40] = [None] * 30
    frame = frame.set_column(frame.schema.get_field_index("spend"), "spend", pa.array(column, pa.float64()))
    cohort = xb.load_cohort(spend_experiment, frame)
    assert any(
        "36 empty and fewer than 20 NaN and fewer than 20 infinite of 90,189 values were left out" in check.sentence
        for check in cohort.checks
    )
    assert cohort.cells.moments("spend", "gate_40").high == 2.0


def test_an_arm_too_small_to_be_shown_cannot_be_worked_out_from_the_others(gate_position, players):
    few = players.drop(players.index[players.version == "gate_40"][5:])
    cohort = xb.load_cohort(gate_position, few)
    of_control = f"{(players.version == 'gate_30').sum():,}"
    assert (cohort.count("gate_30"), cohort.count("gate_40")) == ("not shown", "fewer than 20")
    ratio = next(check for check in cohort.checks if check.name == "sample_ratio")
    assert of_control not in repr(cohort) + cohort._repr_html_() + ratio.sentence


@pytest.mark.parametrize("base", [0.0, 1e6, 1e9])
def test_variance_keeps_its_digits_on_a_large_base(base, players, spend_experiment):
    values = base + np.random.default_rng(5).normal(0, 1, len(players))
    frame = spend(players, values)
    found = xb.load_cohort(spend_experiment, frame).cells.moments("spend", "gate_30")
    wanted = frame.spend[frame.version == "gate_30"]
    assert found.mean == pytest.approx(wanted.mean(), rel=1e-12, abs=1e-12)
    assert found.variance == pytest.approx((wanted - base).var(), rel=1e-9)


def test_a_pilot_that_misses_the_mean_is_done_again(players, spend_experiment):
    values = np.where(np.arange(len(players)) < 1000, 0.0, 1e9 + np.arange(len(players)) % 7)
    frame = spend(players, values)
    wanted = frame.spend[frame.version == "gate_40"]
    found = xb.load_cohort(spend_experiment, frame).cells.moments("spend", "gate_40")
    assert found.variance == pytest.approx((wanted - 1e9).var(), rel=1e-6)


def test_small_whole_numbers_do_not_overflow(players, spend_experiment):
    frame = players.assign(spend=pd.Series(np.full(len(players), 100), dtype="int8"))
    assert xb.load_cohort(spend_experiment, frame).cells.moments("spend", "gate_30").mean == 100


def test_days_come_from_the_first_exposure(players, gate_position):
    days = pd.Timestamp("2017-02-01") + pd.to_timedelta(players.index % 14, unit="D")
    experiment = replace(gate_position, exposed_at="seen", start=None, end=None)
    cells = xb.load_cohort(experiment, players.assign(seen=days)).cells
    assert [str(day) for day in cells.days()] == ["2017-02-01", "2017-02-14"]
    assert cells.n.size == 28
    assert cells.moments("retention_7", "gate_30").n == 44_700


def test_times_with_a_zone_become_days_of_the_workspace(players, gate_position):
    seen = pd.Series(pd.Timestamp("2017-02-01 23:30", tz="UTC"), index=players.index)
    experiment = replace(gate_position, exposed_at="seen", start=None, end=None, timezone="Asia/Tokyo")
    assert str(xb.load_cohort(experiment, players.assign(seen=seen)).cells.days()[0]) == "2017-02-02"


def test_text_is_no_exposure_time(players, gate_position):
    experiment = replace(gate_position, exposed_at="version", start=None, end=None)
    with pytest.raises(errors.CohortError, match="column 'version' holds string, not times"):
        xb.load_cohort(experiment, players)


def test_segments_add_up_to_all_units(players, gate_position):
    platform = np.where(players.index % 3, "ios", "android")
    experiment = replace(gate_position, segments=("platform",))
    cells = xb.load_cohort(experiment, players.assign(platform=platform)).cells
    parts = [
        cells.moments("retention_7", "gate_40", cells.segments["platform"] == name)
        for name in cells.segment_values("platform")
    ]
    assert cells.segment_values("platform") == ["android", "ios"]
    assert (parts[0] + parts[1]).mean == pytest.approx(cells.moments("retention_7", "gate_40").mean)


def test_rows_can_be_units(players, gate_position):
    experiment = replace(gate_position, unit="row")
    doubled = pd.concat([players, players])
    assert xb.load_cohort(experiment, doubled).cells.units == 2 * 90_189


def test_the_player_with_49854_rounds_is_reported(real_data, gate_position):
    rounds = xb.Metric(name="game_rounds", kind="mean", column="sum_gamerounds", unit="rounds")
    experiment = replace(gate_position, metrics=(*gate_position.metrics, rounds))
    cohort = xb.load_cohort(experiment, real_data / "cookie_cats" / "cookie_cats.parquet")
    (found,) = [check for check in cohort.checks if check.name == "outlier:game_rounds"]
    assert "one unit of gate_30 has 49,854" in found.sentence
