"""Every error of a push names its entry of the runbook, and the runbook has no entry that nothing leads to."""

import ast
import inspect
import re
from pathlib import Path

import expnb
from expnb import errors

RUNBOOK = Path(__file__).parents[1] / "docs" / "runbook.md"
SERVER_ERROR = "FlagServerError"


def entries():
    return set(re.findall(r"^## (\S+)$", RUNBOOK.read_text(), re.MULTILINE))


def named_by_classes():
    return {cls.runbook for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.PushError)}


def named_by_calls():
    """The third argument of every `FlagServerError` in the code, which is a plain text."""
    for path in Path(expnb.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == SERVER_ERROR:
                assert isinstance(node.args[2], ast.Constant), f"{path}:{node.lineno}"
                yield node.args[2].value


def test_every_entry_that_an_error_names_is_there_and_no_other():
    assert named_by_classes() | set(named_by_calls()) == entries()


def test_an_error_of_a_push_ends_with_its_entry():
    assert str(errors.ApprovalError("somebody else has to agree.")).endswith("agree. Runbook: approvals.")
    assert errors.ApprovalError("somebody else has to agree.").sentence == "somebody else has to agree."
