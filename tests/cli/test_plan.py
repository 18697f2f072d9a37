"""Planning from the command line."""

import json

import pytest

from expnb.cli import main


@pytest.fixture
def run(demo, capsys, monkeypatch):
    """Run a command in the demo workspace; exit code, output, errors."""
    monkeypatch.chdir(demo.root)

    def call(*arguments):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return call


def test_plan_says_what_to_expect_from_the_data_or_from_baselines(run):
    code, out, _ = run("plan", "gate_position", "--units-per-day", "6000", "--days", "14")
    assert code == 0
    assert "By day 14 it has shipped with probability" in out
    asked = ("plan", "gate_position", "--baseline", "retention_7=0.2", "--baseline", "retention_1=0.4")
    code, out, _ = run(*asked, "--units-per-day", "6000", "--days", "7", "--json")
    assert code == 0
    assert len(json.loads(out)["rows"]) == 7


def test_a_traffic_that_cannot_be_is_one_sentence(run):
    code, _, err = run("plan", "gate_position", "--units-per-day", "0")
    assert code == 2
    assert err.startswith("expnb: daily_units is 0; it must be above 0.")


def test_backlog_ranks_a_file(run, demo):
    (demo.root / "ideas.csv").write_text(
        "name,metric,mean,reach,cost\nlater gate,retention_7,0.19,6000,0\nsmall,retention_7,0.19,100,50\n"
    )
    code, out, _ = run("backlog", "ideas.csv", "--months", "6")
    assert code == 0
    assert out.startswith("1. later gate: worth ")
    assert "over 6 months" in out
    code, out, _ = run("backlog", "ideas.csv", "--json")
    assert [row["proposal"]["name"] for row in json.loads(out)["rows"]] == ["later gate", "small"]
    assert run("backlog", "none.csv")[0] == 2
