"""Commands that keep flags in order: layers, and the removal checklist."""

from __future__ import annotations

from typing import Annotated

import typer

from expnb.cli.shared import HERE, AsJson, Folder, Name, Where, app, as_json_text, open_at

LEFT = 10  # exit code where something is left to do


@app.command()
def layers(workspace: Folder = HERE, environment: Where = None, *, as_json: AsJson = False) -> None:
    """Show who holds which percent of every layer, and what is free."""
    from expnb.hygiene.claims import layers as layers_now  # noqa: PLC0415 - each command loads what it needs
    from expnb.hygiene.claims import unread  # noqa: PLC0415

    opened = open_at(workspace, environment)
    found = layers_now(opened)
    for name in unread(opened):
        typer.echo(
            f"experiment {name!r} cannot be read: what it holds is not shown, and not free. `expnb check {name}` says why.",
            err=True,
        )
    if as_json:
        typer.echo(as_json_text([{"layer": one, "free": one.free} for one in found]))
        return
    for one in found:
        typer.echo(str(one))
    if not found:
        typer.echo('no experiment names a layer. Write layer = "checkout" under [experiment].')


@app.command()
def remove(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    code: Annotated[list[str] | None, typer.Option(help="Folder of source code to search; repeated for more.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is left to do before the flag of an experiment can be deleted; exit code 0 only when no code names it and nothing else is left, 10 otherwise."""
    from expnb.hygiene.removal import removal  # noqa: PLC0415 - each command loads what it needs

    opened = open_at(workspace, environment)
    found = removal(opened, opened.experiment(name), code or [])
    typer.echo(as_json_text({"done": found.done, "removal": found}) if as_json else str(found))
    raise typer.Exit(0 if found.done else LEFT)
