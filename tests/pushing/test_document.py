"""docs/pushing.md: its file is read, its commands run in their order."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import expnb as xb

TEXT = (Path(__file__).parents[2] / "docs" / "pushing.md").read_text()
(CONFIG,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)


def test_every_command_runs_in_its_order(demo, run):
    for name in demo.experiments:
        replace(demo, actor="carl").agree(demo.experiment(name))
    (demo.root / "expnb.toml").write_text(CONFIG)
    assert xb.open_workspace(demo.root).config.environments["production"].approvals[1].requires
    for line in COMMANDS.splitlines():
        code, out, err = run(*shlex.split(line)[1:])
        assert code in {0, 10}, (line, err)
        assert out, line
