"""Whether installed OpenFeature SDKs put units where the flag says, asked with canary units.

What is asked here is what this environment has. A service has its own SDKs: `expnb doctor` runs there too, and `check_exposures` finds in its log what no check beforehand can.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from expnb.errors import FlagError, RebucketedError
from expnb.flags.base import OFF
from expnb.flags.bucketing import GENERATION, assign_all
from expnb.flags.canaries import UNITS, WIDE_UNITS, canaries, differing, probe, signs
from expnb.flags.flagd_rules import targeting
from expnb.flags.generations import GENERATIONS
from expnb.spec.canonical import Json

PROVIDER: Final = "openfeature-provider-flagd"
_CORE: Final = "openfeature.contrib.tools.flagd.core"
NODE_CORE: Final = "@openfeature/flagd-core"
_ASKED: Final = UNITS + WIDE_UNITS
_DEFAULT: Final = "code default"
_SCRIPT: Final = Path(__file__).with_name("sdk_answers.cjs")
_NODE_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What one SDK answered, by flag."""

    name: str
    version: str
    answers: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class SdkCheck:
    """What one SDK does with the canary units of a flag.

    Parameters
    ----------
    generation : str
        Hash generation that it agrees with on every canary; empty for none.
    differ : int
        Canaries, of 64, that it gives something else than the flag promises.
    wide_differ : int
        The same for 64 units with a letter outside ASCII.
    """

    name: str
    version: str
    generation: str
    differ: int
    wide_differ: int

    @property
    def agrees(self) -> bool:
        """Whether every canary of ASCII text gets what the flag promises."""
        return not self.differ

    def __str__(self) -> str:
        called = f"{self.name} {self.version}"
        if not self.agrees:
            hashes = f"hashes as generation {self.generation}" if self.generation else "hashes as no known generation"
            return f"{called}: {self.differ} of {len(UNITS)} canary units get another variant; it {hashes}"
        if self.wide_differ:
            return f"{called} agrees for units of ASCII text; of {len(WIDE_UNITS)} canary units with other letters {self.wide_differ} get another variant, so let it ask with ASCII units"
        return f"{called} agrees, hash generation {self.generation}"


def python_answers(document: str, flag: str, units: Sequence[str]) -> Answers | None:
    """What the Python SDK answers; None where it is not installed.

    The provider's own evaluator is asked in this process, without its file watcher and the network libraries that it loads; providers before 0.5, which have none, are asked as a whole.
    """
    try:
        installed = version(PROVIDER)
    except PackageNotFoundError:
        return None
    ask = _core_answers if _has_core() else _provider_answers
    return Answers(f"Python {PROVIDER}", installed, {flag: ask(document, flag, units)})


Python = Callable[[str, str, Sequence[str]], Answers | None]  # a flagd file, a flag in it and units -> their variants


def check_sdks(
    flag: str,
    weights: Mapping[str, float],
    control: str,
    *,
    promised: str = "",
    node: Path | None = None,
    python: Python = python_answers,
) -> list[SdkCheck]:
    """What each SDK that is installed here does with a flag's canary units.

    Parameters
    ----------
    promised : str, optional
        What the flag's metadata says the canaries get; what this expnb computes when left out.
    node : Path, optional
        Folder in which ``npm install @openfeature/flagd-core`` was run.
    python : callable, optional
        Asks the Python SDK.

    Raises
    ------
    FlagError
        If `node` holds no SDK that can be asked.
    """
    document = _probe_file(flag, weights, control)
    told = [python(document, flag, _ASKED)]
    if node:
        told.append(node_answers(node, document, [flag], [{"targetingKey": unit} for unit in _ASKED]))
    promise = promised or canaries(flag, weights, control)
    return [_checked(answers, flag, weights, control, promise) for answers in told if answers]


@cache
def refuse_when_sdks_disagree(
    flag: str,
    split: tuple[tuple[str, float], ...],
    control: str,
    promised: str = "",
    *,
    python: Python = python_answers,
) -> None:
    """Raise unless this expnb, and the Python SDK where it is installed, put the canary units where the flag says; asked once per process and flag.

    Parameters
    ----------
    split : tuple of name and weight
        ``tuple(exposure.weights.items())``.
    promised : str
        What the flag's metadata says; empty for a flag of an expnb that did not write it.

    Raises
    ------
    RebucketedError
        If anything hashes otherwise.
    """
    weights = dict(split)
    own = canaries(flag, weights, control)
    if promised and promised != own:
        raise RebucketedError(
            f"flag {flag!r} was made with other buckets: this expnb gives {differing(promised, own)} of its {len(UNITS)} canary units another variant. Nothing was changed. Push with the expnb that made the flag, or make a new flag."
        )
    for found in _asked(split, control, python):
        if not found.agrees:
            raise RebucketedError(
                f"{found}, and flag {flag!r} is made for generation {GENERATION}. Nothing was changed. Install {PROVIDER}>=0.5,<0.6 here and in the services, then run `expnb doctor`."
            )


@cache  # which hash an SDK computes does not hang on the name of a flag
def _asked(split: tuple[tuple[str, float], ...], control: str, python: Python) -> tuple[SdkCheck, ...]:
    return tuple(check_sdks("expnb-probe", dict(split), control, python=python))


def _has_core() -> bool:
    with suppress(ModuleNotFoundError):
        return find_spec(_CORE) is not None
    return False


def _core_answers(document: str, flag: str, units: Sequence[str]) -> list[str]:
    from openfeature.contrib.tools.flagd.core import FlagdCore  # noqa: PLC0415 - not installed everywhere
    from openfeature.evaluation_context import EvaluationContext  # noqa: PLC0415 - not installed everywhere

    core = FlagdCore()
    core.set_flags(document)
    return [str(core.resolve_string_value(flag, _DEFAULT, EvaluationContext(unit)).value) for unit in units]


def _provider_answers(document: str, flag: str, units: Sequence[str]) -> list[str]:
    from tempfile import TemporaryDirectory  # noqa: PLC0415 - for old providers only

    from openfeature.contrib.provider.flagd import FlagdProvider  # noqa: PLC0415 - not installed everywhere
    from openfeature.contrib.provider.flagd.config import ResolverType  # noqa: PLC0415 - not installed everywhere
    from openfeature.evaluation_context import EvaluationContext  # noqa: PLC0415 - not installed everywhere

    with TemporaryDirectory(prefix="expnb-") as folder:
        path = Path(folder, "probe.json")
        path.write_text(document, encoding="utf-8")
        provider = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=str(path))
        provider.initialize(EvaluationContext())
        try:
            contexts = map(EvaluationContext, units)
            return [str(provider.resolve_string_details(flag, _DEFAULT, context).value) for context in contexts]
        finally:
            provider.shutdown()


def node_answers(folder: Path, document: str, flags: Sequence[str], contexts: Sequence[Mapping[str, Json]]) -> Answers:
    """What the JavaScript SDK in a folder answers.

    Raises
    ------
    FlagError
        If there is no node, no SDK in the folder, or it fails.
    """
    node = shutil.which("node")
    if node is None:
        raise FlagError(
            f"there is no `node` here to ask the SDK in {str(folder)!r} with. Install Node.js, or leave it out."
        )
    question = json.dumps({"document": document, "flags": flags, "contexts": contexts})
    try:
        done = subprocess.run(  # noqa: S603 - our own script, in a folder that the caller names
            [node, str(_SCRIPT), str(folder)],
            input=question,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=_NODE_SECONDS,
            check=True,
        )
        told = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise FlagError(
            f"the SDK in {str(folder)!r} could not be asked ({type(error).__name__}). Run `npm install {NODE_CORE}` in that folder, and name it again."
        ) from error
    return Answers(f"npm {NODE_CORE}", told["version"], told["answers"])


def _probe_file(flag: str, weights: Mapping[str, float], control: str) -> str:
    block = {
        "state": "ENABLED",
        "variants": {name: name for name in (OFF, *sorted(weights))},
        "defaultVariant": OFF,
        "targeting": targeting(probe(weights, control)),
    }
    return json.dumps({"flags": {flag: block}})


def _checked(told: Answers, flag: str, weights: Mapping[str, float], control: str, promised: str) -> SdkCheck:
    variants = told.answers[flag]
    found, wide = signs(variants[: len(UNITS)], weights), signs(variants[len(UNITS) :], weights)
    generation = next((name for name in GENERATIONS if canaries(flag, weights, control, name) == found), "")
    expected = signs(assign_all(flag, probe(weights, control), WIDE_UNITS), weights)
    return SdkCheck(told.name, told.version, generation, differing(found, promised), differing(wide, expected))
