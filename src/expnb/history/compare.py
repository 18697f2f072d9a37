"""Two decisions or posteriors side by side, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from expnb.decisions.decision import TITLES, Decision, Rule
from expnb.decisions.rules import raw
from expnb.models.agreement import MOST_ERRORS, Gap
from expnb.posterior.posterior import Posterior
from expnb.stats.cells import ALL
from expnb.stats.checks import figure

SAME = 1e-6
"""Relative difference up to which two values of the exact engine are the same: rounding by other versions of its libraries."""
# Of the pymc engine: rules whose value is a share of draws, and the one whose value is a mean of draws.
_SHARES = frozenset({"guardrail", "segment", "ship_above_rope", "conclude_flat"})
_MEAN = "ship_expected_loss"
_Key = tuple[str, str, str, int]


def verdicts(then: Decision, now: Decision) -> Iterator[str]:
    """What another verdict would have been."""
    if now.action != then.action:
        yield f"The action was {TITLES[then.action].lower()}, and is {TITLES[now.action].lower()}: {' '.join(now.reasons)}"
    if now.variant != then.variant:
        yield f"The best treatment was {then.variant}, and is {now.variant}."
    if now.to != then.to:
        yield f"The flag should have gone to '{then.to}', and should go to '{now.to}'."


def flips(then: Decision, now: Decision) -> Iterator[str]:
    """Rules that were asked once only, or have another outcome."""
    before, after = _by_key(then), _by_key(now)
    for key, rule in before.items():
        if key not in after:
            yield f"{_name(rule)} was {rule.outcome}, and is not asked: {rule.sentence}"
        elif after[key].outcome != rule.outcome:
            yield f"{_name(rule)} was {rule.outcome}, and is {after[key].outcome}: {after[key].sentence}"
    for key in after.keys() - before.keys():
        yield f"{_name(after[key])} was not asked, and is {after[key].outcome}: {after[key].sentence}"


def values(then: Decision, now: Decision) -> Iterator[str]:
    """Rules whose threshold is another one, or whose value is, though their outcome is the same."""
    after = _by_key(now)
    for key, rule in _by_key(then).items():
        other = after.get(key, rule)
        if not _close(rule.threshold, other.threshold):
            yield f"{_name(rule)} had the threshold {_value(rule.threshold)}, and has {_value(other.threshold)}."
        if other.outcome == rule.outcome and not _alike(rule, other, then.engine):
            yield f"{_name(rule)} had the value {_value(rule.value)}, and has {_value(other.value)}."


def raw_effects(then: Posterior, now: Posterior) -> Iterator[str]:
    """Raw effects on all units that are other ones."""
    after = {(effect.metric, effect.variant): effect for effect in now.main if effect.segment == ALL}
    for effect in then.main:
        other = after.get((effect.metric, effect.variant))
        if effect.segment != ALL or other is None or effect.effect_abs is None or other.effect_abs is None:
            continue
        if not math.isclose(effect.effect_abs, other.effect_abs, rel_tol=SAME, abs_tol=1e-12):
            yield f"{effect.metric} under {effect.variant}: {raw(effect)} then, {raw(other).removeprefix('raw effect ')} now."


def versions(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Packages that have another version."""
    for name in sorted(then.keys() | now.keys()):
        before, after = then.get(name, "none"), now.get(name, "none")
        if before != after:
            yield f"{name} was {before}, and is {after}."


def _by_key(decision: Decision) -> dict[_Key, Rule]:
    """Rules by what they are about; the same rule on the same thing is counted."""
    rules: dict[_Key, Rule] = {}
    for rule in decision.rules:
        same = sum(key[:3] == (rule.name, rule.metric, rule.variant) for key in rules)
        rules[rule.name, rule.metric, rule.variant, same] = rule
    return rules


def _alike(rule: Rule, other: Rule, engine: str) -> bool:
    if rule.value is None or other.value is None:
        return rule.value is other.value
    if engine == "pymc" and rule.name == _MEAN:
        return True  # its Monte Carlo error is not recorded: its outcome alone is compared
    if engine == "pymc" and rule.name in _SHARES:
        from expnb.models.sampler import LEAST_ESS  # noqa: PLC0415 - only where draws are compared

        return Gap(rule.name, other.value, rule.value, LEAST_ESS).errors <= MOST_ERRORS
    return _close(rule.value, other.value)


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=SAME, abs_tol=SAME)


def _name(rule: Rule) -> str:
    about = " of ".join(part for part in (rule.name, rule.metric) if part)
    return f"Rule {about}{f' under {rule.variant}' if rule.variant else ''}"


def _value(value: float | None) -> str:
    return "none" if value is None else figure(value, 6)
