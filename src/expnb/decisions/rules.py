"""The rules of a policy, each asked of one posterior: met, not met, or unknown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime

from expnb.decisions.decision import Decision, Outcome, Rule
from expnb.decisions.precedence import GUARDRAIL_EARLY, GUARDRAIL_LATE, SEGMENT_HARM
from expnb.posterior.effect import Effect
from expnb.posterior.posterior import Posterior
from expnb.spec.experiment import TRIGGER_KEY, Experiment
from expnb.spec.flag import Exposure, FlagState
from expnb.spec.policy import Policy, Rung
from expnb.stats.arrays import BoolArray
from expnb.stats.cells import ALL, Cells
from expnb.stats.checks import Check, count_of
from expnb.stats.sample_ratio import SAMPLE_RATIO_BLOCK, Strata, sample_ratio, sample_ratio_triggered

WITHOUT_PRIOR = 0.2
"""How far from 1 the threshold of harm lies without a prior, as a share of that under `HARM_PRIOR`."""


def harm_rule(effect: Effect, threshold: float) -> Rule:
    """Whether an effect is harmful beyond its margin, under a prior that expects large effects.

    Of the rules that were measured this one harms the fewest users at one false roll back per 100 ramps (docs/operating_characteristics.md). The experiment's own prior is left out, because a sceptical prior would hide a disaster.
    Where no relative effect exists there is no such prior, and a threshold that is `WITHOUT_PRIOR` as far from 1 keeps false roll backs as rare.

    Parameters
    ----------
    threshold : float
        `Policy.harm_threshold`.
    """
    what = f"{effect.role.capitalize()} {effect.metric} under {effect.variant}"
    p, basis = effect.p_harm_wide, "under a wide prior"
    if effect.scale == "absolute":
        p, basis, threshold = effect.p_harm_flat, "without a prior", 1 - WITHOUT_PRIOR * (1 - threshold)
    if p is None:
        outcome: Outcome = "unknown"
        sentence = f"{what}: harm cannot be judged ({effect.note or f'no margin on the {effect.scale} scale'})."
    elif p >= threshold:
        outcome = "not met"
        sentence = f"{what} is harmed: {raw(effect)}; worse than the margin of {_amount(effect, effect.margin)} with probability {in_percent(p)} {basis} ({in_percent(threshold)} needed)."
    else:
        outcome = "met"
        sentence = f"{what} shows no harm beyond the margin of {_amount(effect, effect.margin)}: probability {in_percent(p)} {basis} ({in_percent(threshold)} needed)."
    return _of_effect(effect, "harm", outcome, sentence, value=p, threshold=threshold)


def guardrail_rule(effect: Effect, policy: Policy, enrolled: float) -> Rule:
    """Whether a guardrail lets the ramp go on; a harmed one is the matter of `harm_rule`."""
    what = f"Guardrail {effect.metric} under {effect.variant}"
    if effect.p_harm is None or effect.p_harm_flat is None:
        return _of_effect(
            effect,
            "guardrail",
            "unknown",
            f"{what} cannot be judged ({effect.note or f'no margin on the {effect.scale} scale'}).",
            value=None,
            threshold=None,
        )
    if enrolled < policy.learn_at:
        safe, threshold, basis = 1 - effect.p_harm, 1 - GUARDRAIL_EARLY, f"below {policy.learn_at:g} % enrolled"
    else:
        safe, threshold, basis = (
            1 - max(effect.p_harm, effect.p_harm_flat),
            GUARDRAIL_LATE,
            f"with and without the prior, from {policy.learn_at:g} % enrolled on",
        )
    outcome: Outcome = "met" if safe >= threshold else "unknown"
    sentence = f"{what} is {'within' if outcome == 'met' else 'not yet known to be within'} the margin of {_amount(effect, effect.margin)}: {raw(effect)}; probability {in_percent(safe)} ({in_percent(threshold)} needed {basis})."
    return _of_effect(effect, "guardrail", outcome, sentence, value=safe, threshold=threshold)


def segment_rules(experiment: Experiment, posterior: Posterior, variants: Collection[str]) -> Iterator[Rule]:
    """Whether a goal or guardrail is harmed in a segment: one rule per metric, treatment and kind of segment, about the segment that looks worst.

    Segments are pooled, so that one that looks bad by chance alone is drawn to the others; the harm of all units together is the matter of `harm_rule`, which closes the gate where this one only holds.
    """
    judged = {metric.name for metric in experiment.metrics if metric.role in {"goal", "guardrail"}}
    worst: dict[tuple[str, str, str], Effect] = {}
    for effect in posterior.main:
        if effect.metric not in judged or effect.segment == ALL or effect.variant not in variants:
            continue
        key = effect.metric, effect.variant, effect.segment.partition("=")[0]
        if effect.p_harm is not None and (key not in worst or effect.p_harm > (worst[key].p_harm or 0.0)):
            worst[key] = effect
    for effect in worst.values():
        p = effect.p_harm or 0.0
        outcome: Outcome = "not met" if p >= SEGMENT_HARM else "met"
        what = f"{effect.role.capitalize()} {effect.metric} under {effect.variant} in {effect.segment}"
        margin = f"the margin of {_amount(effect, effect.margin)}"
        needed = f"segments pooled (a ramp holds from {in_percent(SEGMENT_HARM)} on)"
        sentence = (
            f"{what} is harmed: {raw(effect)}; worse than {margin} with probability {in_percent(p)}, {needed}."
            if outcome == "not met"
            else f"{what} looks worst of its kind and shows no harm beyond {margin}: probability {in_percent(p)}, {needed}."
        )
        yield _of_effect(effect, "segment", outcome, sentence, value=p, threshold=SEGMENT_HARM)


def sample_ratio_check(experiment: Experiment, posterior: Posterior, exposure: Exposure) -> Check | None:
    """The sample ratio of the arms that are served, by the weights that the flag really has.

    Parameters
    ----------
    exposure : Exposure
        Of the flag, as it is now.

    Returns
    -------
    Check or None
        Where weights changed (`[[epochs]]`), the check by epoch, because units of all epochs together follow no weights: the cohort's own while every arm is served; None where the cohort brought none.
    """
    blocks = SAMPLE_RATIO_BLOCK / 2 if experiment.trigger else SAMPLE_RATIO_BLOCK  # triggered units have the other half
    if not experiment.epochs:
        counts = {name: posterior.counts[name] for name in exposure.arms}
        weights = {name: exposure.weights[name] for name in exposure.arms}
        return sample_ratio([(counts, weights)], min_cell=experiment.min_cell, blocks=blocks)
    if exposure.dropped and posterior.cells is not None:
        strata = _strata(experiment, posterior.cells, exposure)
        return sample_ratio(strata, min_cell=experiment.min_cell, blocks=blocks)
    return next((check for check in posterior.checks if check.name == "sample_ratio"), None)


def as_served(experiment: Experiment, posterior: Posterior, exposure: Exposure) -> Posterior:
    """The posterior with checks of the arms that are served: one that was dropped has no promised size any more.

    The cohort knows no flag, so its checks hold every arm against the weights, also one that nobody gets. The sample ratio of all units is the matter of `sample_ratio_check`.

    Parameters
    ----------
    exposure : Exposure
        Of the flag, as it is now.
    """
    cells = posterior.cells
    if not (exposure.dropped and experiment.trigger) or cells is None or TRIGGER_KEY not in cells.segments:
        return posterior
    triggered = _strata(experiment, cells, exposure, cells.segments[TRIGGER_KEY] == "true")
    every = _strata(experiment, cells, exposure)
    own = {check.name: check for check in sample_ratio_triggered(triggered, every, min_cell=experiment.min_cell)}
    return replace(posterior, checks=tuple(own.get(check.name, check) for check in posterior.checks))


def _strata(experiment: Experiment, cells: Cells, exposure: Exposure, where: BoolArray | None = None) -> Strata:
    """Units of the served arms per epoch, with the weights of their time; those of the flag where they never changed."""
    first = experiment.weights if experiment.epochs else exposure.weights
    weights = [first, *(epoch.weights for epoch in experiment.epochs)]
    strata = []
    for number in sorted(set(cells.epoch.tolist())):
        own = cells.epoch == number if where is None else where & (cells.epoch == number)
        promised = {arm: weights[number][arm] for arm in exposure.arms}
        if own.any() and any(promised.values()):
            strata.append(({arm: int(cells.n[own & (cells.variant == arm)].sum()) for arm in promised}, promised))
    return strata


def sample_ratio_rule(check: Check | None) -> Rule:
    """Whether the arms have the promised sizes, by a p-value that stays valid over any number of looks.

    Parameters
    ----------
    check : Check, optional
        As `sample_ratio_check` gives it.
    """
    if check is None:
        return Rule(
            name="sample_ratio",
            value=None,
            threshold=SAMPLE_RATIO_BLOCK,
            outcome="unknown",
            sentence="The sample ratio cannot be judged: the weights changed on the way (epochs), and these data carry no check by epoch. Load the cohort again.",
        )
    return Rule(
        name="sample_ratio",
        value=check.value,
        threshold=SAMPLE_RATIO_BLOCK,
        outcome="not met" if check.outcome == "block" else "met",
        sentence=check.sentence,
    )


def units_rule(
    posterior: Posterior, before: Mapping[str, int], effects: Sequence[Effect], rung: Rung, *, min_cell: int = 0
) -> Rule:
    """Whether enough units per arm came in at this rung, also after units without a value were left out; numbers below `min_cell` are not shown.

    Parameters
    ----------
    before : mapping of str to int
        Units per arm in the data that carried the step to this rung; empty where none did.
    """
    served = {posterior.control, *(effect.variant for effect in effects)}
    sizes = [(n - before.get(name, 0), name, "units") for name, n in posterior.counts.items() if name in served]
    for effect in effects:
        what = f"units with a value of {effect.metric}"
        sizes += [
            (effect.n_control - before.get(posterior.control, 0), "control", what),
            (effect.n_treatment - before.get(effect.variant, 0), effect.variant, what),
        ]
    n, name, what = min(sizes, key=lambda size: size[0])
    n, needed = max(n, 0), rung.units or 0
    outcome: Outcome = "met" if n >= needed else "unknown"
    since = " since this rung was reached" if before else ""
    sentence = f"The smallest arm, {name}, has {count_of(n, what, min_cell=min_cell)}{since} ({needed:,} needed)."
    value = n if n >= min_cell else None
    return Rule(name="min_units", variant=name, value=value, threshold=needed, outcome=outcome, sentence=sentence)


def agreement_rule(sentence: str) -> Rule:
    """Something about the specification that nobody else has agreed to."""
    return Rule(name="agreement", value=None, threshold=None, outcome="unknown", sentence=sentence)


def fresh_rule(experiment: Experiment, posterior: Posterior, now: datetime) -> Iterator[Rule]:
    """Whether the data reach up to now, or to the end of the experiment; old data say nothing of what users meet today."""
    most = experiment.policy.max_age_days
    dated = bool(experiment.exposed_at or experiment.events) and not experiment.totals
    if not most or not (dated or posterior.has_days):  # days that were agreed say nothing of how new the data are
        return
    today, days = posterior.today(now), posterior.days(now)
    if days is None or days[1] > today:
        yield Rule(name="fresh", value=None, threshold=most, outcome="unknown", sentence=_no_day(posterior, today))
        return
    until = today if experiment.end is None else min(today, experiment.end)
    age = max(0, (until - days[1]).days)
    old = age > most
    sentence = f"The last day of data, {days[1]}, lies {age} days before {'today' if until == today else 'the end of the experiment'} (at most {most:g} allowed)."
    if _is_ahead(posterior, today):
        sentence += f" Units that are dated after today, up to {posterior.last_day}, do not count."
    if old:
        sentence += " Load newer data before exposure is raised."
    yield Rule(name="fresh", value=age, threshold=most, outcome="unknown" if old else "met", sentence=sentence)


def _no_day(posterior: Posterior, today: date) -> str:
    """Why nobody can tell how old the data are."""
    if _is_ahead(posterior, today):
        return f"How old the data are is not known: they are dated after today, up to {posterior.last_day}. Correct the dates before exposure is raised."
    few = f": fewer than {posterior.min_cell:,} units have a date" if posterior.min_cell > 1 else ""
    return f"How old the data are is not known{few}. Load data with dates before exposure is raised."


def _is_ahead(posterior: Posterior, today: date) -> bool:
    """Whether as many units as may be shown are dated in the future."""
    return posterior.last_day is not None and posterior.last_day > today


def new_data_rule(posterior: Posterior, before: Mapping[str, int]) -> Iterator[Rule]:
    """One set of data carries one step: what happens at the new rung is not in it."""
    if before and all(n <= before.get(name, 0) for name, n in posterior.counts.items()):
        sentence = f"These data ({posterior.fingerprint[:8]}) already carried a step up; the next one needs units that came in at the rung that was reached."
        yield Rule(name="new_data", value=None, threshold=None, outcome="unknown", sentence=sentence)


def days_at_rung(flag: FlagState, now: datetime) -> float:
    """Time since the flag was changed, in days."""
    return (now - flag.changed_at).total_seconds() / 86_400


def rung_days_rule(rung: Rung, flag: FlagState, now: datetime) -> Rule:
    """Whether the time of this rung is over; outside the ladder there is none."""
    needed = (rung.days or 0.0) if flag.exposure.enrolled > 0 else 0.0
    held = days_at_rung(flag, now)
    return Rule(
        name="rung_days",
        value=held,
        threshold=needed,
        outcome="met" if held >= needed else "unknown",
        sentence=f"The flag has been at {rung.enrolled:g} % for {held:.1f} days ({needed:g} needed before the next rung).",
    )


def quality_rules(checks: Iterable[Check]) -> Iterator[Rule]:
    """Checks of the data that block a step up; the sample ratio has a rule of its own."""
    for check in checks:
        if check.outcome == "block" and check.name != "sample_ratio":
            yield Rule(name="quality", value=check.value, threshold=None, outcome="unknown", sentence=check.sentence)


def days_rule(posterior: Posterior, policy: Policy, now: datetime) -> Rule:
    """Whether enough days of data are in for a verdict on the goal."""
    if policy.min_days == 0:
        return Rule(
            name="min_days",
            value=None,
            threshold=0,
            outcome="met",
            sentence="Days are not asked for (min_days = 0)."
            if posterior.first_day
            else "Time rules are not applicable: no day of the data is known.",
        )
    days = _days_in(posterior, now)
    ahead = ", without those in the future" if posterior.has_days and _is_ahead(posterior, posterior.today(now)) else ""
    return Rule(
        name="min_days",
        value=days,
        threshold=policy.min_days,
        outcome="met" if days >= policy.min_days else "unknown",
        sentence=f"{days} days of data are in{ahead} ({policy.min_days} needed before a verdict on the goal).",
    )


def is_verdict(rule: Rule) -> bool:
    """Whether it judges the goal: to ship, or to conclude that nothing matters."""
    return rule.name == "conclude_flat" or rule.name.startswith("ship_")


def was_judged(decision: Decision) -> bool:
    """Whether enough days were in for a verdict on the goal."""
    return any(rule.name == "min_days" and rule.outcome == "met" for rule in decision.rules)


def is_due(posterior: Posterior, policy: Policy, now: datetime, judged: Decision) -> bool:
    """Whether `verdict_days` more are complete since the goal was judged; always where days are not counted."""
    if posterior.first_day is None or policy.min_days == 0:
        return True
    before = days_of_data(posterior.first_day, judged.watermark, posterior.today(judged.decided_at))
    return _days_in(posterior, now) // policy.verdict_days > before // policy.verdict_days


def _days_in(posterior: Posterior, now: datetime) -> int:
    """Days of data up to now."""
    first, last = posterior.days(now) or (None, None)
    return days_of_data(first, last, posterior.today(now))


def days_of_data(first: date | None, last: date | None, today: date) -> int:
    """Days from the first to the last exposure, both counted, none of them in the future."""
    if first is None or last is None:
        return 0
    return max(0, (min(last, today) - first).days + 1)


def ship_rules(effect: Effect, policy: Policy, goals: int) -> Iterator[Rule]:
    """What a goal, one of so many, must show before the treatment ships."""
    if policy.aim == "non_inferiority":
        safe = None if effect.p_harm_flat is None else 1 - effect.p_harm_flat
        yield _threshold_rule(
            effect,
            "ship_above_margin",
            safe,
            policy.sure_enough(policy.ship.p_above_margin, goals),
            f"{_goal(effect)} is no worse than the margin of {_amount(effect, effect.margin)} with probability {{value}} without a prior ({{threshold}} needed).",
        )
        return
    yield _threshold_rule(
        effect,
        "ship_above_rope",
        effect.p_above_rope,
        policy.sure_enough(policy.ship.p_above_rope, goals),
        f"{_goal(effect)} improves by more than the rope of {_amount(effect, effect.rope)} with probability {{value}} ({{threshold}} needed to ship).",
    )
    yield _loss_rule(effect, policy)


def _loss_rule(effect: Effect, policy: Policy) -> Rule:
    relative = effect.expected_loss_rel is not None
    loss = effect.expected_loss_rel if relative else effect.expected_loss_abs
    most = policy.ship.expected_loss if relative else policy.ship.expected_loss_abs
    if loss is None or most is None:
        outcome: Outcome = "unknown"
        sentence = f"{_goal(effect)}: the expected loss cannot be judged ({effect.note or 'no figure'}; name ship.expected_loss_abs for metrics without a relative effect)."
    else:
        outcome = "met" if loss <= most else "not met"
        shown = (f"{100 * loss:.3f} %", f"{100 * most:g} %") if relative else (f"{loss:.4g}", f"{most:.4g}")
        sentence = (
            f"{_goal(effect)}: shipping is expected to cost {shown[0]} where it is worse (at most {shown[1]} allowed)."
        )
    return _of_effect(effect, "ship_expected_loss", outcome, sentence, value=loss, threshold=most)


def flat_rule(effect: Effect, policy: Policy) -> Rule:
    """Whether the effect lies inside the rope with enough probability to stop."""
    return _threshold_rule(
        effect,
        "conclude_flat",
        effect.p_rope,
        policy.conclude_flat.p_rope,
        f"{_goal(effect)} differs by less than the rope of {_amount(effect, effect.rope)} with probability {{value}} ({{threshold}} needed to conclude that nothing matters).",
    )


def _threshold_rule(effect: Effect, name: str, value: float | None, threshold: float, sentence: str) -> Rule:
    outcome: Outcome = "unknown" if value is None else "met" if value >= threshold else "not met"
    text = sentence.format(value="unknown" if value is None else in_percent(value), threshold=in_percent(threshold))
    return _of_effect(effect, name, outcome, text, value=value, threshold=threshold)


def _of_effect(
    effect: Effect, name: str, outcome: Outcome, sentence: str, *, value: float | None, threshold: float | None
) -> Rule:
    """A rule that was asked of one effect."""
    return Rule(
        name=name,
        metric=effect.metric,
        variant=effect.variant,
        value=value,
        threshold=threshold,
        outcome=outcome,
        sentence=sentence,
    )


def raw(effect: Effect) -> str:
    """The raw effect in words."""
    if effect.effect_rel is not None:
        return f"raw effect {100 * effect.effect_rel:+.2f} %"
    return f"raw effect {effect.effect_abs:+.4g}{f' {effect.unit}' if effect.unit else ''}"


def _goal(effect: Effect) -> str:
    return f"Goal {effect.metric} under {effect.variant}"


def _amount(effect: Effect, amount: float | None) -> str:
    if amount is None:
        return "(none given)"
    return (
        f"{100 * amount:g} %" if effect.scale == "relative" else f"{amount:g}{f' {effect.unit}' if effect.unit else ''}"
    )


def in_percent(value: float) -> str:
    """A probability in percent, never rounded up to certainty."""
    if value > 0.9999:
        return "over 99.99 %"
    if value < 0.0001:
        return "under 0.01 %"
    return f"{100 * value:.2f} %"


def goal_and_guardrails(experiment: Experiment, posterior: Posterior) -> list[Effect]:
    """Effects that can stop a ramp, of all units."""
    roles = {metric.name for metric in experiment.metrics if metric.role in {"goal", "guardrail"}}
    return [effect for effect in posterior.main if effect.metric in roles and effect.segment == ALL]
