"""Comparisons to effects: what each likelihood says, all rows of a kind at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from expnb.posterior import frequentist
from expnb.posterior.comparison import Comparison
from expnb.posterior.effect import Density, Effect
from expnb.posterior.exact.arms import Arm, BoolArray, FloatArray, IntArray
from expnb.posterior.exact.engine import Quantity, absolute_effect, both_effects, prob_best, share_above
from expnb.posterior.table import FEW_UNITS, HARM, RATIO, STUDENT, Table
from expnb.spec.prior import FLAT, HARM_PRIOR, Prior

DISAGREEMENT_SD = 3.0

Figures = Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True)
class Quantities:
    """Posteriors of many comparisons.

    Parameters
    ----------
    relative : Quantity, optional
        Where a relative effect exists.
    absolute : Quantity
    """

    relative: Quantity | None
    absolute: Quantity

    def row(self, row: int) -> Quantities:
        """Those of one comparison."""
        some = np.array([row])
        relative = None if self.relative is None else self.relative.take(some)
        return Quantities(relative, self.absolute.take(some))


def exact_effects(
    pairs: Sequence[Comparison], priors: Sequence[Prior], *, pooled: BoolArray | None = None
) -> list[Effect]:
    """One effect per comparison, in the same order.

    Parameters
    ----------
    pairs : sequence of Comparison
        All treatments of a segment together: P(best) is over them.
    priors : sequence of Prior
        On the effect of each.
    pooled : ndarray, shape (row,), optional
        Rows whose posterior comes from their segments together: of these only what pooling keeps is worked out, the raw figures and harm without a prior.
    """
    table = Table(pairs)
    later = np.zeros(len(table), dtype=np.bool_) if pooled is None else pooled
    stated = [prior if exists else FLAT for prior, exists in zip(priors, table.relative.tolist(), strict=True)]
    best = share_of_best(table, stated, later)
    effects: list[Effect | None] = [None] * len(table)
    facts = facts_of(table)
    for group in alike(table, stated):
        rows, some = group[~later[group]], group[later[group]]
        if len(rows):
            made = quantities(table, rows, stated[rows[0]])
            figures = {**figures_of(table, rows, made, best, stated[rows[0]]), **harms(table, rows)}
            _fill(effects, table, rows, facts, figures, made, stated)
        if len(some):
            _fill(effects, table, some, facts, harms(table, some), None, stated)
    silent = np.flatnonzero(~table.known)
    _fill(effects, table, silent, facts, {}, None, priors)
    return [effect for effect in effects if effect is not None]


def assemble(pair: Comparison, made: Quantities, row: int, best: float | None, prior: Prior, engine: str) -> Effect:
    """One effect from the posteriors of row `row`."""
    table = Table([pair])
    some, own = np.zeros(1, dtype=np.intp), made.row(row)
    shares = np.array([np.nan if best is None else best])
    out: list[Effect | None] = [None]
    _fill(out, table, some, facts_of(table), figures_of(table, some, own, shares, prior), own, [prior], engine)
    return _only(out)


def without_posterior(pair: Comparison, prior: Prior, engine: str) -> Effect:
    """The raw figures alone, with the reason."""
    table = Table([pair])
    out: list[Effect | None] = [None]
    _fill(out, table, np.zeros(1, dtype=np.intp), facts_of(table), {}, None, [prior], engine)
    return _only(out)


def diluted(effect: Effect, share: float, mean: float, units: tuple[int, int]) -> Effect:
    """The effect on triggered units spread over all units, most of whom it cannot have reached.

    Units that did not meet the change add nothing to the difference of means, so it is ``share`` times that of triggered units, with ``share`` times its error: far less than that of comparing all units [1]_. As a share of the control mean of all units it is
    ``effect_rel * share * mean_control / mean``.

    Parameters
    ----------
    effect : Effect
        On triggered units.
    share : float
        Triggered units over all units, of both arms.
    mean : float
        Control mean of all units; where it is not positive no relative effect is stated.
    units : tuple of int
        All units of control and treatment.

    References
    ----------
    .. [1] Deng and Hu (2015), Diluted Treatment Effect Estimation for Trigger Analysis in Online Controlled Experiments, WSDM, section 3.
    """
    own = effect.mean_control
    ratio = share * own / mean if own is not None and mean > 0 else None
    absolute = (
        "effect_abs",
        "effect_abs_post",
        "hdi_abs_low",
        "hdi_abs_high",
        "expected_loss_abs",
        "ci_low",
        "ci_high",
        "cs_low",
        "cs_high",
    )
    relative = ("effect_rel", "effect_rel_post", "hdi_rel_low", "hdi_rel_high", "expected_loss_rel")
    parts: dict[str, object] = {name: _times(getattr(effect, name), share) for name in absolute}
    parts |= {name: _times(getattr(effect, name), ratio) for name in relative}
    parts |= dict.fromkeys(("p_above_rope", "p_harm", "p_rope", "p_harm_flat", "p_harm_wide", "rope", "margin"))
    note = f"diluted: {100 * share:.3g} % of units were triggered, the others cannot differ"
    raw = effect.effect_abs
    return replace(
        effect,
        estimate="all units",
        role="info",
        n_control=units[0],
        n_treatment=units[1],
        mean_control=mean,
        mean_treatment=None if raw is None else mean + share * raw,
        absolute=_stretched(effect.absolute, share),
        relative=_stretched(effect.relative, ratio),
        note="; ".join(part for part in (note, effect.note) if part),
        **parts,  # type: ignore[arg-type]  # names of optional figures
    )


def _times(value: float | None, by: float | None) -> float | None:
    return None if value is None or by is None else value * by


def _stretched(density: Density | None, by: float | None) -> Density | None:
    return None if density is None or not by else Density(density.x * by, density.y / by)


def _only(effects: Sequence[Effect | None]) -> Effect:
    assert effects[0] is not None  # noqa: S101 - one was asked for
    return effects[0]


# --- rows that can be asked together ------------------------------------------------------------


def alike(table: Table, priors: Sequence[Prior]) -> list[IntArray]:
    """Rows with the same likelihood, scale and prior."""
    numbers: dict[int, int] = {}
    for prior in priors:
        numbers.setdefault(id(prior), len(numbers))
    stated = np.array([numbers[id(prior)] for prior in priors], dtype=np.intp)
    key = ((stated * 2 + table.relative) * 2 + table.on_relative_scale) * (
        table.family.max(initial=0) + 1
    ) + table.family
    rows = np.flatnonzero(table.known)
    return [rows[key[rows] == one] for one in sorted(set(key[rows].tolist()))]


def quantities(table: Table, rows: IntArray, prior: Prior, *, chart: bool = True) -> Quantities:
    """Posteriors of rows that are alike; `chart` says whether densities are wanted too."""
    control, treatment = table.arms(rows, int(table.family[rows[0]]))
    cuts, none = table.cuts[rows], np.zeros(1)
    has_relative, on_relative = bool(table.relative[rows[0]]), bool(table.on_relative_scale[rows[0]])
    if has_relative:
        own = (cuts, none) if on_relative else (none, cuts)
        relative, absolute = both_effects(control, treatment, prior, *own, chart=chart)
    else:
        relative, absolute = None, absolute_effect(control, treatment, prior, cuts, chart=chart)
    return Quantities(relative, absolute)


def harms(table: Table, rows: IntArray) -> Figures:
    """P(harm beyond the margin) without a prior and under `HARM_PRIOR`, whatever the stated one is; NaN without a margin, and the second without a relative effect."""
    control, treatment = table.arms(rows, int(table.family[rows[0]]))
    cut, up, no_margin = table.cuts[rows][:, [HARM]], table.sign[rows] > 0, np.isnan(table.margin[rows])
    if table.on_relative_scale[rows[0]]:
        above = [share_above(control, treatment, prior, cut)[:, 0] for prior in (FLAT, HARM_PRIOR)]
    else:
        flat = absolute_effect(control, treatment, FLAT, cut, chart=False).p_above[:, 0]
        above = [flat, np.full(len(rows), np.nan)]
    return {
        name: np.where(no_margin, np.nan, np.where(up, 1.0 - each, each))
        for name, each in zip(("p_harm_flat", "p_harm_wide"), above, strict=True)
    }


def share_of_best(table: Table, priors: Sequence[Prior], pooled: BoolArray | None = None) -> FloatArray:
    """P(best of all arms) per row; the arms of a segment share their control, and all need a posterior.

    Infinite where there is one treatment, whose P(best) is its P(improvement); NaN where all treatments are `pooled`.
    """
    best = np.full(len(table), np.nan)
    order = np.argsort(table.group, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(table.group[order])) + 1) if len(table) else []
    places: dict[tuple[object, ...], list[IntArray]] = {}
    for rows in groups:
        if len(rows) == 1:
            best[rows] = np.inf
        elif table.known[rows].all() and (pooled is None or not pooled[rows].all()):
            shared = priors[rows[0]] if table.relative[rows].all() else FLAT
            key = (len(rows), int(table.family[rows[0]]), shared, bool(table.sign[rows[0]] > 0))
            places.setdefault(key, []).append(rows)
    for (_, family, prior, largest), alike in places.items():
        columns = np.stack(alike, axis=1)  # (treatment, group)
        pairs = [table.arms(rows, int(str(family))) for rows in columns]
        arms: list[Arm] = [pairs[0][0], *(treatment for _, treatment in pairs)]
        assert isinstance(prior, Prior)  # noqa: S101 - the key holds one
        shares = prob_best(arms, prior, largest=bool(largest))
        for column, rows in enumerate(columns, 1):
            best[rows] = shares[:, column]
    return best


# --- columns ------------------------------------------------------------------------------------


def facts_of(table: Table) -> dict[str, FloatArray]:
    """Raw figures; NaN where they are missing or may not be shown."""
    gap = table.treatment.mean - table.control.mean
    relative = table.known & table.relative
    safe = np.where(relative, table.control.mean, 1.0)
    facts = {
        "mean_control": table.control.mean,
        "mean_treatment": table.treatment.mean,
        "effect_abs": gap,
        "effect_rel": np.where(relative, table.treatment.mean / safe - 1.0, np.nan),
        **frequentist.figures(table),
    }
    facts = {name: np.where(table.hidden, np.nan, values) for name, values in facts.items()}
    known = table.known
    return facts | {"rope": np.where(known, table.rope, np.nan), "margin": np.where(known, table.margin, np.nan)}


def figures_of(table: Table, rows: IntArray, made: Quantities, best: FloatArray, prior: Prior) -> Figures:
    """Posterior figures of some rows."""
    none, relative = np.full(len(rows), np.nan), made.relative
    null = np.zeros(len(rows)) if made.absolute.null is None else made.absolute.null
    judged = relative if relative is not None and table.on_relative_scale[rows[0]] else made.absolute
    stated = probabilities(table, rows, judged.p_above, null)
    up, learnt = table.sign[rows] > 0, prior.family == "learnt"
    factor = None if relative is None else relative.log_factor
    return {
        **stated,
        "p_best": np.where(np.isinf(best[rows]), stated["p_improvement"], best[rows]),
        "p_null": null if learnt and made.absolute.null is not None else none,
        "works": np.full(len(rows), (1 - prior.null_share) / 2) if learnt else none,
        "log_bayes_factor": none if factor is None or prior.family == "flat" else factor,
        "effect_abs_post": made.absolute.mean,
        "hdi_abs_low": made.absolute.hdi_low,
        "hdi_abs_high": made.absolute.hdi_high,
        "effect_rel_post": none if relative is None else relative.mean,
        "hdi_rel_low": none if relative is None else relative.hdi_low,
        "hdi_rel_high": none if relative is None else relative.hdi_high,
        "expected_loss_abs": loss_of(made.absolute, up),
        "expected_loss_rel": none if relative is None else loss_of(relative, up),
    }


def probabilities(table: Table, rows: IntArray, above: FloatArray, null: FloatArray) -> Figures:
    """What is stated of the cuts of `Table.cuts` in some rows.

    Parameters
    ----------
    above : ndarray, shape (row, cut)
        P(effect > cut).
    null : ndarray, shape (row,)
        P(exactly no effect): at a cut of 0 it lies on neither side.
    """
    up, cuts = table.sign[rows] > 0, table.cuts[rows]
    below = np.maximum(1 - above - np.where(cuts == 0, null[:, None], 0.0), 0.0)
    no_rope, no_margin = np.isnan(table.rope[rows]), np.isnan(table.margin[rows])
    return {
        "p_improvement": np.where(up, above[:, 0], below[:, 0]),
        "p_above_rope": np.where(no_rope, np.nan, np.where(up, above[:, 1], below[:, 2])),
        "p_rope": np.where(no_rope, np.nan, np.maximum(1 - above[:, 1] - below[:, 2], 0.0)),
        "p_harm": np.where(no_margin, np.nan, np.where(up, below[:, 3], above[:, 3])),
    }


def loss_of(quantity: Quantity, up: BoolArray) -> FloatArray:
    """Expected loss, in some rows."""
    return np.maximum(0.0, np.where(up, quantity.loss, quantity.gain))


def _notes(table: Table, rows: IntArray, priors: Sequence[Prior]) -> list[str]:
    """What has to be known beside the figures of some rows."""
    distance = _disagreement(table, priors)
    out = []
    for row in rows:
        if not table.known[row]:
            out.append(f"no posterior: {table.missing[row]}")
            continue
        parts = [table.not_relative[row]]
        if distance[row] > DISAGREEMENT_SD:
            parts.append(
                f"prior and data disagree: the raw effect lies {distance[row]:.1f} prior-predictive standard deviations from none"
            )
        if table.family[row] == STUDENT:
            parts.append(
                f"fewer than {FEW_UNITS} {'clusters' if table.is_share[row] else 'units'} in an arm: Student-t likelihood, rough where values are skewed"
            )
        elif table.family[row] == RATIO:
            parts.append(
                f"the denominator is only {table.strength[row]:.0f} standard errors above 0: both sums of the ratio are uncertain, and so are both ends of the interval"
            )
        parts.append(table.pairs[row].remark)
        out.append("; ".join(part for part in parts if part))
    return out


def _disagreement(table: Table, priors: Sequence[Prior]) -> FloatArray:
    """How far the raw effect is from none, in standard deviations of what the prior expects to see; 0 where there is no saying."""
    tau = np.array([0.0 if prior.family == "flat" else prior.sd for prior in priors])
    able = table.known & table.relative & (table.treatment.mean > 0) & (tau > 0) & np.isfinite(tau)
    mean_c, mean_t = np.where(able, table.control.mean, 1.0), np.where(able, table.treatment.mean, 1.0)
    noise = np.hypot(table.ses[0] / mean_c, table.ses[1] / mean_t)
    return np.where(able, np.abs(np.log(mean_t / mean_c)) / np.hypot(np.where(able, tau, 1.0), noise), 0.0)


# --- effects ------------------------------------------------------------------------------------


def _fill(
    effects: list[Effect | None],
    table: Table,
    rows: IntArray,
    facts: Figures,
    figures: Figures,
    made: Quantities | None,
    priors: Sequence[Prior],
    engine: str = "exact",
) -> None:
    """Build the effects of some rows; `figures` and `made` hold those rows alone."""
    notes = _notes(table, rows, priors)
    columns = {name: _optional(values[rows]) for name, values in facts.items()}
    columns |= {name: _optional(values) for name, values in figures.items()}
    for place, row in enumerate(rows.tolist()):
        pair, relative = table.pairs[row], None if made is None else made.relative
        effects[row] = Effect(
            metric=pair.metric.name,
            kind=pair.metric.kind,
            role=pair.metric.role,
            direction=pair.metric.direction,
            unit=pair.metric.unit,
            variant=pair.variant,
            segment=pair.segment,
            estimate=pair.estimate,
            n_control=pair.control.n if pair.control.n >= pair.min_cell else 0,
            n_treatment=pair.treatment.n if pair.treatment.n >= pair.min_cell else 0,
            scale="relative" if table.known[row] and table.on_relative_scale[row] else "absolute",
            prior=priors[row].id,
            engine=engine,
            note=notes[place],
            event=pair.metric.event,
            from_days=pair.metric.from_days,
            window_days=pair.metric.window_days,
            relative=None if relative is None else Density(relative.grid[place], relative.density[place]),
            absolute=None if made is None else Density(made.absolute.grid[place], made.absolute.density[place]),
            **{name: values[place] for name, values in columns.items()},
        )


def _optional(values: FloatArray) -> list[float | None]:
    """Floats, None for NaN."""
    return [None if value != value else value for value in values.tolist()]  # noqa: PLR0124 - true of NaN alone
