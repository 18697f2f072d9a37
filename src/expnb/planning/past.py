"""What a policy would have done in past experiments, judged checkpoint by checkpoint on their recorded data."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, cast, get_args

import numpy as np

from expnb.decisions.decision import PRECEDENCE, Action
from expnb.errors import SourceError, SpecError, check_choice
from expnb.planning.belief import FloatArray
from expnb.planning.records import Records, Stream, of_cells, of_frame
from expnb.planning.rollouts import Run
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Direction, Metric, MetricKind
from expnb.spec.policy import Policy
from expnb.spec.prior import Prior, as_prior
from expnb.stats.cells import Cells

if TYPE_CHECKING:
    import pandas as pd

_WORDS: Mapping[Action, str] = {
    "ship": "ships",
    "roll_back": "rolls back",
    "conclude_flat": "concludes flat",
    "hold": "still runs at the end of the data",
}
_NOT_ALONE = frozenset({"ratio", "quantile"})  # kinds that a mean and a variance do not describe


class HasCells(Protocol):
    """A cohort, or anything else that carries cells."""

    @property
    def cells(self) -> Cells:
        """Additive statistics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What was known of one past experiment at one checkpoint, and what the policy does then.

    Parameters
    ----------
    day : float
        Days since the start.
    units : float
        Of all arms, so far.
    variant : str
        The treatment that is best on the goal so far; the figures are about it.
    effect_rel : float
        Raw relative effect; NaN where the control mean is not above 0.
    p_improvement, p_above_rope, p_harm : float
        Of the goal, under the prior; NaN where no relative effect is known.
    action : {"roll_back", "hold", "conclude_flat", "ship"}
        What the policy does there, also after it came to a verdict before.
    """

    experiment: str
    day: float
    units: float
    variant: str
    effect_rel: float
    p_improvement: float
    p_above_rope: float
    p_harm: float
    action: Action


@dataclass(frozen=True, slots=True, kw_only=True)
class PastRun:
    """How a policy would have ended one past experiment.

    Parameters
    ----------
    verdict : {"roll_back", "hold", "conclude_flat", "ship"}
        The first action that ends it; hold where it would still run.
    day : float
        Of the verdict, or of the last checkpoint.
    variant : str
        The treatment it is about.
    dropped : tuple of str
        Treatments that were taken out on the way.
    flips : int
        How often the action changes from one checkpoint to the next after the verdict.
    last : {"roll_back", "hold", "conclude_flat", "ship"}
        Action at the last checkpoint.
    improvement : float
        Raw relative improvement under that treatment at the last checkpoint: the effect, with the other sign where a decrease is better. NaN without a relative effect.
    regret : float
        Improvement at the last checkpoint that was lost, relative: of the best arm, less that of the arm that everybody gets after the verdict; 0 or more, NaN without a relative effect.
    """

    experiment: str
    checkpoints: int
    verdict: Action
    day: float
    variant: str
    dropped: tuple[str, ...]
    flips: int
    last: Action
    improvement: float
    regret: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PolicyReplay:
    """What a policy would have done in past experiments.

    Parameters
    ----------
    policy : tuple of str
        In words.
    learn_at : float
        Percent enrolled at which the flag stood from the first day.
    prior : str
        On the goal.
    runs : tuple of PastRun
        One per experiment.
    checkpoints : tuple of Checkpoint
        In the order of the experiments, then of time.
    ratio_judged : bool
        Whether the sample ratio was; it needs the promised weights.
    left_out : int
        Checkpoints at which an arm had no usable figures.
    """

    policy: tuple[str, ...]
    learn_at: float
    prior: str
    runs: tuple[PastRun, ...]
    checkpoints: tuple[Checkpoint, ...]
    ratio_judged: bool
    left_out: int

    def share(self, verdict: Action) -> float:
        """Share of experiments with a verdict, 0-1; ``"hold"`` is the share that still runs."""
        return sum(run.verdict == verdict for run in self.runs) / len(self.runs)

    def days_to(self, verdict: Action) -> float | None:
        """Median day of a verdict; None where there is none."""
        days = [run.day for run in self.runs if run.verdict == verdict]
        return float(np.median(days)) if days and verdict != "hold" else None

    @property
    def flipped(self) -> float | None:
        """Share of verdicts, 0-1, after which the same rules say something else at a later checkpoint; None without a verdict."""
        return _mean([run.flips > 0 for run in self.runs if run.verdict != "hold"])

    @property
    def shipped_worse(self) -> float | None:
        """Share of the shipped, 0-1, that show no improvement at the last checkpoint; None where nothing shipped."""
        return _mean([run.improvement <= 0 for run in self.runs if run.verdict == "ship"])

    @property
    def regret(self) -> float | None:
        """Mean regret of the experiments, relative; 0.001 is 0.1 % of the metric. None where no experiment has one.

        The last checkpoint is an estimate too: a rule that ships whatever looks better has little regret against it, and much against what is true.
        """
        return _mean([run.regret for run in self.runs if not math.isnan(run.regret)])

    @property
    def regret_of_shipping(self) -> float | None:
        """The part of `regret` that comes from treatments that were shipped and are worse than control at the last checkpoint; the rest was missed."""
        return _mean(
            [
                max(0.0, -run.improvement) if run.verdict == "ship" else 0.0
                for run in self.runs
                if not math.isnan(run.regret)
            ]
        )

    def table(self) -> pd.DataFrame:
        """One row per experiment and checkpoint."""
        import pandas as pd  # noqa: PLC0415 - 0.3 s, only when a table is asked for

        return pd.DataFrame([asdict(each) for each in self.checkpoints])

    def verdicts(self) -> pd.DataFrame:
        """One row per experiment."""
        import pandas as pd  # noqa: PLC0415

        return pd.DataFrame([asdict(run) for run in self.runs])

    def summary(self) -> pd.DataFrame:
        """One row: shares of experiments 0-1, median days, and the mean regret, relative."""
        import pandas as pd  # noqa: PLC0415

        ends: tuple[Action, ...] = ("ship", "roll_back", "conclude_flat")
        shares: dict[str, float] = {end: self.share(end) for end in ends}
        days: dict[str, float | None] = {f"days_to_{end}": self.days_to(end) for end in ends}
        return pd.DataFrame(
            [
                {
                    "experiments": len(self.runs),
                    **shares,
                    "running": self.share("hold"),
                    **days,
                    "flipped": self.flipped,
                    "shipped_worse": self.shipped_worse,
                    "regret": self.regret,
                    "regret_of_shipping": self.regret_of_shipping,
                }
            ]
        )

    @property
    def footer(self) -> str:
        """What was replayed, in one line."""
        parts = [
            f"{len(self.checkpoints):,} checkpoints",
            f"the flag stands at {self.learn_at:g} % from the first day, because past data have one exposure and no ladder",
            f"prior {self.prior}",
            "" if self.ratio_judged else "the sample ratio is not judged, because the promised weights are not given",
            self._left_out(),
        ]
        return "; ".join(part for part in parts if part) + "."

    def _left_out(self) -> str:
        if not self.left_out:
            return ""
        one = self.left_out == 1
        return f"{self.left_out:,} checkpoint{'' if one else 's'} that lack{'s' if one else ''} an arm, or usable figures of one, {'is' if one else 'are'} left out"

    def __str__(self) -> str:
        return "\n".join([*self._sentences(), f"  {self.footer}"])

    def __repr__(self) -> str:
        return str(self)

    def _sentences(self) -> Iterator[str]:
        number = len(self.runs)
        if number == 1:
            (run,) = self.runs
            yield f"In {run.experiment} the policy {_WORDS[run.verdict]}{'' if run.verdict == 'hold' else f' on day {run.day:g} ({run.variant})'}."
        else:
            found = []
            for verdict, words in _WORDS.items():
                count, day = sum(run.verdict == verdict for run in self.runs), self.days_to(verdict)
                if count:
                    found.append(f"{words} in {count:,}{'' if day is None else f' (day {day:g}, median)'}")
            yield f"Of {number:,} past experiments the policy {', '.join(found)}."
            if self.shipped_worse is not None:
                yield f"  {100 * self.shipped_worse:.1f} % of the shipped show no improvement at the last checkpoint."
            if self.flipped is not None:
                yield f"  After {100 * self.flipped:.1f} % of the verdicts the same rules say something else at a later checkpoint."
        if self.regret is not None:
            yield f"  Against the last checkpoint {100 * self.regret:.3f} % of the metric is lost{'' if number == 1 else ' on average'}{self._of_which()}."

    def _of_which(self) -> str:
        shipping = self.regret_of_shipping or 0.0
        return (
            f", {100 * shipping:.3f} % by shipping what is worse there, the rest by not shipping what is better"
            if self.regret
            else ""
        )

    def _repr_html_(self) -> str:
        items = "".join(f"<li>{html.escape(sentence.strip())}</li>" for sentence in self._sentences())
        return f"<div><p><strong>Replay of a policy on past experiments</strong></p><ul>{items}</ul><p><small>{html.escape(self.footer)}</small></p></div>"


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def replay_policy(
    policy: Policy | Experiment,
    data: pd.DataFrame | Cells | HasCells,
    *,
    rope: float | None = None,
    direction: Direction | None = None,
    control: str | None = None,
    prior: Prior | str | None = None,
) -> PolicyReplay:
    """What a policy would have done in past experiments: every rule at every checkpoint of their recorded data, by the code that judges `simulate_policy`.

    Past data were collected at one exposure, so the ladder cannot be replayed: the flag stands at `learn_at` from the first day. Values are those that are known today: where outcomes arrive late, the first days knew less.

    Parameters
    ----------
    policy : Policy or Experiment
        An experiment brings its goals, guardrails, arms and prior; a table of many experiments has one goal, so only the first counts there.
    data : DataFrame, Cells or Cohort
        A table of one goal of many experiments, with one row per experiment, variant and checkpoint: `experiment`, `variant`, `time` or `day` (days since the start that the row covers, 1 after the first day; fractions are allowed), and cumulative `n` (units), `mean`
        (a share for conversions) and `variance` of the values (not needed for shares). Optional: `kind` ("mean" unless an experiment says otherwise), and `weight`, the promised weight of the arm, without which the sample ratio is not judged. Several metrics of one experiment get a name each in
        `experiment`. Or the cells of the experiment itself, per day of exposure.
    rope : float, optional
        With a policy: the smallest relative difference that matters; 0.005 is 0.5 %. An experiment has its own.
    direction : {"increase", "decrease"}, optional
        With a policy: which is better; an increase when left out. An experiment has its own.
    control : str, optional
        In a table: the variant that is the control, "control" when left out. Of cells it is that of the experiment.
    prior : Prior or str, optional
        On the goals, or the name of its family, such as ``"flat"``; with a policy the default prior when left out, else those of the experiment.

    Returns
    -------
    PolicyReplay

    Raises
    ------
    SpecError
        If `data` are cells and no experiment says what they are, the rope is missing, or something is given that the experiment has of its own.
    SourceError, CohortError, NameNotFoundError
        If the data have no days, lack a column or hold what cannot be.

    Notes
    -----
    The rule "ship as soon as P(improvement) is 0.95 without a prior, at any look" is ``Policy(ladder=(100,), min_days=0, min_units=0, harm_alpha=1e-12, ship=Ship(p_above_rope=0.95, expected_loss=1))`` with ``rope=0, prior="flat"``: from a rope of 0 on every improvement counts, no loss is too large, and only a harm beyond all doubt closes the gate.
    """
    import pandas as pd  # noqa: PLC0415 - 1.5 s, only where frames are

    if isinstance(data, pd.DataFrame):
        groups, left_out = _of_frame(policy, data, rope=rope, direction=direction, control=control, prior=prior)
    else:
        groups, left_out = _of_cells(
            policy, data, rope=rope, prior=prior, own={"direction": direction, "control": control}
        )
    found: dict[int, tuple[PastRun, list[Checkpoint]]] = {}
    for experiment, places, streams in groups:
        found |= zip(places, _replayed(experiment, streams), strict=True)
    ordered = [found[place] for place in sorted(found)]
    one = groups[0][0]
    return PolicyReplay(
        policy=tuple(one.policy.sentences()),
        learn_at=one.policy.learn_at,
        prior=one.prior_on(one.goal.name).id,
        runs=tuple(run for run, _ in ordered),
        checkpoints=tuple(each for _, looks in ordered for each in looks),
        ratio_judged=all(stream.shares is not None for _, _, streams in groups for stream in streams),
        left_out=left_out,
    )


_Group = tuple[Experiment, list[int], list[Stream]]
"""Streams that are judged alike: under which experiment, their places in the answer, and they themselves."""


def _of_cells(
    experiment: Policy | Experiment,
    data: Cells | HasCells,
    *,
    rope: float | None,
    prior: Prior | str | None,
    own: Mapping[str, str | None],
) -> tuple[list[_Group], int]:
    cells = data if isinstance(data, Cells) else getattr(data, "cells", None)
    if not isinstance(cells, Cells):
        raise SourceError(
            f"replay_policy got a {type(data).__name__}; it takes a pandas DataFrame of checkpoints, or the cells of a cohort. Write replay_policy(experiment, cohort)."
        )
    if not isinstance(experiment, Experiment):
        raise SpecError(
            "cells are judged by an experiment, which says what is goal, guardrail and control; a policy alone does not. Write replay_policy(experiment, cohort)."
        )
    if rope is not None:
        raise SpecError(_own_rope(experiment, rope))
    for name, value in own.items():
        if value is not None:
            raise SpecError(
                f"{name} is {value!r}, and the experiment {experiment.name!r} that judges these cells has its own. Leave it out."
            )
    stream, left_out = of_cells(experiment, cells)
    return [(_at_learn_at(experiment, prior), [0], [stream])], left_out


def _of_frame(
    policy: Policy | Experiment,
    frame: pd.DataFrame,
    *,
    rope: float | None,
    direction: Direction | None,
    control: str | None,
    prior: Prior | str | None,
) -> tuple[list[_Group], int]:
    if direction is not None:
        check_choice("direction", direction, get_args(Direction))
    if isinstance(policy, Experiment):
        if rope is not None:
            raise SpecError(_own_rope(policy, rope))
        if direction is not None:
            raise SpecError(
                f"direction is {direction!r}, and the goal {policy.goal.name!r} of {policy.name!r} has its own, {policy.goal.direction!r}. Leave it out, or pass experiment.policy."
            )
        goal = replace(policy.goal, prior=policy.prior_on(policy.goal.name))
        policy = policy.policy
    elif rope is None:
        raise SpecError(
            "a policy alone does not say which difference matters. Pass rope=0.005 for 0.5 %, or an experiment, whose goal has one."
        )
    else:
        goal = Metric(
            name="goal", kind="mean", role="goal", rope=rope, direction=direction or "increase", prior=Prior()
        )
    if goal.rope is None:
        raise SpecError(f"goal {goal.name!r} has no relative rope; a replay judges relative effects. Add one.")
    streams, left_out = of_frame(frame, goal.kind, control or "control")
    groups: dict[tuple[str, int, bool], _Group] = {}
    for place, stream in enumerate(streams):
        key = stream.kind, len(stream.variants), stream.shares is None
        if key not in groups:
            groups[key] = (_at_learn_at(_experiment(policy, goal, stream), prior), [], [])
        groups[key][1].append(place)
        groups[key][2].append(stream)
    return list(groups.values()), left_out


def _own_rope(experiment: Experiment, rope: float) -> str:
    return f"rope is {rope:g}, and the goal {experiment.goal.name!r} of {experiment.name!r} has its own, {experiment.goal.rope or 0:g}. Leave it out, or pass experiment.policy."


def _experiment(policy: Policy, goal: Metric, stream: Stream) -> Experiment:
    """An experiment that asks of a stream of a table what the policy asks; names of arms do not matter to it."""
    check_choice("kind", stream.kind, tuple(kind for kind in get_args(MetricKind) if kind not in _NOT_ALONE))
    day = date(2000, 1, 1)  # a policy that asks for days needs some; a stream has its own
    kind = cast("MetricKind", stream.kind)
    metric = Metric(
        name="goal", kind=kind, role="goal", direction=goal.direction, rope=goal.rope, margin=goal.margin,
        prior=goal.prior, window_days=1 if kind == "retention" else None,
    )  # fmt: skip
    return Experiment(
        name="past", hypothesis="It gets better.", owner="past", flag="past", unit="unit", variant="variant",
        control="0", weights={str(arm): 1.0 for arm in range(len(stream.variants))}, start=day, end=day,
        metrics=(metric,), policy=replace(policy, goal_rule=None, control_share=None),
    )  # fmt: skip


def _at_learn_at(experiment: Experiment, prior: Prior | str | None) -> Experiment:
    """The experiment with the rung of `learn_at` alone, under another prior where one is given."""
    policy = experiment.policy
    experiment = replace(experiment, policy=replace(policy, ladder=(policy.rung(policy.learn_at),)))
    if prior is None:
        return experiment
    metrics = tuple(replace(metric, prior=None) for metric in experiment.metrics)
    return replace(experiment, prior=as_prior(prior), metrics=metrics)


def _replayed(experiment: Experiment, streams: list[Stream]) -> Iterator[tuple[PastRun, list[Checkpoint]]]:
    """Each stream with its checkpoints, in the order of the streams."""
    records = Records(streams)
    run = Run(experiment, records, stop=False)
    looks: list[list[Checkpoint]] = [[] for _ in streams]
    ends: list[tuple[int, int] | None] = [None] * len(streams)  # look and treatment of the verdict
    improvement = _improvement(experiment, records)
    sign = 1.0 if experiment.goal.direction == "increase" else -1.0
    for look in run.looks(int(records.looks.max())):
        verdict = look.verdict
        assert verdict is not None  # noqa: S101 - a run that does not stop judges every look
        for place, row in enumerate(look.rows.tolist()):
            arm, action = int(verdict.arm[place]), PRECEDENCE[look.action[place]]
            looks[row].append(
                Checkpoint(
                    experiment=streams[row].name,
                    day=float(records.time[row, look.day - 1]),
                    units=float(look.units[place].sum()),
                    variant=streams[row].variants[1 + arm],
                    effect_rel=sign * float(improvement[row, look.day - 1, arm]),
                    p_improvement=float(verdict.p_improvement[place]),
                    p_above_rope=float(verdict.p_above_rope[place]),
                    p_harm=float(verdict.p_harm[place]),
                    action=action,
                )
            )
            if ends[row] is None and action != "hold" and not look.dropping[place].any():
                chosen = arm if action == "roll_back" else int(run.arm[row])
                ends[row] = look.day - 1, chosen
    dropped = ~run.live
    for row, stream in enumerate(streams):
        gone = tuple(name for name, out in zip(stream.variants[1:], dropped[row].tolist(), strict=True) if out)
        last = improvement[row, len(stream.time) - 1]
        yield _past_run(experiment, looks[row], ends[row], gone, last, stream), looks[row]


def _improvement(experiment: Experiment, records: Records) -> FloatArray:
    """Raw relative improvement of the first goal, shape (stream, look, treatment); NaN without a control mean above 0."""
    mean = records.sums[:, :, 0] / np.where(records.valued[:, :, 0] > 0, records.valued[:, :, 0], np.nan)
    control = np.where(mean[..., :1] > 0, mean[..., :1], np.nan)
    effect: FloatArray = mean[..., 1:] / control - 1
    return effect if experiment.goal.direction == "increase" else -effect


def _past_run(
    experiment: Experiment,
    looks: list[Checkpoint],
    end: tuple[int, int] | None,
    dropped: tuple[str, ...],
    improvement: FloatArray,
    stream: Stream,
) -> PastRun:
    at = looks[-1] if end is None else looks[end[0]]
    arm = stream.variants.index(at.variant) - 1 if end is None else end[1]
    actions = [each.action for each in looks[0 if end is None else end[0] :]]
    verdict: Action = "hold" if end is None else at.action
    to_all = verdict == "ship" or (verdict == "conclude_flat" and experiment.policy.aim == "non_inferiority")
    served = float(improvement[arm]) if to_all else 0.0
    return PastRun(
        experiment=stream.name,
        checkpoints=len(looks),
        verdict=verdict,
        day=at.day,
        variant=stream.variants[1 + arm],
        dropped=dropped,
        flips=0 if end is None else sum(one != other for one, other in pairwise(actions)),
        last=looks[-1].action,
        improvement=float(improvement[arm]),
        regret=float(max(0.0, *improvement) - served) if np.isfinite(improvement).all() else math.nan,
    )
