"""Whether arms have the sizes that the weights of the flag promise: one test that may block, and views that explain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from expnb.stats.anytime import CONCENTRATIONS, anytime_p, chi_square_tail, holm, log_multinomial_e
from expnb.stats.checks import BLOCK, MIN_CELL, WARN, Check, count_of, counts_of, p_bare, p_words, percent

SAMPLE_RATIO_WARN = WARN
SAMPLE_RATIO_BLOCK = BLOCK  # in total, over all looks
MANY_ARMS, NAMED_ARMS = 6, 3  # of more arms than the first only so many are named

Strata = Sequence[tuple[Mapping[str, int], Mapping[str, float]]]
"""Counts by arm with the weights that held for them; one entry for each epoch of the flag's weights."""


@dataclass(frozen=True, slots=True)
class _Words:
    """How a test of some units speaks."""

    name: str
    ok: str
    warn: str
    block: str
    remedy: str


EVERY = _Words(
    "sample_ratio",
    "The arms have the promised sizes",
    "The sizes of the arms are unusual",
    "The arms do not have the promised sizes",
    "Effects cannot be trusted: find where units are lost before any step up.",
)
TRIGGERED = _Words(
    "triggered_ratio",
    "Triggered units are split as promised",
    "The numbers of triggered units are unusual",
    "Triggered units are not split as promised",
    "Who is triggered depends on the arm, so effects on triggered units cannot be trusted: give all arms the same trigger before any step up.",
)


def sample_ratio_p(strata: Strata) -> float:
    """Two-sided p-value, at this look alone, of Pearson's chi-square test of the split against its weights.

    Parameters
    ----------
    strata : sequence of (mapping of str to int, mapping of str to float)
        Units per arm, and relative weight per arm as the flag had them. Statistics of strata add up.

    Returns
    -------
    float in [0, 1]

    References
    ----------
    .. [1] Fabijan et al. (2019), Diagnosing Sample Ratio Mismatch in Online Controlled Experiments, KDD.
    """
    statistic, df = 0.0, 0
    for counts, weights in strata:
        total, shares = sum(counts.get(name, 0) for name in weights), _shares(weights)
        if total:
            statistic += sum((counts.get(name, 0) - total * share) ** 2 / (total * share) for name, share in shares)
            df += len(shares) - 1
    return chi_square_tail(statistic, df) if df else 1.0


def sample_ratio_anytime_p(strata: Strata) -> float:
    """p-value of the same question that stays valid over any number of looks.

    It is the reciprocal of an e-value: the Bayes factor of Dirichlet(concentration x shares) against the shares, multiplied over strata, then averaged over concentrations from 100 to a million
    units, so that imbalances from 10 % down to 0.1 % are found.

    Parameters
    ----------
    strata : sequence of (mapping of str to int, mapping of str to float)

    Returns
    -------
    float in [0, 1]
        At or below alpha at any of all looks with probability alpha at most, when the weights are true.

    References
    ----------
    .. [1] Lindon and Malek (2022), Anytime-Valid Inference for Multinomial Count Data, NeurIPS.
    """
    log_e = [0.0] * len(CONCENTRATIONS)
    for counts, weights in strata:
        found, shares = [counts.get(name, 0) for name in weights], [share for _, share in _shares(weights)]
        for place, concentration in enumerate(CONCENTRATIONS):
            log_e[place] += log_multinomial_e(found, shares, concentration)
    return anytime_p(log_e)


def sample_ratio(strata: Strata, *, min_cell: int = 0, blocks: float = SAMPLE_RATIO_BLOCK) -> Check:
    """Whether the arms have the sizes that the flag's weights promise.

    Parameters
    ----------
    strata : sequence of (mapping of str to int, mapping of str to float)
        Units per arm and weights per arm; one entry for each epoch in which weights held. Epochs are tested each against its own weights, never pooled.
    min_cell : int
        Smaller numbers of units are not shown, nor what would give them away.
    blocks : float
        p over all looks that blocks; half of it where triggered units are tested too.

    Returns
    -------
    Check
        `value` is the p-value over all looks; 0.001 blocks. A p-value below 0.01 at this look warns. Where an arm is too small to be shown, the next larger of `blocks` and 1 stands for `value`.
    """
    sizes, shown = _sizes(strata, min_cell)
    return _judged(EVERY, strata, sizes, min_cell, blocks, shown=shown)


def sample_ratio_triggered(strata: Strata, every: Strata, *, min_cell: int = 0) -> Iterator[Check]:
    """Whether triggered units have the sizes that the weights promise, and how large their share of each arm is.

    A comparison of triggered units is fair only where the arm does not decide who is triggered [1]_. The test spends half of the 0.001 in total; the test of all units spends the other half.

    Parameters
    ----------
    strata, every : sequence of (mapping of str to int, mapping of str to float)
        Of triggered and of all units, as in `sample_ratio`.
    min_cell : int
        Smaller numbers of triggered units are not shown, nor of the others, which are all less the triggered ones.

    References
    ----------
    .. [1] Kohavi, Tang and Xu (2020), Trustworthy Online Controlled Experiments, chapter 20.
    """
    found, total = _found(strata), _found(every)
    total = {name: total[name] for name in found} if found else total
    found = found or dict.fromkeys(total, 0)
    shown = all(n >= min_cell and not 0 < total[name] - n < min_cell for name, n in found.items())
    if shown:
        sizes = _sizes(strata, min_cell)[0]
        share = sum(found.values()) / max(1, sum(total.values()))
        arms = ", ".join(f"{name} {percent(found[name] / max(1, n))}" for name, n in total.items())
        yield Check("triggered", share, "ok", f"{percent(share)} of units were triggered: {arms}.")
    else:
        sizes = ", ".join(
            f"{name} {count_of(n, min_cell=min_cell) if n < min_cell else 'not shown'}" for name, n in found.items()
        )
        text = f"In an arm fewer than {min_cell} units were triggered, or were not, so shares are not shown."
        yield Check("triggered", None, "ok", text)
    yield _judged(TRIGGERED, strata, sizes, min_cell, SAMPLE_RATIO_BLOCK / 2, shown=shown)


def _judged(words: _Words, strata: Strata, sizes: str, min_cell: int, blocks: float, *, shown: bool) -> Check:
    """The sequential test of a split, as a check that may block."""
    p_now, p = sample_ratio_p(strata), sample_ratio_anytime_p(strata)
    half = (
        "" if blocks == SAMPLE_RATIO_BLOCK else f", half of {SAMPLE_RATIO_BLOCK} for all and triggered units together"
    )
    if shown:
        value = p
        figures = (
            f"{_gap_words(strata)}; {p_words(p_now)} at this look, {p_bare(p)} over all looks ({blocks} blocks{half})"
        )
    else:
        value = blocks if p <= blocks else 1.0
        figures = f"p over all looks is {'at most' if p <= blocks else 'above'} {blocks}{half}"
    epochs = _epoch_words(strata, min_cell) if shown or words is EVERY else ""
    facts = f"{sizes}; {figures}.{epochs}"
    if p <= blocks:
        return Check(words.name, value, "block", f"{words.block}: {facts} {words.remedy}")
    if p_now < SAMPLE_RATIO_WARN:
        return Check(
            words.name, value, "warn", f"{words.warn}: {facts} This warns and does not block; look for lost units."
        )
    return Check(words.name, value, "ok", f"{words.ok}: {facts}")


def sample_ratio_by(views: Mapping[str, Mapping[str, Strata]], *, min_cell: int = MIN_CELL) -> tuple[Check, ...]:
    """Where an imbalance sits: one check per view, which explains and never blocks; each value has weights of its own, such as a day in an epoch.

    Parameters
    ----------
    views : mapping of str to mapping of str to sequence of (mapping of str to int, mapping of str to float)
        From view to value to strata.

    Returns
    -------
    tuple of Check
        Warns when the worst value's chi-square p is below 0.01 after Holm's adjustment over all values of all views.
    """
    tested = {
        (view, value): sample_ratio_p(strata)
        for view, values in views.items()
        for value, strata in values.items()
        if min(_expected(strata).values(), default=0.0) >= max(1, min_cell)
    }
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(_view(view, values, tested, adjusted, min_cell) for view, values in views.items())


def _view(
    view: str,
    values: Mapping[str, Strata],
    tested: Mapping[tuple[str, str], float],
    adjusted: Mapping[tuple[str, str], float],
    min_cell: int,
) -> Check:
    name, keys = f"sample_ratio:{view}", [key for key in adjusted if key[0] == view]
    if not keys:
        return Check(name, None, "ok", f"Sample ratio by {view}: no value has enough units to be tested.")
    worst = min(keys, key=lambda key: (adjusted[key], tested[key]))
    p, strata = adjusted[worst], values[worst[1]]
    shown = _sizes(strata, min_cell)[1]
    size = _gap_words(strata) if shown else f"an arm has fewer than {min_cell} units"
    p_text = p_words(p) if shown else f"p is {'below' if p < SAMPLE_RATIO_WARN else 'not below'} {SAMPLE_RATIO_WARN}"
    facts = f"{worst[1]!r} is the worst of {len(keys):,}: {size}; {p_text} (Holm over {len(adjusted):,} values)"
    value = p if shown else None
    if p < SAMPLE_RATIO_WARN:
        return Check(
            name,
            value,
            "warn",
            f"Sample ratio by {view}: {facts}. Look there for lost units; this alone does not block.",
        )
    return Check(name, value, "ok", f"Sample ratio by {view}: no value stands out; {facts}.")


def _shares(weights: Mapping[str, float]) -> list[tuple[str, float]]:
    """Arms with their shares."""
    whole = sum(weights.values())
    return [(name, weight / whole) for name, weight in weights.items()]


def _found(strata: Strata) -> dict[str, int]:
    found: dict[str, int] = {}
    for counts, weights in strata:
        for name in weights:
            found[name] = found.get(name, 0) + counts.get(name, 0)
    return found


def _expected(strata: Strata) -> dict[str, float]:
    """Units that each arm should have."""
    expected: dict[str, float] = {}
    for counts, weights in strata:
        total = sum(counts.get(name, 0) for name in weights)
        for name, share in _shares(weights):
            expected[name] = expected.get(name, 0.0) + total * share
    return expected


def _sizes(strata: Strata, min_cell: int) -> tuple[str, bool]:
    """Sizes beside what was promised, and whether all of them may be shown; if not, shares are promised, from which no size can be worked out.

    Of many arms only those farthest from their promise are named, or those that are too small.
    """
    found, expected = _found(strata), _expected(strata)
    total = sum(expected.values())
    shown = all(n >= min_cell for n in found.values())
    words = counts_of(found, min_cell=min_cell)
    named, before = list(found), ""
    if len(found) > MANY_ARMS:
        gaps = _gaps(strata)
        named.sort(key=(lambda name: -round(abs(gaps[name]), 12)) if shown else (lambda name: found[name] >= min_cell))
        named = named[:NAMED_ARMS]
        before = f"of {len(found)} arms the farthest are " if shown else f"{len(found)} arms, among them "
    parts = []
    for name in named:
        promised = f"{expected[name]:,.0f}" if shown else percent(expected[name] / total, 1) if total else "any"
        parts.append(f"{name} {words[name]} (expected {promised})")
    return before + ", ".join(parts), shown


def _gaps(strata: Strata) -> dict[str, float]:
    """How far each arm is from its promised size: 0.01 is 1 % too many."""
    found, expected = _found(strata), _expected(strata)
    return {name: n / expected[name] - 1 if expected[name] else 0.0 for name, n in found.items()}


def _gap_words(strata: Strata) -> str:
    gaps = _gaps(strata)
    name = max(reversed(list(gaps)), key=lambda arm: round(abs(gaps[arm]), 12))  # the last of equals
    gap = gaps[name]
    if abs(gap) < 0.0005:
        return "every arm is within 0.05 % of its promise"
    return f"{name} has {100 * abs(gap):.1f} % {'more' if gap > 0 else 'fewer'} units than promised"


def _epoch_words(strata: Strata, min_cell: int) -> str:
    """The imbalance of each epoch, when the weights changed on the way."""
    if len(strata) < 2:
        return ""
    parts = []
    for number, stratum in enumerate(strata, start=1):
        if not sum(_found([stratum]).values()):
            text = "no unit"
        elif _sizes([stratum], min_cell)[1]:
            text = f"{_gap_words([stratum])} ({p_words(sample_ratio_p([stratum]))})"
        else:
            text = f"an arm has fewer than {min_cell} units"
        parts.append(f"epoch {number}: {text}")
    return f" The weights changed, so each epoch is held against its own: {'; '.join(parts)}."
