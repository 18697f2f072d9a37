"""Older ledgers are brought up to date, and no entry of theirs is touched."""

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from expnb.errors import LedgerError
from expnb.ledger.ledger import Ledger
from expnb.ledger.migrations.schema import NEWEST, STEPS, VERSION_TABLE

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
GOLDEN = (
    Path(__file__).parent / "golden" / "ledger_0001.sqlite"
)  # written by expnb before it had versions of the schema
GOLDEN_HEAD = "9e6bfa72a1e481c121651558d719d37f482b8b9a24098cc4e04d1591c9ed16bb"  # as that expnb printed it
COLUMNS = "seq, kind, schema, happened_at, recorded_at, body, previous, hash"


def record(ledger, kind="look", **body):
    return ledger.append(kind, body, happened_at=NOW, recorded_at=NOW)


def begin_old(place, version=""):
    """The oldest schema with the entries of the golden file, at a version that its table names, or without one."""
    if place.name == "sqlite":
        path = Path(place.url.removeprefix("sqlite:///"))
        path.parent.mkdir()
        shutil.copy(GOLDEN, path)
    else:
        import sqlite3

        golden = sqlite3.connect(GOLDEN)
        rows = golden.execute(f"SELECT {COLUMNS} FROM ledger ORDER BY seq").fetchall()  # noqa: S608 - names of ours
        golden.close()
        with place.raw() as connection:
            for statement in STEPS[0].STATEMENTS["postgresql"]:
                connection.exec_driver_sql(statement)
            for row in rows:
                connection.exec_driver_sql("INSERT INTO ledger VALUES (%s, %s, %s, %s, %s, %s, %s, %s)", row)
    if version:
        with place.raw() as connection:
            connection.exec_driver_sql(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)")
            connection.exec_driver_sql(f"INSERT INTO {VERSION_TABLE} VALUES ('{version}')")  # noqa: S608


def rows(place):
    with place.raw() as connection:
        return connection.exec_driver_sql(f"SELECT {COLUMNS} FROM ledger ORDER BY seq").all()  # noqa: S608 - names of ours


def schema(place):
    """Everything that the database has of the ledger, in its own words."""
    with place.raw() as connection:
        if place.name == "sqlite":
            said = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").scalars().all()
        else:
            here = connection.exec_driver_sql("SELECT current_schema()").scalar()
            asked = (
                "SELECT indexdef FROM pg_indexes WHERE schemaname = current_schema()",
                "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = 'ledger'::regclass",
                "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = current_schema()::regnamespace",
                "SELECT table_name || column_name || data_type || is_nullable FROM information_schema.columns WHERE table_schema = current_schema()",
            )
            said = [text.replace(here, "") for query in asked for text in connection.exec_driver_sql(query).scalars()]
        return sorted(re.sub(r"\s+", "", text) for text in said)


def test_a_ledger_of_the_first_release_opens_verifies_and_is_found_in_without_a_change(place):
    begin_old(place)
    before = rows(place), schema(place)
    ledger = Ledger(connection="TEAM_LEDGER")
    assert ledger.verify(against=GOLDEN_HEAD).entries == 5
    assert [entry.seq for entry in ledger.entries(experiment="gate", kind="look")] == [2]
    assert ledger.last(flag="gate-position").body["applied"] is True
    assert [entry.seq for entry in ledger.newest("look")] == [2, 3]
    assert (rows(place), schema(place)) == before


@pytest.mark.parametrize("version", ["", "0001"])
def test_the_first_append_brings_an_older_ledger_up_to_date_and_touches_no_entry(place, version):
    begin_old(place, version)
    before = rows(place)
    ledger = Ledger(connection="TEAM_LEDGER")
    assert record(ledger).previous == GOLDEN_HEAD
    assert rows(place)[:-1] == before
    assert ledger.verify(against=GOLDEN_HEAD).entries == 6
    with place.raw() as connection:
        assert connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalars().all() == [NEWEST]  # noqa: S608


def test_an_older_ledger_that_was_brought_up_to_date_has_the_schema_of_a_new_one(place, tmp_path):
    begin_old(place)
    record(Ledger(connection="TEAM_LEDGER"))
    old = schema(place)
    if place.name == "sqlite":
        Path(place.url.removeprefix("sqlite:///")).unlink()
    else:
        with place.raw() as connection:
            for what in (
                "TABLE ledger",
                f"TABLE {VERSION_TABLE}",
                "FUNCTION ledger_append_only",
                "FUNCTION ledger_in_order",
            ):
                connection.exec_driver_sql(f"DROP {what} CASCADE")
    record(Ledger(connection="TEAM_LEDGER"))
    assert schema(place) == old


def test_an_append_that_fails_leaves_an_older_ledger_as_it_was(place):
    begin_old(place)
    before = rows(place), schema(place)
    ledger = Ledger(connection="TEAM_LEDGER")
    with pytest.raises(ZeroDivisionError), ledger._store.appending():
        raise ZeroDivisionError
    assert (rows(place), schema(place)) == before


def test_a_ledger_of_a_newer_expnb_is_read_and_not_appended_to(place):
    begin_old(place, "9999")
    ledger = Ledger(connection="TEAM_LEDGER")
    assert ledger.verify(against=GOLDEN_HEAD).entries == 5
    with pytest.raises(LedgerError, match=r"'9999' of a newer expnb.*Update expnb"):
        record(ledger)
    assert ledger.verify().entries == 5


def test_eight_writers_bring_an_older_ledger_up_to_date_once(place):
    from tests.ledger.test_stores import WRITERS

    begin_old(place)
    done = subprocess.run([sys.executable, "-c", WRITERS], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert Ledger(connection="TEAM_LEDGER").verify(against=GOLDEN_HEAD).entries == 125


def test_alembic_knows_the_same_steps_in_the_same_order():
    from alembic.script import ScriptDirectory

    import expnb.ledger.migrations

    script = ScriptDirectory(str(Path(expnb.ledger.migrations.__file__).parent))
    known = [step.revision for step in script.walk_revisions()]
    assert known[::-1] == [step.revision for step in STEPS]


IMPORTS = """
import json, os, sys
from datetime import UTC, datetime
from expnb.ledger.ledger import Ledger
ledger = Ledger(connection="TEAM_LEDGER")
for _ in range(2):
    ledger.append("look", {}, happened_at=datetime.now(UTC), recorded_at=datetime.now(UTC))
ledger.entries(experiment="a")
print(json.dumps([name in sys.modules for name in ("alembic", "pandas")]))
"""


def test_a_new_and_a_current_ledger_are_used_without_loading_alembic(place):
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, False]
