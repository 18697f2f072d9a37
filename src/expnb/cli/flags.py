"""Commands that show and move flags."""

from __future__ import annotations

import getpass
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from expnb.cli.shared import (
    HERE,
    AsJson,
    Engine,
    Folder,
    Name,
    Seed,
    Source,
    Where,
    Who,
    app,
    as_json_text,
    decide_on,
    open_at,
)
from expnb.errors import ExpnbError, LedgerError, ParameterError

if TYPE_CHECKING:
    from expnb.decisions.plan import RampPlan
    from expnb.flags.base import Receipt
    from expnb.spec.flag import FlagState
    from expnb.workspace import Workspace


PlanId = Annotated[
    str, typer.Option("--plan", help="Which request, by the first signs of its plan; needed when several are open.")
]


@app.command()
def flags(
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    stale: Annotated[
        bool, typer.Option("--stale", help="Only those that should be gone; exit code 10 if there are any.")
    ] = False,
    idle_days: Annotated[
        float,
        typer.Option(help="With --stale: days without a change after which a flag that teaches nothing is stale."),
    ] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Show what the flag of every experiment serves now, and whether the ledger agrees."""
    opened = open_at(workspace, environment)
    if stale:
        _show_stale(opened, idle_days, as_json=as_json)
    states, notes = _states(opened)
    if as_json:
        typer.echo(as_json_text(states))
        return
    for name, state in states.items():
        if isinstance(state, str):
            typer.echo(f"{name}: {state}")
        else:
            off = "" if state.enabled else " (disabled)"
            typer.echo(f"{name}: {state.ref} {state.exposure}{off}, version {state.version}")
        if notes.get(name):
            typer.echo(f"  {notes[name]}")


@app.command()
def create(name: Name, workspace: Folder = HERE, environment: Where = None, actor: Who = None) -> None:
    """Create the flag of an experiment, at 0 percent."""
    opened = open_at(workspace, environment, actor)
    state = opened.create_flag(opened.experiment(name))
    typer.echo(f"created {state.ref}: {state.exposure}, version {state.version}")


@app.command()
def request(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    restore: Annotated[bool, typer.Option("--restore", help="The state before the last push, not a decision.")] = False,
    start: Annotated[bool, typer.Option("--start", help="The first rung, on which there are no data yet.")] = False,
    source: Source = "",
    engine: Engine = "exact",
    seed: Seed = 20,
) -> None:
    """Decide, and ask others to agree to the plan."""
    if restore and start:
        raise ParameterError("--restore and --start are two plans. Write one of them.")
    opened = open_at(workspace, environment, actor)
    experiment = opened.experiment(name)
    if restore:
        plan = opened.plan_restore(opened.last_receipt(experiment))
    elif start:
        plan = opened.start(experiment)
    else:
        decision = decide_on(opened, experiment, source, engine, seed)
        plan = opened.plan(decision)
        if not plan.changes:
            from expnb.decisions.decision import EXIT_CODES  # noqa: PLC0415 - each command loads what it needs

            typer.echo(f"{name}: {decision.action.replace('_', ' ')}; there is nothing to push.")
            for reason in decision.reasons:
                typer.echo(f"  - {reason}")
            raise typer.Exit(EXIT_CODES[decision.action])
    opened.request(plan)
    needed = opened.approvals_needed(plan)
    typer.echo(
        f"requested {plan} (plan {plan.id[:12]}, approvals needed: {needed}, expires {plan.expires_at:%Y-%m-%d %H:%M} UTC, unenforced)"
    )


@app.command()
def requests(workspace: Folder = HERE, environment: Where = None, *, as_json: AsJson = False) -> None:
    """Show what waits for an answer, with the answers so far."""
    opened = open_at(workspace, environment)
    asked = opened.requests()
    if as_json:
        typer.echo(as_json_text(asked))
        return
    for one in asked:
        typer.echo(f"{one}\n  {len(opened.approvals(one.plan))} of {opened.approvals_needed(one.plan)} approvals")
    if not asked:
        typer.echo("no open requests")


@app.command()
def approve(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    plan_id: PlanId = "",
    specification: Annotated[
        bool, typer.Option("--specification", help="What was registered late, or loosened after the first look.")
    ] = False,
    comment: Annotated[str, typer.Option(help="Kept with the approval.")] = "",
) -> None:
    """Agree to a plan that somebody else requested, or to a specification."""
    opened = open_at(workspace, environment, actor)
    if specification:
        agreed = opened.agree(opened.experiment(name))
        typer.echo(f"agreed to {name} as {agreed.body['spec_hash']} (ledger entry {agreed.seq})")
        return
    plan = _requested(opened, name, plan_id)
    opened.approve(plan, comment=comment)
    typer.echo(
        f"approved {plan} (plan {plan.id[:12]}): {len(opened.approvals(plan))} of {opened.approvals_needed(plan)} approvals, unenforced"
    )


@app.command()
def decline(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    plan_id: PlanId = "",
    reason: Annotated[str, typer.Option(help="Why, for the one who asked.")],
) -> None:
    """Stop a plan that was requested: it cannot be pushed any more."""
    opened = open_at(workspace, environment, actor)
    plan = _requested(opened, name, plan_id)
    opened.decline(plan, reason=reason)
    typer.echo(f"declined {plan} (plan {plan.id[:12]}), unenforced: {reason}")


@app.command()
def comment(
    name: Name,
    text: Annotated[str, typer.Argument(help="What to say about the request.")],
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    plan_id: PlanId = "",
) -> None:
    """Say something about a plan that was requested; kept with it."""
    opened = open_at(workspace, environment, actor)
    opened.comment(_requested(opened, name, plan_id), text)
    typer.echo(f"noted on {name}: {text}")


@app.command()
def apply(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    plan_id: PlanId = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, show the diff, change nothing.")
    ] = False,
) -> None:
    """Push a plan that was requested."""
    opened = open_at(workspace, environment, actor)
    plan = _requested(opened, name, plan_id)
    typer.echo(opened.preview(plan) if dry_run else str(opened.apply(plan)))


@app.command()
def rollback(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")],
) -> None:
    """Close the gate now, with a reason; needs no approval."""
    opened = open_at(workspace, environment, actor)
    typer.echo(str(opened.roll_back(opened.experiment(name), reason=reason)))


@app.command()
def restore(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    to: Annotated[
        int | None, typer.Option(help="The state before this ledger entry; before the last change when left out.")
    ] = None,
) -> None:
    """Return the flag to the state before its last change, as the ledger knows it."""
    opened = open_at(workspace, environment, actor)
    experiment = opened.experiment(name)
    receipt = opened.receipt(to) if to is not None else opened.last_receipt(experiment)
    if receipt.ref != opened.ref(experiment):
        raise ParameterError(
            f"ledger entry {to} is about {receipt.ref}, not about the flag of {name!r}. Name another entry."
        )
    typer.echo(str(opened.restore(receipt)))


@app.command()
def kill(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    reason: Annotated[str, typer.Option(help="Why; may follow later with `expnb explain`.")] = "",
    break_glass: Annotated[
        bool,
        typer.Option("--break-glass", help="Past ledger and server, straight to the flag; needs --environment."),
    ] = False,
    flag: Annotated[str, typer.Option(help="Name of the flag, where the experiment's file cannot be read.")] = "",
    token: Annotated[str, typer.Option(help="Name of your own credential, in the environment or the keyring.")] = "",
) -> None:
    """Close the gate and disable the flag, at once, whatever else is broken."""
    if break_glass:
        receipt = _break_glass(name, workspace, environment, actor, flag, token, reason)
    elif flag or token:
        raise ParameterError(
            "--flag and --token are for --break-glass: otherwise the workspace says both. Add --break-glass, or leave them out."
        )
    else:
        receipt = open_at(workspace, environment, actor).kill(name, reason=reason)
    typer.echo(str(receipt))
    if not reason.strip():
        typer.echo(f"Say why, when there is time: `expnb explain {name} --reason …`.")


@app.command()
def explain(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    reason: Annotated[str, typer.Option(help="Why the flag was killed.")],
) -> None:
    """Say afterwards why a flag was killed."""
    told = open_at(workspace, environment, actor).explain_kill(name, reason)
    typer.echo(f"kept with {len(told)} kill{'s' if len(told) > 1 else ''} of {name}: {reason}")


@app.command()
def settle(workspace: Folder = HERE, environment: Where = None, actor: Who = None) -> None:
    """Find out what became of pushes that a crash or a lost answer left open, by reading their flags."""
    outcomes = open_at(workspace, environment, actor).settle()
    words = {True: "was pushed", False: "was not pushed", None: "was or was not pushed; somebody moved the flag since"}
    for entry in outcomes:
        if entry.kind == "kill":
            typer.echo(f"flag {entry.body['flag']!r}: was switched off, and nobody recorded it; now on record")
            continue
        applied = entry.body["applied"]
        typer.echo(
            f"flag {entry.body['flag']!r}: the plan {str(entry.body['plan_id'])[:12]} {words[applied if isinstance(applied, bool) else None]}"
        )
    if not outcomes:
        typer.echo("every push has an outcome")


def _show_stale(workspace: Workspace, idle_days: float, *, as_json: bool) -> NoReturn:
    from expnb.hygiene.stale import stale_flags  # noqa: PLC0415 - each command loads what it needs

    if not 0 <= idle_days < math.inf:
        raise ParameterError(f"--idle-days is {idle_days:g}; it is a number of days from 0 on. Write --idle-days 30.")
    found = stale_flags(workspace, idle_days=idle_days)
    typer.echo(as_json_text(found) if as_json else str(found))
    raise typer.Exit(10 if found.flags else 0)


def _states(workspace: Workspace) -> tuple[dict[str, FlagState | str], dict[str, str]]:
    """The state of every experiment's flag, or why there is none; and where the ledger does not agree."""
    from expnb.pushing.kill import flag_name  # noqa: PLC0415 - each command loads what it needs
    from expnb.spec.flag import FlagRef  # noqa: PLC0415

    states: dict[str, FlagState | str] = {}
    notes: dict[str, str] = {}
    for name in workspace.experiments:
        try:  # the flag itself needs neither catalogue nor ledger
            ref = FlagRef(flag_name(workspace.root, name), workspace.environment)
            states[name] = workspace.flags.read(ref)
            notes[name] = workspace.moved_outside(ref)
        except LedgerError as error:
            notes[name] = f"whether the ledger agrees is not known: {error.sentence}"
        except ExpnbError as error:  # one that cannot be read must not hide the others
            states[name] = str(error)
    return states, notes


def _break_glass(
    name: str, folder: Path, environment: str | None, actor: str | None, flag: str, token: str, reason: str
) -> Receipt:
    from expnb.pushing.kill import CONFIG, break_glass  # noqa: PLC0415 - each command loads what it needs

    if environment is None:
        raise ParameterError(
            "--break-glass reads as little as it can; say which environment: --environment production."
        )
    start = folder.resolve()
    root = next((one for one in (start, *start.parents) if (one / CONFIG).is_file()), start)
    who = actor or getpass.getuser()
    return break_glass(
        root, name, environment=environment, actor=who, now=datetime.now(UTC), flag=flag, token=token, reason=reason
    )


def _requested(workspace: Workspace, name: str, plan_id: str = "") -> RampPlan:
    """The open request on an experiment; which one is never guessed."""
    workspace.experiment(name)
    asked = [one for one in workspace.requests() if one.plan.experiment == name]
    plans = [one.plan for one in asked if one.plan.id.startswith(plan_id) and (plan_id or not one.declines)]
    if len(plans) > 1:
        raise ParameterError(
            f"{len(plans)} requests on {name!r} are open; say which one: {', '.join(f'--plan {one.id[:12]} ({one.verb})' for one in plans)}."
        )
    if not plans:
        raise ParameterError(
            f"no open request on {name!r}: none was made, or it was pushed, declined or is too old. `expnb requests` shows them; write `expnb request {name}` for a new one."
        )
    return plans[0]
