"""The page on histories: its commands run, in its order."""

import re
import shlex
from pathlib import Path

import pytest

from expnb.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "history.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_every_command_of_the_page_runs(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo.root)
    assert len(COMMANDS) == 7
    for line in COMMANDS:
        with pytest.raises(SystemExit) as done:
            main(shlex.split(line)[1:])
        out, err = capsys.readouterr()
        assert done.value.code == (20 if line.startswith("expnb decide") else 0), (line, err)
        assert out
    assert "treatment taken back" in next((demo.root / "decisions" / "gate_position").glob("*.incident.md")).read_text()
