"""Commands that show and move flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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
from expnb.errors import ExpnbError, ParameterError

if TYPE_CHECKING:
    from expnb.decisions.plan import RampPlan
    from expnb.spec.flag import FlagState
    from expnb.workspace import Workspace


@app.command()
def flags(workspace: Folder = HERE, environment: Where = None, *, as_json: AsJson = False) -> None:
    """Show what the flag of every experiment serves now."""
    opened = open_at(workspace, environment)
    states: dict[str, FlagState | str] = {}
    for name in opened.experiments:
        try:
            states[name] = opened.flag(opened.experiment(name))
        except ExpnbError as error:  # one that cannot be read must not hide the others
            states[name] = str(error)
    if as_json:
        typer.echo(as_json_text(states))
        return
    for name, state in states.items():
        if isinstance(state, str):
            typer.echo(f"{name}: {state}")
        else:
            off = "" if state.enabled else " (disabled)"
            typer.echo(f"{name}: {state.ref} {state.exposure}{off}, version {state.version}")


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
        plan = opened.plan(decide_on(opened, experiment, source, engine, seed))
    opened.request(plan)
    needed = opened.approvals_needed(plan)
    typer.echo(
        f"requested {plan} (plan {plan.id[:12]}, approvals needed: {needed}, expires {plan.expires_at:%Y-%m-%d %H:%M} UTC)"
    )


@app.command()
def approve(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    specification: Annotated[
        bool, typer.Option("--specification", help="What was registered late, or loosened after the first look.")
    ] = False,
) -> None:
    """Agree to the newest plan that somebody else requested, or to a specification."""
    opened = open_at(workspace, environment, actor)
    if specification:
        agreed = opened.agree(opened.experiment(name))
        typer.echo(f"agreed to {name} as {agreed.body['spec_hash']} (ledger entry {agreed.seq})")
        return
    plan = _requested(opened, name)
    opened.approve(plan)
    typer.echo(
        f"approved {plan} (plan {plan.id[:12]}): {len(opened.approvals(plan))} of {opened.approvals_needed(plan)} approvals"
    )


@app.command()
def apply(name: Name, workspace: Folder = HERE, environment: Where = None, actor: Who = None) -> None:
    """Push the newest plan that was requested."""
    opened = open_at(workspace, environment, actor)
    typer.echo(str(opened.apply(_requested(opened, name))))


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
def restore(name: Name, workspace: Folder = HERE, environment: Where = None, actor: Who = None) -> None:
    """Return the flag to the state before its last push."""
    opened = open_at(workspace, environment, actor)
    typer.echo(str(opened.restore(opened.last_receipt(opened.experiment(name)))))


@app.command()
def kill(name: Name, workspace: Folder = HERE, environment: Where = None, actor: Who = None) -> None:
    """Close the gate and disable the flag, at once, whatever else is broken."""
    opened = open_at(workspace, environment, actor)
    typer.echo(str(opened.kill(name)))


def _requested(workspace: Workspace, name: str) -> RampPlan:
    plans = [plan for plan in workspace.requests() if plan.experiment == workspace.experiment(name).name]
    if not plans:
        raise ParameterError(f"no open request on {name!r}; it may have expired. Write `expnb request {name}` first.")
    return plans[-1]
