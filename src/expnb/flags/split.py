"""Whether a flag serves what its state says, asked with sample units."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from expnb.errors import PushUncertainError
from expnb.flags.base import OFF, FlagBackend
from expnb.flags.bucketing import assign_all
from expnb.spec.flag import UNIT, Eligibility, Exposure, FlagRef, FlagState

SAMPLE_UNITS = 200
STRANGERS = 50
# So many made-up units are tried to find eligible ones: enough for a slice of 1 % behind a holdout of half of all units.
MOST_TRIED = 50_000
# Chance of a false alarm of the split check after a push: about one in two million pushes.
SPLIT_SD = 5.0
LEAKED = "(not eligible)"  # among what was served: units that nobody may be served to, and that got something; no variant is called so
NO_VALUE = "expnb-sample"  # of an attribute: no audience names it


@dataclass(frozen=True, slots=True)
class SampleUnits:
    """Units to ask a flag with, and their attributes; one value per unit, in their order."""

    units: tuple[str, ...]
    attributes: Mapping[str, tuple[str, ...]]


def serve_sample(flags: FlagBackend, ref: FlagRef, state: FlagState | None = None) -> dict[str, int]:
    """How many of 200 eligible units get each answer; ``"off"`` is outside the gate.

    Fewer are asked where an allow-list or a narrow slice holds fewer. Units that are not eligible are asked too: those that get something are counted as `LEAKED`.

    Parameters
    ----------
    state : FlagState, optional
        As it was read back; read now when left out.
    """
    exposure = (flags.read(ref) if state is None else state).exposure
    eligible = eligible_sample(exposure)
    answers = _asked(flags, ref, eligible)
    served = {name: answers.count(name) for name in sorted(set(answers))}
    leaked = sum(answer not in {OFF, ""} for answer in _asked(flags, ref, stranger_sample(exposure, eligible)))
    return served | ({LEAKED: leaked} if leaked else {})


def _asked(flags: FlagBackend, ref: FlagRef, sample: SampleUnits) -> list[str]:
    if not sample.units:
        return []
    return list(flags.evaluate(ref, sample.units, sample.attributes or None))


def check_split(state: FlagState, served: Mapping[str, int]) -> None:
    """Raise `PushUncertainError` when sample units are not served as the state promises.

    Parameters
    ----------
    served : mapping of str to int
        Sample units by what they got; ``"off"`` is outside the gate.
    """
    leaked = served.get(LEAKED, 0)
    if leaked:
        raise PushUncertainError(
            f"flag {state.ref.flag!r} says {state.exposure}, but {leaked} sample units that are not eligible get a variant: people outside of the experiment see it. The push is recorded; close the gate, then look at the flag's targeting."
        )
    total = sum(served.values())
    for name, share in expected_shares(state).items():
        slack = SPLIT_SD * math.sqrt(total * share * (1 - share))
        if abs(served.get(name, 0) - total * share) > slack:
            raise PushUncertainError(
                f"flag {state.ref.flag!r} says {state.exposure}, but {served.get(name, 0)} of {total} sample units get {name!r} where {total * share:.0f} were expected. The push is recorded; look at the flag before anything else moves."
            )


def expected_shares(state: FlagState) -> dict[str, float]:
    """Share of eligible units per answer of a flag, 0 to 1; ``"off"`` is outside the gate."""
    shares = state.exposure.shares()
    return shares | {OFF: max(0.0, 1 - sum(shares.values()))}


def eligible_sample(exposure: Exposure) -> SampleUnits:
    """Units that the flag may serve: those of an allow-list, else made-up ones, with the first value of every attribute."""
    who = exposure.eligibility
    candidates = who.audience.get(UNIT) or _made_up()
    found = _in_turn(exposure, candidates, eligible=True) if who.needs else iter(candidates)
    chosen = tuple(islice(found, SAMPLE_UNITS))
    return SampleUnits(chosen, _of_all(_attributes(who), len(chosen)))


def stranger_sample(exposure: Exposure, eligible: SampleUnits) -> SampleUnits:
    """Units that the flag may not serve: as those `eligible` but for one attribute, not on the allow-list, in the holdout, or outside of the slice."""
    who = exposure.eligibility
    usual, names = _attributes(who), [name for name in who.audience if name != UNIT]
    cases: list[tuple[str, Mapping[str, str]]] = []
    for name in names:
        cases += [(unit, {**usual, name: NO_VALUE}) for unit in eligible.units[:STRANGERS]]
    if UNIT in who.audience:
        cases += [(unit, usual) for unit in islice(_made_up(), STRANGERS) if unit not in who.audience[UNIT]]
    elif who.holdout or who.layer:
        cases += [(unit, usual) for unit in islice(_in_turn(exposure, _made_up(), eligible=False), STRANGERS)]
    attributes = {name: tuple(own[name] for _, own in cases) for name in usual}
    return SampleUnits(tuple(unit for unit, _ in cases), attributes)


def _in_turn(exposure: Exposure, candidates: Sequence[str] | Iterator[str], *, eligible: bool) -> Iterator[str]:
    """The candidates that are eligible, or those that are not."""
    everybody = replace(exposure, enrolled=100.0, serve="", holdback=0.0, dropped=(), eligibility=_now(exposure))
    usual, left = _attributes(exposure.eligibility), iter(candidates)
    while batch := list(islice(left, SAMPLE_UNITS)):
        answers = assign_all("", everybody, batch, _of_all(usual, len(batch)))
        yield from (unit for unit, answer in zip(batch, answers, strict=True) if (answer != OFF) is eligible)


def _now(exposure: Exposure) -> Eligibility:
    """Who is eligible as the flag stands: a shipped variant is for all of the layer."""
    who = exposure.eligibility
    return replace(who, layer="", slice=(0.0, 100.0)) if exposure.serve else who


def _made_up() -> Iterator[str]:
    return (f"expnb-sample-{number}" for number in range(MOST_TRIED))


def _attributes(who: Eligibility) -> dict[str, str]:
    """Attributes that the audience lets in; that of the unit is the unit itself."""
    return {name: values[0] for name, values in who.audience.items() if name != UNIT}


def _of_all(attributes: Mapping[str, str], number: int) -> dict[str, tuple[str, ...]]:
    return {name: (value,) * number for name, value in attributes.items()}
