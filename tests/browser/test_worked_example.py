"""A newcomer opens the worked example, runs it, and presses the button."""

from pathlib import Path

import nbformat
import pytest

import expnb as xb

pytestmark = pytest.mark.browser

EXAMPLE = Path(__file__).parents[2] / "notebooks" / "gate_position.ipynb"


def test_the_button_of_the_worked_example_closes_the_gate(lab, watched, open_and_run):
    notebook = nbformat.read(EXAMPLE, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, lab.root / EXAMPLE.name)
    open_and_run(EXAMPLE.name, until="['registered', 'look', 'decision']")
    workspace = xb.open_workspace(lab.root / "practice" / "gate_position")
    experiment = workspace.experiment("gate_position")
    assert workspace.flag(experiment).exposure.enrolled == 50
    panel = watched.page.locator(".expnb-ramp")
    panel.get_by_role("button", name="Roll back: close the gate").click()
    panel.get_by_role("group", name="Really roll back").get_by_role("button").first.click()
    panel.get_by_role("group", name="receipt").wait_for()
    assert workspace.flag(experiment).exposure.enrolled == 0
    assert workspace.ledger.entries(kind="outcome")[-1].body["applied"] is True
