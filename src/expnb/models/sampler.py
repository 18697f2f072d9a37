"""Draws by nutpie, from a model that is compiled once per shape, and whether they can be trusted."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Protocol, TypeAlias

from expnb.errors import EngineError, ExpnbError
from expnb.models import arviz_bridge, progress
from expnb.models.belief import Data
from expnb.models.environment import prepare
from expnb.models.sampling import Sampling
from expnb.posterior.exact.arms import FloatArray

if TYPE_CHECKING:
    import pymc as pm

Shape: TypeAlias = tuple[str | int, ...]

MOST_RHAT = 1.01
LEAST_ESS = 400
TARGET_ACCEPT, CAREFUL_ACCEPT = 0.9, 0.99
_POLL_SECONDS = 0.005


class Compiled(Protocol):
    """A model that nutpie has compiled."""

    def with_data(self, **updates: object) -> Compiled:
        """The same model with other numbers; compiles nothing."""


class Handle(Protocol):
    """A run of nutpie in the background."""

    @property
    def is_finished(self) -> bool:
        """Whether all draws are there; older nutpies raise TimeoutError where they are not."""

    def inspect(self) -> arviz_bridge.Container:
        """The draws so far."""

    def wait(self) -> arviz_bridge.Container:
        """All draws."""

    def cancel(self) -> None:
        """Stop, and forget the draws."""


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
    numbers: Data,
    monitored: Sequence[str],
    *,
    seed: int,
    sampling: Sampling,
    about: str,
) -> Draws:
    """Draws that passed the diagnostics, at the first attempt or at a second, more careful one.

    An interrupt stops the sampler's threads and goes on to the caller.

    Parameters
    ----------
    shape : tuple
        Names everything that is compiled in; models of one shape differ in `numbers` only.
    model : callable
        Makes a model of this shape; called once per shape and process.
    numbers : mapping of str to ndarray
        By the name of their `pm.Data`.
    monitored : sequence of str
        Variables that are diagnosed.
    about : str
        What is sampled, for the message.

    Raises
    ------
    EngineError
        If the model cannot be compiled, or the second attempt fails the diagnostics too; no probability is stated then.
    """
    ready = compiled(shape, model, about=about, sampling=sampling).with_data(**numbers)
    for tune, accept in ((sampling.tune, TARGET_ACCEPT), (2 * sampling.tune, CAREFUL_ACCEPT)):
        raw = _run(ready, sampling, tune, accept, seed, about)
        diagnostics = _diagnose(raw, monitored, tune, accept)
        if not diagnostics.problems:
            return Draws(raw, diagnostics)
    raise EngineError(
        f"{about}: the sampler did not converge, even with tune = {2 * sampling.tune:,} and target_accept = {CAREFUL_ACCEPT}: {', '.join(diagnostics.problems)}. No probability is stated. "
        f"Use engine='exact', which does not sample, or ask for longer chains: sampling=Sampling(draws={max(4 * sampling.draws, 1000)}, tune={max(4 * sampling.tune, 1000)})."
    )


def _run(
    ready: Compiled, sampling: Sampling, tune: int, accept: float, seed: int, about: str
) -> arviz_bridge.Container:
    import nutpie  # noqa: PLC0415 - seconds, only when a model is sampled

    handle: Handle = nutpie.sample(
        ready,
        draws=sampling.draws,
        tune=tune,
        chains=sampling.chains,
        seed=seed,
        target_accept=accept,
        save_warmup=False,
        progress_bar=False,
        blocking=False,
    )
    total = sampling.chains * sampling.draws
    try:
        with progress.bar(f"sampling {about}", total, lambda: _done(handle), wanted=sampling.progress) as show:
            while not _is_finished(handle):
                time.sleep(_POLL_SECONDS)
                show()
        return handle.wait()
    except BaseException:
        handle.cancel()
        raise


def _is_finished(handle: Handle) -> bool:
    try:
        return handle.is_finished
    except TimeoutError:
        return False


def _done(handle: Handle) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about chains that have no draws yet
        return arviz_bridge.size(handle.inspect())


def compiled(
    shape: Shape, model: Callable[[], pm.Model], *, about: str = "", sampling: Sampling | None = None
) -> Compiled:
    """The compiled model of a shape; compiled at the first call in this process, kept afterwards.

    Raises
    ------
    EngineError
        If that fails, as it does where PyTensor finds a compiler that does not work.
    """
    with _compiling:
        if shape not in _compiled:
            wanted = sampling is not None and sampling.progress
            with progress.line(f"compiling the {shape[0]} model, once per process", wanted=wanted):
                _compiled[shape] = _compile(model, about)
        return _compiled[shape]


def _compile(model: Callable[[], pm.Model], about: str) -> Compiled:
    try:
        prepare()
        import nutpie  # noqa: PLC0415

        made: Compiled = nutpie.compile_pymc_model(model())
    except ExpnbError:
        raise
    except Exception as problem:
        first = next(iter(str(problem).strip().splitlines()), "no message")
        raise EngineError(
            f"{about or 'the model'}: PyMC could not compile it ({type(problem).__name__}: {first:.200}). Use engine='exact', which compiles nothing, or repair the C++ compiler that PyTensor uses (g++; `python -c 'import pytensor; print(pytensor.config.cxx)'` says which)."
        ) from problem
    return made


def compiled_shapes() -> tuple[Shape, ...]:
    """Shapes that this process has compiled."""
    return tuple(_compiled)


def _diagnose(raw: arviz_bridge.Container, monitored: Sequence[str], tune: int, accept: float) -> Diagnostics:
    series = list(_series(raw, monitored))
    return Diagnostics(
        rhat=_worst(max, [arviz_bridge.rhat(values) for values in series]),
        ess_bulk=_worst(min, [arviz_bridge.ess(values, "bulk") for values in series]),
        ess_tail=_worst(min, [arviz_bridge.ess(values, "tail") for values in series]),
        divergences=arviz_bridge.divergences(raw),
        tune=tune,
        target_accept=accept,
    )


def _series(raw: arviz_bridge.Container, monitored: Sequence[str]) -> Iterator[FloatArray]:
    for name in monitored:
        values = arviz_bridge.draws(raw, name)
        columns = values.reshape(*values.shape[:2], -1)
        yield from (columns[..., column] for column in range(columns.shape[2]))


def _worst(choose: Callable[[list[float]], float], values: list[float]) -> float:
    return math.nan if any(math.isnan(value) for value in values) else choose(values)
