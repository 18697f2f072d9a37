"""The command line: everything the library does, without a notebook; the exit code is the verdict."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from expnb._version import __version__
from expnb.errors import (
    CohortError,
    ExpnbError,
    NameNotFoundError,
    ParameterError,
    PathNotFoundError,
    SourceError,
    SpecError,
)
from expnb.spec.canonical import to_json

if TYPE_CHECKING:
    from expnb.decisions.decision import Decision
    from expnb.decisions.plan import RampPlan
    from expnb.spec.experiment import Experiment
    from expnb.spec.flag import FlagState
    from expnb.stats.cells import Cells
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
def check(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    simulate: Annotated[bool, typer.Option("--simulate", help="Also try the policy on made-up rollouts.")] = False,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="With --simulate: NAME=0.1 of a share, NAME=MEAN,SD of other metrics; that of the experiment's own data when left out."
        ),
    ] = None,
    effect: Annotated[
        list[str] | None,
        typer.Option(
            help="With --simulate: true relative effect, 0.03 is +3 %; on the goal, or by name: NAME=0.03,NAME=-0.01. Repeated for other worlds; 0 when left out."
        ),
    ] = None,
) -> None:
    """Read an experiment as its policy will: sentences, open questions; and what the policy would do."""
    if not simulate and (baseline or effect):
        raise ParameterError(
            f"{'--baseline' if baseline else '--effect'} says what to simulate, and nothing is simulated. Add --simulate, or leave it out."
        )
    opened = _open(workspace, environment)
    experiment = opened.experiment(name)
    if simulate:
        worlds = [_effect(experiment, text) for text in effect or ["0"]]
        given = _baselines(opened, experiment, baseline)
        if experiment.traffic is None:
            raise SpecError(
                f"the traffic of {name!r} is unknown. Add it to its file: [traffic] and units_per_day = 6000 on the next line."
            )
    typer.echo(f"{experiment.name}: {experiment.hypothesis}")
    for sentence in experiment.policy.sentences():
        typer.echo(f"  - {sentence}")
    for question in opened.questions(experiment):
        typer.echo(f"  ? {question}")
    if simulate:
        from expnb.planning.simulate import simulate_policy  # noqa: PLC0415 - half a second that other checks need not wait for

        typer.echo(str(simulate_policy(experiment, baseline=given, effects=worlds)))


def _effect(experiment: Experiment, text: str) -> float | dict[str, float]:
    """A true effect as it is written on the command line: a number for the goal, or numbers by name."""
    goals = [goal.name for goal in experiment.goals]
    example = ",".join(f"{name}=0.05" for name in goals[:2])
    try:
        if "=" not in text:
            value = float(text)
            if value and len(goals) > 1:
                raise SpecError(
                    f"--effect {text} names no metric, and the goals are {goals}. Write --effect {goals[0]}=0.05, or --effect {example}."
                )
            return value
        pairs = [part.split("=") for part in text.split(",")]
        found = {metric.strip(): float(number) for metric, number in pairs}
    except ValueError as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"--effect {text} cannot be read. Write --effect 0.05, or --effect {example}.") from error
    if len(found) < len(pairs):
        raise SpecError(f"--effect {text} names a metric twice. Repeat --effect for another world.")
    return found


def _baselines(
    opened: Workspace, experiment: Experiment, given: list[str] | None
) -> dict[str, float | tuple[float, float]] | Cells:
    """Baselines as they are written on the command line; the cells of the experiment's own data without any."""
    from expnb.planning.judging import judged_metrics  # noqa: PLC0415 - each command loads what it needs

    judged = judged_metrics(experiment)
    usual = {metric.name: f"--baseline {metric.name}={'0.1' if metric.is_share else '10,15'}" for metric in judged}
    if not given:
        try:
            return opened.load(experiment).cells
        except (SpecError, CohortError, SourceError, PathNotFoundError) as error:
            raise SpecError(
                f"no data of {experiment.name!r} say what its metrics are without a change ({str(error).rstrip('.')}). Write {' '.join(usual.values())}."
            ) from error
    found: dict[str, float | tuple[float, float]] = {}
    for text in given:
        name, values = _baseline(text)
        if name in found:
            raise SpecError(f"--baseline names {name!r} twice. Give each metric one.")
        if name not in usual:
            raise NameNotFoundError("goal or guardrail", name, list(usual))
        found[name] = values
    for metric in judged:
        if metric.name not in found:
            raise SpecError(f"metric {metric.name!r} has no baseline. Add {usual[metric.name]}.")
        own = found[metric.name]
        usable = (
            not isinstance(own, tuple) and 0 < own < 1 if metric.is_share else isinstance(own, tuple) and min(own) > 0
        )
        if not usable:
            is_what = (
                "one number between 0 and 1" if metric.is_share else "a mean and a standard deviation, both above 0"
            )
            raise SpecError(f"the baseline of {metric.name!r} is {is_what}. Write {usual[metric.name]}.")
    return found


def _baseline(text: str) -> tuple[str, float | tuple[float, float]]:
    """A name and its number, or mean and standard deviation."""
    name, _, numbers = text.partition("=")
    try:
        values = [float(part) for part in numbers.split(",")]
    except ValueError:
        values = []
    if not name or len(values) not in {1, 2}:
        raise SpecError(
            f"the baseline {text!r} cannot be read. After --baseline comes NAME=NUMBER. Write bought=0.1 for a share, or revenue=10,15 for mean and standard deviation."
        )
    return name, values[0] if len(values) == 1 else (values[0], values[1])


@app.command()
def plan(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=0.1 of a share, NAME=MEAN,SD of other metrics; that of the experiment's own data when left out."
        ),
    ] = None,
    units_per_day: Annotated[
        float | None, typer.Option(help="Eligible units per day; the experiment's traffic when left out.")
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(min=1, help="Daily looks at most; up to the experiment's end when left out, 56 without one."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say before the data how likely the policy has acted by each day, which effects it can find, and which margins can be shown."""
    from expnb.planning.design import plan_experiment  # noqa: PLC0415 - each command loads what it needs

    opened = _open(workspace, environment)
    experiment = opened.experiment(name)
    if units_per_day is None and experiment.traffic is None:
        raise SpecError(
            f"the traffic of {name!r} is unknown. Write --units-per-day 6000, or add [traffic] units_per_day to its file."
        )
    if units_per_day is not None and not 0 < units_per_day < float("inf"):
        raise SpecError(f"--units-per-day is {units_per_day:g}; it must be above 0. Write --units-per-day 6000.")
    given = _baselines(opened, experiment, baseline)
    found = plan_experiment(experiment, baseline=given, daily_units=units_per_day, days=days)
    typer.echo(_json(found) if as_json else str(found))


@app.command()
def backlog(
    file: Annotated[
        Path, typer.Argument(help="CSV of proposals: name, metric, mean, reach, and more (docs/planning.md).")
    ],
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    days: Annotated[float, typer.Option(help="That each proposal runs, unless it says weeks.")] = 28,
    months: Annotated[float, typer.Option(help="In which what ships is counted.")] = 12,
    as_json: AsJson = False,
) -> None:
    """Rank proposed experiments by what they are expected to bring, with the priors of this workspace."""
    from expnb.planning.backlog import prioritise, read_proposals  # noqa: PLC0415 - each command loads what it needs
    from expnb.posterior.priors.past import learnt_or_default  # noqa: PLC0415

    for option, value in (("days", days), ("months", months)):
        if not 0 < value < float("inf"):
            raise SpecError(f"--{option} is {value:g}; it must be above 0. Write --days 28 --months 12.")
    effects = _open(workspace, environment).past_effects()
    given = [
        replace(one, prior=learnt_or_default(effects, one.metric, "conversion" if one.sd is None else "mean"))
        for one in read_proposals(file)
    ]
    found = prioritise(given, days=days, months=months)
    typer.echo(_json(found) if as_json else str(found))


@app.command()
def metrics(
    name: Annotated[str, typer.Argument(help="Name of a metric; all of them when left out.")] = "",
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the metric catalogue, who owns what, and which experiments use it; or the definition of one metric."""
    catalogue = _open(workspace, environment).metrics()
    if not name:
        typer.echo(_json(catalogue) if as_json else str(catalogue))
        return
    row = catalogue[name]
    if as_json:
        typer.echo(_json(row))
        return
    typer.echo(f"{name}: used by {', '.join(row.experiments) or 'nobody'}")
    for key, value in to_json(row.definition).items():  # type: ignore[union-attr]  # a dataclass is an object
        if key != "name" and (value or key == "certified"):
            typer.echo(f"  {key} = {json.dumps(value, ensure_ascii=False)}")
    for remark in (*row.notes, *catalogue.unreadable):
        typer.echo(f"  ! {remark}")


@app.command()
def forget(
    name: Annotated[str, typer.Argument(help="Name of an experiment, also of one whose file is gone.")] = "",
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Of all experiments.")] = False,
    older_than: Annotated[
        float | None, typer.Option("--older-than", min=0, help="Days; younger files are left.")
    ] = None,
    reports: Annotated[bool, typer.Option("--reports", help="Delete the reports too.")] = False,
) -> None:
    """Delete cached cells and posteriors of an experiment and the cells of its looks, and its reports on request; the ledger stays."""
    if bool(name) == everything:
        raise ParameterError(
            "say what to forget: the name of one experiment, or --all. Write `expnb forget NAME` or `expnb forget --all`."
        )
    age = None if older_than is None else timedelta(days=older_than)
    done = _open(workspace, environment, actor).forget(name or None, older_than=age, reports=reports)
    for forgotten in done:
        typer.echo(str(forgotten))
    if not done:
        typer.echo("nothing to forget: no such file is there.")
    typer.echo(
        "The ledger and decisions/ stay: they record what was decided and done, and hold no unit ids and no small cells."
    )


@app.command()
def register(
    name: Name,
    workspace: Folder = HERE,
    environment: Where = None,
    actor: Who = None,
    *,
    reason: Annotated[str, typer.Option(help="Why, where something is loosened after the first look.")] = "",
) -> None:
    """Write an experiment to the ledger: agreed, at this time."""
    opened = _open(workspace, environment, actor)
    entry = opened.register(opened.experiment(name), reason=reason)
    typer.echo(
        f"registered {name} as {entry.body['spec_hash']} on {entry.happened_at:%Y-%m-%d %H:%M} UTC (ledger entry {entry.seq})"
    )
    if entry.body.get("loosened"):
        typer.echo(
            f"This loosens it after the first look: somebody else has to write `expnb approve {name} --specification`."
        )


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
    opened = _open(workspace, environment, actor)
    decision = _decide(opened, opened.experiment(name), source, engine, seed)
    typer.echo(_json(decision) if as_json else str(decision))
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
    opened = _open(workspace, environment, actor)
    experiment = opened.experiment(name)
    experiment.policy.check_rung(to)
    decision = _decide(opened, experiment, source, engine, seed)
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

    opened = _open(workspace, environment, actor)
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


@app.command()
def flags(workspace: Folder = HERE, environment: Where = None, *, as_json: AsJson = False) -> None:
    """Show what the flag of every experiment serves now."""
    opened = _open(workspace, environment)
    states: dict[str, FlagState | str] = {}
    for name in opened.experiments:
        try:
            states[name] = opened.flag(opened.experiment(name))
        except ExpnbError as error:  # one that cannot be read must not hide the others
            states[name] = str(error)
    if as_json:
        typer.echo(_json(states))
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
    opened = _open(workspace, environment, actor)
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
    opened = _open(workspace, environment, actor)
    experiment = opened.experiment(name)
    if restore:
        plan = opened.plan_restore(opened.last_receipt(experiment))
    elif start:
        plan = opened.start(experiment)
    else:
        plan = opened.plan(_decide(opened, experiment, source, engine, seed))
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
    opened = _open(workspace, environment, actor)
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
    opened = _open(workspace, environment, actor)
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
    opened = _open(workspace, environment, actor)
    typer.echo(str(opened.roll_back(opened.experiment(name), reason=reason)))


@app.command()
def restore(name: Name, workspace: Folder = HERE, environment: Where = None, actor: Who = None) -> None:
    """Return the flag to the state before its last push."""
    opened = _open(workspace, environment, actor)
    typer.echo(str(opened.restore(opened.last_receipt(opened.experiment(name)))))


@app.command()
def kill(name: Name, workspace: Folder = HERE, environment: Where = None, actor: Who = None) -> None:
    """Close the gate and disable the flag, at once, whatever else is broken."""
    opened = _open(workspace, environment, actor)
    typer.echo(str(opened.kill(name)))


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

    opened = _open(workspace, environment)
    replayed = replay_decision(find_decision(opened, name, decision), workspace=opened, from_source=from_source)
    typer.echo(_json({"same": replayed.same, "replay": replayed}) if as_json else str(replayed))
    raise typer.Exit(0 if replayed.same else FAILURE)


@app.command()
def review(name: Name, workspace: Folder = HERE, environment: Where = None, *, as_json: AsJson = False) -> None:
    """Show what changed since the last look: new and restated data (counts only), edits, the flag, open requests."""
    from expnb.history.review import review as review_changes  # noqa: PLC0415 - each command loads what it needs

    changed = review_changes(name, _open(workspace, environment))
    typer.echo(_json(changed) if as_json else str(changed))


@app.command()
def incident(name: Name, workspace: Folder = HERE, environment: Where = None, *, as_json: AsJson = False) -> None:
    """Write what happened when a treatment was last taken back: timeline, users harmed, delays, who did what."""
    from expnb.history.incident import incident as last_incident  # noqa: PLC0415 - each command loads what it needs

    opened = _open(workspace, environment)
    told = last_incident(name, opened)
    typer.echo(_json(told) if as_json else str(told))
    if told.began_at is not None and not as_json:
        typer.echo(f"\npage: {told.write(opened.root / 'decisions')}")


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
    typer.echo(str(_open(workspace, environment).ledger.verify(against=against)))


@ledger_app.command("list")
def ledger_list(workspace: Folder = HERE, environment: Where = None, *, as_json: AsJson = False) -> None:
    """Show every entry, oldest first."""
    entries = _open(workspace, environment).ledger.entries()
    if as_json:
        typer.echo(_json(entries))
        return
    for entry in entries:
        about = " ".join(
            str(entry.body[key]) for key in ("experiment", "action", "flag", "actor", "applied") if key in entry.body
        )
        typer.echo(
            f"{entry.seq:4d}  {entry.happened_at:%Y-%m-%d %H:%M:%S}  {entry.kind:10s}  {about}  {entry.hash[:12]}"
        )


def _open(folder: Path, environment: str | None, actor: str | None = None) -> Workspace:
    from expnb.workspace import open_workspace  # noqa: PLC0415 - each command loads what it needs

    return open_workspace(folder, environment=environment, actor=actor)


def _decide(
    workspace: Workspace, experiment: Experiment, source: str, engine: Literal["exact", "pymc"], seed: int
) -> Decision:
    from expnb.models.fit import fit  # noqa: PLC0415 - each command loads what it needs

    cohort = workspace.load(experiment, source or None)
    return workspace.decide(experiment, fit(experiment, cohort, engine=engine, seed=seed))


def _requested(workspace: Workspace, name: str) -> RampPlan:
    plans = [plan for plan in workspace.requests() if plan.experiment == workspace.experiment(name).name]
    if not plans:
        raise ParameterError(f"no open request on {name!r}; it may have expired. Write `expnb request {name}` first.")
    return plans[-1]


def _parameter(text: str) -> tuple[str, str | int | float | bool]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ParameterError(f"parameter {text!r} has no value; write name=value.")
    try:
        parsed = json.loads(value.lower() if value in {"True", "False"} else value)
    except json.JSONDecodeError:
        return name, value
    return name, parsed if isinstance(parsed, str | int | float | bool) else value


def _json(value: object) -> str:
    return json.dumps(to_json(value), indent=1, sort_keys=True, ensure_ascii=False)
