"""The demo workspace: real data, a real flag file, a real ledger."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from importlib.resources import as_file, files
from pathlib import Path

from expnb.datasets import cookie_cats, hillstrom
from expnb.decisions.plan import plan_change
from expnb.errors import SpecError
from expnb.workspace import Workspace, open_workspace, utc_now

MARKER = ".expnb-demo"
ROUNDS = """
[[metrics]]
name = "game_rounds"
role = "info"
"""
# Where each ramp stands when the demo begins, percent enrolled.
START: Mapping[str, float] = {"gate_position": 50, "email_campaign": 25}
AT_RUNG = timedelta(days=2)  # since when it stands there


def make_workspace(
    folder: str | Path, *, data: str | Path | None = None, clock: Callable[[], datetime] = utc_now
) -> Workspace:
    """A fresh demo workspace: cohorts rebuilt from published counts, flags at their starting rung, an empty ledger.

    Parameters
    ----------
    folder : str or Path
        New, empty, or an earlier demo workspace, which is made anew.
    data : str or Path, optional
        Folder of the original files; with the row-level file of Cookie Cats, rounds played are shown too.
    clock : callable
        Gives the time now, with a time zone.

    Raises
    ------
    SpecError
        If the folder holds something else; nothing is deleted.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise SpecError(
            f"folder {str(folder)!r} is not empty and is no demo workspace; nothing was changed. Choose another folder."
        )
    shutil.rmtree(folder, ignore_errors=True)
    with as_file(files("expnb.demo") / "files") as origin:
        shutil.copytree(origin, folder)
    (folder / MARKER).touch()
    _write_cookie_cats(folder, Path(data) / "cookie_cats" / "cookie_cats.parquet" if data else None)
    hillstrom().to_parquet(folder / "hillstrom.parquet")
    workspace = open_workspace(folder, clock=clock)
    for name, enrolled in START.items():
        _start(workspace, name, enrolled)
    return workspace


def _write_cookie_cats(folder: Path, original: Path | None) -> None:
    """The players: the original rows with the rounds they played where they exist, else rebuilt from counts."""
    if original is None or not original.is_file():
        cookie_cats().to_parquet(folder / "cookie_cats.parquet")
        return
    shutil.copy(original, folder / "cookie_cats.parquet")
    with (folder / "experiments" / "gate_position.toml").open("a", encoding="utf-8") as file:
        file.write(ROUNDS)


def _start(workspace: Workspace, name: str, enrolled: float) -> None:
    """Register an experiment, create its flag and open the gate to where its ramp stands."""
    experiment, reached = workspace.experiment(name), workspace.clock() - AT_RUNG
    workspace.register(experiment)
    state = workspace.create_flag(experiment)
    opened = replace(state.exposure, enrolled=enrolled)
    plan = plan_change("ramp_up", experiment, state, opened, reason="The demo starts here.", now=reached)
    workspace.flags.apply(plan, now=reached)
