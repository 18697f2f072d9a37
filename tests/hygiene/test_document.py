"""The pages on who is eligible and on flags that should be gone: their file is read, their commands run."""

import re
import shlex
from pathlib import Path

import pytest

import expnb as xb
from expnb.cli import main

DOCS = Path(__file__).parents[2] / "docs"
AUDIENCE, HYGIENE = ((DOCS / name).read_text() for name in ("audience.md", "hygiene.md"))
COMMANDS = [
    line
    for page in (AUDIENCE, HYGIENE)
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A workspace with the experiment of the page, its flag, and code that does not name it."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "page.py").write_text("pass\n")
    (tmp_path / "expnb.toml").write_text('schema = 1\n[environments.production]\nflags = "flagd:flags.flagd.json"\n')
    (text,) = re.findall(r"```toml\n(.*?)```", AUDIENCE, re.DOTALL)
    # Past its day whenever the suite runs.
    text = re.sub(r"expires = [\d-]+", "expires = 2020-01-01", text)
    (tmp_path / "experiments" / "express_button.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    workspace = xb.open_workspace(tmp_path)
    workspace.create_flag(workspace.experiment("express_button"))
    return workspace


def test_the_flag_of_the_page_serves_who_the_page_says(shop):
    who = shop.flag(shop.experiment("express_button")).exposure.eligibility
    assert str(who) == "country AT or DE, platform ios, 0 to 50 % of layer checkout"


def test_every_command_of_the_pages_runs(shop, capsys):
    assert len(COMMANDS) == 4
    for line in COMMANDS:
        with pytest.raises(SystemExit) as done:
            main(shlex.split(line)[1:])
        out, err = capsys.readouterr()
        # The flag is past its day, and it was never shipped.
        assert done.value.code == (10 if line.startswith(("expnb flags --stale", "expnb remove")) else 0), (line, err)
        assert out
