"""The main job on two real experiments, from cohort to ramped flag, unattended."""

from __future__ import annotations

import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from expnb.demo.workspace import START, make_workspace
from expnb.reports.run import Report, notebooks_folder, run_report
from expnb.workspace import open_workspace

EXAMPLES = ("gate_position.ipynb", "email_campaign.ipynb")


def run_demo(folder: Path, console: Console, *, data: Path | None = None) -> None:
    """Make the demo workspace, run a report on each experiment, push what it decides, and say what happened.

    Parameters
    ----------
    folder : Path
        New, empty, or an earlier demo.
    data : Path, optional
        Folder of the original files, as in `make_workspace`.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        step = progress.add_task("making the workspace: real cohorts, flags, ledger", total=1 + len(START))
        workspace = make_workspace(folder, data=data)
        before = {name: str(workspace.flag(workspace.experiment(name)).exposure) for name in START}
        progress.update(step, advance=1, description=f"running the notebooks of {' and '.join(START)}")
        # A process each: a report changes folder and environment, and two use both cores.
        with ProcessPoolExecutor(len(START), mp_context=get_context("spawn")) as pool:
            reports = {pool.submit(run_one, workspace.root, name): name for name in START}
            for done in as_completed(reports):
                progress.advance(step)
                name = reports[done]
                after = str(workspace.flag(workspace.experiment(name)).exposure)
                say(console, name, done.result(), before[name], after)
        for example in EXAMPLES:
            shutil.copy(notebooks_folder() / example, folder)
    console.print(f"\nledger: {workspace.ledger.verify()}", highlight=False, soft_wrap=True)
    console.print("Now press the button yourself: [bold]make lab[/bold], open gate_position.ipynb, and run it.")


def run_one(folder: Path, name: str) -> Report:
    """The report on one experiment, pushed."""
    return run_report(open_workspace(folder), name, parameters={"apply": True})


def say(console: Console, name: str, report: Report, before: str, after: str) -> None:
    """One experiment in words: the decision with its reasons, the flag before and after, the report."""
    decision = report.decision
    console.print(f"\n[bold]{name}[/bold]: {str(decision['action']).replace('_', ' ')}", highlight=False)
    lines = [f"  - {reason}" for reason in _texts(decision["reasons"])] + [
        f"  ! {note}" for note in _texts(decision["notes"])
    ]
    for line in [*lines, f"  flag before: {before}", f"  flag after:  {after}", f"  report:      {report.page}"]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _texts(value: object) -> list[str]:
    return [str(part) for part in value] if isinstance(value, list) else []
