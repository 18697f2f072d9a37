"""The ledger: what was recorded stays, in order, and is found again."""

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from expnb.errors import LedgerError
from expnb.ledger.ledger import KINDS, Ledger

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ZEROS = "0" * 64


@pytest.fixture
def ledger(tmp_path):
    return Ledger(f"sqlite:///{tmp_path / 'folder' / 'ledger.sqlite'}")


def record(ledger, kind="look", **body):
    return ledger.append(kind, body, happened_at=NOW, recorded_at=NOW)


# --- recording and finding -------------------------------------------------------------------


def test_what_was_appended_is_returned_oldest_first_by_another_ledger_object(ledger):
    written = [
        record(ledger, kind, experiment="gate", number=number, text="ü💶", none=None)
        for number, kind in enumerate(KINDS)
    ]
    again = Ledger(f"sqlite:///{ledger.path}")
    assert again.entries() == written
    assert [entry.seq for entry in written] == list(range(1, len(KINDS) + 1))
    assert written[3].body == {"experiment": "gate", "number": 3, "text": "ü💶", "none": None}
    assert again.verify().entries == len(KINDS)
    assert again.verify().head == again.head() == written[-1].hash


def test_each_entry_names_the_one_before_and_the_first_names_zeros(ledger):
    first, second = record(ledger), record(ledger)
    assert first.previous == ZEROS
    assert second.previous == first.hash
    assert first.hash != second.hash


def test_entries_are_filtered_by_kind_experiment_and_flag(ledger):
    record(ledger, "look", experiment="a", flag="x")
    record(ledger, "decision", experiment="a", flag="x")
    record(ledger, "look", experiment="b", flag="x")
    record(ledger, "look", nested={"experiment": "a"})
    record(ledger, "kill", flag="y")

    def found(**which):
        return [entry.seq for entry in ledger.entries(**which)]

    assert found(kind="look") == [1, 3, 4]
    assert found(experiment="a") == [1, 2]
    assert found(flag="x") == [1, 2, 3]
    assert found(kind="look", experiment="a", flag="x") == [1]
    assert found(experiment="c") == []


def test_bodies_may_hold_plans_and_times(ledger):
    @dataclass(frozen=True)
    class Plan:
        percent: float
        at: datetime
        rungs: tuple[int, ...]

    entry = record(ledger, "request", plan=Plan(2.5, NOW, (1, 5)))
    assert entry.body["plan"] == {"percent": 2.5, "at": "2026-03-01T12:00:00+00:00", "rungs": [1, 5]}
    assert ledger.entries() == [entry]


def test_times_are_kept_as_instants_in_utc(ledger):
    local = datetime(2026, 3, 1, 14, 30, 0, 7, tzinfo=timezone(timedelta(hours=2)))
    entry = ledger.append("kill", {}, happened_at=local, recorded_at=NOW + timedelta(days=1))
    assert entry.happened_at == local
    assert entry.happened_at.tzinfo is UTC
    assert entry.recorded_at == NOW + timedelta(days=1)
    assert ledger.entries() == [entry]


def test_the_same_appends_give_the_same_chain(tmp_path):
    heads = set()
    for name in ("one", "two"):
        ledger = Ledger(f"sqlite:///{tmp_path / name}")
        record(ledger, experiment="a", b=1)
        ledger.append("look", {"b": 1, "experiment": "a"}, happened_at=NOW, recorded_at=NOW)
        heads.add(ledger.head())
    assert len(heads) == 1


def test_the_hash_is_that_of_the_canonical_json_anybody_can_compute(ledger):
    import hashlib

    record(ledger)
    entry = record(ledger, b=1, a="ü")
    text = f'[2,"look",1,"2026-03-01T12:00:00.000000+00:00","2026-03-01T12:00:00.000000+00:00",{{"a":"ü","b":1}},"{entry.previous}"]'
    assert entry.hash == hashlib.sha256(text.encode()).hexdigest()


# --- reading makes nothing -------------------------------------------------------------------


def test_reading_a_ledger_that_is_not_there_finds_nothing_and_makes_nothing(tmp_path, ledger):
    assert ledger.entries() == []
    assert ledger.head() == ZEROS
    assert ledger.verify().entries == 0
    assert ledger.verify(against=ZEROS).head == ZEROS
    assert list(tmp_path.iterdir()) == []


def test_reading_an_empty_file_leaves_it_empty(tmp_path):
    path = tmp_path / "empty.sqlite"
    path.touch()
    ledger = Ledger(f"sqlite:///{path}")
    assert ledger.head() == ZEROS
    assert path.stat().st_size == 0
    assert list(tmp_path.iterdir()) == [path]


def test_reading_leaves_no_file_behind_and_changes_no_byte(ledger):
    record(ledger)
    before = {path.name: path.read_bytes() for path in ledger.path.parent.iterdir()}
    ledger.entries()
    ledger.head()
    ledger.verify()
    assert {path.name: path.read_bytes() for path in ledger.path.parent.iterdir()} == before
    assert set(before) == {"ledger.sqlite"}


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["token", "API_KEY", "apiKey", "api-key", "unleashToken", "db_password", "client_secret", "credentials"]
)
def test_a_body_with_a_secret_is_refused_wherever_it_is(ledger, key):
    for body in ({key: "x"}, {"vendor": {"auth": [{key: "x"}]}}):
        with pytest.raises(LedgerError, match="looks like a secret") as caught:
            record(ledger, **body)
        assert "'x'" not in str(caught.value)
    assert not ledger.path.exists()


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), object(), "\ud800", {1, 2}],
    ids=["nan", "infinity", "object", "half a surrogate", "set"],
)
def test_a_body_without_a_json_form_is_refused(ledger, value):
    with pytest.raises(LedgerError, match="cannot be recorded"):
        record(ledger, value=value)
    assert not ledger.path.exists()


def test_a_body_that_holds_itself_is_refused(ledger):
    body = {}
    body["body"] = body
    with pytest.raises(LedgerError, match="cannot be recorded"):
        record(ledger, body=body)


def test_an_unknown_kind_and_a_time_without_zone_are_refused(ledger):
    with pytest.raises(LedgerError, match="kinds are registered"):
        record(ledger, "lok")
    with pytest.raises(LedgerError, match="time zone"):
        ledger.append("look", {}, happened_at=datetime(2026, 3, 1), recorded_at=NOW)
    assert not ledger.path.exists()


@pytest.mark.parametrize(
    "url", ["postgresql://user:hunter2@host/db", "ledger.sqlite", "sqlite://", "sqlite:///", "sqlite:///:memory:", ""]
)
def test_an_address_without_a_lasting_file_is_refused_and_shows_no_password(url):
    with pytest.raises(LedgerError, match="sqlite:///PATH") as caught:
        Ledger(url)
    assert "hunter2" not in str(caught.value)


# --- places that cannot be used --------------------------------------------------------------


def test_a_file_that_is_no_database_is_refused_and_stays(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("These are notes, not a database. " * 100)
    before, ledger = path.read_bytes(), Ledger(f"sqlite:///{path}")
    for call in (ledger.entries, ledger.head, ledger.verify, lambda: record(ledger)):
        with pytest.raises(LedgerError, match=r"is not a SQLite database.*\."):
            call()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("table", "problem"),
    [("ledger", "Check that the path is a ledger of expnb"), ("accounts", "holds 'accounts' but no ledger")],
)
def test_a_database_of_something_else_is_refused(tmp_path, table, problem):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute(f"CREATE TABLE {table} (account TEXT, amount REAL)")
    other.close()
    ledger = Ledger(f"sqlite:///{path}")
    for call in (ledger.entries, ledger.head, ledger.verify, lambda: record(ledger)):
        with pytest.raises(LedgerError, match=problem):
            call()


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    ledger = Ledger(f"sqlite:///{tmp_path}")
    for call in (ledger.entries, lambda: record(ledger)):
        with pytest.raises(LedgerError, match="is a folder"):
            call()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "folder").write_text("")
    with pytest.raises(LedgerError, match="cannot be made"):
        record(Ledger(f"sqlite:///{tmp_path / 'folder' / 'ledger.sqlite'}"))


@contextmanager
def nobody():
    """Act as a user without rights: root passes every permission bit."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def foreign():
    """A ledger of somebody else, in a folder that others may only look into."""
    folder = Path(tempfile.mkdtemp(prefix="expnb-test-"))
    ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite'}")
    record(ledger, experiment="a")
    ledger.path.chmod(0o444)
    folder.chmod(0o555)
    yield ledger
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_ledger_that_may_only_be_read_is_read_and_not_appended_to(foreign):
    with nobody():
        assert foreign.verify().entries == 1
        assert foreign.entries(experiment="a")[0].hash == foreign.head()
        with pytest.raises(LedgerError, match=r"may only be read|cannot be opened") as caught:
            record(foreign)
    assert "Nothing was recorded" in str(caught.value)
    assert foreign.verify().entries == 1


def _entries_or_refusal(ledger):
    try:
        return ledger.verify().entries
    except LedgerError:
        return "refused"


def test_entries_that_only_stand_in_the_log_are_never_missed_by_a_reader_without_rights(foreign):
    writer = sqlite3.connect(foreign.path)  # an open connection keeps the log from being folded in
    try:
        writer.execute("SELECT count(*) FROM ledger").fetchone()
        record(foreign, experiment="b")
        assert Path(f"{foreign.path}-wal").stat().st_size > 0
        with nobody():
            found = _entries_or_refusal(foreign)
        assert found in (2, "refused")  # 1 would be a lie
    finally:
        writer.close()


def test_a_log_that_cannot_be_read_is_an_error_and_not_a_shorter_ledger(foreign):
    writer = sqlite3.connect(foreign.path)
    writer.execute("SELECT count(*) FROM ledger").fetchone()
    record(foreign, experiment="b")
    copied = foreign.path.with_name("copy.sqlite")
    for end in ("", "-wal"):  # as a copy that was taken while somebody wrote
        shutil.copy(f"{foreign.path}{end}", f"{copied}{end}")
        Path(f"{copied}{end}").chmod(0o444)
    writer.close()
    copy = Ledger(f"sqlite:///{copied}")
    with nobody():
        assert _entries_or_refusal(copy) in (2, "refused")


def test_a_ledger_that_is_written_while_it_is_read_without_locks_is_read_again(foreign, monkeypatch):
    from expnb.ledger import store_sqlite as store

    marks = iter([1, 2, 3, 3])
    monkeypatch.setattr(store, "_mark", lambda path: next(marks))
    with nobody():
        assert len(foreign.entries()) == 1
    assert list(marks) == []


def test_a_ledger_that_may_not_be_read_at_all_is_refused(foreign):
    foreign.path.chmod(0o400 if os.geteuid() == 0 else 0o000)
    with nobody(), pytest.raises(LedgerError, match="cannot be opened"):
        foreign.verify()


def test_a_full_disk_is_named_and_loses_no_entry(ledger):
    record(ledger)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, limits[1]))  # a write beyond fails, as on a full disk
    try:
        with pytest.raises(LedgerError, match=r"(the disk is full|disk error).*free space"):
            record(ledger, text="x" * 50_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert ledger.verify().entries == 1
    assert record(ledger).seq == 2


def test_a_database_that_another_program_holds_is_named(ledger, monkeypatch):
    from expnb.ledger import store_sqlite as store

    record(ledger)
    monkeypatch.setattr(store, "_BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(ledger.path, isolation_level=None)
    try:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="held by another program"):
            record(ledger)
        assert ledger.verify().entries == 1
    finally:
        holder.close()


# --- several writers -------------------------------------------------------------------------

# Forks are made by a process of their own, which has no threads; it imports only once.
WRITERS = """
import os, random, signal, sys, time
from datetime import UTC, datetime
from itertools import count
from expnb.ledger.ledger import Ledger
NOW = datetime(2026, 3, 1, tzinfo=UTC)
ledger = Ledger(sys.argv[1])

def append(name, numbers):
    for number in numbers:
        ledger.append("look", {"experiment": name, "number": number}, happened_at=NOW, recorded_at=NOW)
        os.write(done, b".")

def fork(*arguments):
    global heard, done
    heard, done = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            append(*arguments)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid
"""
AT_ONCE = """
pids = [fork(name, range(30)) for name in "abcd"]
sys.exit(any(os.waitpid(pid, 0)[1] for pid in pids))
"""
KILLED = """
moments, before = random.Random(20), 0
for _ in range(20):
    pid = fork("a", count())
    os.read(heard, 1)  # it is at work
    time.sleep(moments.uniform(0.001, 0.06))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    found = ledger.verify().entries
    assert found >= before
    append("b", [0])
    before = ledger.verify().entries
    assert before == found + 1
"""


def run(script, ledger):
    arguments = [sys.executable, "-c", WRITERS + script, f"sqlite:///{ledger.path}"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_four_processes_append_at_once_from_an_empty_folder_and_no_entry_is_lost(ledger):
    run(AT_ONCE, ledger)
    assert ledger.verify().entries == 120
    for name in "abcd":
        assert [entry.body["number"] for entry in ledger.entries(experiment=name)] == list(range(30))


def test_a_writer_killed_at_any_moment_leaves_an_unbroken_chain(ledger):
    run(KILLED, ledger)
    assert len(ledger.entries(experiment="a")) >= 20


def test_a_body_is_stored_as_canonical_json(ledger):
    record(ledger, b=1.0, a=[True, None])
    with sqlite3.connect(ledger.path) as raw:
        (text,) = raw.execute("SELECT body FROM ledger").fetchone()
    raw.close()
    assert text == '{"a":[true,null],"b":1.0}'
    assert json.loads(text) == ledger.entries()[0].body
