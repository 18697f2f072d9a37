"""Commands before the data: check, plan, register."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expnb.cli.shared import HERE, AsJson, Folder, Name, Where, Who, app, as_json_text, open_at
from expnb.errors import CohortError, NameNotFoundError, ParameterError, PathNotFoundError, SourceError, SpecError
from expnb.spec.canonical import to_json

if TYPE_CHECKING:
    from expnb.spec.experiment import Experiment
    from expnb.stats.cells import Cells
    from expnb.workspace import Workspace


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
    """Read an experiment as its policy will: sentences, open questions, collisions with others; and what the policy would do."""
    if not simulate and (baseline or effect):
        raise ParameterError(
            f"{'--baseline' if baseline else '--effect'} says what to simulate, and nothing is simulated. Add --simulate, or leave it out."
        )
    opened = open_at(workspace, environment)
    experiment = opened.experiment(name)
    if simulate:
        worlds = [_effect(experiment, text) for text in effect or ["0"]]
        given = _baselines(opened, experiment, baseline)
        if experiment.traffic is None:
            raise SpecError(
                f"the traffic of {name!r} is unknown. Add it to its file: [traffic] and units_per_day = 6000 on the next line."
            )
    _show(opened, experiment)
    if simulate:
        from expnb.planning.simulate import simulate_policy  # noqa: PLC0415 - half a second that other checks need not wait for

        typer.echo(str(simulate_policy(experiment, baseline=given, effects=worlds)))


def _show(opened: Workspace, experiment: Experiment) -> None:
    """An experiment read aloud; what keeps it from running as it is written comes last, as an error."""
    from expnb.hygiene.claims import standing  # noqa: PLC0415 - each command loads what it needs

    found = standing(opened, experiment)
    typer.echo(f"{experiment.name}: {experiment.hypothesis}")
    for sentence in experiment.policy.sentences():
        typer.echo(f"  - {sentence}")
    for question in (*opened.questions(experiment), *found.questions):
        typer.echo(f"  ? {question}")
    if experiment.eligibility.needs:
        typer.echo(f"  eligible: {experiment.eligibility}")
    if found.layer:
        typer.echo(str(found.layer))
    if found.problems:
        raise SpecError(" ".join(found.problems))


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

    opened = open_at(workspace, environment)
    experiment = opened.experiment(name)
    if units_per_day is None and experiment.traffic is None:
        raise SpecError(
            f"the traffic of {name!r} is unknown. Write --units-per-day 6000, or add [traffic] units_per_day to its file."
        )
    if units_per_day is not None and not 0 < units_per_day < float("inf"):
        raise SpecError(f"--units-per-day is {units_per_day:g}; it must be above 0. Write --units-per-day 6000.")
    given = _baselines(opened, experiment, baseline)
    found = plan_experiment(experiment, baseline=given, daily_units=units_per_day, days=days)
    typer.echo(as_json_text(found) if as_json else str(found))


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
    effects = open_at(workspace, environment).past_effects()
    given = [
        replace(one, prior=learnt_or_default(effects, one.metric, "conversion" if one.sd is None else "mean"))
        for one in read_proposals(file)
    ]
    found = prioritise(given, days=days, months=months)
    typer.echo(as_json_text(found) if as_json else str(found))


@app.command()
def metrics(
    name: Annotated[str, typer.Argument(help="Name of a metric; all of them when left out.")] = "",
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show the metric catalogue, who owns what, and which experiments use it; or the definition of one metric."""
    catalogue = open_at(workspace, environment).metrics()
    if not name:
        typer.echo(as_json_text(catalogue) if as_json else str(catalogue))
        return
    row = catalogue[name]
    if as_json:
        typer.echo(as_json_text(row))
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
    done = open_at(workspace, environment, actor).forget(name or None, older_than=age, reports=reports)
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
    opened = open_at(workspace, environment, actor)
    entry = opened.register(opened.experiment(name), reason=reason)
    typer.echo(
        f"registered {name} as {entry.body['spec_hash']} on {entry.happened_at:%Y-%m-%d %H:%M} UTC (ledger entry {entry.seq})"
    )
    if entry.body.get("loosened"):
        typer.echo(
            f"This loosens it after the first look: somebody else has to write `expnb approve {name} --specification`."
        )
