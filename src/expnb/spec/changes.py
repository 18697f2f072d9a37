"""Two specifications of one experiment side by side: what was changed, and whether that makes a ramp easier."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Final

from expnb.spec.experiment import Experiment
from expnb.spec.flag import Eligibility
from expnb.spec.metric import Metric
from expnb.spec.policy import Rung
from expnb.spec.prior import Prior

# What a lower (-1) or higher (+1) value makes easier: to climb, to ship, or to stay open.
_LOOSER: Final[Mapping[str, int]] = {
    "p_above_rope": -1,
    "p_above_margin": -1,
    "p_rope": -1,
    "expected_loss": 1,
    "expected_loss_abs": 1,
    "harm_alpha": -1,
    "rung_days": -1,
    "min_units": -1,
    "min_days": -1,
    "max_hold_days": 1,
    "max_age_days": 1,
    "holdback": -1,
    "holdout": -1,
    "margin": 1,
    "margin_abs": 1,
    "min_cell": 1,
}
_NO_LIMIT: Final = frozenset({"max_hold_days", "max_age_days"})  # where 0 means none
# What decides nothing: who looks after it, and how it is shown. Where the rows lie is not among them: another file, or another filter, is other data.
_HARMLESS: Final = frozenset({"owner", "review_after", "expires", "traffic", "cost"})
_HARMLESS_OF_METRICS: Final = frozenset({"owner", "version", "description", "certified", "unit"})


@dataclass(frozen=True, slots=True)
class Change:
    """One field that was changed.

    Parameters
    ----------
    where : str
        Such as ``"policy.ship.p_above_rope"`` or ``"metric 'revenue': margin"``.
    sentence : str
    loosens : bool
        Whether it makes it easier to climb, to ship or to stay open; also where that cannot be told, as with another goal or another end.
    """

    where: str
    sentence: str
    loosens: bool


def changes(then: Experiment, now: Experiment) -> Iterator[Change]:
    """What was changed in an experiment, in the order of its fields; of metrics that both have, field by field."""
    if then.audience != now.audience:  # in words of its own: units of an allow-list are counted, not named
        before, after = (str(Eligibility(audience=each.eligibility.audience)) for each in (then, now))
        yield Change(
            "audience", f"audience went from {before} to {after if after != before else 'others'}.", loosens=True
        )
    for part in fields(Experiment):
        if part.name not in {"metrics", "audience"}:
            found = _changes(part.name, part.name, getattr(then, part.name), getattr(now, part.name))
            yield from map(_as_harmless, found) if part.name in _HARMLESS else found
    old, new = ({metric.name: metric for metric in each.metrics} for each in (then, now))
    # With more effects to judge each has a smaller share of the false alarms: harm is then seen later.
    needs_surer_harm = now.harm_threshold > then.harm_threshold
    for name, metric in old.items():
        if name not in new:
            yield Change(f"metric {name!r}", f"metric {name!r} was removed.", metric.role != "info")
    for name, metric in new.items():
        if name not in old:
            looser = metric.role == "goal" or needs_surer_harm
            yield Change(f"metric {name!r}", f"metric {name!r} was added as {metric.role}.", looser)
            continue
        for part in fields(Metric):
            own = (getattr(each[name], part.name) for each in (old, new))
            found = _changes(f"metric {name!r}: {part.name}", part.name, *own)
            yield from map(_as_harmless, found) if part.name in _HARMLESS_OF_METRICS else found
            if part.name == "role" and needs_surer_harm and metric.role == "guardrail" != old[name].role:
                yield Change(
                    f"metric {name!r}: harm", f"with {name!r} as a guardrail harm has to be surer on all metrics.", True
                )


def _changes(where: str, key: str, then: object, now: object) -> Iterator[Change]:
    if then == now:
        return
    if is_dataclass(then) and type(then) is type(now) and not isinstance(then, Prior):
        for part in fields(then):
            yield from _changes(f"{where}.{part.name}", part.name, getattr(then, part.name), getattr(now, part.name))
        return
    yield Change(where, f"{where} went from {_word(then)} to {_word(now)}.", _loosens(key, then, now))


def _as_harmless(change: Change) -> Change:
    return replace(change, loosens=False)


def _loosens(key: str, then: object, now: object) -> bool:
    if key == "role":
        return (then, now) != ("info", "guardrail")
    if key == "segments" and isinstance(then, tuple) and isinstance(now, tuple):
        return not set(then) <= set(now)
    if key in _LOOSER and isinstance(then, int | float) and isinstance(now, int | float):
        before, after = (math.inf if key in _NO_LIMIT and not value else value for value in (then, now))
        return (after - before) * _LOOSER[key] > 0
    return True


def _word(value: object) -> str:
    if value in (None, "", ()):
        return "(none)"
    if isinstance(value, Prior):
        return value.id
    if isinstance(value, Rung):
        own = ((name, getattr(value, name)) for name in ("days", "units", "max_hold_days"))
        times = ", ".join(f"{name} {part:g}" for name, part in own if part is not None)
        return f"{value.enrolled:g}{f' ({times})' if times else ''}"
    if is_dataclass(value) and not isinstance(value, type):
        return _word({part.name: own for part in fields(value) if (own := getattr(value, part.name)) not in (None, "")})
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_word(part)}" for key, part in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
