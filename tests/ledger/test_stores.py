"""What a ledger promises in every place: in a file and on a PostgreSQL server, by the name of its connection."""

import os
import subprocess
import sys
from datetime import UTC, datetime

import psutil
import pytest
from sqlalchemy.exc import DBAPIError

from expnb.errors import LedgerBrokenError, LedgerError
from expnb.ledger import store_postgres
from expnb.ledger.ledger import KINDS, Ledger

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ZEROS = "0" * 64
PASSWORDS = ("geheim-%40-4711", "geheim-@-4711")


@pytest.fixture
def ledger(place):
    return Ledger(connection="TEAM_LEDGER")


def record(ledger, kind="look", **body):
    return ledger.append(kind, body, happened_at=NOW, recorded_at=NOW)


# --- recording and finding -------------------------------------------------------------------


def test_a_ledger_that_was_not_begun_reads_as_empty_and_stays_unmade(ledger, place):
    assert (ledger.entries(), ledger.head(), ledger.last(), ledger.newest("look")) == ([], ZEROS, None, [])
    assert ledger.verify(against=ZEROS).entries == 0
    if place.name == "sqlite":
        assert not ledger.path.parent.exists()
    else:
        with place.raw() as connection:
            assert connection.exec_driver_sql("SELECT to_regclass('ledger')").scalar() is None


def test_what_was_appended_is_returned_oldest_first_by_another_ledger_object(ledger):
    written = [
        record(ledger, kind, experiment="gate", number=number, text="ü💶 \x00 \\u0000 \n", none=None)
        for number, kind in enumerate(KINDS)
    ]
    again = Ledger(connection="TEAM_LEDGER")
    assert again.entries() == written
    assert again.entries(experiment="gate", tail=2) == written[-2:]
    assert again.verify().head == again.head() == written[-1].hash
    assert [entry.previous for entry in written] == [ZEROS, *(entry.hash for entry in written[:-1])]


def test_the_chain_is_the_same_wherever_it_lies(ledger, tmp_path):
    other = Ledger(f"sqlite:///{tmp_path / 'other.sqlite'}")
    for one in (ledger, other):
        record(one, "decision", experiment="gate", share=0.1, names=["a", "ü"], deep={"x": {"y": 1e-7}})
        record(one, experiment="gate", number=10**25)
    assert ledger.head() == other.head()


def test_entries_are_found_by_kind_experiment_flag_and_environment(ledger):
    record(ledger, "look", experiment="a")
    record(ledger, "decision", experiment="a", flag="x", environment="production")
    record(ledger, "decision", experiment="a", flag="x", environment="staging")
    record(ledger, "look", experiment="b", flag="x")
    record(ledger, "look", nested={"experiment": "a"}, experiment=["a"])
    record(ledger, "kill", flag='it\'s "y" :z', environment="production")

    def found(**which):
        return [entry.seq for entry in ledger.entries(**which)]

    assert found(kind="look") == [1, 4, 5]
    assert found(experiment="a") == [1, 2, 3]
    assert found(flag="x") == [2, 3, 4]
    assert found(flag='it\'s "y" :z') == [6]
    assert found(kind="decision", experiment="a", flag="x") == [2, 3]
    assert found(experiment="a", environment="production") == [1, 2]  # an entry without one holds in every one
    assert found(experiment="c") == []
    assert found(tail=2) == [5, 6]


def test_the_last_of_its_kind_is_found_and_the_newest_of_each_experiment(ledger):
    for number, name in enumerate(["a", "b", "a", "c", "b"]):
        record(ledger, "look", experiment=name, number=number)
    record(ledger, "decision", experiment="a")
    record(ledger, "decision", experiment="d")
    assert ledger.last(kind="look", experiment="a").seq == 3
    assert ledger.last(experiment="a").seq == 6
    assert ledger.last(kind="kill") is None
    assert [entry.seq for entry in ledger.newest("look")] == [3, 4, 5]
    assert [entry.seq for entry in ledger.newest("decision")] == [6, 7]


# --- append-only -----------------------------------------------------------------------------

CHANGES = {
    "update": "UPDATE ledger SET kind = 'kill' WHERE seq = 1",
    "update of nothing": "UPDATE ledger SET kind = 'kill' WHERE seq = 99",
    "delete": "DELETE FROM ledger",
    "truncate": "TRUNCATE ledger",
    "gap": "INSERT INTO ledger SELECT seq + 100, kind, schema, happened_at, recorded_at, body, previous, hash FROM ledger WHERE seq = 1",
    "again": "INSERT INTO ledger SELECT seq, kind, schema, happened_at, recorded_at, body, previous, hash FROM ledger WHERE seq = 1",
    "wrong previous": "INSERT INTO ledger SELECT 4, kind, schema, happened_at, recorded_at, body, previous, hash FROM ledger WHERE seq = 1",
    "upsert": "INSERT INTO ledger SELECT seq, 'kill', schema, happened_at, recorded_at, body, previous, hash FROM ledger WHERE seq = 3 ON CONFLICT (seq) DO UPDATE SET kind = 'kill'",
}


@pytest.mark.parametrize("how", CHANGES)
def test_sql_that_is_not_an_append_is_refused_by_the_database(ledger, place, how):
    if place.name == "sqlite" and how in {"truncate", "update of nothing"}:
        pytest.skip("SQLite has no TRUNCATE, and its triggers are of rows")
    for number in range(3):
        record(ledger, number=number)
    before = ledger.entries()
    with pytest.raises(DBAPIError, match="append-only"), place.raw() as connection:
        connection.exec_driver_sql(CHANGES[how])
    assert ledger.entries() == before


@pytest.mark.parametrize("column", ["kind", "happened_at", "body", "previous", "hash"])
def test_what_was_changed_behind_its_back_is_found_and_named(ledger, place, column):
    for number in range(4):
        record(ledger, number=number, experiment="a")
    place.take_fences_down()
    new = """'{"experiment":"a","number":7}'""" if column == "body" else "'2026-03-01T12:00:00.000001+00:00'"
    with place.raw() as connection:
        connection.exec_driver_sql(f"UPDATE ledger SET {column} = {new} WHERE seq = 2")  # noqa: S608 - names of ours
    for call in (ledger.verify, ledger.entries):
        with pytest.raises(LedgerBrokenError, match="ledger entry 2"):
            call()


def test_a_cut_end_and_a_removed_entry_are_found(ledger, place):
    heads = [record(ledger, number=number).hash for number in range(4)]
    place.take_fences_down()
    with place.raw() as connection:
        connection.exec_driver_sql("DELETE FROM ledger WHERE seq = 4")
    assert ledger.verify(against=heads[:3]).entries == 3
    with pytest.raises(LedgerBrokenError, match="truncated or rewritten"):
        ledger.verify(against=heads)
    with place.raw() as connection:
        connection.exec_driver_sql("DELETE FROM ledger WHERE seq = 2")
    with pytest.raises(LedgerBrokenError, match="entry 2: is missing"):
        ledger.verify()


def test_nothing_is_appended_behind_a_damaged_end(ledger, place):
    record(ledger)
    place.take_fences_down()
    with place.raw() as connection:
        connection.exec_driver_sql("UPDATE ledger SET kind = 'kill'")
    with pytest.raises(LedgerBrokenError, match="entry 1"):
        record(ledger)


# --- several writers -------------------------------------------------------------------------

WRITERS = """
import os, sys
from datetime import UTC, datetime
from expnb.ledger.ledger import Ledger
NOW = datetime(2026, 3, 1, tzinfo=UTC)
ledger = Ledger(connection="TEAM_LEDGER")
pids = []
for name in "abcdefgh":
    pid = os.fork()
    if not pid:
        try:
            for number in range(15):
                ledger.append("look", {"experiment": name, "number": number}, happened_at=NOW, recorded_at=NOW)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    pids.append(pid)
sys.exit(any([os.waitpid(pid, 0)[1] for pid in pids]))
"""


def test_eight_processes_append_at_once_from_nothing_and_no_entry_is_lost(ledger):
    done = subprocess.run([sys.executable, "-c", WRITERS], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert ledger.verify().entries == 120
    for name in "abcdefgh":
        assert [entry.body["number"] for entry in ledger.entries(experiment=name)] == list(range(15))


def test_an_error_while_appending_leaves_no_entry_and_no_lock(ledger):
    record(ledger)
    with pytest.raises(ZeroDivisionError), ledger._store.appending():
        raise ZeroDivisionError
    assert record(ledger).seq == 2


# --- the connection --------------------------------------------------------------------------


def test_a_connection_is_looked_up_at_the_first_use_and_a_missing_one_is_named(monkeypatch):
    ledger = Ledger(connection="NO_SUCH_LEDGER")
    assert repr(ledger) == "Ledger(connection='NO_SUCH_LEDGER')"
    for call in (ledger.head, lambda: record(ledger)):
        with pytest.raises(LedgerError, match="'NO_SUCH_LEDGER' is neither in the environment nor in the keyring"):
            call()


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://u:hunter2@host:nonsense/db",
        "mysql://u:hunter2@host/db",
        "hunter2",
        "sqlite:///",
        "sqlite:///:memory:",
    ],
)
def test_a_connection_that_holds_no_ledger_is_refused_and_never_shown(monkeypatch, value):
    monkeypatch.setenv("TEAM_LEDGER", value)
    with pytest.raises(LedgerError, match="postgresql://user:password@host/database|sqlite:///PATH") as caught:
        Ledger(connection="TEAM_LEDGER").head()
    assert "hunter2" not in str(caught.value)


def test_an_address_in_place_of_a_name_is_refused_and_never_shown():
    with pytest.raises(LedgerError, match="the name of an environment variable") as caught:
        Ledger(connection="postgresql://u:hunter2@host/db").head()
    assert "hunter2" not in str(caught.value)


def test_a_ledger_has_one_place():
    with pytest.raises(LedgerError, match="not both"):
        Ledger("sqlite:///x.sqlite", connection="TEAM_LEDGER")


# --- a server that fails ---------------------------------------------------------------------


def says_no_secret(error):
    while error is not None:
        assert not any(password in f"{error} {error!r}" for password in PASSWORDS)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_a_wrong_password_and_a_wrong_database_are_named_and_no_secret_is_shown(on_server, server, monkeypatch):
    for wrong, words in (
        (server.url.replace("geheim", "falsch"), "password authentication failed"),
        (server.url.replace("/postgres", "/nowhere"), '"nowhere" does not exist'),
    ):
        monkeypatch.setenv("TEAM_LEDGER", wrong)
        ledger = Ledger(connection="TEAM_LEDGER")
        for call in (ledger.entries, lambda: record(ledger)):  # noqa: B023 - called at once
            with pytest.raises(LedgerError, match=words) as caught:
                call()
            assert "falsch-" not in str(caught.value)
            says_no_secret(caught.value)


def test_a_server_that_is_not_there_is_named_and_no_secret_is_shown(server, monkeypatch):
    monkeypatch.setenv("TEAM_LEDGER", server.url.replace(f":{server.port}/", ":1/"))
    with pytest.raises(LedgerError, match="'TEAM_LEDGER' cannot be reached") as caught:
        record(Ledger(connection="TEAM_LEDGER"))
    says_no_secret(caught.value)


def sleepers(server):
    """The processes that serve connections of a ledger."""
    backends = psutil.Process(server.process.pid).children(recursive=True)
    return [process for process in backends if "127.0.0.1" in " ".join(process.cmdline())]


def test_a_server_that_stops_answering_in_the_middle_is_given_up(on_server, server, monkeypatch):
    ledger = Ledger(connection="TEAM_LEDGER")
    record(ledger)
    monkeypatch.setattr(store_postgres, "_SILENCE_SECONDS", 1.0)
    stopped = []
    try:
        with pytest.raises(LedgerError, match="cannot be reached") as caught, ledger._store.appending() as connection:  # noqa: PT012 - the block is what fails
            stopped = sleepers(server)
            for process in stopped:
                process.suspend()
            connection.exec_driver_sql("SELECT 1")
    finally:
        for process in stopped:
            process.resume()
    assert stopped
    says_no_secret(caught.value)
    assert record(ledger).seq == 2


def test_a_lost_answer_to_the_last_word_is_told_as_unknown(on_server, server, monkeypatch):
    ledger = Ledger(connection="TEAM_LEDGER")
    record(ledger)
    monkeypatch.setattr(store_postgres, "_SILENCE_SECONDS", 1.0)
    stopped = []
    try:
        with pytest.raises(LedgerError, match="may be recorded") as caught, ledger._store.appending():  # noqa: PT012 - the block is what fails
            stopped = sleepers(server)
            for process in stopped:
                process.suspend()
    finally:
        for process in stopped:
            process.resume()
    assert stopped
    assert "Nothing was recorded" not in str(caught.value)


def test_a_connection_that_is_killed_in_the_middle_leaves_an_unbroken_chain(on_server, server):
    ledger = Ledger(connection="TEAM_LEDGER")
    record(ledger)
    with pytest.raises(LedgerError) as caught, ledger._store.appending() as connection:  # noqa: PT012 - the block is what fails
        (pid,) = connection.exec_driver_sql("SELECT pg_backend_pid()").one()
        with on_server.raw() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        connection.exec_driver_sql("SELECT 1")
    says_no_secret(caught.value)
    assert record(ledger).seq == 2
    assert ledger.verify().entries == 2


def test_a_writer_that_holds_the_ledger_is_waited_for_only_so_long(on_server, monkeypatch):
    ledger = Ledger(connection="TEAM_LEDGER")
    record(ledger)
    monkeypatch.setattr(store_postgres, "_LOCK_SECONDS", 0.2)
    with on_server.raw() as holder:
        holder.exec_driver_sql(f"SELECT pg_advisory_xact_lock({store_postgres._WRITER})")
        with pytest.raises(LedgerError, match="held by another program"):
            record(ledger)
        assert ledger.verify().entries == 1


def test_a_writer_without_the_lock_waits_at_the_fence_and_then_is_refused(on_server):
    ledger = Ledger(connection="TEAM_LEDGER")
    record(ledger)
    copied = "INSERT INTO ledger SELECT 2, kind, schema, happened_at, recorded_at, body, hash, hash FROM ledger WHERE seq = 1"
    with ledger._store.appending(), pytest.raises(DBAPIError, match="lock timeout"), on_server.raw() as other:  # noqa: PT012 - the block is what fails
        other.exec_driver_sql("SET lock_timeout = '0.2s'")
        other.exec_driver_sql(copied)
    assert ledger.verify().entries == 1


def test_a_user_with_the_least_rights_appends_and_reads_and_changes_nothing(on_server, server, monkeypatch):
    owner = Ledger(connection="TEAM_LEDGER")
    record(owner)
    with on_server.raw() as connection:
        schema = connection.exec_driver_sql("SELECT current_schema()").scalar()
        role = f"writer_{schema}"
        for statement in (
            f"CREATE ROLE {role} LOGIN PASSWORD 'p'",
            f"GRANT USAGE ON SCHEMA {schema} TO {role}",
            f"GRANT SELECT, INSERT ON ledger TO {role}",
            f"GRANT SELECT ON ledger_version TO {role}",
        ):
            connection.exec_driver_sql(statement)
    url = os.environ["TEAM_LEDGER"].replace("analyst:geheim-%40-4711", f"{role}:p")
    monkeypatch.setenv("TEAM_LEDGER", url)
    writer = Ledger(connection="TEAM_LEDGER")
    assert record(writer).seq == 2
    assert writer.verify().entries == 2
    with on_server.raw() as connection:
        connection.exec_driver_sql(f"REVOKE INSERT ON ledger FROM {role}")
    with pytest.raises(LedgerError, match="GRANT SELECT, INSERT"):
        record(writer)


def test_a_table_of_something_else_is_refused(on_server):
    with on_server.raw() as connection:
        connection.exec_driver_sql("CREATE TABLE ledger (account text, amount int)")
    ledger = Ledger(connection="TEAM_LEDGER")
    for call in (ledger.entries, lambda: record(ledger)):
        with pytest.raises(LedgerError, match="Nothing was recorded"):
            call()


def test_a_server_that_was_away_is_used_again(server, on_server):
    ledger = Ledger(connection="TEAM_LEDGER")
    record(ledger)
    server.stop()
    try:
        with pytest.raises(LedgerError, match="cannot be reached"):
            record(ledger)
    finally:
        server.start()
    assert record(ledger).seq == 2
