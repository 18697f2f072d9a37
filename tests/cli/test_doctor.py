"""The doctor: what disagrees is named, and the exit code says so."""

import json

import pandas as pd
import pytest
from tests.flags.npm import flagd_core

from expnb.flags.bucketing import assign_all

UNITS = [str(number) for number in range(4_000)]


@pytest.fixture
def log_of(demo, tmp_path):
    """A file of what services of a hash generation log of the demo's gate_position."""

    def write(generation):
        experiment = demo.experiment("gate_position")
        exposure = demo.flag(experiment).exposure
        arms = assign_all(experiment.flag, exposure, UNITS, generation=generation)
        path = tmp_path / f"log-{generation}.csv"
        pd.DataFrame({experiment.unit: UNITS, experiment.variant: arms}).to_csv(path, index=False)
        return str(path)

    return write


def edit_flag(demo, change):
    path = demo.root / "flags.flagd.json"
    document = json.loads(path.read_text())
    change(document["flags"])
    path.write_text(json.dumps(document))


def test_a_workspace_in_order_is_told_so(run):
    code, out, _ = run("doctor")
    assert code == 0
    assert "BAD" not in out
    assert "ok   flag of gate_position: gate-position in production enrolled" in out
    assert "ok   SDKs of gate_position: Python openfeature-provider-flagd" in out


def test_a_flag_that_cannot_be_read_is_named_and_the_others_are_looked_at(run, demo):
    edit_flag(demo, lambda flags: flags["gate-position"].update(targeting={}))
    code, out, _ = run("doctor")
    assert code == 1
    assert "BAD  flag of gate_position: flag 'gate-position' was edited outside expnb" in out
    assert "ok   flag of email_campaign" in out


def test_a_flag_that_is_not_made_yet_is_no_fault(run, demo):
    edit_flag(demo, lambda flags: flags.pop("gate-position"))
    code, out, _ = run("doctor", "gate_position")
    assert code == 0
    assert "expnb create gate_position" in out


def test_canaries_that_differ_are_a_fault(run, demo):
    edit_flag(demo, lambda flags: flags["gate-position"]["metadata"].update(canaries="-" * 64))
    code, out, _ = run("doctor", "gate_position", "--json")
    told = json.loads(out)
    assert (code, told["ok"]) == (1, False)
    (bad,) = [finding for finding in told["findings"] if not finding["ok"]]
    assert bad["what"] == "SDKs of gate_position"
    assert "canary units get another variant" in bad["says"]


def test_the_javascript_sdk_is_asked_in_its_folder(run, tmp_path):
    code, out, _ = run("doctor", "gate_position", "--node", str(flagd_core()))
    assert code == 0
    assert "npm @openfeature/flagd-core 4." in out
    code, out, _ = run("doctor", "gate_position", "--node", str(tmp_path))
    assert code == 1
    assert "npm install @openfeature/flagd-core" in out


def test_logged_exposures_are_held_against_what_the_ledger_says_was_served(run, log_of):
    code, out, _ = run("doctor", "gate_position", "--exposures", log_of("2"))
    assert code == 0
    assert "those of hash generation 2, for which the flag is made" in out
    code, out, _ = run("doctor", "gate_position", "--exposures", log_of("3"))
    assert code == 1
    assert "BAD  exposures of gate_position" in out
    assert "hash generation 3, but the flag is made for generation 2" in out


def test_exposures_from_before_the_first_push_through_the_workspace_are_in_order(run, log_of):
    log = log_of("2")
    assert run("rollback", "gate_position", "--reason", "Too many complaints.")[0] == 0
    assert run("doctor", "gate_position", "--exposures", log)[0] == 0


def test_what_the_doctor_cannot_read_is_told(run, tmp_path):
    assert run("doctor", "--exposures", "log.csv")[0] == 2
    code, out, _ = run("doctor", "gate_position", "--exposures", str(tmp_path / "none.csv"))
    assert code == 1
    assert "no log of exposures at" in out
    code, out, _ = run("doctor", "gate_positoin")
    assert code == 1
    assert "Did you mean 'gate_position'?" in out
