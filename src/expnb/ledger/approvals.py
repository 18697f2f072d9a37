"""Who may do what, and who has to agree first.

A notebook kernel belongs to the person who runs it: checked there, these rules prevent mistakes, not intent.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from expnb.decisions.decision import Decision
from expnb.decisions.plan import RampPlan
from expnb.errors import ApprovalError
from expnb.ledger.recorded import recorded
from expnb.spec.workspace_file import ApprovalRule

if TYPE_CHECKING:  # a kill asks for roles, and does not wait for a database's driver
    from expnb.ledger.ledger import Entry, EntryKind

# Which roles may do what; an environment without roles lets everybody do everything.
ROLES: Mapping[str, tuple[str, ...]] = {
    "register": ("analyst", "operator"),
    "create": ("analyst", "operator"),
    "forget": ("analyst", "operator"),
    "apply": ("analyst", "operator"),
    "request": ("analyst", "operator"),
    "comment": ("analyst", "approver", "operator"),
    "approve": ("approver",),
    "decline": ("approver",),
    "kill": ("analyst", "approver", "operator"),
}
ANONYMOUS = ("", "anonymous", "nobody")


def check_role(act: str, actor: str, roles: Mapping[str, Sequence[str]], environment: str) -> None:
    """Raise `ApprovalError` unless `actor` has a role that may do `act`; ``"*"`` in a role is everybody."""
    allowed = {who for role in ROLES[act] for who in roles.get(role, ())}
    if roles and actor not in allowed and "*" not in allowed:
        raise ApprovalError(
            f"{actor!r} may not {act} in {environment}; that needs one of the roles {', '.join(ROLES[act])}. "
            f"Ask {', '.join(sorted(allowed)) or 'the owner of expnb.toml'}."
        )


def applying(plan: RampPlan, rules: Iterable[ApprovalRule]) -> list[ApprovalRule]:
    """The rules that hold for a plan; lowering exposure never needs anybody."""
    if not plan.raises_treated:
        return []
    # By what is done, not by what the plan calls itself; to restore what was shipped is to ship it again.
    verb = "ship" if plan.after.serve else plan.verb if plan.verb in {"start", "restore"} else "ramp_up"
    return [
        rule
        for rule in rules
        if rule.verb == verb or (rule.above_treated is not None and plan.after.treated > rule.above_treated)
    ]


def approvals_needed(plan: RampPlan, rules: Sequence[ApprovalRule]) -> int:
    """How many others must agree to a plan."""
    return max((rule.need for rule in applying(plan, rules)), default=0)


def approvers(entries: Iterable[Entry], plan: RampPlan) -> list[str]:
    """Who has agreed to exactly this plan, each once."""
    return _actors(entries, "approval", plan)


def check_approvals(
    entries: Sequence[Entry], plan: RampPlan, rules: Sequence[ApprovalRule], roles: Mapping[str, Sequence[str]]
) -> None:
    """Raise `ApprovalError` unless enough others, who may still approve, have agreed to exactly this plan, and nobody declined it or the same change under another name."""
    check_declined(entries, plan)
    may = {same_person(who) for who in roles.get("approver", ())}
    authors = _actors(entries, "request", plan)
    agreed = [who for who in approvers(entries, plan) if who not in authors and (not roles or {who, "*"} & may)]
    needed, given = approvals_needed(plan, rules), len(agreed)
    if given < needed:
        flag = {"restore": " --restore", "start": " --start"}.get(plan.verb, "")
        asked = f"Request it, and let somebody else approve: `expnb request {plan.experiment}{flag}`."
        raise ApprovalError(
            f"{plan.after.treated:.4g} % treated in {plan.ref.environment} needs {needed} "
            f"approval{'s' if needed > 1 else ''}, {given} given. Nothing was pushed. "
            f"{f'It waits for somebody else: `expnb approve {plan.experiment}`.' if authors else asked}"
        )


def check_declined(entries: Sequence[Entry], plan: RampPlan) -> None:
    """Raise `ApprovalError` if somebody declined this change."""
    declined = _decliners(entries, plan)
    if declined:
        raise ApprovalError(
            f"{', '.join(declined)} declined this change for {plan.experiment!r} ({plan.after}). Nothing was pushed. Talk to them; on newer data, decide and request anew: `expnb request {plan.experiment}`."
        )


def _decliners(entries: Sequence[Entry], plan: RampPlan) -> list[str]:
    """Who declined this change, also as a plan that was made at another time or gave other reasons."""
    declined = {
        entry.body["plan_id"]: same_person(str(entry.body["actor"])) for entry in entries if entry.kind == "declined"
    }
    asked = [entry for entry in entries if entry.kind == "request" and entry.body["plan_id"] in declined]
    same = [
        entry.body["plan_id"] for entry in asked if _change(recorded(RampPlan, entry.body["plan"])) == _change(plan)
    ]
    return list(dict.fromkeys(declined[one] for one in same))


def _change(plan: RampPlan) -> tuple[object, ...]:
    return plan.base_version, plan.before, plan.after, plan.evidence_hash


def check_requires(plan: RampPlan, rules: Sequence[ApprovalRule], decision: Decision | None) -> None:
    """Raise `ApprovalError` unless what the environment requires of such a plan is met in the decision of now."""
    for required in dict.fromkeys(name for rule in applying(plan, rules) for name in rule.requires):
        served = ("", plan.after.serve) if plan.after.serve else plan.after.arms
        asked = (
            [rule for rule in decision.rules if rule.name == required and rule.variant in {"", *served}]
            if decision
            else []
        )
        failing = [rule.sentence for rule in asked if rule.outcome != "met"]
        if failing or not asked:
            why = " ".join(failing) or "No decision of now says so."
            raise ApprovalError(
                f"{plan.ref.environment} asks that the rule {required!r} is met before this plan ({plan.verb}, {plan.after}). {why} Nothing was pushed. Decide again on data that show it."
            )


def check_approver(entries: Sequence[Entry], plan: RampPlan, actor: str) -> None:
    """Raise `ApprovalError` unless somebody else requested the plan and `actor` is a named person."""
    authors = _actors(entries, "request", plan)
    if not authors:
        raise ApprovalError(
            f"nobody requested the plan {plan.id[:12]}; an approval answers a request. Ask its author to request it."
        )
    if same_person(actor) in ANONYMOUS:
        raise ApprovalError("an anonymous identity cannot approve. Open the workspace under your own name.")
    if same_person(actor) in authors:
        raise ApprovalError(f"{actor!r} requested this plan; somebody else has to approve it.")


def _actors(entries: Iterable[Entry], kind: EntryKind, plan: RampPlan) -> list[str]:
    """Who answered a plan in one way, among the entries about its flag; each once."""
    answers = [entry for entry in entries if entry.kind == kind and entry.body["plan_id"] == plan.id]
    return list(dict.fromkeys(same_person(str(entry.body["actor"])) for entry in answers))


def same_person(actor: str) -> str:
    """A name without the differences that do not make another person: case, spaces, how a letter is put together, and what cannot be seen."""
    plain = unicodedata.normalize("NFKC", actor)
    seen = "".join(
        " " if letter.isspace() else letter
        for letter in plain
        if letter.isspace() or (unicodedata.category(letter)[0] != "C" and letter not in _UNSEEN)
    )
    return " ".join(unicodedata.normalize("NFKC", seen.casefold()).split())


# Signs without a picture that Unicode does not count among the control and format signs.
_UNSEEN = frozenset(
    [chr(0x034F), chr(0x115F), chr(0x1160), chr(0x17B4), chr(0x17B5), chr(0x2800), chr(0x3164), chr(0xFFA0)]
    + [chr(code) for block in (range(0x180B, 0x1810), range(0xFE00, 0xFE10), range(0xE0100, 0xE01F0)) for code in block]
)
