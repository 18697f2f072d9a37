"""What commands share: the app, options that mean the same everywhere, and the workspace."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from expnb.errors import ExpnbError
from expnb.spec.canonical import to_json

if TYPE_CHECKING:
    from expnb.decisions.decision import Decision
    from expnb.spec.experiment import Experiment
    from expnb.workspace import Workspace

BAD_INPUT, FAILURE = 2, 1

app = typer.Typer(
    help="Experiments in Jupyter: from a cohort to a decision to a ramped flag.",
    no_args_is_help=True,
    add_completion=False,
)
ledger_app = typer.Typer(help="The record of what was decided and done.", no_args_is_help=True)
app.add_typer(ledger_app, name="ledger")

Name = Annotated[str, typer.Argument(help="Name of the experiment.")]
Folder = Annotated[Path, typer.Option("--workspace", "-w", help="Folder with expnb.toml, or one below it.")]
Where = Annotated[
    str | None, typer.Option("--environment", "-e", help="Environment; needed when expnb.toml names several.")
]
Who = Annotated[str | None, typer.Option("--as", help="Who acts; your user name when left out.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Source = Annotated[str, typer.Option(help="Path or glob of the cohort; the experiment's own when left out.")]
Engine = Annotated[Literal["exact", "pymc"], typer.Option(help="How the posterior is computed.")]
Seed = Annotated[int, typer.Option(help="Seed of sampling engines.")]
HERE = Path()


def open_at(folder: Path, environment: str | None, actor: str | None = None) -> Workspace:
    """The workspace of a command."""
    from expnb.workspace import open_workspace  # noqa: PLC0415 - each command loads what it needs

    opened = open_workspace(folder, environment=environment, actor=actor)
    _show_open_matters(opened)
    return opened


def _show_open_matters(workspace: Workspace) -> None:
    """What an earlier session left open, on stderr: pushes without an outcome, kills without a reason."""
    with suppress(ExpnbError):  # a broken ledger or flag file is the matter of the command itself
        for matter in workspace.open_matters():
            typer.echo(f"expnb: {matter}", err=True)


def decide_on(
    workspace: Workspace, experiment: Experiment, source: str, engine: Literal["exact", "pymc"], seed: int
) -> Decision:
    """The decision on a cohort, recorded as a look."""
    from expnb.models.fit import fit  # noqa: PLC0415 - each command loads what it needs

    cohort = workspace.load(experiment, source or None)
    return workspace.decide(experiment, fit(experiment, cohort, engine=engine, seed=seed))


def as_json_text(value: object) -> str:
    """What `--json` prints."""
    return json.dumps(to_json(value), indent=1, sort_keys=True, ensure_ascii=False)
