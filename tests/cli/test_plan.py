"""Planning from the command line."""

import json

import pytest


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
    assert err.startswith("expnb: --units-per-day is 0; it must be above 0.")


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
    (demo.root / "gap.csv").write_text("name,metric,mean,reach\nlater gate,retention_7,0.19,\n")
    code, _, err = run("backlog", "gap.csv")
    assert code == 2
    assert err.startswith("expnb: proposal 'later gate' has no reach: its cell is empty.")
    code, _, err = run("backlog", "ideas.csv", "--months", "0")
    assert (code, "Write --days 28 --months 12." in err) == (2, True)


BOTH = ("--baseline", "retention_7=0.2", "--baseline", "retention_1=0.4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "gate_position", "--effect", "0.05"), "--effect says what to simulate, and nothing is simulated. Add --simulate"),
        (("check", "gate_position", *BOTH), "--baseline says what to simulate, and nothing is simulated. Add --simulate"),
        (("check", "gate_position", "--simulate", *BOTH, *BOTH[:2]), "--baseline names 'retention_7' twice"),
        (("check", "gate_position", "--simulate", *BOTH[:2]), "metric 'retention_1' has no baseline. Add --baseline retention_1=0.1."),
        (("check", "gate_position", "--simulate", "--baseline", "retention_7=3", *BOTH[2:]), "Write --baseline retention_7=0.1."),
        (("check", "gate_position", "--simulate", *BOTH, "--effect", "much"), "--effect much cannot be read. Write --effect 0.05, or --effect retention_7=0.05."),
        (("plan", "gate_position", "--units-per-day", "6000", "--days", "7", "--baseline", "retention_7"), "Write bought=0.1 for a share"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_said_in_the_words_of_the_command_line(run, arguments, message):
    code, _, err = run(*arguments)
    assert code == 2
    assert message in err
    assert "{" not in err


def test_an_effect_is_named_where_there_are_several_goals(run, demo):
    file = demo.root / "experiments" / "gate_position.toml"
    text = file.read_text().replace('role = "guardrail"', 'role = "goal"\nrope = 0.01')
    text = text.replace("[policy]", '[policy]\ngoal_rule = "any"')
    file.write_text(text)
    code, out, err = run("check", "gate_position", "--simulate", *BOTH, "--effect", "retention_7=0.05,retention_1=0.1")
    assert (code, err) == (0, "")
    assert "true effect retention_7 +5 %, retention_1 +10 %:" in out
    code, _, err = run("check", "gate_position", "--simulate", *BOTH, "--effect", "0.05")
    assert code == 2
    assert "Write --effect retention_7=0.05, or --effect retention_7=0.05,retention_1=0.05." in err


def test_without_data_a_plan_names_the_baselines_that_it_needs(run, demo):
    file = demo.root / "experiments" / "gate_position.toml"
    file.write_text(file.read_text().replace("cookie_cats.parquet", "nothing.parquet"))
    code, _, err = run("plan", "gate_position", "--units-per-day", "6000")
    assert code == 2
    assert "Write --baseline retention_7=0.1 --baseline retention_1=0.1." in err
