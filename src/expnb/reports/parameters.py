"""Parameters of a template: known, typed, and never a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from expnb.errors import ParameterError, ReportError, nearest

Parameter = str | int | float | bool
SECRET_NAME = re.compile(r"token|secret|password|passwd|credential|api_?key|(^|_)key$", re.IGNORECASE)
SHORTEST_SECRET = 8


def check_parameters(given: Mapping[str, Parameter], known: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """`given` over the defaults in `known`.

    Parameters
    ----------
    given : mapping
        What the caller asks for.
    known : mapping
        Parameters of the template with their defaults; a value has the type of its default.

    Raises
    ------
    ParameterError
        For an unknown name, a value of another type, or a name that looks like a secret: parameters are written into the report.
    """
    for name, value in given.items():
        if SECRET_NAME.search(name):
            raise ParameterError(
                f"parameter {name!r} looks like a secret; parameters are written into the notebook for everybody to read. Put it into an environment variable and name that variable in expnb.toml."
            )
        if name not in known:
            raise ParameterError(
                f"the notebook has no parameter {name!r}; it has {', '.join(known)}.{nearest(name, known)}"
            )
        default = known[name]
        fits = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
        if not fits:
            raise ParameterError(
                f"parameter {name!r} is {value!r} ({type(value).__name__}); it should be {type(default).__name__}, such as {default!r}."
            )
    return dict(known) | dict(given)


def refuse_secrets(notebook: Path) -> None:
    """Delete a saved notebook that holds the value of an environment variable whose name looks like a secret.

    Raises
    ------
    ReportError
        Naming the variable, never its value.
    """
    text = notebook.read_text(encoding="utf-8")
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= SHORTEST_SECRET and value in text:
            notebook.unlink()
            raise ReportError(
                f"the report would have held the value of the environment variable {name}; it was deleted. Do not print secrets in a notebook."
            )
