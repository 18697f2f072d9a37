"""The one module that knows how ArviZ 0.23 and ArviZ 1 differ: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from expnb.models.environment import prepare
from expnb.posterior.exact.arms import FloatArray


class Container(Protocol):
    """What the InferenceData of ArviZ 0.23 and the DataTree of ArviZ 1 have in common."""

    @property
    def posterior(self) -> Mapping[str, npt.ArrayLike]:
        """Draws by variable, shape (chain, draw, …)."""

    @property
    def sample_stats(self) -> Mapping[str, npt.ArrayLike]:
        """The sampler's own figures, shape (chain, draw)."""


def draws(container: Container, name: str) -> FloatArray:
    """Draws of one variable, shape (chain, draw, …)."""
    return np.asarray(container.posterior[name], dtype=np.float64)


def names(container: Container) -> tuple[str, ...]:
    """Variables that have draws."""
    posterior: Any = container.posterior
    return tuple(str(name) for name in posterior.data_vars)


def size(container: Container) -> int:
    """Draws that are there, over all chains: while a run goes on, chains differ in length and are filled up with NaN."""
    posterior: Any = container.posterior
    values = np.asarray(posterior[next(iter(posterior.data_vars))], dtype=np.float64)
    return int(np.isfinite(values).all(axis=tuple(range(2, values.ndim))).sum())


def divergences(container: Container) -> int:
    """Transitions that went wrong after tuning."""
    return int(np.asarray(container.sample_stats["diverging"]).sum())


def rhat(values: FloatArray) -> float:
    """Rank-normalised split r-hat of draws of shape (chain, draw) [1]_; NaN where it does not exist.

    References
    ----------
    .. [1] Vehtari et al. (2021), Rank-normalization, folding, and localization: An improved R-hat.
    """
    return float(_arviz().rhat(values))


def ess(values: FloatArray, method: Literal["bulk", "tail", "mean"]) -> float:
    """Effective sample size of draws of shape (chain, draw), as in `rhat`."""
    # ArviZ 0.23 has these ends of the tail as its default, ArviZ 1 has none.
    ends = {"prob": (0.05, 0.95)} if method == "tail" else {}
    return float(_arviz().ess(values, method=method, **ends))


def labelled(container: Container, coords: Mapping[str, Sequence[str]], attrs: Mapping[str, str | int]) -> Container:
    """A copy whose posterior carries these coordinate labels and attributes."""
    whole: Any = container
    labels = {name: list(values) for name, values in coords.items()}  # a tuple means something else to xarray
    if callable(whole.groups):  # ArviZ 0.23; a property of the DataTree
        copy = whole.assign_coords(labels, groups="posterior")
        copy.posterior.attrs.update(attrs)
    else:
        copy = whole.copy()
        copy["posterior"] = type(whole)(whole["posterior"].to_dataset().assign_coords(labels).assign_attrs(dict(attrs)))
    labelled_copy: Container = copy
    return labelled_copy


def versions() -> dict[str, str]:
    """Versions of everything that a sampled figure depends on."""
    return {name: version(name) for name in ("numpy", "pymc", "nutpie", "arviz")}


def _arviz() -> Any:  # noqa: ANN401 - its functions carry no types in 0.23
    prepare()
    return import_module("arviz")
