"""Worked examples: what a reader sees in the saved notebook is what running it gives."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
SANITIZE = Path(__file__).with_name("sanitize.cfg")
EXAMPLES = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_worked_example_gives_what_it_shows(path, tmp_path):
    shutil.copy(path, tmp_path)
    arguments = [
        "--nbval",
        "--nbval-sanitize-with",
        str(SANITIZE),
        "-p",
        "no:cacheprovider",
        "-q",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, str(tmp_path / path.name)],
        capture_output=True,
        text=True,
        env={**os.environ, "EXPNB_STATIC": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


@pytest.mark.parametrize("path", [*EXAMPLES, *sorted(NOTEBOOKS.glob("templates/*.ipynb"))], ids=lambda path: path.stem)
def test_no_notebook_names_a_path_of_a_machine_or_holds_widget_state(path):
    text = path.read_text()
    for part in ("/root", "/home/", "/work", "/tmp", "widget-state", "widget-view"):
        assert part not in text


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("templates/*.ipynb")), ids=lambda path: path.stem)
def test_a_template_is_saved_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_worked_example_is_saved_with_its_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert any(cell.outputs for cell in cells)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
