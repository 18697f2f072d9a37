"""A posterior: effects of every treatment on every metric, with what they rest on."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from expnb.errors import NameNotFoundError
from expnb.posterior.effect import SUMMARY_COLUMNS, TEXT_COLUMNS, Effect, Estimate, PooledEffect
from expnb.posterior.priors.plain import TYPICAL_WORKS, check_works, counted_odds, plain_odds
from expnb.spec.prior import Prior
from expnb.stats.cells import ALL, Cells
from expnb.stats.checks import Check, figure

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Effects with their evidence: data, prior, engine, seed and checks.

    Parameters
    ----------
    experiment : str
    effects : tuple of Effect
        One per metric x treatment x segment; a main row, and after it the rows that explain it (`Effect.estimate`).
    counts : mapping of str to int
        Units per arm, for the rules; not for display, because an arm may have fewer units than may be shown.
    fingerprint : str
        SHA-256 of the data's statistics; equal data are one look.
    first_day, last_day : date, optional
        Of the exposures; `last_day` is the watermark of the data.
    checks : tuple of Check
    seed : int
        Used by sampling engines only.
    versions : mapping of str to str
    pooled : tuple of PooledEffect
        What the segments of each kind say together, per metric and treatment.
    asked : str
        `Experiment.asked_hash` of the experiment that was fitted; empty where a posterior was made by hand.
    given_prior : Prior, optional
        The prior that `fit` was given in place of the experiment's own.
    min_cell : int
        No day is told that fewer units lie on or before, or after (`Cells.days`).
    timezone : str
        In which a day begins.
    cells : Cells, optional
        The statistics that the effects were made from, from which a decision can be recomputed; no part of what is compared or shown.
    """

    experiment: str
    control: str
    effects: tuple[Effect, ...]
    engine: str
    prior: str
    seed: int
    counts: Mapping[str, int]
    fingerprint: str
    first_day: date | None
    last_day: date | None
    checks: tuple[Check, ...]
    versions: Mapping[str, str]
    pooled: tuple[PooledEffect, ...] = ()
    given_prior: Prior | None = None
    asked: str = ""
    min_cell: int = 1
    timezone: str = "UTC"
    cells: Cells | None = field(default=None, repr=False, compare=False)

    @property
    def main(self) -> tuple[Effect, ...]:
        """The effects that decide, and are drawn: one per metric x treatment x segment."""
        return tuple(effect for effect in self.effects if effect.estimate == "main")

    @property
    def has_days(self) -> bool:
        """Whether the data carry days themselves; those of a posterior without them were agreed."""
        return self.cells is not None and self.cells.days() is not None

    def today(self, now: datetime) -> date:
        """The day that it is where the data come from."""
        return now.astimezone(ZoneInfo(self.timezone)).date()

    def days(self, now: datetime) -> tuple[date, date] | None:
        """First and last day of the data up to now; None where none is known.

        Rows that are dated later make no data newer. Days that were agreed, and those of a posterior without cells, are given as they are.
        """
        if self.cells is not None and self.has_days:
            return self.cells.days(least=self.min_cell, until=self.today(now))
        return None if self.first_day is None or self.last_day is None else (self.first_day, self.last_day)

    def effect(self, metric: str, variant: str, segment: str = ALL, *, estimate: Estimate = "main") -> Effect:
        """The effect of a treatment on a metric, by its main estimate unless another one is named.

        Raises
        ------
        NameNotFoundError
            If there is none of that name.
        """
        for effect in self.effects:
            if (effect.metric, effect.variant, effect.segment, effect.estimate) == (metric, variant, segment, estimate):
                return effect
        asked = (metric, variant, segment) if estimate == "main" else (metric, variant, segment, estimate)
        raise NameNotFoundError("effect", " / ".join(asked), [" / ".join(_name(effect)) for effect in self.effects])

    def curve(self, event: str = "", segment: str = ALL) -> pd.DataFrame:
        """A retention curve: all retention metrics of one event as a tidy frame, in the order of their windows.

        Parameters
        ----------
        event : str
            Kind of event; empty for retentions that are columns.
        segment : str

        Returns
        -------
        DataFrame
            One row per window x treatment: `from_days`, `window_days`, `metric`, `variant`, and of the summary the raw rates, effects, their 95 % HDI and P(improvement).

        Raises
        ------
        NameNotFoundError
            If there is no retention of that event.
        """
        import pandas as pd  # noqa: PLC0415 - 1.5 s, only when a frame is asked for

        retentions = [effect for effect in self.main if effect.kind == "retention"]
        chosen = [effect for effect in retentions if (effect.event, effect.segment) == (event, segment)]
        if not chosen:
            known = dict.fromkeys(f"{effect.event} / {effect.segment}" for effect in retentions)
            raise NameNotFoundError("retention", f"{event} / {segment}", list(known))
        chosen.sort(key=lambda effect: (effect.from_days, effect.window_days or math.inf))
        return pd.DataFrame([{name: getattr(effect, name) for name in CURVE_COLUMNS} for effect in chosen])

    def plain_odds(self, works: float | None = None, *, metric: str | None = None) -> tuple[str, ...]:
        """What P(improvement) of every goal means where many ideas do nothing: a sentence per treatment, where it is exact.

        None where no Bayes factor is known: without a prior on the effect, and of a goal without a relative effect. The function `plain_odds` has a rule of thumb for such a probability.

        Parameters
        ----------
        works : float in (0, 0.5], optional
            Share of ideas that work, for goals whose prior was not learnt; 0.2 when left out. A learnt prior has its own, which its probabilities count already.
        metric : str, optional
            One goal; all when left out.

        Raises
        ------
        PosteriorError
            If no such share can work.
        """
        works = TYPICAL_WORKS if works is None else works
        check_works(works)
        goals = [
            effect
            for effect in self.main
            if effect.role == "goal" and effect.segment == ALL and metric in {None, effect.metric}
        ]
        odds = [(effect, _odds(effect, works)) for effect in goals]
        return tuple(f"{effect.variant} on {effect.metric}: {sentence}" for effect, sentence in odds if sentence)

    def segments(self) -> pd.DataFrame:
        """One row per metric x treatment x kind of segment, as a tidy frame: the pooled effect, how much segments differ, and P(any is harmed).

        Returns
        -------
        DataFrame
            Columns as in `PooledEffect`; `segments` is their number.
        """
        import pandas as pd  # noqa: PLC0415 - 1.5 s, only when a frame is asked for

        names = [field.name for field in fields(PooledEffect)]
        rows = [{name: getattr(one, name) for name in names} | {"segments": len(one.segments)} for one in self.pooled]
        return pd.DataFrame(rows, columns=names)

    def summary(self) -> pd.DataFrame:
        """One row per metric x treatment (x segment) and estimate, as a tidy frame; `estimate == "main"` are the ones that decide.

        Returns
        -------
        DataFrame
            Columns as in `Effect`; a missing figure is NaN and `note` says why. `effect_abs` and `effect_rel` are raw, `effect_abs_post` and `effect_rel_post` posterior means;
            intervals are 95 % HDI; p-values are two-sided, uncorrected.
        """
        import pandas as pd  # noqa: PLC0415 - 1.5 s, only when a frame is asked for

        frame = pd.DataFrame([effect.row() for effect in self.effects], columns=list(SUMMARY_COLUMNS))
        numbers = [name for name in SUMMARY_COLUMNS if name not in TEXT_COLUMNS and not name.startswith("n_")]
        return frame.astype(dict.fromkeys(numbers, "float64"))

    def __repr__(self) -> str:
        lines = [f"posterior of {self.experiment} ({self.engine} engine, prior {self.prior})"]
        rows = [NAMES, *(cells for _, cells in self._table())]
        rows += [POOLED_NAMES, *map(_pooled_cells, self.pooled)] if self.pooled else []
        lines += [f"  {' | '.join(cells)}" for cells in rows]
        return "\n".join([*lines, *(f"  {sentence}" for sentence in self.plain_odds())])

    def _repr_html_(self) -> str:
        head = _html_head(NAMES)
        body = "".join(_html_row(cells, main=main) for main, cells in self._table())
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in (*self.plain_odds(), *self._notes()))
        caption = f"{html.escape(self.experiment)}: {self.engine} engine, prior {html.escape(self.prior)}"
        return (
            f"<table><caption style='text-align:left;font-weight:bold;white-space:nowrap'>{caption}</caption><tr>{head}</tr>{body}</table>"
            + (_pooled_html(self.pooled) if self.pooled else "")
            + (f"<ul>{notes}</ul>" if notes else "")
        )

    def _notes(self) -> Iterator[str]:
        """Every note once, with the effects that have it."""
        names: dict[str, list[str]] = {}
        for effect in self.effects:
            if effect.note:
                names.setdefault(effect.note, []).append(", ".join(_name(effect)))
        for note, own in names.items():
            rest = f" and {len(own) - _NAMED} more" if len(own) > _NAMED + 1 else ""
            yield f"{'; '.join(own[:_NAMED] if rest else own)}{rest}: {note}"

    def _table(self) -> list[tuple[bool, tuple[str, ...]]]:
        """Every row as text, and whether it is a main one."""
        return [
            (
                effect.estimate == "main",
                _cells(effect),
            )
            for effect in self.effects
        ]


_ROUNDING = 1e-9  # of the width of an interval: a mean closer to 0 is rounding alone
_NAMED = 3  # effects that a note names
NAMES = (
    "metric",
    "treatment",
    "segment",
    "control",
    "treated",
    "raw effect",
    "posterior effect (95 % HDI)",
    "P(improvement)",
    "P(best)",
)
POOLED_NAMES = (
    "segments",
    "metric",
    "treatment",
    "pooled effect (95 % HDI)",
    "P(improvement)",
    "segments differ by (95 %)",
    "P(any harmed)",
    "P(all improve)",
)
CURVE_COLUMNS = (
    "from_days",
    "window_days",
    "metric",
    "variant",
    "n_control",
    "n_treatment",
    "mean_control",
    "mean_treatment",
    "effect_abs",
    "effect_rel",
    "effect_rel_post",
    "hdi_rel_low",
    "hdi_rel_high",
    "p_improvement",
)


def _name(effect: Effect) -> tuple[str, ...]:
    """What an effect is called; of a main one on all units without saying so."""
    segment = () if effect.segment == ALL else (effect.segment,)
    return (effect.metric, effect.variant, *segment, *(() if effect.estimate == "main" else (effect.estimate,)))


def _odds(effect: Effect, works: float) -> str:
    """What P(improvement) means; empty where that is not known exactly."""
    if effect.p_improvement is None:
        return ""
    if effect.works is not None and effect.p_null is not None:
        return counted_odds(effect.p_improvement, effect.works, effect.p_null)
    if effect.log_bayes_factor is None:
        return ""
    factor = math.exp(min(max(effect.log_bayes_factor, -700.0), 700.0))
    return plain_odds(effect.p_improvement, works, bayes_factor=factor).sentence


def _pooled_cells(pooled: PooledEffect) -> tuple[str, ...]:
    interval = _percents(pooled.effect_rel_post, pooled.hdi_rel_low, pooled.hdi_rel_high)
    spread = f"{100 * pooled.spread:.1f} % ({100 * pooled.spread_low:.1f} to {100 * pooled.spread_high:.1f} %)"
    margin = "" if pooled.margin is None else f" beyond {100 * pooled.margin:g} %"
    return (
        f"all {len(pooled.segments)} of {pooled.column}",
        f"{pooled.metric} ({pooled.role})",
        pooled.variant,
        interval,
        _probability(pooled.p_improvement),
        spread,
        f"{_probability(pooled.p_any_harmed)}{margin}",
        _probability(pooled.p_all_improve),
    )


def _pooled_html(pooled: Sequence[PooledEffect]) -> str:
    head = _html_head(POOLED_NAMES)
    body = "".join(_html_row(_pooled_cells(one), main=True) for one in pooled)
    caption = "Segments, partially pooled: each borrows from the others"
    return f"<table><caption style='text-align:left;font-weight:bold;white-space:nowrap'>{caption}</caption><tr>{head}</tr>{body}</table>"


def _html_head(names: Sequence[str]) -> str:
    """Headings; they may wrap, but never before a percent sign."""
    return "".join(f"<th style='text-align:left'>{name.replace(' %', '&nbsp;%')}</th>" for name in names)


def _html_row(cells: Sequence[str], *, main: bool) -> str:
    style = "text-align:left;white-space:nowrap" if main else "text-align:left;white-space:nowrap;opacity:0.75"
    first = style if main else f"{style};padding-left:2em"
    parts = [f"<td style='{style if n else first}'>{html.escape(text)}</td>" for n, text in enumerate(cells)]
    return f"<tr>{''.join(parts)}</tr>"


def _cells(effect: Effect) -> tuple[str, ...]:
    return (
        f"{effect.metric} ({effect.role})" if effect.estimate == "main" else f"· {effect.estimate}",
        effect.variant,
        effect.segment,
        _mean(effect.mean_control),
        _mean(effect.mean_treatment),
        _raw(effect),
        _interval(effect),
        _probability(effect.p_improvement),
        _probability(effect.p_best),
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+z.2f} %"


def _percents(value: float, low: float, high: float) -> str:
    return f"{_percent(value)} ({100 * low:+z.2f} to {_percent(high)})"


def _mean(value: float | None) -> str:
    return "–" if value is None else figure(value)


def _raw(effect: Effect) -> str:
    if effect.effect_rel is None and effect.effect_abs is not None:
        return figure(effect.effect_abs, sign="+")
    shrunk = "" if effect.shrinkage is None else f" (shrunk {100 * effect.shrinkage:.0f} %)"
    return f"{_percent(effect.effect_rel)}{shrunk}"


def _probability(value: float | None) -> str:
    """A probability in percent, never rounded to certainty, as charts write it."""
    if value is None:
        return "–"
    if value > 0.9999:
        return "over 99.99 %"
    if value < 0.0001:
        return "under 0.01 %"
    return f"{100 * value:.{2 if min(value, 1 - value) < 0.001 else 1}f} %"


def _interval(effect: Effect) -> str:
    if effect.effect_rel_post is not None and effect.hdi_rel_low is not None and effect.hdi_rel_high is not None:
        return _percents(effect.effect_rel_post, effect.hdi_rel_low, effect.hdi_rel_high)
    if effect.effect_abs_post is not None and effect.hdi_abs_low is not None and effect.hdi_abs_high is not None:
        low, high = figure(effect.hdi_abs_low, sign="+"), figure(effect.hdi_abs_high, sign="+")
        rounding = _ROUNDING * (effect.hdi_abs_high - effect.hdi_abs_low)
        mean = effect.effect_abs_post if abs(effect.effect_abs_post) > rounding else 0.0
        return f"{figure(mean, sign='+')} ({low} to {high})"
    return "–"
