"""README and packaging: every command runs, every number has a source, nothing names a host or a machine."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import expnb as xb
from expnb.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line.strip()
]


def test_every_expnb_command_of_the_readme_runs(demo, monkeypatch, capsys):
    monkeypatch.chdir(demo.root)
    commands = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("expnb ")]
    assert commands
    for arguments in commands:
        with pytest.raises(SystemExit) as done:
            main(arguments)
        out, err = capsys.readouterr()
        assert done.value.code in {0, 10, 20, 30}, (arguments, err)
        assert out


@pytest.mark.parametrize("line", sorted({line for line in COMMANDS if line.startswith("make ")}))
def test_every_make_target_of_the_readme_exists(line):
    subprocess.run([*shlex.split(line), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_every_file_of_the_readme_is_read(tmp_path):
    workspace, experiment = sorted(
        re.findall(r"```toml\n(.*?)```", README, re.DOTALL), key=lambda text: "[experiment]" in text
    )
    (tmp_path / "experiments").mkdir()
    (tmp_path / "expnb.toml").write_text(workspace)
    kinds = experiment.replace('role = "goal"', 'kind = "conversion"\nrole = "goal"').replace(
        'role = "guardrail"', 'kind = "conversion"\nrole = "guardrail"'
    )
    (tmp_path / "experiments" / "gate_position.toml").write_text(kinds)
    assert xb.open_workspace(tmp_path).experiment("gate_position").goal.name == "retention_7"


@pytest.mark.parametrize("text", re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL))
def test_every_experiment_of_the_data_page_is_read(text, tmp_path):
    (tmp_path / "experiment.toml").write_text(text)
    assert xb.read_experiment(tmp_path / "experiment.toml").goal.rope == 0.01


def test_every_command_of_the_readme_is_tested():
    assert all(line.startswith(("expnb ", "make ")) for line in COMMANDS)


def test_every_figure_of_the_readme_is_in_the_results():
    results = json.loads((ROOT / "bench" / "results.json").read_text())
    quoted = re.findall(r"<!-- (\w+) -->\s*\**([\d.]+)", README)
    assert quoted
    for name, value in quoted:
        assert float(value) == pytest.approx(results[name]["value"], rel=0.01), name


def test_every_picture_of_the_readme_exists():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / path).is_file(), path


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split(
        "\n"
    )
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def test_the_lock_names_no_host_and_hashes_everything():
    for name in ("uv.txt", "lock.txt"):
        text = (ROOT / "requirements" / name).read_text()
        assert "://" not in text
        pins = re.findall(r"^[A-Za-z0-9_.-]+(?:\[.*?\])?==", text, re.MULTILINE)
        assert pins
        assert text.count("--hash=sha256:") >= len(pins)


def test_no_tracked_file_names_a_path_of_a_machine():
    own = Path(__file__).name
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".ipynb", ".json", ".txt", ".js", ".css"} and path.name not in {
            own,
            "test_examples.py",
        }:
            text = path.read_text()
            assert not re.search(r"/(root|home|work)/\w", text), path
