"""The command line: everything the library does, without a notebook; the exit code is the verdict."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from expnb._version import __version__
from expnb.cli import decisions, doctor, experiments, flags, history, hygiene, ledger  # noqa: F401 - each adds its commands to the app
from expnb.cli.shared import BAD_INPUT, FAILURE, app
from expnb.errors import ExpnbError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors of expnb are one sentence and exit code 2 (bad input) or 1 (failure)."""
    try:
        app(args=arguments, prog_name="expnb")
    except ExpnbError as error:
        typer.echo(f"expnb: {error}", err=True)
        sys.exit(
            BAD_INPUT
            if isinstance(error, ValueError | LookupError | OSError | TypeError)
            and not isinstance(error, PermissionError)
            else FAILURE
        )


@app.callback(invoke_without_command=True)
def version(*, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Experiments in Jupyter: from a cohort to a decision to a ramped flag."""
    if version:
        typer.echo(__version__)
        raise typer.Exit
