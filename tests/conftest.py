"""Shared ground: a workspace file, an experiment, and where the real data lie."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.flags.unleash_server import unleash  # noqa: F401 - a fixture for all folders: one server per run

import expnb as xb
from expnb.cli import main

ROOT = Path(__file__).parents[1]
# A suite in the background of a shell starts with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
NOW = datetime(2017, 2, 20, 12, tzinfo=UTC)

GATE_POSITION = """
schema = 1
[experiment]
name = "gate_position"
hypothesis = "Moving the first gate from level 30 to 40 raises 7-day retention."
owner = "games-growth"
flag = "gate-position"
unit = "userid"
variant = "version"
control = "gate_30"
weights = { gate_30 = 50, gate_40 = 50 }
start = 2017-02-01
end = 2017-02-14
source = "cohort.parquet"

[[metrics]]
name = "retention_7"
kind = "conversion"
role = "goal"
rope = 0.005

[[metrics]]
name = "retention_1"
kind = "conversion"
role = "guardrail"
margin = 0.02

[policy]
ladder = [1, 5, 25, 50, 100]
learn_at = 100
min_days = 7
min_units = 1000
"""


@pytest.fixture
def gate_position_file(tmp_path):
    """The file of the Cookie Cats experiment."""
    path = tmp_path / "gate_position.toml"
    path.write_text(GATE_POSITION)
    return path


@pytest.fixture
def gate_position(gate_position_file):
    """The Cookie Cats experiment, read from its file."""
    return xb.read_experiment(gate_position_file)


@pytest.fixture(scope="session")
def players():
    """The Cookie Cats players, rebuilt from counts."""
    return xb.datasets.cookie_cats()


@pytest.fixture
def demo(tmp_path):
    """A demo workspace with a clock that stands still."""
    return xb.demo.make_workspace(tmp_path / "demo", clock=lambda: NOW)


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


@pytest.fixture(scope="session")
def real_data():
    """The folder of real experiments; the test is skipped where it is absent."""
    folder = Path(os.environ.get("EXPNB_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "cookie_cats").is_dir():
        pytest.skip(f"no real data in {folder.name!r}; name their folder in EXPNB_DATA")
    return folder
