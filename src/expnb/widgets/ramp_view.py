"""What the ramp panel shows, as one value: plan and decision in words; aggregates only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal, Protocol

from expnb.decisions.decision import MARKS, TITLES, Decision, Rule
from expnb.decisions.plan import RampPlan
from expnb.spec.flag import Exposure, FlagRef, FlagState

# ready: may be pushed. waiting: others have to agree first. pushing: on its way. done: pushed and read back.
# blocked: this plan can no longer be pushed. nothing: it changes nothing.
Phase = Literal["ready", "waiting", "pushing", "done", "blocked", "nothing"]

MOST_RULES = 60  # so that the state of a panel stays small, whatever the experiment
_LONGEST = 400  # characters of a sentence
_FIRST = ("not met", "unknown", "met")
_VERBS = {
    "start": "start",
    "roll_back": "roll back",
    "ramp_up": "ramp up",
    "ramp_down": "ramp down",
    "drop": "drop arms",
    "ship": "ship",
    "conclude_flat": "conclude",
    "restore": "restore",
    "hold": "hold",
}


class ReceiptLike(Protocol):
    """What came back from a push: the flag before and after, as it was read."""

    @property
    def ref(self) -> FlagRef:
        """The flag."""

    @property
    def before(self) -> FlagState | None:
        """The state before, where it was known."""

    @property
    def after(self) -> FlagState:
        """The state read back after the push."""

    @property
    def applied_at(self) -> datetime:
        """When it was pushed, UTC."""

    @property
    def backend(self) -> str:
        """Where the flag lives."""

    @property
    def note(self) -> str:
        """What a person has to know beyond that; mostly empty."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One rung as it is drawn: percent of eligible units inside the gate, and under a treatment."""

    label: str
    enrolled: float
    treated: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Everything that a front end needs to draw the panel; plain JSON values.

    Parameters
    ----------
    plan : str
        Id of the plan; a press names it, so that a stale page pushes nothing.
    action : str
        The verb in words.
    danger : bool
        Whether the button wears the colour of danger.
    rules : tuple of tuple of str
        Mark, outcome, what was asked, and the sentence.
    button, question, confirm : str
        What the button does, what is asked back, and the answer; empty where there is nothing to press.
    message, error : str
        What just happened, and what went wrong.
    receipt : tuple of tuple of str
        Name and value; empty before the push.
    """

    phase: Phase
    plan: str
    experiment: str
    flag: str
    environment: str
    action: str
    danger: bool
    bars: tuple[Bar, ...]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    rules: tuple[tuple[str, str, str, str], ...]
    more_rules: int
    approvals: str
    button: str
    question: str
    confirm: str
    small: tuple[str, ...]
    message: str = ""
    error: str = ""
    receipt: tuple[tuple[str, str], ...] = ()

    def state(self) -> dict[str, object]:
        """The view as a dict of JSON values."""
        return asdict(self)


def draw(
    plan: RampPlan, decision: Decision | None, *, phase: Phase, needed: int, given: Sequence[str], actor: str
) -> View:
    """The panel of a plan before anything was pressed."""
    rules = sorted(decision.rules, key=lambda rule: _FIRST.index(rule.outcome)) if decision else []
    pushable = phase != "nothing"
    return View(
        phase=phase,
        plan=plan.id,
        experiment=plan.experiment,
        flag=plan.ref.flag,
        environment=plan.ref.environment,
        action=title(plan, decision),
        danger=plan.verb == "roll_back",
        bars=(bar("now", plan.before), bar("after", plan.after)) if plan.changes else (bar("now", plan.before),),
        reasons=_short(decision.reasons if decision else (plan.reason,)),
        notes=_short(decision.notes if decision else ()),
        rules=tuple(_rule(rule) for rule in rules[:MOST_RULES]),
        more_rules=max(0, len(rules) - MOST_RULES),
        approvals=approvals(plan, needed, given) if pushable else "",
        button=button(plan) if pushable else "",
        question=question(plan) if pushable else "",
        confirm=f"Yes, {_VERBS[plan.verb]}" if pushable else "",
        small=_small(plan, decision, actor),
        message="" if pushable else f"Nothing to push: the flag stays as it is, {plan.before}.",
    )


def title(plan: RampPlan, decision: Decision | None) -> str:
    """The action in words; the plan's own verb where it does something else than the decision proposes."""
    if decision and plan.verb == decision.action:
        return TITLES[decision.action]
    verb = _VERBS[plan.verb]
    return f"{verb[0].upper()}{verb[1:]}"


def bar(label: str, exposure: Exposure) -> Bar:
    """A rung as it is drawn; a shipped variant reaches everybody."""
    return Bar(label, 100.0 if exposure.serve else exposure.enrolled, exposure.treated, str(exposure))


def button(plan: RampPlan) -> str:
    """What a press does, exactly."""
    before, after = plan.before, plan.after
    reach = "everybody" if before.serve else f"{before.enrolled:g} %"
    held = f", {after.holdback:g} % stay on {after.control}" if after.holdback else ""
    match plan.verb:
        case "roll_back":
            return f"Roll back: close the gate ({reach} → 0 %)"
        case "start" | "ramp_up" | "ramp_down":
            return f"{title(plan, None)}: {reach} → {after.enrolled:g} % enrolled"
        case "drop":
            return (
                f"Drop {', '.join(set(after.dropped) - set(before.dropped))}: the others stay at {after.enrolled:g} %"
            )
        case "ship":
            return f"Ship {after.serve} to everybody{held}"
        case "conclude_flat":
            return f"Conclude: everybody gets {after.serve}{held}"
        case _:
            return f"{title(plan, None)}: {after}"


def question(plan: RampPlan) -> str:
    """What is asked back after the first press."""
    return f"Really {_VERBS[plan.verb]} {plan.ref.flag} in {plan.ref.environment}? The treated share of all eligible units goes from {plan.before.treated:.4g} % to {plan.after.treated:.4g} %."


def approvals(plan: RampPlan, needed: int, given: Sequence[str]) -> str:
    """Who has agreed, and who is missing."""
    names = sorted(set(given))
    who = f" ({', '.join(names)})" if names else ""
    if needed == 0:
        return (
            "No approval needed."
            if plan.raises_treated
            else "No approval needed: this does not raise the treated share."
        )
    missing = f"; {needed - len(names)} missing. Somebody else has to approve it" if len(names) < needed else ""
    return f"{needed} approval{'s' if needed > 1 else ''} needed, {len(names)} given{who}{missing}."


def receipt_bars(receipt: ReceiptLike) -> tuple[Bar, ...]:
    """The rungs before and after a push, as they were read from the backend."""
    before = (bar("before", receipt.before.exposure),) if receipt.before else ()
    return (*before, bar("now", receipt.after.exposure))


def receipt_rows(receipt: ReceiptLike) -> tuple[tuple[str, str], ...]:
    """A receipt in words, with both states as they were read from the backend."""
    rows = (
        ("before", "unknown" if receipt.before is None else _state(receipt.before)),
        ("after, as read back", _state(receipt.after)),
        ("pushed at", f"{receipt.applied_at:%Y-%m-%d %H:%M:%S} UTC"),
        ("flag version", receipt.after.version),
        ("backend", receipt.backend),
        ("note", receipt.note),
    )
    return tuple((name, value) for name, value in rows if value)


def _state(state: FlagState) -> str:
    return str(state.exposure) if state.enabled else f"disabled ({state.exposure})"


def _rule(rule: Rule) -> tuple[str, str, str, str]:
    asked = " · ".join(part for part in (rule.name, rule.metric, rule.variant) if part)
    return MARKS[rule.outcome], rule.outcome, asked, _cut(rule.sentence)


def _small(plan: RampPlan, decision: Decision | None, actor: str) -> tuple[str, ...]:
    """What stands in small print: who is trusted with what, and what plan and decision rest on."""
    evidence = (f"{decision.footer[0].upper()}{decision.footer[1:]}.",) if decision else ()
    trust = f"Acting as {actor}. Roles and approvals are checked in your kernel: unenforced; they prevent mistakes, not intent."
    return (
        *evidence,
        trust,
        f"Plan {plan.id[:12]} on flag version {plan.base_version}, valid until {plan.expires_at:%Y-%m-%d %H:%M} UTC.",
    )


def _short(sentences: Sequence[str]) -> tuple[str, ...]:
    return tuple(_cut(sentence) for sentence in sentences[:MOST_RULES])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
