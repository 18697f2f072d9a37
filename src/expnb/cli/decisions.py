"""Commands that decide: on the data at hand, as a gate, as a report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

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
from expnb.errors import ParameterError


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="New, empty, or an earlier demo.")] = Path("demo"),
    *,
    data: Annotated[
        Path | None, typer.Option(envvar="EXPNB_DATA", help="Folder of the original files, where you have them.")
    ] = None,
) -> None:
    """Run the main job on two real experiments: workspace, reports, decisions, moved flags."""
    from rich.console import Console  # noqa: PLC0415 - each command loads what it needs

    from expnb.demo.run import run_demo  # noqa: PLC0415

    run_demo(folder, Console(), data=data)


@app.command()
def decide(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    source: Source = "",
    engine: Engine = "exact",
    seed: Seed = 20,
    as_json: AsJson = False,
) -> None:
    """Decide on the data as they are now; the exit code is the verdict (0 ship or ramp up, 10 hold, 20 roll back, 30 conclude flat)."""
    opened = open_at(workspace, environment, actor)
    decision = decide_on(opened, opened.experiment(name), source, engine, seed)
    typer.echo(as_json_text(decision) if as_json else str(decision))
    raise typer.Exit(decision.exit_code)


@app.command()
def gate(
    name: Name,
    to: Annotated[float, typer.Option(help="Percent enrolled.")],
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    source: Source = "",
    engine: Engine = "exact",
    seed: Seed = 20,
) -> None:
    """Ask whether a rung is allowed now: exit code 0 if so, else that of the decision."""
    opened = open_at(workspace, environment, actor)
    experiment = opened.experiment(name)
    experiment.policy.check_rung(to)
    decision = decide_on(opened, experiment, source, engine, seed)
    allowed = to <= decision.to.enrolled and not decision.to.serve
    typer.echo(f"{to:g} % enrolled is {'allowed' if allowed else 'not allowed'}. {decision}")
    raise typer.Exit(0 if allowed else decision.exit_code or 10)


@app.command()
def run(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    template: Annotated[str, typer.Option(help="Name of the template.")] = "ramp_decision",
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value of the template; may be repeated.")
    ] = None,
    push: Annotated[bool, typer.Option("--apply", help="Push what the report decides.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a report notebook unattended; the exit code is the verdict."""
    from expnb.decisions.decision import EXIT_CODES  # noqa: PLC0415 - each command loads what it needs
    from expnb.reports.run import run_report  # noqa: PLC0415

    opened = open_at(workspace, environment, actor)
    given = dict(_parameter(text) for text in parameter or [])
    report = run_report(
        opened,
        name,
        template=template,
        parameters=given | ({"apply": True} if push else {}),
        progress=not as_json and sys.stderr.isatty(),
    )
    decision = report.decision
    if as_json:
        typer.echo(
            json.dumps(
                {"report": str(report.page.relative_to(opened.root)), **decision},
                indent=1,
                sort_keys=True,
                ensure_ascii=False,
            )
        )
    else:
        reasons = decision["reasons"]
        typer.echo(f"{name}: {str(decision['action']).replace('_', ' ')}")
        for reason in reasons if isinstance(reasons, list) else []:
            typer.echo(f"  - {reason}")
        typer.echo(f"report: {report.page}")
    raise typer.Exit(EXIT_CODES[decision["action"]])  # type: ignore[index]  # an action of the ledger


def _parameter(text: str) -> tuple[str, str | int | float | bool]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ParameterError(f"parameter {text!r} has no value; write name=value.")
    try:
        parsed = json.loads(value.lower() if value in {"True", "False"} else value)
    except json.JSONDecodeError:
        return name, value
    return name, parsed if isinstance(parsed, str | int | float | bool) else value
