"""The PyMC engine: models of what the exact engine states, sampled by nutpie.

`build` hands out a model to read and to extend, `sample` draws from it, `fit.fit` states effects. PyMC is imported at
the first model, not with this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from expnb.models.run import build, sample
    from expnb.models.sampling import Sampling

__all__ = ["Sampling", "build", "sample"]

_HOMES = {"Sampling": "expnb.models.sampling", "build": "expnb.models.run", "sample": "expnb.models.run"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
