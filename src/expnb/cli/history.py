"""Commands about what happened."""

from __future__ import annotations

from typing import Annotated

import typer

from expnb.cli.shared import FAILURE, HERE, AsJson, Folder, Name, Where, app, as_json_text, open_at


@app.command()
def replay(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    decision: Annotated[
        int | None,
        typer.Option(help="Ledger entry of a decision; the one behind the last change of the flag when left out."),
    ] = None,
    from_source: Annotated[
        bool, typer.Option("--from-source", help="Read the source again, up to the days that were known then.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Take a past decision again from its kept cells; exit code 0 if it is the same, 1 if not."""
    from expnb.history.replay import find_decision  # noqa: PLC0415 - each command loads what it needs
    from expnb.history.replay import replay as replay_decision  # noqa: PLC0415

    opened = open_at(workspace, environment)
    replayed = replay_decision(find_decision(opened, name, decision), workspace=opened, from_source=from_source)
    typer.echo(as_json_text({"same": replayed.same, "replay": replayed}) if as_json else str(replayed))
    raise typer.Exit(0 if replayed.same else FAILURE)


@app.command()
def review(name: Name, workspace: Folder = HERE, environment: Where = None, *, as_json: AsJson = False) -> None:
    """Show what changed since the last look: new and restated data (counts only), edits, the flag, open requests."""
    from expnb.history.review import review as review_changes  # noqa: PLC0415 - each command loads what it needs

    changed = review_changes(name, open_at(workspace, environment))
    typer.echo(as_json_text(changed) if as_json else str(changed))


@app.command()
def incident(name: Name, workspace: Folder = HERE, environment: Where = None, *, as_json: AsJson = False) -> None:
    """Write what happened when a treatment was last taken back: timeline, users harmed, delays, who did what."""
    from expnb.history.incident import incident as last_incident  # noqa: PLC0415 - each command loads what it needs

    opened = open_at(workspace, environment)
    told = last_incident(name, opened)
    typer.echo(as_json_text(told) if as_json else str(told))
    if told.began_at is not None and not as_json:
        typer.echo(f"\npage: {told.write(opened.root / 'decisions')}")
