"""Whatever is changed behind the ledger's back is found, and named."""

import random
import sqlite3
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expnb.errors import LedgerBrokenError, LedgerError
from expnb.ledger.ledger import Ledger

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
COLUMNS = ("seq", "kind", "schema", "happened_at", "recorded_at", "body", "previous", "hash")
LENGTH = 5
FENCES = ("ledger_no_update", "ledger_no_delete", "ledger_in_order")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A ledger with a few entries, as bytes to copy from."""
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.sqlite'}")
    for number in range(LENGTH):
        ledger.append(
            "decision", {"experiment": "gate", "number": number, "share": 0.5}, happened_at=NOW, recorded_at=NOW
        )
    return ledger


@pytest.fixture(scope="module")
def copy(pristine, tmp_path_factory):
    """A function that makes a fresh copy of the pristine ledger."""
    path = tmp_path_factory.mktemp("copy") / "ledger.sqlite"

    def make():
        path.write_bytes(pristine.path.read_bytes())
        return Ledger(f"sqlite:///{path}")

    return make


def tamper(ledger, statement, *values):
    """Change the table as somebody with the file would: the fences are taken down first."""
    raw = sqlite3.connect(ledger.path)
    raw.execute("PRAGMA synchronous = OFF")
    for fence in FENCES:
        raw.execute(f"DROP TRIGGER {fence}")
    with raw:
        raw.execute(statement, values)
    raw.close()


def column(ledger, seq, name):
    raw = sqlite3.connect(ledger.path)
    (value,) = raw.execute(f"SELECT {name} FROM ledger WHERE seq = ?", (seq,)).fetchone()  # noqa: S608 - names of ours
    raw.close()
    return value


@settings(max_examples=100, deadline=None)
@given(st.integers(1, LENGTH), st.sampled_from(COLUMNS[1:]), st.integers(0, 10**6), st.integers(0, 7))
def test_a_flipped_bit_in_any_text_is_found_and_the_entry_named(copy, seq, name, place, bit):
    ledger = copy()
    old = column(ledger, seq, name)
    if isinstance(old, int):
        new = old ^ 1 << bit
    else:
        data = bytearray(old.encode())
        data[place % len(data)] ^= 1 << bit
        new = bytes(data)
    # CAST keeps the type of the column while the bytes may be no text at all.
    cast = "?" if isinstance(new, int) else "CAST(? AS TEXT)"
    tamper(ledger, f"UPDATE ledger SET {name} = {cast} WHERE seq = ?", new, seq)  # noqa: S608 - names of ours
    with pytest.raises(LedgerBrokenError) as caught:
        ledger.verify()
    assert caught.value.seq == seq
    assert f"ledger entry {seq}:" in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, LENGTH),
    st.sampled_from(COLUMNS[1:]),
    st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1), st.binary(), st.floats(allow_nan=False)),
)
def test_any_other_value_in_any_column_is_found_and_the_entry_named(copy, seq, name, value):
    ledger = copy()
    old = column(ledger, seq, name)
    tamper(ledger, f"UPDATE ledger SET {name} = ? WHERE seq = ?", value, seq)  # noqa: S608
    if column(ledger, seq, name) == old:
        return
    with pytest.raises(LedgerBrokenError) as caught:
        ledger.verify()
    assert caught.value.seq == seq


@pytest.mark.parametrize("seq", range(1, LENGTH + 1))
def test_a_renumbered_or_removed_entry_is_found(copy, seq):
    for statement in ("UPDATE ledger SET seq = 99 WHERE seq = ?", "DELETE FROM ledger WHERE seq = ?"):
        ledger, head = copy(), copy().head()
        tamper(ledger, statement, seq)
        with pytest.raises(LedgerBrokenError):
            ledger.verify(against=head)
        if seq < LENGTH:  # the end may be cut unseen without an anchor
            with pytest.raises(LedgerBrokenError, match="is missing") as caught:
                ledger.verify()
            assert caught.value.seq == seq


def test_the_same_json_written_with_a_blank_is_found(copy):
    ledger = copy()
    tamper(ledger, "UPDATE ledger SET body = replace(body, ':', ': ') WHERE seq = 3")
    with pytest.raises(LedgerBrokenError, match="entry 3"):
        ledger.verify()


def test_the_same_instant_in_another_zone_is_found(copy):
    ledger = copy()
    tamper(ledger, "UPDATE ledger SET happened_at = '2026-03-01T14:00:00.000000+02:00' WHERE seq = 3")
    with pytest.raises(LedgerBrokenError, match="entry 3"):
        ledger.verify()


def test_an_entry_replaced_with_a_fitting_hash_breaks_the_next_one(copy, tmp_path):
    forged = Ledger(f"sqlite:///{tmp_path / 'forged.sqlite'}")
    for number in (0, 77):
        forged.append(
            "decision", {"experiment": "gate", "number": number, "share": 0.5}, happened_at=NOW, recorded_at=NOW
        )
    ledger, entry = copy(), forged.entries()[1]
    tamper(
        ledger,
        "UPDATE ledger SET body = ?, hash = ? WHERE seq = 2",
        '{"experiment":"gate","number":77,"share":0.5}',
        entry.hash,
    )
    with pytest.raises(LedgerBrokenError, match="entry 3: does not continue"):
        ledger.verify()


def test_a_cut_end_is_found_only_against_a_head_that_was_handed_out(copy):
    ledger = copy()
    head = ledger.head()
    tamper(ledger, f"DELETE FROM ledger WHERE seq > {LENGTH - 2}")  # noqa: S608
    assert ledger.verify().entries == LENGTH - 2
    with pytest.raises(LedgerBrokenError, match="truncated or rewritten"):
        ledger.verify(against=head)


def test_a_ledger_written_anew_is_found_against_any_head_of_the_old_one(copy, tmp_path):
    heads = [entry.hash for entry in copy().entries()]
    anew = Ledger(f"sqlite:///{tmp_path / 'anew.sqlite'}")
    for number in range(LENGTH + 1):
        anew.append(
            "decision", {"experiment": "gate", "number": number, "share": 0.9}, happened_at=NOW, recorded_at=NOW
        )
    assert anew.verify().entries == LENGTH + 1
    for head in heads:
        with pytest.raises(LedgerBrokenError, match="truncated or rewritten"):
            anew.verify(against=head)


def test_a_ledger_that_is_gone_is_found_against_a_head(tmp_path, copy):
    with pytest.raises(LedgerBrokenError, match="truncated or rewritten"):
        Ledger(f"sqlite:///{tmp_path / 'gone.sqlite'}").verify(against=copy().head())


def test_every_head_that_was_handed_out_is_in_an_unbroken_chain(copy):
    ledger = copy()
    for entry in ledger.entries():
        assert ledger.verify(against=entry.hash).entries == LENGTH


def test_a_damaged_entry_is_never_handed_out_but_the_others_still_are(copy):
    ledger = copy()
    tamper(ledger, "UPDATE ledger SET body = replace(body, '0.5', '0.9'), kind = 'look' WHERE seq = 2")
    with pytest.raises(LedgerBrokenError, match="entry 2"):
        ledger.entries()
    assert len(ledger.entries(kind="decision")) == LENGTH - 1


def test_nothing_is_appended_behind_a_damaged_end(copy):
    ledger = copy()
    tamper(ledger, "UPDATE ledger SET kind = 'kill' WHERE seq = ?", LENGTH)
    with pytest.raises(LedgerBrokenError, match=f"entry {LENGTH}"):
        ledger.append("look", {}, happened_at=NOW, recorded_at=NOW)
    with pytest.raises(LedgerBrokenError):
        ledger.head()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger SET kind = 'kill' WHERE seq = 1",
        "DELETE FROM ledger",
        "INSERT OR REPLACE INTO ledger SELECT seq, 'kill', schema, happened_at, recorded_at, body, previous, hash FROM ledger WHERE seq = 1",
        "INSERT INTO ledger SELECT seq + 100, kind, schema, happened_at, recorded_at, body, previous, hash FROM ledger WHERE seq = 1",
        "INSERT INTO ledger SELECT 6, kind, schema, happened_at, recorded_at, body, previous, hash FROM ledger WHERE seq = 1",
    ],
    ids=["update", "delete", "replace", "gap", "wrong previous"],
)
def test_sql_that_is_not_an_append_is_refused_by_the_database(copy, statement):
    ledger = copy()
    raw = sqlite3.connect(ledger.path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw.execute(statement)
    raw.close()
    assert ledger.verify().entries == LENGTH


def test_a_flipped_byte_anywhere_in_the_file_is_found_or_leaves_every_entry_as_it_was(copy, pristine):
    data, expected = pristine.path.read_bytes(), pristine.entries()
    chance = random.Random(20)  # noqa: S311 - places to damage
    schema = data.index(b"tableledgerledger")
    places = [*range(schema, schema + 17), *chance.sample([place for place, byte in enumerate(data) if byte], 150)]
    found = 0
    for place in places:
        ledger, damaged = copy(), bytearray(data)
        damaged[place] ^= 1 << chance.randrange(8)
        ledger.path.write_bytes(damaged)
        try:
            ledger.verify()
        except LedgerError:
            found += 1
        else:
            assert ledger.entries() == expected, f"a flip at byte {place} went unseen"
    assert found > 100
