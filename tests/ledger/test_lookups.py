"""Look-ups read what they return, however long the ledger is; an opening reads what is new."""

import json

import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine
from tests.ledger.conftest import NOW, fill

from expnb.errors import LedgerBrokenError, LedgerError
from expnb.ledger.ledger import Ledger

LENGTHS = (2_000, 20_000)
OWN = 40  # entries of the experiment that is asked for


def bodies(length):
    """Entries of many experiments, of which one has `OWN`, spread over the whole ledger."""
    every = length // OWN
    for number in range(length):
        name = "own" if number % every == 0 else f"e{number % 300}"
        yield {"experiment": name, "flag": f"flag-{name}", "environment": "production", "number": number}


def begin(path, length):
    ledger = Ledger(f"sqlite:///{path}")
    fill(ledger, bodies(length))
    return ledger


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory):
    """The same ledger, short and long."""
    folder = tmp_path_factory.mktemp("long")
    return [begin(folder / f"{length}.sqlite", length) for length in LENGTHS]


LOOKUPS = {
    "experiment": lambda ledger: ledger.entries(experiment="own"),
    "flag": lambda ledger: ledger.entries(flag="flag-own"),
    "kind and experiment": lambda ledger: ledger.entries(kind="look", experiment="own"),
    "environment": lambda ledger: ledger.entries(experiment="own", environment="production"),
    "last": lambda ledger: [ledger.last(kind="look", experiment="own")],
    "last of a flag": lambda ledger: [ledger.last(flag="flag-own", environment="production")],
    "absent kind": lambda ledger: ledger.entries(kind="kill"),
    "absent experiment": lambda ledger: ledger.entries(experiment="nobody"),
    "tail": lambda ledger: ledger.entries(tail=3),
    "head": lambda ledger: [ledger.last()],
}


def steps(call):
    """Steps of SQLite's machine, counted: rows that it visits cost several each."""
    counted = [0]

    def count():
        counted[0] += 1
        return 0

    def listen(connection, _):
        connection.set_progress_handler(count, 1)

    event.listen(Engine, "connect", listen)
    try:
        call()
    finally:
        event.remove(Engine, "connect", listen)
    return counted[0]


@pytest.mark.parametrize("name", LOOKUPS)
def test_a_lookup_in_a_ledger_ten_times_as_long_does_the_same_work(ledgers, name):
    short, long = (steps(lambda ledger=ledger: LOOKUPS[name](ledger)) for ledger in ledgers)
    assert 0 < long <= short + 20
    assert len(LOOKUPS[name](ledgers[0])) == len(LOOKUPS[name](ledgers[1]))


def test_the_newest_of_each_experiment_is_found_without_reading_the_others(ledgers):
    for ledger in ledgers:
        last = {entry.body["experiment"]: entry.seq for entry in ledger.entries()}
        assert [entry.seq for entry in ledger.newest("look")] == sorted(last.values())
    short, long = (steps(lambda ledger=ledger: ledger.newest("look")) for ledger in ledgers)
    assert long < 1.5 * short


def test_lookups_on_a_server_go_through_an_index_and_visit_only_what_they_return(on_server):
    ledger = Ledger(connection="TEAM_LEDGER")
    fill(ledger, bodies(LENGTHS[1]))
    with on_server.raw() as connection:
        connection.exec_driver_sql("ANALYZE ledger")
    asked = []
    keep = lambda _, __, statement, values, ___, ____: asked.append((statement, values))  # noqa: E731 - a listener
    for name, call in LOOKUPS.items():
        asked.clear()
        event.listen(Engine, "before_cursor_execute", keep)
        try:
            found = len(call(ledger))
        finally:
            event.remove(Engine, "before_cursor_execute", keep)
        statement, values = next(one for one in asked if "FROM ledger" in one[0])
        with on_server.raw() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values).scalar()[0]["Plan"]
        visited = sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"] for node in nodes(plan) if "Scan" in node["Node Type"]
        )  # fmt: skip
        assert visited <= 3 * max(found, OWN), (name, plan)


def nodes(plan):
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


def test_a_damaged_index_is_found(ledgers, tmp_path):
    ledger = begin(tmp_path / "small.sqlite", 200)
    data = bytearray(ledger.path.read_bytes())
    place = data.rindex(b"flag-e7look")  # in the index of flags
    data[place : place + 7] = b"flag-e8"
    ledger.path.write_bytes(data)
    with pytest.raises(LedgerError, match="damaged as a database"):
        ledger.verify()


# --- verified on open ------------------------------------------------------------------------


class Counting:
    """A store that remembers which entries were read from it."""

    def __init__(self, store):
        self.store, self.seen = store, []

    def __getattr__(self, name):
        return getattr(self.store, name)

    def rows(self, query):
        found = self.store.rows(query)
        self.seen += [row.seq for row in found if "seq" in row._fields]
        return found


def read_entries(ledger, checkpoint):
    """Numbers of the entries that an opening reads, and what it finds."""
    ledger._store = counting = Counting(ledger._store)
    try:
        return ledger.verify_new(checkpoint), counting.seen
    finally:
        ledger._store = counting.store


@pytest.fixture
def opened(place, tmp_path):
    """A ledger that was checked once, and its checkpoint."""
    ledger, checkpoint = Ledger(connection="TEAM_LEDGER"), tmp_path / "kept" / "checkpoint.json"
    fill(ledger, ({"number": number} for number in range(30)))
    assert ledger.verify_new(checkpoint) == ledger.verify()
    return ledger, checkpoint


def test_an_opening_reads_only_the_last_known_entry_and_those_that_are_new(opened):
    ledger, checkpoint = opened
    assert read_entries(ledger, checkpoint) == (ledger.verify(), [30])
    fill(ledger, ({"number": number} for number in range(3)))
    assert read_entries(ledger, checkpoint) == (ledger.verify(), [30, 31, 32, 33])
    assert read_entries(ledger, checkpoint) == (ledger.verify(), [33])


def test_an_opening_finds_a_new_entry_that_is_damaged_and_does_not_get_used_to_it(opened, place):
    ledger, checkpoint = opened
    fill(ledger, ({"number": number} for number in range(3)))
    place.take_fences_down()
    with place.raw() as connection:
        connection.exec_driver_sql("UPDATE ledger SET body = '{}' WHERE seq = 32")
    for _ in range(2):
        with pytest.raises(LedgerBrokenError, match="entry 32"):
            ledger.verify_new(checkpoint)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM ledger WHERE seq > 20",
        "DELETE FROM ledger WHERE seq = 7",
        "DELETE FROM ledger",
        "UPDATE ledger SET hash = previous WHERE seq = 30",
        "UPDATE ledger SET body = '{}' WHERE seq = 30",
    ],
)
def test_an_opening_finds_that_the_ledger_is_not_what_it_was(opened, place, damage):
    ledger, checkpoint = opened
    place.take_fences_down()
    with place.raw() as connection:
        connection.exec_driver_sql(damage)
    for _ in range(2):
        with pytest.raises(LedgerBrokenError, match="truncated or rewritten since|does not match its hash"):
            ledger.verify_new(checkpoint)


def test_an_opening_finds_a_removed_entry_that_newer_ones_make_up_for(opened, place):
    ledger, checkpoint = opened
    fill(ledger, ({"number": number} for number in range(3)))
    place.take_fences_down()
    with place.raw() as connection:
        connection.exec_driver_sql("DELETE FROM ledger WHERE seq = 7")
    with pytest.raises(LedgerBrokenError, match="truncated or rewritten since"):
        ledger.verify_new(checkpoint)


def test_an_opening_finds_a_ledger_that_was_written_anew_and_longer(opened, place):
    ledger, checkpoint = opened
    place.take_fences_down()
    with place.raw() as connection:
        connection.exec_driver_sql("DELETE FROM ledger")
    fill(ledger, ({"forged": number} for number in range(40)))
    assert ledger.verify().entries == 40
    with pytest.raises(LedgerBrokenError, match=r"entry 30.*truncated or rewritten since.*restored backup"):
        ledger.verify_new(checkpoint)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"ledger": 1}', '{"entries": "x"}', "null"])
def test_a_checkpoint_that_cannot_be_read_means_that_everything_is_checked(opened, text):
    ledger, checkpoint = opened
    checkpoint.write_text(text)
    found, seen = read_entries(ledger, checkpoint)
    assert len(seen) == found.entries == 30
    assert json.loads(checkpoint.read_text())["head"] == ledger.head()


def test_a_checkpoint_of_another_ledger_is_none(opened, tmp_path):
    _, checkpoint = opened
    other = Ledger(f"sqlite:///{tmp_path / 'other.sqlite'}")
    other.append("look", {}, happened_at=NOW, recorded_at=NOW)
    assert other.verify_new(checkpoint).entries == 1


def test_a_checkpoint_that_cannot_be_written_hinders_nobody(opened, tmp_path):
    ledger, _ = opened
    (tmp_path / "file").write_text("")
    assert ledger.verify_new(tmp_path / "file" / "checkpoint.json").entries == 30
