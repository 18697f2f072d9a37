"""Reports: a template run unattended ends in a page, a decision and an exit code."""

import json

import pytest

from expnb.errors import ParameterError, ReportError
from expnb.reports import run_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def practice(tmp_path_factory):
    import expnb as xb

    folder = tmp_path_factory.mktemp("reports") / "demo"
    xb.demo.make_workspace(folder)
    return xb.open_workspace(folder, actor="ops")


@pytest.fixture(scope="module")
def report(practice):
    return run_report(practice, "gate_position", parameters={"apply": True})


def test_a_report_acts_as_the_one_who_opened_the_workspace(practice, report):
    assert practice.ledger.entries(kind="intent")[-1].body["actor"] == practice.actor == "ops"


def test_a_report_pushes_what_it_decides(practice, report):
    assert report.decision["action"] == "roll_back"
    assert practice.flag(practice.experiment("gate_position")).exposure.enrolled == 0


def test_the_page_can_be_read_offline_and_without_a_widget(report):
    page = report.page.read_text()
    assert "data:image/svg+xml;base64," in page
    assert "Goal retention_7 under gate_40 is harmed" in page
    assert "application/vnd.jupyter.widget-view+json" not in page
    assert not [part for part in page.split('src="')[1:] if part.startswith(("http", "//"))]
    assert 'href="http' not in page.split("<body")[0]


def test_the_notebook_names_no_path_of_the_machine(practice, report):
    text = report.notebook.read_text()
    assert str(practice.root) not in text
    assert json.loads(text)["metadata"]["papermill"]["output_path"].startswith("reports/")


def test_an_unknown_parameter_runs_nothing(practice):
    flags = practice.root / "flags.flagd.json"
    before = flags.read_bytes()
    with pytest.raises(ParameterError, match="no parameter 'aply'.*Did you mean 'apply'"):
        run_report(practice, "email_campaign", parameters={"aply": True})
    with pytest.raises(ParameterError, match="looks like a secret"):
        run_report(practice, "email_campaign", parameters={"flag_token": "x"})
    with pytest.raises(ParameterError, match="'workspace' is set by the runner"):
        run_report(practice, "email_campaign", parameters={"workspace": "/"})
    assert flags.read_bytes() == before
    assert not list((practice.root / "reports").glob("email*"))


def test_a_failing_cell_is_a_sentence_and_pushes_nothing(practice):
    flags = practice.root / "flags.flagd.json"
    before = flags.read_bytes()
    with pytest.raises(
        ReportError,
        match=r"no cohort file at .*missing\.parquet.* The notebook reports/email_campaign-.*\.ipynb shows where",
    ):
        run_report(practice, "email_campaign", parameters={"source": "missing.parquet", "apply": True})
    assert flags.read_bytes() == before
