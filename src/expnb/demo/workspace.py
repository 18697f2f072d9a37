"""The demo workspace: real data, a real flag file, a real ledger."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from importlib.resources import as_file, files
from pathlib import Path

from expnb.datasets import cookie_cats, hillstrom
from expnb.decisions.plan import plan_change
from expnb.errors import SpecError
from expnb.workspace import Workspace, open_workspace, utc_now

MARKER = ".expnb-demo"
# Where each ramp stands when the demo begins, percent enrolled.
START: Mapping[str, float] = {"gate_position": 50, "email_campaign": 25}


def make_workspace(folder: str | Path, *, clock: Callable[[], datetime] = utc_now) -> Workspace:
    """A fresh demo workspace: cohorts rebuilt from published counts, flags at their starting rung, an empty ledger.

    Parameters
    ----------
    folder : str or Path
        New, empty, or an earlier demo workspace, which is made anew.
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
    cookie_cats().to_parquet(folder / "cookie_cats.parquet")
    hillstrom().to_parquet(folder / "hillstrom.parquet")
    workspace = open_workspace(folder, clock=clock)
    for name, enrolled in START.items():
        _start(workspace, name, enrolled)
    return workspace


def _start(workspace: Workspace, name: str, enrolled: float) -> None:
    """Register an experiment, create its flag and open the gate to where its ramp stands."""
    experiment, now = workspace.experiment(name), workspace.clock()
    workspace.register(experiment)
    state = workspace.create_flag(experiment)
    opened = replace(state.exposure, enrolled=enrolled)
    plan = plan_change("ramp_up", experiment, state, opened, reason="The demo starts here.", now=now)
    workspace.flags.apply(plan, now=now)
