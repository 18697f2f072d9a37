"""Draws by nutpie, from a model that is compiled once per shape, and whether they can be trusted."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeAlias

from expnb.errors import EngineError
from expnb.models import arviz_bridge
from expnb.models.environment import prepare
from expnb.models.sampling import Sampling
from expnb.posterior.arms import FloatArray

if TYPE_CHECKING:
    import pymc as pm

Shape: TypeAlias = tuple[str | int, ...]

MOST_RHAT = 1.01
LEAST_ESS = 400
TARGET_ACCEPT, CAREFUL_ACCEPT = 0.9, 0.95


class Compiled(Protocol):
    """A model that nutpie has compiled."""

    def with_data(self, **updates: FloatArray) -> Compiled:
        """The same model with other numbers; compiles nothing."""


_compiled: dict[Shape, Compiled] = {}
_compiling = Lock()


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """How well a run went, over everything that is reported.

    Parameters
    ----------
    rhat : float
        The largest; 1 when all chains agree [1]_.
    ess_bulk, ess_tail : float
        The smallest effective sample sizes.
    divergences : int
    tune : int
        Tuning draws per chain of this run.
    target_accept : float

    References
    ----------
    .. [1] Vehtari et al. (2021), Rank-normalization, folding, and localization: An improved R-hat.
    """

    rhat: float
    ess_bulk: float
    ess_tail: float
    divergences: int
    tune: int
    target_accept: float

    @property
    def problems(self) -> tuple[str, ...]:
        """What forbids to state a probability; empty when nothing does. A figure that does not exist forbids it too."""
        found = {
            f"r-hat {self.rhat:.3f} (at most {MOST_RHAT})": self.rhat <= MOST_RHAT,
            f"bulk ESS {self.ess_bulk:,.0f} (at least {LEAST_ESS})": self.ess_bulk >= LEAST_ESS,
            f"tail ESS {self.ess_tail:,.0f} (at least {LEAST_ESS})": self.ess_tail >= LEAST_ESS,
            f"{self.divergences:,} divergent transitions (none is tolerated)": self.divergences == 0,
        }
        return tuple(text for text, fine in found.items() if not fine)


@dataclass(frozen=True, slots=True)
class Draws:
    """What nutpie gave back, and how well it went."""

    raw: arviz_bridge.Container
    diagnostics: Diagnostics


def draw(
    shape: Shape,
    model: Callable[[], pm.Model],
    numbers: Mapping[str, FloatArray],
    monitored: Mapping[str, int],
    *,
    seed: int,
    sampling: Sampling,
    about: str,
) -> Draws:
    """Draws that passed the diagnostics, at the first attempt or at a second, more careful one.

    Parameters
    ----------
    shape : tuple
        Names everything that is compiled in; models of one shape differ in `numbers` only.
    model : callable
        Makes a model of this shape; called once per shape and process.
    numbers : mapping of str to ndarray
        By the name of their `pm.Data`.
    monitored : mapping of str to int
        Variables that are diagnosed, with their length.
    about : str
        What is sampled, for the message.

    Raises
    ------
    EngineError
        If the second attempt fails the diagnostics too; no probability is stated then.
    """
    prepare()
    import nutpie  # noqa: PLC0415 - seconds, only when a model is sampled

    ready = compiled(shape, model).with_data(**numbers)
    for tune, accept in ((sampling.tune, TARGET_ACCEPT), (2 * sampling.tune, CAREFUL_ACCEPT)):
        raw = nutpie.sample(
            ready,
            draws=sampling.draws,
            tune=tune,
            chains=sampling.chains,
            seed=seed,
            target_accept=accept,
            save_warmup=False,
            progress_bar=sampling.progress and os.environ.get("EXPNB_STATIC") != "1",
        )
        diagnostics = _diagnose(raw, monitored, tune, accept)
        if not diagnostics.problems:
            return Draws(raw, diagnostics)
    raise EngineError(
        f"{about}: the sampler did not converge, even with tune = {2 * sampling.tune:,} and target_accept = {CAREFUL_ACCEPT}: {', '.join(diagnostics.problems)}. No probability is stated. "
        f"Use engine='exact', which does not sample, or ask for longer chains: sampling=Sampling(draws={max(4 * sampling.draws, 1000)}, tune={max(4 * sampling.tune, 1000)})."
    )


def compiled(shape: Shape, model: Callable[[], pm.Model]) -> Compiled:
    """The compiled model of a shape; compiled at the first call in this process, kept afterwards."""
    prepare()
    import nutpie  # noqa: PLC0415

    with _compiling:
        if shape not in _compiled:
            _compiled[shape] = nutpie.compile_pymc_model(model())
        return _compiled[shape]


def compiled_shapes() -> tuple[Shape, ...]:
    """Shapes that this process has compiled."""
    return tuple(_compiled)


def _diagnose(raw: arviz_bridge.Container, monitored: Mapping[str, int], tune: int, accept: float) -> Diagnostics:
    series = list(_series(raw, monitored))
    return Diagnostics(
        rhat=_worst(max, [arviz_bridge.rhat(values) for values in series]),
        ess_bulk=_worst(min, [arviz_bridge.ess(values, "bulk") for values in series]),
        ess_tail=_worst(min, [arviz_bridge.ess(values, "tail") for values in series]),
        divergences=arviz_bridge.divergences(raw),
        tune=tune,
        target_accept=accept,
    )


def _series(raw: arviz_bridge.Container, monitored: Mapping[str, int]) -> Iterator[FloatArray]:
    for name, length in monitored.items():
        values = arviz_bridge.draws(raw, name)
        yield from (values[..., column] for column in range(length))


def _worst(choose: Callable[[list[float]], float], values: list[float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else choose(values)
