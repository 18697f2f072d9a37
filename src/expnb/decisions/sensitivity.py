"""The verdict under several priors, side by side: how much of it is data, and how much is belief."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal, get_args

from expnb.decisions.decide import decide
from expnb.decisions.decision import TITLES, Action
from expnb.decisions.rules import flat_rule, guardrail_rule, harm_rule, ship_rules
from expnb.errors import NameNotFoundError, SpecError
from expnb.posterior.effect import Effect, Scale
from expnb.posterior.fit import HasCells, fit_exact
from expnb.posterior.posterior import Posterior
from expnb.spec.experiment import Experiment
from expnb.spec.flag import FlagState
from expnb.spec.metric import Direction, MetricKind, Role
from expnb.spec.prior import FLAT, Prior
from expnb.stats.cells import ALL, Cells

if TYPE_CHECKING:
    import pandas as pd

PriorName = Literal["sceptical", "stated", "learnt", "flat"]
Verdict = Literal[
    "ship rule met",
    "ship rule not met",
    "no difference that matters",
    "harmed",
    "within the margin",
    "not yet known to be within the margin",
    "unknown",
    "",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityRow:
    """One treatment and metric under one prior.

    Parameters
    ----------
    under : {"sceptical", "stated", "learnt", "flat"}
        The default prior, one that the experiment names, one that past experiments taught, or none.
    prior : str
        That prior in full.
    scale : {"relative", "absolute"}
        Of `raw`, `effect` and `hdi_low`, `hdi_high`; relative wherever a relative effect exists.
    raw : float, optional
        What was measured, the same under every prior.
    effect, hdi_low, hdi_high : float, optional
        Posterior mean and 95 % HDI.
    p_improvement, p_above_rope, p_harm, p_null : float in [0, 1], optional
        As in `Effect`.
    verdict : str
        Of a goal: ``"harmed"``, ``"no difference that matters"``, or whether the ship rule is met; of a guardrail: ``"harmed"``, or whether it is known to be within the margin; empty where no rule asks.
    """

    metric: str
    kind: MetricKind
    role: Role
    direction: Direction
    unit: str
    variant: str
    under: PriorName
    prior: str
    scale: Scale
    raw: float | None
    effect: float | None
    hdi_low: float | None
    hdi_high: float | None
    p_improvement: float | None
    p_above_rope: float | None
    p_harm: float | None
    p_null: float | None
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Sensitivity:
    """What every prior makes of the same data.

    Parameters
    ----------
    experiment : str
    rows : tuple of SensitivityRow
        Priors of one treatment and metric together, in the order sceptical, stated, learnt, flat.
    actions : mapping of str to str
        What `decide` would do under each prior; empty without a flag.
    fingerprint : str
        Of the data.
    """

    experiment: str
    control: str
    rows: tuple[SensitivityRow, ...]
    actions: Mapping[PriorName, Action]
    fingerprint: str

    @property
    def depends(self) -> bool:
        """Whether any verdict, or the action, is another one under another prior."""
        return len(set(self.actions.values())) > 1 or any(len(set(map(_verdict, rows))) > 1 for rows in self.groups())

    def groups(self) -> Iterator[tuple[SensitivityRow, ...]]:
        """Rows of one treatment and metric."""
        keys = dict.fromkeys((row.metric, row.variant) for row in self.rows)
        for key in keys:
            yield tuple(row for row in self.rows if (row.metric, row.variant) == key)

    @property
    def sentence(self) -> str:
        """Whether the verdict depends on the prior, and where."""
        judged = [rows for rows in self.groups() if rows[0].verdict]
        told = [*self._policy(), *map(_on, judged)]
        return " ".join([_start(depends=self.depends), *told]) if told else "No rule asks about these metrics."

    def sentence_on(self, metric: str) -> str:
        """Whether the verdict on one metric depends on the prior; of a goal also what the policy says.

        Raises
        ------
        NameNotFoundError
            If it was not compared.
        """
        groups = [rows for rows in self.groups() if rows[0].metric == metric]
        if not groups:
            raise NameNotFoundError("metric", metric, list(dict.fromkeys(row.metric for row in self.rows)))
        policy = self._policy() if groups[0][0].role == "goal" else []
        judged = [rows for rows in groups if rows[0].verdict]
        if not judged:
            return " ".join([f"No rule asks about {metric}.", *policy])
        depends = any(len(set(map(_verdict, rows))) > 1 for rows in judged)
        return " ".join([_start(depends=depends), *map(_on, judged), *policy])

    def _policy(self) -> list[str]:
        actions = {name: TITLES[action].lower() for name, action in self.actions.items()}
        return [f"The policy says: {_told(actions)}."] if actions else []

    def table(self) -> pd.DataFrame:
        """One row per metric x treatment x prior, as a tidy frame.

        Returns
        -------
        DataFrame
            Columns as in `SensitivityRow`, and `action` where there is a flag.
        """
        import pandas as pd  # noqa: PLC0415 - 1.5 s, only when a frame is asked for

        names = [field.name for field in fields(SensitivityRow)]
        records = [
            {name: getattr(row, name) for name in names} | {"action": self.actions.get(row.under, "")}
            for row in self.rows
        ]
        frame = pd.DataFrame(records, columns=[*names, "action"])
        numbers = ("raw", "effect", "hdi_low", "hdi_high", "p_improvement", "p_above_rope", "p_harm", "p_null")
        return frame.astype(dict.fromkeys(numbers, "float64"))

    def __repr__(self) -> str:
        lines = [f"{self.experiment} under several priors (data {self.fingerprint[:8]})"]
        return "\n".join([*lines, *(f"  {' | '.join(_cells(row))}" for row in self.rows), f"  {self.sentence}"])

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in _HEAD)
        body = "".join(f"<tr>{''.join(map(_html_cell, _cells(row)))}</tr>" for row in self.rows)
        caption = f"{html.escape(self.experiment)} under several priors"
        return (
            f"<table><caption style='text-align:left;font-weight:bold;white-space:nowrap'>{caption}</caption><tr>{head}</tr>{body}</table>"
            f"<p>{html.escape(self.sentence)}</p>"
        )


def sensitivity(
    experiment: Experiment,
    data: Cells | HasCells,
    *,
    learnt: Prior | None = None,
    flag: FlagState | None = None,
    looks: int = 1,
    now: datetime | None = None,
) -> Sensitivity:
    """What the sceptical, the learnt and the flat prior make of the same data, by the exact engine.

    Parameters
    ----------
    experiment : Experiment
        As a workspace gives it, it carries the priors that were learnt.
    data : Cells or Cohort
    learnt : Prior, optional
        Of all metrics; those that the experiment carries, where it is left out. Without any, two priors are compared.
    flag : FlagState, optional
        With it, and `now`, every prior also gets the action that `decide` takes.
    looks : int
        Looks so far, this one included; the bound on harm depends on it.
    now : datetime, optional
        With a time zone.

    Returns
    -------
    Sensitivity
        Of all units; segments are left out.

    Raises
    ------
    SpecError
        If only one of `flag` and `now` is given, or `learnt` was not learnt.
    """
    if (flag is None) != (now is None):
        raise SpecError("sensitivity was given only one of flag and now; the action needs both. Give both, or none.")
    if learnt is not None and learnt.family != "learnt":
        raise SpecError(
            f"learnt is {learnt.id}, which was not learnt from experiments. Give what xb.learn_prior returns, or name the prior in the experiment."
        )
    bare = replace(experiment, segments=())
    own = {metric.name: learnt or experiment.prior_on(metric.name) for metric in experiment.metrics}
    names = {name: _name(prior) for name, prior in own.items()}
    fits: dict[PriorName, Posterior] = {
        "sceptical": fit_exact(bare, data, prior=Prior()),
        "flat": fit_exact(bare, data, prior=FLAT),
    }
    if set(names.values()) & {"stated", "learnt"}:
        mine = fit_exact(bare, data, prior=learnt)
        fits |= {name: mine for name in ("stated", "learnt") if name in names.values()}
    rows = [
        _row(experiment, effect, name, flag)
        for name, posterior in fits.items()
        for effect in posterior.main
        if effect.segment == ALL and name in {"sceptical", "flat", names[effect.metric]}
    ]
    order = {name: place for place, name in enumerate(get_args(PriorName))}
    places = {key: place for place, key in enumerate(dict.fromkeys((row.metric, row.variant) for row in rows))}
    rows.sort(key=lambda row: (places[row.metric, row.variant], order[row.under]))
    actions: dict[PriorName, Action] = {}
    if flag is not None and now is not None:
        actions = {
            name: decide(experiment, fits[name], flag=flag, looks=looks, now=now).action
            for name in order
            if name in fits
        }
    return Sensitivity(
        experiment=experiment.name,
        control=experiment.control,
        rows=tuple(rows),
        actions=actions,
        fingerprint=fits["flat"].fingerprint,
    )


def _name(prior: Prior) -> PriorName:
    """What an experiment's own prior is called; the default and the flat one are compared anyway."""
    if prior.family in {"learnt", "flat"}:
        return "learnt" if prior.family == "learnt" else "flat"
    return "sceptical" if prior == Prior() else "stated"


def _row(experiment: Experiment, effect: Effect, under: PriorName, flag: FlagState | None) -> SensitivityRow:
    relative = effect.effect_rel_post is not None
    return SensitivityRow(
        metric=effect.metric,
        kind=effect.kind,
        role=effect.role,
        direction=effect.direction,
        unit=effect.unit,
        variant=effect.variant,
        under=under,
        prior=effect.prior,
        scale="relative" if relative else "absolute",
        raw=effect.effect_rel if relative else effect.effect_abs,
        effect=effect.effect_rel_post if relative else effect.effect_abs_post,
        hdi_low=effect.hdi_rel_low if relative else effect.hdi_abs_low,
        hdi_high=effect.hdi_rel_high if relative else effect.hdi_abs_high,
        p_improvement=effect.p_improvement,
        p_above_rope=effect.p_above_rope,
        p_harm=effect.p_harm,
        p_null=effect.p_null,
        verdict=_verdict_on(experiment, effect, flag),
    )


def _verdict_on(experiment: Experiment, effect: Effect, flag: FlagState | None) -> Verdict:
    """What the rules of the policy say of one effect, in their order of precedence."""
    policy = experiment.policy
    if effect.role == "info":
        return ""
    if harm_rule(effect, experiment.harm_threshold).outcome == "not met":
        return "harmed"
    if effect.role == "guardrail":
        rule = guardrail_rule(effect, policy, flag.exposure.enrolled if flag else policy.learn_at)
        if rule.value is None:
            return "unknown"
        return "within the margin" if rule.outcome == "met" else "not yet known to be within the margin"
    ship = {rule.outcome for rule in ship_rules(effect, policy, len(experiment.goals))}
    if flat_rule(effect, policy).outcome == "met" and (policy.aim == "superiority" or ship == {"met"}):
        return "no difference that matters"
    if "unknown" in ship:
        return "unknown"
    return "ship rule met" if ship == {"met"} else "ship rule not met"


# --- in words -----------------------------------------------------------------------------------

_HEAD = (
    "metric",
    "treatment",
    "prior",
    "raw effect",
    "posterior effect (95 % HDI)",
    "P(improvement)",
    "P(above rope)",
    "P(harm)",
    "verdict",
)


def _verdict(row: SensitivityRow) -> str:
    return row.verdict


def _start(*, depends: bool) -> str:
    return "The verdict depends on the prior." if depends else "The verdict does not depend on the prior."


def _on(rows: Sequence[SensitivityRow]) -> str:
    return f"For {rows[0].metric} under {rows[0].variant}: {_told({row.under: row.verdict for row in rows})}."


def _told(verdicts: Mapping[PriorName, str]) -> str:
    """Such as ``"ship rule met under flat, ship rule not met under sceptical and learnt"``."""
    names: dict[str, list[str]] = {}
    for name, verdict in verdicts.items():
        names.setdefault(verdict, []).append(name)
    if len(names) == 1:
        return f"{next(iter(names))} under {'all of them' if len(verdicts) > 2 else 'both'}"
    return ", ".join(f"{verdict} under {_listed(own)}" for verdict, own in names.items())


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _cells(row: SensitivityRow) -> tuple[str, ...]:
    ends = f" ({_amount(row, row.hdi_low)} to {_amount(row, row.hdi_high)})" if row.hdi_low is not None else ""
    return (
        f"{row.metric} ({row.role})",
        row.variant,
        row.prior if row.prior.startswith(row.under) else f"{row.under}: {row.prior}",
        _amount(row, row.raw),
        f"{_amount(row, row.effect)}{ends}",
        _probability(row.p_improvement),
        _probability(row.p_above_rope),
        _probability(row.p_harm),
        row.verdict or "–",
    )


def _html_cell(text: str) -> str:
    return f"<td style='text-align:left'>{html.escape(text)}</td>"


def _amount(row: SensitivityRow, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:+z.2f} %" if row.scale == "relative" else f"{value:+z.4g}"


def _probability(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
