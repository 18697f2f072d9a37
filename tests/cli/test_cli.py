"""The command line: the exit code is the verdict, an error is one sentence."""

import json

import pytest


def test_decide_exits_with_the_verdict(run):
    code, out, _ = run("decide", "gate_position")
    assert code == 20
    assert out.startswith("gate_position: Roll back: enrolled 50 %, treated 25 % -> enrolled 0 %, treated 0 %")
    code, out, _ = run("decide", "email_campaign", "--json")
    assert code == 0
    assert json.loads(out)["action"] == "ramp_up"


@pytest.mark.parametrize(("to", "code"), [("50", 0), ("100", 10), ("5", 0)])
def test_gate_allows_a_rung_or_not(run, to, code):
    assert run("gate", "email_campaign", "--to", to)[0] == code


def test_gate_refuses_what_is_no_rung(run):
    code, _, err = run("gate", "email_campaign", "--to", "30")
    assert (code, err) == (
        2,
        "expnb: enrolled is 30 %; the ladder of this experiment has the rungs 1, 5, 25, 50, 100. Choose one of them, or 0. Runbook: percent.\n",
    )


def test_request_approve_apply_restore(run):
    assert run("request", "email_campaign", "--as", "ana")[0] == 0
    code, _, err = run("approve", "email_campaign", "--as", "ana")
    assert code == 1
    assert "somebody else has to approve it" in err
    assert run("approve", "email_campaign", "--as", "ben")[0] == 0
    code, out, _ = run("apply", "email_campaign", "--as", "ana")
    assert code == 0
    assert "enrolled 50 %" in out
    assert "enrolled 25 %" in run("restore", "email_campaign")[1]


def test_rollback_kill_and_ledger(run):
    assert run("rollback", "email_campaign", "--reason", "a complaint")[0] == 0
    code, out, _ = run("kill", "email_campaign")
    assert (code, "disabled" in out) == (0, True)
    code, out, _ = run("ledger", "verify")
    assert code == 0
    head = out.split()[-1]
    assert run("ledger", "verify", "--against", head)[0] == 0
    code, _, err = run("ledger", "verify", "--against", "0" * 63 + "1")
    assert code == 1
    assert "rewritten" in err
    assert [entry["kind"] for entry in json.loads(run("ledger", "list", "--json")[1])][-1] == "kill"


def test_flags_shows_every_experiment(run):
    code, out, _ = run("flags")
    assert code == 0
    assert "gate_position: gate-position in production enrolled 50 %, treated 25 %" in out


def test_an_experiment_without_a_flag_does_not_hide_the_others(run, demo):
    text = (demo.root / "experiments" / "email_campaign.toml").read_text()
    (demo.root / "experiments" / "another.toml").write_text(
        text.replace('name = "email_campaign"', 'name = "another"').replace("email-campaign", "no-such-flag")
    )
    code, out, _ = run("flags")
    assert code == 0
    assert "another: no flag is called 'no-such-flag'" in out
    assert "gate_position: gate-position in production enrolled 50 %" in out


def test_create_makes_a_flag_at_0_percent(run, demo):
    (demo.root / "flags.flagd.json").unlink()
    assert "`expnb create EXPERIMENT` makes the flag" in run("decide", "gate_position")[2]
    assert run("create", "gate_position")[:2][0] == 0
    assert demo.flag(demo.experiment("gate_position")).exposure.enrolled == 0
    assert "exists already" in run("create", "gate_position")[2]


def test_check_reads_the_policy_aloud(run):
    code, out, _ = run("check", "email_campaign")
    assert code == 0
    assert "From 100 percent on, with 7 days of data and then every 7 days, the treatment ships" in out


def test_check_tries_the_policy_on_made_up_rollouts(run):
    code, out, _ = run("check", "gate_position", "--simulate", "--effect", "-0.1", "--effect", "0")
    assert code == 0
    assert "6,000 units per day, true effect retention_7 -10 %: " in out
    assert "2,000 rollouts each of 28 daily looks; without a change retention_7 0.19" in out
    code, out, _ = run(
        "check", "gate_position", "--simulate", "--baseline", "retention_7=0.3", "--baseline", "retention_1=0.5"
    )
    assert "without a change retention_7 0.3, retention_1 0.5" in out
    code, _, problem = run("check", "gate_position", "--simulate", "--baseline", "retention_7:0.3")
    assert code == 2
    assert "Write bought=0.1 for a share" in problem


def test_forget_says_what_was_removed_and_what_stays(run, demo):
    cached = demo.root / ".expnb" / "cells" / "gate_position" / "part.parquet"
    cached.parent.mkdir(parents=True)
    cached.write_text("x")
    assert run("forget", "gate_position", "--older-than", "100000")[1].startswith("nothing to forget")
    code, out, _ = run("forget", "gate_position")
    assert code == 0
    assert out == (
        "gate_position: 1 file of cached cells removed\n"
        "The ledger and decisions/ stay: they record what was decided and done, and hold no unit ids and no small cells.\n"
    )
    assert not cached.exists()
    assert run("forget", "--all")[1].startswith("nothing to forget")
    assert json.loads(run("ledger", "list", "--json")[1])[-1]["kind"] == "forgotten"


@pytest.mark.parametrize("arguments", [(), ("gate_position", "--all")])
def test_forget_needs_one_name_or_all(run, arguments):
    code, out, err = run("forget", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("expnb: say what to forget: the name of one experiment, or --all.")


def test_an_unknown_name_is_one_sentence_and_exit_code_2(run):
    code, out, err = run("decide", "gate_positon")
    assert (code, out) == (2, "")
    assert err == "expnb: no experiment is called 'gate_positon'. Did you mean 'gate_position'?\n"


@pytest.mark.slow
def test_run_prints_the_decision_and_exits_with_the_verdict(run, demo):
    code, out, _ = run("run", "gate_position", "--json")
    decision = json.loads(out)
    assert (code, decision["action"]) == (20, "roll_back")
    assert (demo.root / decision["report"]).is_file()
    assert demo.flag(demo.experiment("gate_position")).exposure.enrolled == 50


def test_version(run):
    from expnb import __version__

    assert run("--version") == (0, f"{__version__}\n", "")
