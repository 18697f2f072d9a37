"""Errors: one hierarchy, a matching built-in, facts that survive pickling."""

import inspect
import pickle

import pytest

from expnb import errors

CLASSES = [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, errors.ExpnbError)]
BUILTINS = (ValueError, LookupError, OSError, TypeError, RuntimeError, PermissionError)
SAMPLES = {str: "x", int: 3, float: 3.5}


def sample(cls):
    """An instance with an argument of the right kind for each parameter."""
    if not inspect.isfunction(cls.__init__):  # the built-in one, which takes the sentence
        return cls("a sentence.")
    hints = inspect.signature(cls.__init__, eval_str=True).parameters
    return cls(*(SAMPLES.get(parameter.annotation, ["a", "b"]) for parameter in list(hints.values())[1:]))


@pytest.mark.parametrize(
    "cls", [cls for cls in CLASSES if cls not in (errors.ExpnbError, errors.PushError)], ids=lambda cls: cls.__name__
)
def test_every_error_is_also_a_builtin(cls):
    assert issubclass(cls, BUILTINS)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_survives_pickling_with_its_sentence_and_facts(cls):
    error = sample(cls)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("conv", ("conversion", "count"), " Did you mean 'conversion'?"),
        ("visit", ("visits", "visit_seconds"), " Did you mean 'visits'?"),
        ("Retent", ("retained", "retention"), " Did you mean 'retention'?"),
        ("cuont", ("conversion", "count"), " Did you mean 'count'?"),
        ("xyz", ("conversion", "count"), ""),
    ],
)
def test_a_name_that_begins_as_written_is_meant_before_one_that_looks_alike(name, known, hint):
    assert errors.nearest(name, known) == hint
