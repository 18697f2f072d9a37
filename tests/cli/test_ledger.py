"""Commands of the ledger as they are typed."""

import json
import sqlite3
from datetime import UTC, datetime

import pandas as pd
import pytest

NOW = datetime(2017, 2, 20, 12, tzinfo=UTC)


@pytest.fixture
def pushed(demo, run):
    """A workspace with a push; the ledger."""
    import expnb as xb

    exp = demo.experiment("gate_position")
    demo.apply(demo.plan(demo.decide(exp, xb.fit(exp, demo.load(exp), seed=1))))
    return demo.ledger


def test_a_list_shows_the_verb_and_whether_it_was_applied(run, pushed):
    lines = run("ledger", "list")[1].splitlines()
    assert len(lines) == len(pushed.entries())
    outcome = next(line for line in lines if " outcome " in line)
    receipt = pushed.last(kind="outcome").body["receipt"]
    assert f" {receipt['verb']} " in outcome
    assert "applied" in outcome


def test_a_list_is_filtered_by_kind_experiment_flag_and_length(run, pushed):
    def listed(*options):
        return [entry["seq"] for entry in json.loads(run("ledger", "list", "--json", *options)[1])]

    entries = pushed.entries()
    flag = pushed.last(kind="outcome").body["flag"]
    assert listed("--kind", "intent") == [entry.seq for entry in entries if entry.kind == "intent"] != []
    assert listed("--experiment", "gate_position") == [entry.seq for entry in entries if entry.body.get("experiment") == "gate_position"]  # fmt: skip
    assert listed("--flag", flag) == [entry.seq for entry in entries if entry.body.get("flag") == flag]
    assert listed("--tail", "2") == [entry.seq for entry in entries][-2:]
    assert listed("--experiment", "nobody") == []


def test_an_unknown_kind_is_refused_with_a_near_one(run, pushed):
    code, _, err = run("ledger", "list", "--kind", "outcom")
    assert code != 0
    assert "Did you mean 'outcome'" in err


def test_a_ledger_whose_end_was_cut_is_found_by_the_heads_in_the_flags(run, pushed):
    code, out, _ = run("ledger", "verify")
    assert code == 0
    assert "unbroken, with the heads that 1 flag holds; head" in out
    raw = sqlite3.connect(pushed.path)
    raw.execute("DROP TRIGGER ledger_no_delete")
    with raw:
        raw.execute("DELETE FROM ledger WHERE seq >= ?", (pushed.last(kind="intent").seq,))
    raw.close()
    code, out, err = run("ledger", "verify")
    assert code == 1
    assert "truncated or rewritten" in out + err


def test_a_ledger_is_verified_against_what_was_noted(run, pushed):
    head = pushed.head()
    assert run("ledger", "verify", "--against", f"ledger head {head}")[0] == 0
    assert run("ledger", "verify", "--against", head[:12])[0] == 0
    assert run("ledger", "verify", "--against", "0" * 63 + "1")[0] == 1
    assert run("ledger", "verify", "--against", "nonsense")[0] != 0


@pytest.mark.parametrize("what", ["entries", "effects"])
def test_a_ledger_is_exported_to_a_file_and_to_a_table(run, pushed, tmp_path, monkeypatch, what):
    file = tmp_path / "out.parquet"
    code, out, _ = run("ledger", "export", str(file), "--what", what)
    assert code == 0
    rows = len(pd.read_parquet(file))
    assert f"{rows} rows written" in out
    monkeypatch.setenv("WAREHOUSE", f"sqlite:///{tmp_path / 'warehouse.sqlite'}")
    for words in (f"{rows} rows added to exported, 0 were there", f"0 rows added to exported, {rows} were there"):
        code, out, _ = run("ledger", "export", "--what", what, "--table", "exported", "--connection", "WAREHOUSE")
        assert code == 0
        assert words in out


@pytest.mark.parametrize("options", [(), ("a.csv", "--table", "x", "--connection", "Y"), ("--table", "x"), ("--connection", "Y"), ("a.csv", "--what", "all")])  # fmt: skip
def test_an_export_to_nowhere_or_to_two_places_is_refused(run, pushed, options):
    assert run("ledger", "export", *options)[0] != 0
