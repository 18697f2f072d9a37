"""Kill: at once, whatever else is broken; the reason may follow."""

import json
import warnings
from dataclasses import replace

import pytest
from tests.test_workspace import decided

import expnb as xb
from expnb import errors
from expnb.pushing.kill import break_glass


def state(folder):
    return json.loads((folder / "flags.flagd.json").read_text())["flags"]["email-campaign"]["state"]


def test_a_kill_without_a_reason_waits_for_one(demo):
    demo.kill("email_campaign")
    assert "nobody said why" in demo.open_matters()[0]
    demo.explain_kill("email_campaign", "Checkout errors after the release.")
    assert demo.open_matters() == []
    assert demo.ledger.entries(kind="reason")[-1].body["reason"] == "Checkout errors after the release."
    with pytest.raises(errors.SpecError, match="waits for a reason"):
        demo.explain_kill("email_campaign", "again")


def test_a_kill_with_its_reason_waits_for_nothing(demo):
    demo.kill("email_campaign", reason="errors")
    assert demo.open_matters() == []
    with pytest.raises(errors.SpecError, match="is empty"):
        demo.explain_kill("email_campaign", "  ")


def test_break_glass_needs_neither_ledger_nor_specification_nor_catalogue(demo, tmp_path):
    for path in (demo.root / "metrics").iterdir():
        path.write_text("[[broken")
    (demo.root / "experiments" / "email_campaign.toml").write_text("[broken")
    ledger = demo.root / ".expnb" / "ledger.sqlite"
    ledger.write_bytes(b"no database at all")
    receipt = break_glass(
        demo.root, "email_campaign", environment="production", actor="ops", now=demo.clock(), flag="email-campaign"
    )
    assert not receipt.after.enabled
    assert state(demo.root) == "DISABLED"
    assert ledger.read_bytes() == b"no database at all"
    ledger.unlink()
    demo.roll_back(demo.experiment("gate_position"), reason="the next entry")
    kill = demo.ledger.entries(kind="kill")[-1]
    assert (kill.body["actor"], kill.body["break_glass"]) == ("ops", True)
    assert kill.happened_at == demo.clock()


def test_break_glass_still_asks_for_a_role(demo):
    path = demo.root / "expnb.toml"
    path.write_text(path.read_text() + '[environments.production.roles]\noperator = ["ops"]\n')
    for actor, expected in (("eve", "ENABLED"), ("ops", "DISABLED")):
        try:
            break_glass(demo.root, "email_campaign", environment="production", actor=actor, now=demo.clock())
        except errors.ApprovalError:
            assert actor == "eve"
        assert state(demo.root) == expected


@pytest.mark.parametrize("text", ["", "[environments]", "[environments.production]\nflags = 3", "][", None])
def test_an_address_that_cannot_be_read_is_said_with_the_way_out(tmp_path, text):
    if text is not None:
        (tmp_path / "expnb.toml").write_text(text)
    with pytest.raises(errors.FlagError, match=r"Nothing was changed\..*"):
        break_glass(tmp_path, "x", environment="production", actor="ops", now=None, flag="x")


def test_the_commands_kill_past_everything_and_explain(demo, run):
    where = ["-w", str(demo.root)]
    assert run("kill", "email_campaign", *where, "--break-glass")[0] == 2  # which environment?
    assert run("kill", "email_campaign", *where, "--flag", "x")[0] == 2
    code, out, _ = run("kill", "email_campaign", *where, "--break-glass", "-e", "production")
    assert code == 0
    assert "expnb explain email_campaign" in out
    assert state(demo.root) == "DISABLED"
    run("rollback", "gate_position", *where, "--reason", "the next entry")
    code, _, err = run("flags", *where)
    assert code == 0
    assert "nobody said why" in err
    assert run("explain", "email_campaign", *where, "--reason", "errors")[0] == 0
    assert "nobody said why" not in run("flags", *where)[2]


def test_a_kill_that_cannot_be_recorded_waits_beside_the_ledger(demo):
    broken = replace(
        demo, config=replace(demo.config, ledger=replace(demo.config.ledger, url="sqlite:////proc/no/ledger"))
    )
    broken.kill("email_campaign", reason="errors")
    assert state(demo.root) == "DISABLED"
    demo.roll_back(demo.experiment("gate_position"), reason="the next entry")
    assert demo.ledger.entries(kind="kill")[-1].body["reason"] == "errors"


def test_no_kill_is_lost_from_the_waiting_file_whatever_was_torn(demo):
    spool = demo.root / ".expnb" / "unrecorded.jsonl"
    spool.write_bytes('{"happened_at": "2017-02-20T12:00:00+00:00", "body": {"experiment": "é'.encode()[:-1])
    for number in range(3):
        break_glass(demo.root, "email_campaign", environment="production", actor=f"ops{number}", now=demo.clock())
    demo.roll_back(demo.experiment("gate_position"), reason="the next entry")
    assert [entry.body["actor"] for entry in demo.ledger.entries(kind="kill")] == ["ops0", "ops1", "ops2"]
    assert spool.read_bytes() == b""
    assert spool.with_suffix(".torn").exists()


@pytest.mark.parametrize("table", ['[notify]\nwebhook = "slack-hook"', '[ledger]\nurl = "postgres://host/x"'])
def test_a_mistake_in_other_tables_stands_before_no_kill(demo, table):
    path = demo.root / "expnb.toml"
    name = table.splitlines()[0]
    text = path.read_text()
    path.write_text(
        text.replace(text[text.index(name) :].split("\n\n")[0], table) if name in text else f"{text}\n{table}\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        receipt = xb.open_workspace(demo.root, clock=demo.clock).kill("email_campaign")
    assert not receipt.after.enabled


@pytest.mark.parametrize("roles", ["{ operator = 5 }", '{ operator = [5, "ops"] }', '{ operator = "ops" }', "3"])
def test_roles_that_cannot_be_read_stand_before_no_kill(demo, roles):
    path = demo.root / "expnb.toml"
    path.write_text(
        path.read_text().replace("[environments.production]", f"[environments.production]\nroles = {roles}")
    )
    assert not break_glass(
        demo.root, "email_campaign", environment="production", actor="ops", now=demo.clock()
    ).after.enabled


def test_settling_puts_a_kill_on_record_that_nobody_recorded(demo, run):
    exp = demo.experiment("email_campaign")
    demo.apply(demo.plan(decided(demo, exp.name)[1]))
    demo.flags.kill(demo.ref(exp), now=demo.clock())  # by a kernel that died right after
    assert "was switched off, and nobody recorded it" in run("settle")[1]
    assert "every push has an outcome" in run("settle")[1]
    assert demo.ledger.entries(kind="kill")[-1].body["actor"] == "unknown"
