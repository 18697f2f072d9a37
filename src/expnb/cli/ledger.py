"""Commands of the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from expnb.cli.shared import HERE, AsJson, Folder, Where, as_json_text, ledger_app, open_at
from expnb.errors import ExpnbError, LedgerError, check_choice

if TYPE_CHECKING:
    from expnb.ledger.export import What
    from expnb.ledger.ledger import Entry, EntryKind
    from expnb.workspace import Workspace


@ledger_app.command("verify")
def ledger_verify(
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="A head that was noted elsewhere: a hash, a flag's metadata, or a line of a notification. Finds truncation and rewriting. The heads in the flags of the environment when left out."
        ),
    ] = None,
) -> None:
    """Check the chain of the ledger; exit code 1 names the first broken entry."""
    opened = open_at(workspace, environment)
    flags = {} if against else _heads_in_flags(opened)
    verified = opened.ledger.verify(against=against or list(flags.values()))
    told = (
        f", with the heads that {len(flags)} flag{'s' if len(flags) > 1 else ''} hold{'' if len(flags) > 1 else 's'}"
        if flags
        else ""
    )
    typer.echo(f"{verified.entries} entries, unbroken{told}; head {verified.head}")


@ledger_app.command("list")
def ledger_list(
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    kind: Annotated[str | None, typer.Option(help="Only entries of a kind, such as outcome.")] = None,
    experiment: Annotated[str | None, typer.Option(help="Only entries about an experiment.")] = None,
    flag: Annotated[str | None, typer.Option(help="Only entries about a flag.")] = None,
    tail: Annotated[int | None, typer.Option(min=1, help="Only the last so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show entries, oldest first."""
    from expnb.ledger.ledger import KINDS  # noqa: PLC0415 - each command loads what it needs

    if kind is not None:
        check_choice("the kind of an entry", kind, KINDS)
    ledger = open_at(workspace, environment).ledger
    entries = ledger.entries(kind=cast("EntryKind | None", kind), experiment=experiment, flag=flag, tail=tail)
    if as_json:
        typer.echo(as_json_text(entries))
        return
    for entry in entries:
        typer.echo(_line(entry))


@ledger_app.command("export")
def ledger_export(
    file: Annotated[Path | None, typer.Argument(help="A .csv or .parquet to write.")] = None,
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    what: Annotated[str, typer.Option(help="entries, or effects: what priors are learnt from.")] = "entries",
    table: Annotated[str, typer.Option(help="Table of your warehouse to add to, such as analytics.ledger.")] = "",
    connection: Annotated[
        str, typer.Option(help="Name of the environment variable that holds the warehouse's SQLAlchemy URL.")
    ] = "",
) -> None:
    """Write the ledger to a file, or add what is new to a table of your warehouse."""
    from expnb.ledger.export import COLUMNS, export_frame, write_frame  # noqa: PLC0415 - pandas

    check_choice("what is exported", what, list(COLUMNS))
    if bool(file) == bool(table) or bool(table) != bool(connection):
        raise LedgerError(
            "an export goes to a file, or to a table of a connection. Write `expnb ledger export ledger.parquet`, or `expnb ledger export --table NAME --connection VARIABLE`."
        )
    kind = cast("What", what)
    frame = export_frame(open_at(workspace, environment).ledger.entries(), kind)
    if file:
        write_frame(frame, file)
        typer.echo(f"{len(frame)} rows written to {file}")
        return
    from expnb.ledger.warehouse import append_to_table  # noqa: PLC0415 - only for a table

    added = append_to_table(frame, kind, connection=connection, table=table)
    typer.echo(f"{added} rows added to {table}, {len(frame) - added} were there")


def _heads_in_flags(workspace: Workspace) -> dict[str, str]:
    """The heads that the flags of the environment keep, by flag; none where the backend keeps none."""
    keeper = getattr(workspace.flags, "ledger_head", None)
    heads: dict[str, str] = {}
    for name in workspace.experiments if keeper else ():
        try:  # an experiment or a flag that cannot be read must not hide a broken ledger
            ref = workspace.ref(workspace.experiment(name))
            heads[str(ref)] = keeper(ref) if keeper else ""
        except ExpnbError:
            continue
    return {flag: head for flag, head in heads.items() if head}


def _line(entry: Entry) -> str:
    from expnb.ledger.export import verb  # noqa: PLC0415 - each command loads what it needs

    said = [str(entry.body[key]) for key in ("experiment", "action") if key in entry.body]
    said += [verb(entry)] if verb(entry) else []
    said += [str(entry.body[key]) for key in ("flag", "environment", "actor") if key in entry.body]
    if entry.kind == "outcome":
        said.append({True: "applied", False: "not applied"}.get(cast("bool", entry.body.get("applied")), "not known"))
    return (
        f"{entry.seq:4d}  {entry.happened_at:%Y-%m-%d %H:%M:%S}  {entry.kind:14s}  {' '.join(said)}  {entry.hash[:12]}"
    )
