"""The main job on two real experiments, from cohort to ramped flag, unattended."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from expnb.demo.workspace import START, make_workspace
from expnb.reports.run import Report, notebooks_folder, run_report
from expnb.workspace import Workspace

EXAMPLES = ("gate_position.ipynb", "email_campaign.ipynb")


def run_demo(folder: Path, console: Console) -> None:
    """Make the demo workspace, run a report on each experiment, push what it decides, and say what happened.

    Parameters
    ----------
    folder : Path
        New, empty, or an earlier demo.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        step = progress.add_task("making the workspace: real cohorts, flags, ledger", total=1 + len(START))
        workspace = make_workspace(folder)
        progress.advance(step)
        for name in START:
            progress.update(step, description=f"{name}: running its notebook")
            before = workspace.flag(workspace.experiment(name)).exposure
            report = run_report(workspace, name, parameters={"apply": True})
            progress.advance(step)
            say(console, workspace, name, report, f"{before}")
    for example in EXAMPLES:
        shutil.copy(notebooks_folder() / example, folder)
    console.print(f"Ledger: {workspace.ledger.verify()}")
    console.print("Now open a notebook and press the button yourself: [bold]make lab[/bold], then gate_position.ipynb.")


def say(console: Console, workspace: Workspace, name: str, report: Report, before: str) -> None:
    """One experiment in words: the decision with its reasons, the flag before and after, the report."""
    decision = report.decision
    console.print(f"\n[bold]{name}[/bold]: {str(decision['action']).replace('_', ' ')}")
    for reason in _texts(decision["reasons"]):
        console.print(f"  - {reason}", highlight=False)
    for note in _texts(decision["notes"]):
        console.print(f"  ! {note}", highlight=False)
    console.print(f"  flag before: {before}", highlight=False)
    console.print(f"  flag after:  {workspace.flag(workspace.experiment(name)).exposure}", highlight=False)
    console.print(f"  report:      {report.page}", highlight=False, soft_wrap=True)


def _texts(value: object) -> list[str]:
    return [str(part) for part in value] if isinstance(value, list) else []
