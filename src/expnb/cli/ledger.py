"""Commands of the ledger."""

from __future__ import annotations

from typing import Annotated

import typer

from expnb.cli.shared import HERE, AsJson, Folder, Where, as_json_text, ledger_app, open_at


@ledger_app.command("verify")
def ledger_verify(
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    against: Annotated[
        str | None, typer.Option(help="A head hash that was noted elsewhere: finds truncation and rewriting.")
    ] = None,
) -> None:
    """Check the chain of the ledger; exit code 1 names the first broken entry."""
    typer.echo(str(open_at(workspace, environment).ledger.verify(against=against)))


@ledger_app.command("list")
def ledger_list(workspace: Folder = HERE, environment: Where = None, *, as_json: AsJson = False) -> None:
    """Show every entry, oldest first."""
    entries = open_at(workspace, environment).ledger.entries()
    if as_json:
        typer.echo(as_json_text(entries))
        return
    for entry in entries:
        about = " ".join(
            str(entry.body[key]) for key in ("experiment", "action", "flag", "actor", "applied") if key in entry.body
        )
        typer.echo(
            f"{entry.seq:4d}  {entry.happened_at:%Y-%m-%d %H:%M:%S}  {entry.kind:10s}  {about}  {entry.hash[:12]}"
        )
