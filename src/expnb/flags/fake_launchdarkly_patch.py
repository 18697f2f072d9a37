"""How a LaunchDarkly flag is changed: JSON Patch and semantic patch, as documented, for the fake server."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Final

Object = dict[str, Any]
WEIGHTS: Final = 100_000  # a rollout adds up to this, in thousandths of a percent
_FIXED: Final = ("key", "kind", "version", "creationDate", "salt", "sel", "lastModified")


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """An answer with an error status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


# --- JSON Patch -------------------------------------------------------------------------------


def patched(flag: Object, operations: Sequence[Object]) -> Object:
    """The flag after a JSON Patch: all of it or nothing."""
    changed = deepcopy(flag)
    for operation in operations:
        path = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        if path == ["version"]:  # as in the vendor's example
            path = ["_version"]
        _operate(changed, operation["op"], path, operation.get("value"))
    check_flag(changed)
    return changed


def _operate(flag: Object, verb: str, path: list[str], value: Any) -> None:  # noqa: ANN401
    parent: Any = flag
    try:
        for part in path[:-1]:
            parent = parent[int(part)] if isinstance(parent, list) else parent[part]
        last: Any = path[-1]
        if isinstance(parent, list):
            last = len(parent) if last == "-" else int(last)
        if verb == "test":
            if parent[last] != value:
                raise Refused(409, "conflict", f"Testing path /{'/'.join(path)} value failed")
            return
        if str(path[-1]).startswith("_") or path[-1] in _FIXED:
            raise Refused(400, "invalid_request", f"/{'/'.join(path)} is not editable")
        _set(parent, verb, last, value)
    except (KeyError, IndexError, ValueError, TypeError):
        raise Refused(400, "invalid_request", f"no value at /{'/'.join(path)}") from None


def _set(parent: Any, verb: str, last: Any, value: Any) -> None:  # noqa: ANN401
    if verb == "add" and isinstance(parent, list):
        parent.insert(last, value)
    elif verb == "add":
        parent[last] = value
    elif verb == "replace":
        if isinstance(parent, dict) and last not in parent:  # RFC 6902: the target must exist
            raise KeyError(last)
        parent[last] = value
    elif verb == "remove":
        del parent[last]
    else:
        raise Refused(400, "invalid_request", f"unknown operation {verb}")


def check_flag(flag: Object) -> None:
    """Give identifiers to new rules, and refuse what cannot be served."""
    count = len(flag["variations"])
    for config in flag["environments"].values():
        for number, rule in enumerate(config["rules"]):
            rule.setdefault("_id", secrets.token_hex(12))
            for clause in rule["clauses"]:
                clause.setdefault("_id", secrets.token_hex(12))
            _check_serving(rule, count, f"rule {number}")
        _check_serving(config["fallthrough"], count, "fallthrough")
        if not 0 <= config["offVariation"] < count:
            raise Refused(400, "invalid_request", "offVariation is no variation")


def _check_serving(serving: Object, count: int, where: str) -> None:
    if ("variation" in serving) == ("rollout" in serving):
        raise Refused(400, "invalid_request", f"{where} needs a variation or a rollout")
    parts = (
        serving["rollout"]["variations"]
        if "rollout" in serving
        else [{"variation": serving["variation"], "weight": WEIGHTS}]
    )
    if any(not 0 <= part["variation"] < count or part["weight"] < 0 for part in parts):
        raise Refused(400, "invalid_request", f"{where} names no variation of the flag")
    if sum(part["weight"] for part in parts) != WEIGHTS:
        raise Refused(400, "invalid_request", f"weights of {where} do not add up to {WEIGHTS}")


# --- semantic patch ---------------------------------------------------------------------------


def instructed(flag: Object, environment: str | None, instructions: Sequence[Object]) -> Object:
    """The flag after all instructions; none is carried out when one is invalid."""
    changed = deepcopy(flag)
    if environment not in changed["environments"]:
        raise Refused(400, "invalid_request", "environmentKey is required")
    config = changed["environments"][environment]
    for instruction in instructions:
        if instruction.get("kind") not in _INSTRUCTIONS:
            raise Refused(400, "invalid_request", f"unknown instruction {instruction.get('kind')!r}")
        try:
            _INSTRUCTIONS[instruction["kind"]](changed, config, instruction)
        except (KeyError, StopIteration):
            raise Refused(400, "invalid_request", f"invalid instruction {instruction['kind']}") from None
    check_flag(changed)
    return changed


def _variation(flag: Object, identifier: str) -> int:
    return (
        [variation["_id"] for variation in flag["variations"]].index(identifier)
        if identifier in {v["_id"] for v in flag["variations"]}
        else _unknown(identifier)
    )


def _unknown(identifier: str) -> int:
    raise Refused(400, "invalid_request", f"unknown variation {identifier}")


def _serve(flag: Object, instruction: Object) -> Object:
    if "variationId" in instruction:
        return {"variation": _variation(flag, instruction["variationId"])}
    weights = {_variation(flag, identifier): weight for identifier, weight in instruction["rolloutWeights"].items()}
    parts = [{"variation": number, "weight": weights[number]} for number in sorted(weights)]
    return {"rollout": {"variations": parts, "contextKind": instruction.get("rolloutContextKind", "user")}}


def _update_fallthrough(flag: Object, config: Object, instruction: Object) -> None:
    config["fallthrough"] = _serve(flag, instruction)


def _update_rule(flag: Object, config: Object, instruction: Object) -> None:
    rule = next(rule for rule in config["rules"] if rule["_id"] == instruction["ruleId"])
    rule.pop("variation", None)
    rule.pop("rollout", None)
    rule.update(_serve(flag, instruction))


def _add_rule(flag: Object, config: Object, instruction: Object) -> None:
    config["rules"].append({"clauses": deepcopy(instruction["clauses"]), **_serve(flag, instruction)})


def _remove_rule(_: Object, config: Object, instruction: Object) -> None:
    config["rules"] = [rule for rule in config["rules"] if rule["_id"] != instruction["ruleId"]]


def _add_targets(flag: Object, config: Object, instruction: Object) -> None:
    number = _variation(flag, instruction["variationId"])
    config["targets"].append({"contextKind": "user", "variation": number, "values": list(instruction["values"])})


def _update_off(flag: Object, config: Object, instruction: Object) -> None:
    config["offVariation"] = _variation(flag, instruction["variationId"])


_INSTRUCTIONS: Final[dict[str, Callable[[Object, Object, Object], None]]] = {
    "turnFlagOn": lambda _, config, __: config.update(on=True),
    "turnFlagOff": lambda _, config, __: config.update(on=False),
    "updateFallthroughVariationOrRollout": _update_fallthrough,
    "updateRuleVariationOrRollout": _update_rule,
    "addRule": _add_rule,
    "removeRule": _remove_rule,
    "addTargets": _add_targets,
    "updateOffVariation": _update_off,
}
