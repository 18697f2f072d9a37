"""The metric catalogue: who uses what, and no definition that changes in silence."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from tests.conftest import GATE_POSITION
from tests.test_workspace import decided

import expnb as xb
from expnb import errors
from expnb.cli import main
from expnb.spec.metric import MEASURES
from expnb.spec.read import read_catalogue, read_experiment

PAGE = (Path(__file__).parents[1] / "docs" / "catalogue.md").read_text()


@pytest.fixture
def run(demo, capsys, monkeypatch):
    """What a command prints in the demo workspace."""
    monkeypatch.chdir(demo.root)

    def call(*arguments):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        out, err = capsys.readouterr()
        assert done.value.code == 0, err
        return out

    return call


@pytest.fixture
def edit(demo):
    """The workspace after a line of the shop's metrics was changed."""

    def change(found, written, file="metrics/shop.toml"):
        path = demo.root / file
        text = path.read_text()
        assert found in text
        path.write_text(text.replace(found, written, 1))
        return xb.open_workspace(demo.root, clock=demo.clock)

    return change


NEW_VERSION = ('name = "visit"\nkind = "conversion"\n', 'name = "visit"\nkind = "conversion"\ncolumn = "spend"\n')


# --- who uses what ------------------------------------------------------------------------------------


def test_every_metric_names_the_experiments_that_use_it(demo):
    users = {row.definition.name: row.experiments for row in demo.metrics()}
    assert users["visit"] == ("email_campaign",)
    assert users["retention_7"] == ("gate_position",)
    assert users["game_rounds"] == ()


def test_an_inherited_guardrail_is_a_use(edit):
    edit('version = "1"', 'version = "1"\nmargin = 0.1', "metrics/games.toml")
    ws = edit("min_cell = 20", 'min_cell = 20\nguardrails = ["retention_1"]', "expnb.toml")
    assert ws.metrics()["retention_1"].experiments == ("email_campaign", "gate_position")


def test_an_experiment_that_cannot_be_read_hides_no_other(demo):
    (demo.root / "experiments" / "broken.toml").write_text("[experiment")
    table = demo.metrics()
    assert table["visit"].experiments == ("email_campaign",)
    assert list(table.unread) == ["broken"]
    assert "experiment 'broken' cannot be read" in repr(table)
    assert "no valid TOML" in table._repr_html_()


def test_the_table_has_owner_version_certification_unit_and_kind(edit):
    ws = edit('version = "1"\ncertified = true', 'version = "7"\ncertified = false')
    row = ws.metrics()["visit"]
    assert row.cells == ("visit", "conversion", "–", "shop-marketing", "7", "no", "email_campaign")
    assert "shop-marketing" in repr(ws.metrics())


def test_an_empty_catalogue_says_so_and_what_cannot_be_read(demo):
    for path in (demo.root / "metrics").iterdir():
        path.unlink()
    lines = repr(xb.open_workspace(demo.root, clock=demo.clock).metrics()).splitlines()
    assert lines[0] == "the catalogue is empty: no file in metrics/ defines a metric."
    assert "metric 'visit' has no kind and is not in the catalogue" in " ".join(lines[1:])


def test_names_are_escaped_in_html(edit):
    page = edit('owner = "shop-marketing"', 'owner = "<b>shop</b>"').metrics()._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;shop" in page


def test_an_unknown_metric_offers_the_nearest(demo):
    with pytest.raises(errors.NameNotFoundError, match="no metric is called 'visits'. Did you mean 'visit'"):
        demo.metrics()["visits"]


def test_the_command_lists_metrics_with_their_users(run):
    out = run("metrics")
    assert re.search(r"visit +conversion +– +shop-marketing +1 +yes +email_campaign", out)
    listed = json.loads(run("metrics", "--json"))
    assert next(row for row in listed["rows"] if row["definition"]["name"] == "visit")["experiments"] == [
        "email_campaign"
    ]


def test_the_command_shows_one_definition_and_its_users(run):
    out = run("metrics", "spend")
    assert out.startswith("spend: used by email_campaign\n")
    assert '  unit = "USD"\n' in out
    assert "  certified = true\n" in out
    assert json.loads(run("metrics", "spend", "--json"))["definition"]["kind"] == "mean"


# --- a change is visible --------------------------------------------------------------------------------


def test_a_registration_records_version_and_definition_of_every_metric(demo):
    recorded = demo.ledger.entries(kind="registered", experiment="email_campaign")[-1].body["metrics"]
    exp = demo.experiment("email_campaign")
    assert set(recorded) == {metric.name for metric in exp.metrics}
    assert recorded["visit"] == {"version": "1", "digest": exp.metric("visit").definition_hash}


def test_a_new_version_is_told_by_every_decision_after_the_registration(edit):
    _, decision = decided(edit('version = "1"', 'version = "2"'), "email_campaign")
    assert decision.notes[-1] == (
        "The specification changed after it was registered on 2017-02-20: metric 'visit': version went from 1 to 2."
    )


def test_an_edit_without_a_new_version_is_told_by_decision_check_and_catalogue(edit, run):
    ws = edit(*NEW_VERSION)
    exp = ws.experiment("email_campaign")
    assert "metric 'visit' was edited without a new version" in " ".join(ws.questions(exp))
    assert "? metric 'visit' was edited without a new version" in run("check", "email_campaign")
    assert "! metric 'visit' was edited without a new version (experiment email_campaign)" in run("metrics")
    assert "! metric 'visit' was edited without a new version" in run("metrics", "visit")
    assert ws.metrics()["spend"].notes == ()


def test_an_edit_without_a_new_version_is_in_the_note_of_the_decision(edit):
    ws = edit('unit = "USD"', 'unit = "EUR"')
    _, decision = decided(ws, "email_campaign")
    assert decision.notes[-1].endswith(": metric 'spend': unit went from USD to EUR.")


def test_a_new_version_is_no_question_and_a_new_registration_settles_an_edit(edit):
    ws = edit('version = "1"', 'version = "2"')
    exp = ws.experiment("email_campaign")
    assert not [question for question in ws.questions(exp) if "version" in question]
    ws = edit(*NEW_VERSION)
    ws.register(ws.experiment("email_campaign"))
    assert ws.metrics()["visit"].notes == ()


def test_another_description_is_no_edit(edit):
    ws = edit("The customer visited", "A customer visited")
    assert ws.metrics()["visit"].notes == ()


def test_an_uncertified_goal_is_questioned(edit, demo):
    sentence = "the goal 'visit' is not certified"
    assert not any("certified" in question for question in demo.questions(demo.experiment("email_campaign")))
    ws = edit("certified = true", "certified = false")
    assert any(question.startswith(sentence) for question in ws.questions(ws.experiment("email_campaign")))


# --- the page -----------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path):
    """The files of the page: the catalogue, and an experiment that uses it."""
    definitions, uses = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "shop.toml").write_text(definitions)
    head, policy = GATE_POSITION.split("[[metrics]]", 1)[0], "[policy]\nmin_days = 0\n"
    path = tmp_path / "gate_position.toml"
    path.write_text(f"{head}{uses}\n{policy}")
    return read_experiment(path, catalogue=read_catalogue(tmp_path / "metrics")), tomllib.loads(definitions)


def test_the_files_of_the_page_are_read(page):
    experiment, definitions = page
    assert (experiment.goal.name, experiment.goal.version, experiment.goal.cap) == ("revenue", "1", 0.99)
    assert experiment.metric("latency_p90").margin == 0.05
    assert {metric["kind"] for metric in definitions["metrics"]} == {"revenue", "ratio", "quantile", "retention"}


def test_the_page_names_everything_that_defines_a_metric():
    sentence = PAGE.split("What counts as the definition: ")[1]
    assert all(name in sentence for name in MEASURES)


def test_the_page_quotes_the_sentences_that_are_printed():
    for sentence in (
        "metric 'revenue' went from version 1 to 2 since the registration",
        "metric 'revenue' was edited without a new version",
    ):
        assert sentence in PAGE
