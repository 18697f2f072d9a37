"""The ledger as flat tables: nothing is lost on the way, and nothing is added twice."""

import json
import os
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool
from tests.ledger.conftest import NOW, fill

import expnb as xb
from expnb.errors import LedgerError
from expnb.ledger.export import COLUMNS, export_frame, newest_effects, read_effects, write_frame
from expnb.ledger.ledger import Ledger
from expnb.ledger.warehouse import append_to_table
from expnb.posterior.priors.past import frame as past_frame
from expnb.spec.canonical import canonical_json
from expnb.spec.flag import Exposure

LATER = datetime(2026, 3, 2, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")


def record(ledger, kind="look", **body):
    return ledger.append(kind, body, happened_at=NOW, recorded_at=LATER)


def looks(ledger, experiments=30, seed=20):
    """Two looks of each experiment, of which the second counts; one of them found no effect."""
    rng = np.random.default_rng(seed)
    for look in (1, 2):
        for number in range(experiments):
            effects = [
                {"metric": metric, "kind": "conversion", "variant": "new", "log_ratio": float(rng.normal(0, 0.03)), "se": float(rng.uniform(0.005, 0.02))}
                for metric in ("conversion", "NA")
            ]  # fmt: skip
            empty = number == 3 and look == 2
            record(ledger, experiment=f"e{number}", look=look, fingerprint=f"f{look}{number}", randomised=number != 5, effects=[] if empty else effects)  # fmt: skip


def as_learn_prior_takes_them(ledger):
    """What the workspace gives, from the ledger itself."""
    newest = {entry.body["experiment"]: entry for entry in ledger.entries(kind="look")}
    return past_frame((name, entry.body["randomised"], entry.body["effects"]) for name, entry in newest.items())


# --- entries ---------------------------------------------------------------------------------


def exposure(enrolled):
    return Exposure({"control": 50, "new": 50}, "control", enrolled)


def test_an_entry_is_one_flat_row_in_documented_columns(ledger):
    plan = {"verb": "ramp_up", "before": exposure(5), "after": exposure(25)}
    receipt = {"verb": "ramp_up", "before": {"exposure": exposure(5)}, "after": {"exposure": exposure(25)}}
    first = record(ledger, "intent", experiment="e", flag="f", environment="production", actor="ana", plan=plan)
    second = record(ledger, "outcome", experiment="e", flag="f", environment="production", actor="ana", applied=True, receipt=receipt)  # fmt: skip
    record(ledger, "kill", flag="f", receipt={"verb": "kill", "before": None, "after": {"exposure": exposure(0)}})
    record(ledger, "decision", experiment="e", action="hold")
    table = export_frame(ledger.entries())
    assert list(table.columns) == list(COLUMNS["entries"])
    assert list(table["seq"]) == [1, 2, 3, 4]
    assert list(table["hash"])[:2] == [first.hash, second.hash]
    assert list(table["verb"]) == ["ramp_up", "ramp_up", "kill", ""]
    assert list(table["enrolled_before"].dropna()) == [5, 5]
    assert list(table["enrolled_after"].dropna()) == [25, 25, 0]
    assert list(table["treated_after"].dropna()) == [12.5, 12.5, 0]
    assert table["applied"].isna().tolist() == [True, False, True, True]
    assert list(table["action"]) == ["", "", "", "hold"]
    assert table["happened_at"][0] == NOW
    assert table["recorded_at"][0] == LATER
    assert [json.loads(body) for body in table["body"]] == [entry.body for entry in ledger.entries()]


@pytest.mark.parametrize("end", ["csv", "parquet"])
@pytest.mark.parametrize("what", ["entries", "effects"])
def test_a_file_holds_every_row_also_of_an_empty_ledger(ledger, tmp_path, end, what):
    path = tmp_path / f"ledger.{end}"
    read = pd.read_csv if end == "csv" else pd.read_parquet
    write_frame(export_frame([], what), path)
    assert list(read(path).columns) == list(COLUMNS[what])
    looks(ledger)
    table = export_frame(ledger.entries(), what)
    write_frame(table, path)
    assert len(read(path)) == len(table) > 0


def test_a_parquet_file_keeps_values_and_types(ledger, tmp_path):
    looks(ledger, 4)
    table = export_frame(ledger.entries())
    write_frame(table, tmp_path / "ledger.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "ledger.parquet"), table)


def test_a_body_in_the_export_proves_its_hash(ledger):
    import hashlib

    record(ledger, experiment="e", share=0.1)
    row = export_frame(ledger.entries()).iloc[0]
    times = (time.isoformat(timespec="microseconds") for time in (row["happened_at"].to_pydatetime(), row["recorded_at"].to_pydatetime()))  # fmt: skip
    start = canonical_json([int(row["seq"]), row["kind"], 1, *times])[:-1]
    assert hashlib.sha256(f'{start},{row["body"]},"{"0" * 64}"]'.encode()).hexdigest() == row["hash"]


def test_another_kind_of_file_and_a_folder_that_is_not_there_are_refused(ledger, tmp_path):
    table = export_frame(ledger.entries())
    with pytest.raises(LedgerError, match=r"'ledger.xlsx' ends in '.xlsx'"):
        write_frame(table, tmp_path / "ledger.xlsx")
    with pytest.raises(LedgerError, match="cannot be written"):
        write_frame(table, tmp_path / "nowhere" / "ledger.csv")


# --- effects: the training set of learnt priors ----------------------------------------------


@pytest.mark.parametrize("end", ["csv", "parquet"])
def test_exported_effects_read_back_teach_the_same_prior(ledger, tmp_path, end):
    looks(ledger)
    path = tmp_path / f"effects.{end}"
    write_frame(export_frame(ledger.entries(), "effects"), path)
    own, back = as_learn_prior_takes_them(ledger), read_effects(path)
    order = ["experiment", "metric"]
    pd.testing.assert_frame_equal(
        back.sort_values(order, ignore_index=True), own[back.columns].sort_values(order, ignore_index=True), check_dtype=False
    )  # fmt: skip
    for metric in ("conversion", "NA"):
        assert xb.learn_prior(back, metric=metric) == xb.learn_prior(own, metric=metric)


def test_an_experiment_whose_newest_look_found_nothing_teaches_nothing(ledger):
    looks(ledger)
    assert "e3" not in set(newest_effects(export_frame(ledger.entries(), "effects"))["experiment"])


# --- the user's own warehouse ----------------------------------------------------------------


@pytest.fixture
def warehouse(place, monkeypatch, tmp_path):
    """A database of the user's; its connection is called WAREHOUSE."""
    if place.name == "sqlite":
        place.url = f"sqlite:///{tmp_path / 'warehouse.sqlite'}"
        monkeypatch.setenv("WAREHOUSE", place.url)
    else:
        monkeypatch.setenv("WAREHOUSE", os.environ["TEAM_LEDGER"])
    return place


def read_table(warehouse, name):
    engine = create_engine(warehouse.url, poolclass=NullPool)
    with engine.connect() as connection:
        return pd.read_sql(f"SELECT * FROM {name} ORDER BY seq", connection)  # noqa: S608 - a name of ours


@pytest.mark.parametrize("what", ["entries", "effects"])
def test_a_table_is_made_and_added_to_and_nothing_is_added_twice(ledger, warehouse, what):
    looks(ledger, 5)

    def export():
        return append_to_table(export_frame(ledger.entries(), what), what, connection="WAREHOUSE", table="exported")

    rows = len(export_frame(ledger.entries(), what))
    assert export() == rows
    assert export() == 0
    record(ledger, experiment="x", look=1, fingerprint="g", randomised=True, effects=[])
    assert export() == 1
    found = read_table(warehouse, "exported")
    table = export_frame(ledger.entries(), what)
    assert list(found.columns) == list(COLUMNS[what])
    assert list(found["hash"]) == list(table["hash"])
    if what == "entries":
        same = ["experiment", "kind", "body"]
        assert found[same].to_dict() == table[same].to_dict()
    if what == "effects":
        keys = ["experiment", "metric", "variant"]
        pd.testing.assert_frame_equal(
            newest_effects(found).sort_values(keys, ignore_index=True),
            newest_effects(table).sort_values(keys, ignore_index=True),
            check_dtype=False,
        )


def test_times_and_truths_arrive_as_such(ledger, on_server, monkeypatch):
    monkeypatch.setenv("WAREHOUSE", os.environ["TEAM_LEDGER"])
    record(ledger, "outcome", applied=True)
    record(ledger, "outcome", applied=None)
    frame = export_frame(ledger.entries())
    append_to_table(frame, "entries", connection="WAREHOUSE", table="exported")
    with on_server.raw() as connection:
        found = connection.exec_driver_sql(
            "SELECT happened_at, applied, enrolled_after FROM exported ORDER BY seq"
        ).all()
    assert [tuple(row) for row in found] == [(NOW, True, None), (NOW, None, None)]


def test_a_table_of_another_ledger_is_left_alone(ledger, warehouse, tmp_path):
    record(ledger, number=1)
    append_to_table(export_frame(ledger.entries()), "entries", connection="WAREHOUSE", table="exported")
    other = Ledger(f"sqlite:///{tmp_path / 'other.sqlite'}")
    fill(other, ({"number": number} for number in range(3)), kind="view")
    with pytest.raises(LedgerError, match="entry 1 of another ledger"):
        append_to_table(export_frame(other.entries()), "entries", connection="WAREHOUSE", table="exported")
    assert len(read_table(warehouse, "exported")) == 1


def test_a_table_of_other_columns_is_refused_and_no_secret_is_shown(ledger, on_server, monkeypatch):
    monkeypatch.setenv("WAREHOUSE", os.environ["TEAM_LEDGER"])
    with on_server.raw() as connection:
        connection.exec_driver_sql("CREATE TABLE exported (x int)")
    record(ledger)
    with pytest.raises(LedgerError, match="Nothing was added") as caught:
        append_to_table(export_frame(ledger.entries()), "entries", connection="WAREHOUSE", table="exported")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("hunter2", "holds no URL of SQLAlchemy"),
        ("nosuchdb://u:hunter2@host/db", "needs a driver for 'nosuchdb'"),
        ("postgresql://u:hunter2@127.0.0.1:1/db", "did not take the export"),
    ],
)
def test_a_connection_that_is_no_warehouse_is_refused_and_never_shown(ledger, monkeypatch, value, words):
    monkeypatch.setenv("WAREHOUSE", value)
    record(ledger)
    with pytest.raises(LedgerError, match=words) as caught:
        append_to_table(export_frame(ledger.entries()), "entries", connection="WAREHOUSE", table="exported")
    assert "hunter2" not in str(caught.value)
