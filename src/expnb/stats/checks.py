"""Data quality as values: what was checked, what was found, and whether it blocks a step up.

A check that rests on a test blocks at 0.001 over all looks together, so that nineteen of them hold fewer than 2 % of healthy rollouts (union bound); it warns at 0.01 at one look.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Literal

from expnb.errors import nearest
from expnb.stats.anytime import CONCENTRATIONS, above_p, anytime_p, holm, log_normal_e, uneven_p, unlike_z
from expnb.stats.moments import Moments

CheckOutcome = Literal["ok", "warn", "block"]

BLOCK = 0.001  # in total, over all looks
WARN = 0.01  # at one look
MIN_CELL = 20


@dataclass(frozen=True, slots=True)
class Check:
    """One quality check of the data.

    Parameters
    ----------
    name : str
        Such as ``"sample_ratio"``.
    value : float or None
        What was measured; its meaning belongs to the check. None where it would give a small number of units away.
    outcome : {"ok", "warn", "block"}
    sentence : str
        In words, with numbers.
    """

    name: str
    value: float | None
    outcome: CheckOutcome
    sentence: str


def count_of(n: int, what: str = "", *, min_cell: int = MIN_CELL) -> str:
    """A number of units in words; below `min_cell` it stays unknown."""
    return f"{f'{n:,}' if n >= min_cell else f'fewer than {min_cell}'} {what}".rstrip()


def hidden(counts: Mapping[str, int], *, min_cell: int = MIN_CELL) -> list[str]:
    """Names whose numbers of units may not be listed: those below `min_cell`, and where that is one alone the next smallest too, because a total less all others would give it away.

    References
    ----------
    .. [1] Hundepool et al. (2012), Statistical Disclosure Control, 4.2: secondary suppression.
    """
    rising = sorted(counts, key=lambda name: counts[name])
    small = [name for name in rising if counts[name] < min_cell]
    return rising[:2] if len(small) == 1 else small


def counts_of(counts: Mapping[str, int], *, min_cell: int = MIN_CELL) -> dict[str, str]:
    """Numbers of units in words, by name, of which those that are `hidden` stay unknown."""
    unknown = hidden(counts, min_cell=min_cell)
    return {
        name: "not shown" if name in unknown and n >= min_cell else count_of(n, min_cell=min_cell)
        for name, n in counts.items()
    }


def part_of(n: int, total: int, *, min_cell: int = MIN_CELL) -> str:
    """So many of so many, in words; neither part nor rest is given when below `min_cell`."""
    if 0 < total - n < min_cell:
        return f"all but fewer than {min_cell} of {total:,}"
    return f"{count_of(n, min_cell=min_cell)} of {total:,}"


def _share(n: int, total: int, min_cell: int) -> float | None:
    """A share, unless it gives a small number of units away."""
    return n / total if total and n >= min_cell and not 0 < total - n < min_cell else None


def p_words(p: float) -> str:
    """A p-value with its sign of relation, such as ``"p = 0.0086"``."""
    return f"p = {p:.2g}" if p > 1e-300 else "p < 1e-300"


def p_bare(p: float) -> str:
    """A second p-value in a row, such as ``"0.31"`` after ``"p = 0.0086 at this look,"``."""
    return p_words(p).removeprefix("p = ")


def percent(share: float, digits: int = 2) -> str:
    """A share in words, such as ``"33.3 %"``."""
    return f"{100 * share:.{digits}f} %"


def figure(value: float, digits: int = 4, sign: str = "") -> str:
    """So many digits of a number, of a larger one all before the point, so that 10,250 stands beside 6,930 and not as 1.025e+04."""
    large = 10**digits - 0.5 <= abs(value) < 1e15
    return f"{value:{sign},.0f}" if large else f"{value:{sign},.{digits}g}"


def unusable_values(metric: str, *, null: int, nan: int, infinite: int, total: int, min_cell: int = 0) -> Check | None:
    """How many values of a metric could not be used, by cause; None when all could.

    Parameters
    ----------
    min_cell : int
        Smaller numbers of units are not shown.
    """
    causes = [
        f"{count_of(count, name, min_cell=min_cell)}"
        for count, name in ((null, "empty"), (nan, "NaN"), (infinite, "infinite"))
        if count
    ]
    if not causes:
        return None
    lost = null + nan + infinite
    return Check(
        f"values:{metric}",
        _share(lost, total, min_cell),
        "warn",
        f"{metric}: {' and '.join(causes)} of {total:,} values were left out.",
    )


def blank_rows(metric: str, n: int, *, summed: bool, min_cell: int = MIN_CELL) -> Check | None:
    """How many rows have no value of a metric, where the rows of a unit are put together; None when all have.

    Parameters
    ----------
    summed : bool
        Whether the values of a unit are added up, so that an empty one counts as none.
    """
    if n == 0:
        return None
    effect = (
        "an empty value counts as none, so these units have the sum of their other rows. If it means unknown, leave out those units where the data is made"
        if summed
        else "they are left out, and their units are judged by their other rows"
    )
    return Check(
        f"blank:{metric}",
        float(n) if n >= min_cell else None,
        "warn",
        f"{metric}: {count_of(n, min_cell=min_cell)} rows have no value; {effect}.",
    )


def outside_days(
    n: int, total: int, first: date, last: date, *, what: str = "units", min_cell: int = MIN_CELL
) -> Check | None:
    """How many units, or rows, were left out because their day is not among those that were agreed; None when none was.

    Parameters
    ----------
    n, total : int
        Those left out, and those left.

    Returns
    -------
    Check or None
        Warns when more were left out than left: the dates of the experiment are then perhaps not those of the data.
    """
    if n == 0:
        return None
    text = f"{count_of(n, what, min_cell=min_cell)} are dated outside of {first} to {last} and were left out"
    if n > total:
        text = f"{text}, more than were read. Check that the days of the experiment are those of the data"
    return Check("outside", float(n) if n >= min_cell else None, "warn" if n > total else "ok", f"{text}.")


def lost_by_arm(metric: str, lost: Mapping[str, int], units: Mapping[str, int], *, min_cell: int = 0) -> Check | None:
    """Whether values of a metric are missing more often in one arm than in another.

    Parameters
    ----------
    lost, units : mapping of str to int
        Units without a usable value, and all units, per arm.
    min_cell : int
        Smaller numbers of units are not shown.

    Returns
    -------
    Check or None
        Blocks when `uneven_p` is 0.001 or less: an effect on the survivors is no effect of the variant. None otherwise.

    References
    ----------
    .. [1] Fabijan et al. (2019), Diagnosing Sample Ratio Mismatch in Online Controlled Experiments, KDD.
    """
    if not 0 < sum(lost.values()) < sum(units.values()):
        return None
    p = uneven_p(lost, units)
    if p > BLOCK:
        return None
    return Check(
        f"lost:{metric}",
        p,
        "block",
        f"{metric}: values are missing unevenly ({_by_arm(lost, units, min_cell)}; {p_words(p)} over all looks, {BLOCK} blocks). "
        "Effects on the units that are left cannot be trusted: find out why values are lost before any step up.",
    )


def chosen_by_arm(metric: str, lost: Mapping[str, int], units: Mapping[str, int], *, min_cell: int = 0) -> Check | None:
    """Whether units with an event are more frequent in one arm, where only they have a value.

    Parameters
    ----------
    lost, units : mapping of str to int
        Units without the event, and all units, per arm.

    Returns
    -------
    Check or None
        Warns when `uneven_p` is 0.001 or less. It does not block: the variant may well change who does something, and then the difference is a result.
    """
    if not 0 < sum(lost.values()) < sum(units.values()):
        return None
    p = uneven_p(lost, units)
    if p > BLOCK:
        return None
    there = {name: n - lost.get(name, 0) for name, n in units.items()}
    return Check(
        f"lost:{metric}",
        p,
        "warn",
        f"{metric}: only units with the event have a value, and their share differs by arm ({_by_arm(there, units, min_cell)}; {p_words(p)} over all looks). "
        "That share is itself an effect, and the values compare different units: measure it as a conversion, and read both together.",
    )


def absent_words(kind: str, reader: str, kinds: Sequence[str]) -> str:
    """That a kind of event never occurs, and which do."""
    shown = ", ".join(repr(name) for name in kinds[:NAMED_KINDS])
    more = f" and {len(kinds) - NAMED_KINDS:,} more" if len(kinds) > NAMED_KINDS else ""
    return f"Event {kind!r}, which {reader} reads, never occurs; there are {shown}{more}.{nearest(kind, kinds)}"


def absent_kind(kind: str, reader: str, kinds: Sequence[str]) -> Check | None:
    """Whether a kind of event never occurs; None when it does.

    Parameters
    ----------
    kind, reader : str
        The kind, and what reads it.
    kinds : sequence of str
        Those that occur.

    Returns
    -------
    Check or None
        Blocks where another kind is spelt alike: a metric that nobody can move protects nothing. Warns otherwise, since it may be yet to come.
    """
    if kind in kinds:
        return None
    return Check(f"kind:{kind}", None, "block" if nearest(kind, kinds) else "warn", absent_words(kind, reader, kinds))


NAMED_KINDS = 20


def never_exposed(
    event: str, lost: Mapping[str, int], units: Mapping[str, int], *, min_cell: int = MIN_CELL
) -> Check | None:
    """How many units were assigned and never exposed, and whether that differs by arm; None when all were.

    Parameters
    ----------
    lost, units : mapping of str to int
        Units that were not exposed, and all that were assigned, per arm.

    Returns
    -------
    Check or None
        Warns when `uneven_p` is 0.001 or less; those exposed are then held by the test of the sample ratio.
    """
    n, total = sum(lost.values()), sum(units.values())
    if n == 0:
        return None
    text = f"{part_of(n, total, min_cell=min_cell)} assigned units have no exposure ({event!r}) and are left out ({_by_arm(lost, units, min_cell)})"
    p = uneven_p(lost, units) if n < total else 1.0
    if p > BLOCK:
        return Check("exposure", _share(n, total, min_cell), "ok", f"{text}.")
    return Check(
        "exposure",
        _share(n, total, min_cell),
        "warn",
        f"{text}, unevenly by arm ({p_words(p)} over all looks). The variant may decide who is exposed, and then those who are cannot be compared: look where the exposure is logged.",
    )


def varied_segment(segment: str, n: int, total: int, *, min_cell: int = MIN_CELL) -> Check | None:
    """How many units have rows in more than one value of a segment; None when none has."""
    if n == 0:
        return None
    value = _share(n, total, min_cell)
    share = "" if value is None else f" ({percent(value, 1)})"
    return Check(
        f"varied:{segment}",
        value,
        "warn",
        f"Segment {segment!r} has more than one value in {part_of(n, total, min_cell=min_cell)} units{share}; each is counted under the first of its values in the order of the alphabet. Give each unit one value, such as that of its first exposure, where the data is made.",
    )


def no_answer(trigger: str, n: int, *, min_cell: int = MIN_CELL) -> Check | None:
    """How many units have an empty answer to the trigger, which counts as no; None when none has."""
    if n == 0:
        return None
    return Check(
        "trigger_empty",
        float(n) if n >= min_cell else None,
        "warn",
        f"{count_of(n, min_cell=min_cell)} units have no value in the trigger column {trigger!r}, which counts as no. Check how the column is filled.",
    )


def _by_arm(hits: Mapping[str, int], units: Mapping[str, int], min_cell: int) -> str:
    return ", ".join(
        f"{name} {percent(hits.get(name, 0) / n)}"
        if n and _share(hits.get(name, 0), n, min_cell) is not None
        else f"{name} {part_of(hits.get(name, 0), n, min_cell=min_cell)}"
        for name, n in units.items()
    )


def future_times(column: str, n: int, *, min_cell: int = MIN_CELL) -> Check | None:
    """How many rows are dated later than now; None when none is. They do not say up to when the data are complete."""
    if n == 0:
        return None
    return Check(
        f"future:{column}",
        float(n) if n >= min_cell else None,
        "warn",
        f"{count_of(n, 'rows', min_cell=min_cell)} have a time in {column!r} that lies in the future, and windows are not counted up to it. Check the clocks and the time zone.",
    )


def lonely_end(column: str, last: datetime, previous: datetime) -> Check:
    """A warning that the last time in the data stands alone, and that windows are counted up to it."""
    return Check(
        f"end:{column}",
        (last - previous).total_seconds() / 86_400,
        "warn",
        f"The last time in {column!r} ({minute(last)}) stands alone, days after all others ({minute(previous)}), and windows are counted up to it. If it is a stray one, say up to when the data are complete: load_cohort(…, as_of=…).",
    )


def minute(moment: datetime) -> str:
    """A time in words, such as ``"2026-03-30 12:00 UTC"``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def immature(
    metric: str, n_immature: int, total: int, *, as_of: datetime | None = None, min_cell: int = MIN_CELL
) -> Check | None:
    """How many units have a window that is not over; None when all are.

    Parameters
    ----------
    n_immature, total : int
        Units whose window is not over, and all units.
    as_of : datetime, optional
        Up to when the data are complete.

    Returns
    -------
    Check or None
        Warns when more than half are left out: what is left are the first to come.
    """
    if n_immature == 0:
        return None
    until = f" on {minute(as_of)}, up to which the data are complete" if as_of else ""
    text = f"{metric}: the window of {part_of(n_immature, total, min_cell=min_cell)} units is not over{until}; they are left out"
    if 2 * n_immature > total:
        return Check(
            f"immature:{metric}",
            _share(n_immature, total, min_cell),
            "warn",
            f"{text}. That is more than half, so the effect is one on the first units to come: wait until more windows are over.",
        )
    return Check(
        f"immature:{metric}",
        _share(n_immature, total, min_cell),
        "ok",
        f"{text} and will be counted when it is.",
    )


def without_total(metric: str, n: int, total: int, *, min_cell: int = MIN_CELL) -> Check | None:
    """How many units are in rows that have no total of a metric; None when none is.

    Returns
    -------
    Check or None
        Warns when they are more than half.
    """
    if n == 0:
        return None
    most = ", more than half: check how the table is made" if 2 * n > total else ""
    return Check(
        f"immature:{metric}",
        _share(n, total, min_cell),
        "warn" if most else "ok",
        f"{metric}: {part_of(n, total, min_cell=min_cell)} units have no total for some day or segment; they are left out{most}.",
    )


def constant(metric: str, low: float, high: float) -> Check | None:
    """Whether all values of a metric are equal.

    Parameters
    ----------
    low, high : float
        Smallest and largest value over all arms.
    """
    if low != high:
        return None
    return Check(
        f"constant:{metric}",
        low,
        "warn",
        f"{metric}: every value is {figure(low, 6)}, so nothing can be learnt from it. Check how the column is filled, or name another one.",
    )


OUTLIER_SHARE = 0.1


def outlier(metric: str, *, value: float, mean: float, m2: float, arm: str = "") -> Check | None:
    """Whether one unit carries more than a tenth of the squared deviations of a metric.

    Parameters
    ----------
    value : float
        The value farthest from the mean.
    mean, m2 : float
        Of the arm that holds it.
    arm : str
        Its name.

    Returns
    -------
    Check or None
        None when no unit does.
    """
    share = (value - mean) ** 2 / m2 if m2 > 0 else 0.0
    if share <= OUTLIER_SHARE:
        return None
    return Check(
        f"outlier:{metric}",
        share,
        "warn",
        f"{metric}: one unit{f' of {arm}' if arm else ''} has {figure(value, 6)} (mean {figure(mean)}) and carries {percent(share, 0)} of the variance of its arm. The mean hangs on it: check that it is real.",
    )


def drifted_names(found: Iterable[str], declared: Sequence[str]) -> dict[str, str]:
    """Names in the data that are no declared arm, but one written otherwise.

    Case, white space, invisible signs and the width of letters (Unicode NFKC) make no difference.

    Returns
    -------
    dict of str to str
        From each such name to the arm that is meant.
    """
    meant = {_plain(name): name for name in reversed(declared)}
    return {name: meant[_plain(name)] for name in found if name not in declared and _plain(name) in meant}


def _plain(name: str) -> str:
    text = unicodedata.normalize("NFKC", name).casefold()
    return "".join(sign for sign in text if not sign.isspace() and unicodedata.category(sign) != "Cf")


def drifting_names(column: str, names: Mapping[str, str]) -> Check | None:
    """Whether arms appear under more than one spelling; None when they do not.

    Parameters
    ----------
    names : mapping of str to str
        As `drifted_names` gives it.
    """
    if not names:
        return None
    pairs = ", ".join(f"{name!r} for {arm!r}" for name, arm in names.items())
    return Check(
        "arm_names",
        float(len(names)),
        "block",
        f"column {column!r} writes arms otherwise than the experiment: {pairs}. Their units are in no arm: correct the names where the data is made.",
    )


def days_missing(
    counts: Mapping[date, Mapping[str, int]],
    weights: Mapping[str, float],
    *,
    later: Mapping[date, Mapping[str, float]] | None = None,
    min_cell: int = MIN_CELL,
) -> Check | None:
    """Whether days have no unit at all, or none of one arm; None when all have.

    Parameters
    ----------
    counts : mapping of date to mapping of str to int
        Units per day and arm; days without any may be left out.
    weights : mapping of str to float
        Relative weight per arm.
    later : mapping of date to mapping of str to float, optional
        The weights of days after they changed.
    min_cell : int
        Days with fewer units are not asked for each arm.

    Returns
    -------
    Check or None
        Warns. A day lacks an arm when its units would miss it by chance with probability below 0.001, divided by the number of days.
    """
    totals = {day: sum(arms.values()) for day, arms in counts.items()}
    days = sorted(day for day, n in totals.items() if n > 0)
    if not days:
        return None
    span = (days[-1] - days[0]).days + 1
    known = set(days)
    empty = (day for place in range(span) if (day := days[0] + timedelta(days=place)) not in known)
    first_empty, n_empty = [day for day, _ in zip(empty, range(NAMED_DAYS), strict=False)], span - len(days)
    shares = {day: _shares((later or {}).get(day, weights)) for day in days}
    one_sided = [
        (day, name)
        for day in days
        for name, share in shares[day].items()
        if counts[day].get(name, 0) == 0
        and totals[day] >= min_cell
        and totals[day] * math.log1p(-min(share, 1 - 1e-9)) < math.log(BLOCK / len(days))
    ]
    found = []
    if n_empty:
        found.append(
            f"{n_empty:,} of {span:,} days have no unit ({_named([str(day) for day in first_empty], n_empty)})"
        )
    if one_sided:
        texts = [f"{name} on {day}" for day, name in one_sided[:NAMED_DAYS]]
        found.append(
            f"on {len({day for day, _ in one_sided}):,} days an arm has no unit ({_named(texts, len(one_sided))})"
        )
    if not found:
        return None
    return Check(
        "days",
        float(n_empty + len({day for day, _ in one_sided})),
        "warn",
        f"Between {days[0]} and {days[-1]}, {' and '.join(found)}. Days of all arms are needed for a fair comparison: check the export, the time zone and stray dates.",
    )


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    whole = sum(weights.values())
    return {name: weight / whole for name, weight in weights.items()}


NAMED_DAYS = 5


def _named(texts: Sequence[str], total: int) -> str:
    more = total - len(texts)
    return ", ".join(texts) + (f" and {more:,} more" if more else "")


def expectation(
    name: str,
    broken: Mapping[str, int],
    units: Mapping[str, int],
    tolerate: float,
    *,
    min_cell: int = MIN_CELL,
) -> Check:
    """Whether what has to hold for every exposed unit does hold.

    Parameters
    ----------
    name : str
        Such as ``"audience"``.
    broken, units : mapping of str to int
        Exposed units that break it, and all exposed units, per arm.
    tolerate : float
        Share of units that may break it.

    Returns
    -------
    Check
        Blocks when arms break it unevenly (`uneven_p` is 0.001 or less), or when a larger share than tolerated breaks it and chance is no excuse (`above_p` is 0.001 or less): else one stray among the first
        units would hold a rollout. Warns when fewer break it.
    """
    total, lost = sum(units.values()), sum(broken.values())
    if lost == 0:
        return Check(
            f"expect:{name}",
            0.0,
            "ok",
            f"Expectation {name} holds for all {count_of(total, 'units', min_cell=min_cell)}.",
        )
    value = _share(lost, total, min_cell)
    p = uneven_p(broken, units)
    share = "" if value is None else f" ({percent(value)})"
    text = f"Expectation {name} is broken by {part_of(lost, total, min_cell=min_cell)} exposed units{share}"
    if p <= BLOCK:
        return Check(
            f"expect:{name}",
            value,
            "block",
            f"{text}, and unevenly by arm ({_by_arm(broken, units, min_cell)}; {p_words(p)} over all looks, {BLOCK} blocks). The variant decides who is exposed, so arms cannot be compared: correct the gate or the exposure before any step up.",
        )
    if lost > tolerate * total and (beyond := above_p(lost, total, tolerate)) <= BLOCK:
        return Check(
            f"expect:{name}",
            value,
            "block",
            f"{text}; at most {percent(tolerate)} are tolerated ({'' if value is None else f'{p_words(beyond)} over all looks, '}{BLOCK} blocks). The flag reaches units that it should not: correct its targeting before any step up.",
        )
    excuse = "" if lost <= tolerate * total else ", and so few more may be chance"
    return Check(
        f"expect:{name}",
        value,
        "warn",
        f"{text}; up to {percent(tolerate)} are tolerated{excuse}. It does not block; find out how they got in.",
    )


def pre_period_imbalance(metric: str, arms: Mapping[str, Moments], *, min_cell: int = MIN_CELL) -> Check | None:
    """Whether the arms differed already before the exposure.

    Parameters
    ----------
    metric : str
        Name of what was measured before the exposure.
    arms : mapping of str to Moments
        Of that measure, control first.
    min_cell : int
        Arms with fewer units are not compared.

    Returns
    -------
    Check or None
        None when nothing can be compared. Warns when a treatment's p (`unlike_z`) is below 0.01 (Holm over treatments); blocks when its p over all looks is 0.001 or less (likewise), so that many looks and many covariates
        together seldom hold a healthy rollout.

    References
    ----------
    .. [1] Welch (1947), The generalization of Student's problem.
    .. [2] Johari et al. (2017), Peeking at A/B Tests, KDD.
    """
    (base, control), *treatments = arms.items()
    names, now, always = [], [], []
    for name, moments in treatments:
        z = unlike_z(control, moments)
        if z is None or min(control.n, moments.n) < min_cell:
            continue
        n = control.n * moments.n / (control.n + moments.n)
        names.append(name)
        now.append(math.erfc(abs(z) / math.sqrt(2)))
        always.append(anytime_p([log_normal_e(z, n, concentration) for concentration in CONCENTRATIONS]))
    if not names:
        return None
    now, always = holm(now), holm(always)
    worst_p = min(now)
    name = names[now.index(worst_p)]
    p = min(always)
    gap = arms[name].mean - control.mean
    size = f"{100 * gap / control.mean:+.2f} %" if control.mean > 0 else figure(gap, sign="+")
    over = f" (Holm over {len(names)} treatments)" if len(names) > 1 else ""
    text = f"before the exposure {name} and {base} differ by {size} (means {figure(arms[name].mean)} and {figure(control.mean)}); {p_words(worst_p)} at this look{over}, {p_bare(p)} over all looks"
    if p <= BLOCK:
        return Check(
            f"pre_period:{metric}",
            p,
            "block",
            f"{metric}: {text} ({BLOCK} blocks). The variant cannot have done that: find out how units got into the arms before any step up.",
        )
    if worst_p < WARN:
        return Check(
            f"pre_period:{metric}",
            p,
            "warn",
            f"{metric}: {text}. This warns and does not block; use the measure as covariate and look at the assignment.",
        )
    return Check(
        f"pre_period:{metric}",
        p,
        "ok",
        f"{metric}: no difference was seen before the exposure; {p_words(worst_p)} at this look{over}.",
    )


# Of the sixteen digits of a sum; what is left is the precision of a variance, less one or two for its rounding.
DIGITS = 16.0
LOST_WARNS, LOST_BLOCKS = 6.0, 11.0


def lost_digits(metric: str, lost: Mapping[str, float]) -> Check | None:
    """Whether groups lie so far apart that the variance within them has lost its digits; None where none has.

    Parameters
    ----------
    lost : mapping of str to float
        Digits per group: log10 of the sum of squares around the common shift, over the squared deviations from the group's own mean [1]_.

    Returns
    -------
    Check or None
        Warns above 6 of 16 digits, blocks above 11, where less than three may be left.

    References
    ----------
    .. [1] Chan, Golub and LeVeque (1983), Algorithms for Computing the Sample Variance.
    """
    if not lost or (most := max(lost.values())) <= LOST_WARNS:
        return None
    name = max(lost, key=lambda group: lost[group])
    words = f"{most:.0f} of 16 digits" if most < DIGITS else "all of its digits"
    text = f"{metric}: groups lie so far apart that the variance of {name} has lost {words}"
    if most > LOST_BLOCKS:
        return Check(
            f"digits:{metric}",
            min(most, DIGITS),
            "block",
            f"{text}, and the errors of its effects cannot be trusted. Check that all groups are measured in the same unit, or subtract what they have in common where the data is made.",
        )
    return Check(
        f"digits:{metric}",
        most,
        "warn",
        f"{text}; what is left is enough. Check that all groups are measured in the same unit.",
    )


OUTCOME_BEFORE = 0.001


def outcome_before_exposure(metric: str, n: int, total: int, *, min_cell: int = MIN_CELL) -> Check | None:
    """Whether units have an outcome dated before their exposure; None when none has.

    Parameters
    ----------
    n, total : int
        Units with such an outcome, and all units.

    Returns
    -------
    Check or None
        Blocks when more than 0.1 % have one.
    """
    if n == 0:
        return None
    text = f"{metric}: {part_of(n, total, min_cell=min_cell)} units have an outcome dated before their exposure, which the variant cannot have caused"
    if n > OUTCOME_BEFORE * total:
        return Check(
            f"before:{metric}",
            _share(n, total, min_cell),
            "block",
            f"{text} (at most {percent(OUTCOME_BEFORE, 1)} are tolerated). Check the time zones and which exposure is the first before any step up.",
        )
    return Check(
        f"before:{metric}",
        _share(n, total, min_cell),
        "warn",
        f"{text}. So few do not block; check the clocks.",
    )


CUMULATIVE_DAYS = 7  # a week has a day that is weaker than the one before


def _looks_cumulative(by_arm: Mapping[str, Sequence[float]]) -> bool:
    """Whether totals of every arm never fall from day to day, over a week or more, and rise."""
    return bool(by_arm) and all(
        len(days) >= CUMULATIVE_DAYS and days[-1] > days[0] and all(a <= b for a, b in pairwise(days))
        for days in by_arm.values()
    )


def cumulative(name: str, by_arm: Mapping[str, Sequence[float]]) -> Check | None:
    """Whether a column of daily totals seems to hold running totals; None when it does not.

    Parameters
    ----------
    name : str
        Of the column.
    by_arm : mapping of str to sequence of float
        Totals per day, in the order of days.
    """
    if not _looks_cumulative(by_arm):
        return None
    days = max(len(totals) for totals in by_arm.values())
    return Check(
        f"cumulative:{name}",
        float(days),
        "warn",
        f"{name}: the totals of every arm never fall over {days} days, as running totals do. If each row counts all units so far, write cumulative = true under [totals]; otherwise units are counted many times.",
    )
