"""A posterior: effects of every treatment on every metric, with what they rest on."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from expnb.errors import NameNotFoundError
from expnb.posterior.effect import SUMMARY_COLUMNS, TEXT_COLUMNS, Effect
from expnb.stats.cells import ALL
from expnb.stats.checks import Check

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Effects with their evidence: data, prior, engine, seed and checks.

    Parameters
    ----------
    experiment : str
    effects : tuple of Effect
        One per metric x treatment x segment.
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

    def effect(self, metric: str, variant: str, segment: str = ALL) -> Effect:
        """The effect of a treatment on a metric.

        Raises
        ------
        NameNotFoundError
            If there is none of that name.
        """
        for effect in self.effects:
            if (effect.metric, effect.variant, effect.segment) == (metric, variant, segment):
                return effect
        raise NameNotFoundError(
            "effect",
            f"{metric} / {variant} / {segment}",
            [f"{effect.metric} / {effect.variant} / {effect.segment}" for effect in self.effects],
        )

    def summary(self) -> pd.DataFrame:
        """One row per metric x treatment (x segment), as a tidy frame.

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
        return "\n".join(lines + [f"  {' | '.join(cells)}" for cells in self._table()])

    def _repr_html_(self) -> str:
        names = (
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
        head = "".join(f"<th style='text-align:left'>{name}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(text)}</td>" for text in cells) + "</tr>"
            for cells in self._table()
        )
        notes = "".join(
            f"<li>{html.escape(f'{effect.metric}, {effect.variant}: {effect.note}')}</li>"
            for effect in self.effects
            if effect.note
        )
        caption = f"{html.escape(self.experiment)}: {self.engine} engine, prior {html.escape(self.prior)}"
        return (
            f"<table><caption style='text-align:left;font-weight:bold;white-space:nowrap'>{caption}</caption><tr>{head}</tr>{body}</table>"
            + (f"<ul>{notes}</ul>" if notes else "")
        )

    def _table(self) -> list[tuple[str, ...]]:
        return [
            (
                f"{effect.metric} ({effect.role})",
                effect.variant,
                effect.segment,
                _mean(effect.mean_control),
                _mean(effect.mean_treatment),
                _raw(effect),
                _interval(effect),
                _probability(effect.p_improvement),
                _probability(effect.p_best),
            )
            for effect in self.effects
        ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:+.2f} %"


def _mean(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _raw(effect: Effect) -> str:
    if effect.effect_rel is None and effect.effect_abs is not None:
        return f"{effect.effect_abs:+.4g}"
    return _percent(effect.effect_rel)


def _probability(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _interval(effect: Effect) -> str:
    if effect.effect_rel_post is not None and effect.hdi_rel_low is not None and effect.hdi_rel_high is not None:
        return (
            f"{_percent(effect.effect_rel_post)} ({100 * effect.hdi_rel_low:+.2f} to {_percent(effect.hdi_rel_high)})"
        )
    if effect.effect_abs_post is not None and effect.hdi_abs_low is not None and effect.hdi_abs_high is not None:
        return f"{effect.effect_abs_post:+.4g} ({effect.hdi_abs_low:+.4g} to {effect.hdi_abs_high:+.4g})"
    return "–"
