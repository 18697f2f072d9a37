"""A flag backend from its address in expnb.toml."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from expnb.errors import FlagError, nearest

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from expnb.flags.base import FlagBackend
    from expnb.flags.secret import Secret

GROUP: Final = "expnb.flag_backends"  # entry points of other packages
# Scheme -> where it is opened, and how its addresses look. Each loads only when it is used.
_OWN: Final[Mapping[str, tuple[str, str]]] = {
    "flagd": ("expnb.flags.flagd", "flagd:PATH"),
    "unleash+https": ("expnb.flags.unleash", "unleash+https://HOST/PROJECT"),
    "unleash+http": ("expnb.flags.unleash", "unleash+http://HOST/PROJECT"),
    "launchdarkly": ("expnb.flags.launchdarkly", "launchdarkly://PROJECT"),
    "launchdarkly+http": ("expnb.flags.launchdarkly", "launchdarkly+http://HOST/PROJECT"),
    "memory": ("expnb.flags.memory", "memory://NAME"),
}
# A credential in an address: before the host, or as a parameter.
_CREDENTIAL: Final = re.compile(
    r"^//.*@|[?&][^=&]*(token|password|passwd|secret|api_?key)[^=&]*=", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Address:
    """What a backend is opened with.

    Parameters
    ----------
    url : str
        As written, such as ``"flagd:flags.flagd.json"``; it never holds a credential.
    root : Path
        The folder that relative paths start from.
    environment : str
        The environment whose flags the backend holds; others are refused.
    token : Secret, optional
        The credential, by name.
    """

    url: str
    root: Path
    environment: str
    token: Secret | None = None

    @property
    def scheme(self) -> str:
        """What stands before the first colon."""
        return self.url.partition(":")[0]

    @property
    def place(self) -> str:
        """What stands after the scheme."""
        return self.url.partition(":")[2].removeprefix("//")


def connect(url: str, *, root: str | Path = ".", environment: str = "production", token: str = "") -> FlagBackend:
    """The backend that `url` names.

    Parameters
    ----------
    url : str
        ``"flagd:PATH"``, ``"unleash+https://HOST/PROJECT"``, ``"launchdarkly://PROJECT"`` or ``"memory://NAME"``; or an address of an installed package with an entry point in the group
        ``expnb.flag_backends``.
    root : path
        The folder that relative paths start from.
    environment : str
        The environment whose flags the backend holds.
    token : str
        The name of a credential: of an environment variable, or of an entry of the service ``expnb`` in the keyring. Never the credential itself.

    Raises
    ------
    FlagError
        If no backend has such an address, or it carries a credential.
    """
    from expnb.flags.secret import Secret  # noqa: PLC0415 - the face loads this module, and the rest only when it is used

    address = Address(url, Path(root), environment, Secret(token) if token else None)
    _check(address)
    return _opener(address)(address)


def _check(address: Address) -> None:
    scheme, place = address.scheme, address.place
    if "#" in address.url:  # no backend has a use for what stands after it
        raise FlagError(
            f"the address of the flags in environment {address.environment!r} ({scheme.partition('#')[0]}:…) carries a credential or something like one after its '#', so it is not shown here. Write it without '#'. If it was a credential, revoke it, and name a new one: token = \"NAME_OF_AN_ENVIRONMENT_VARIABLE\"."
        )
    if not place or ":" not in address.url:
        # Only the scheme is shown: an address may carry a credential.
        found = "names no place" if ":" in address.url else "has no scheme such as 'flagd:'"
        raise FlagError(_unknown(address, found))
    if _CREDENTIAL.search(address.url.partition(":")[2]):
        raise FlagError(
            f'the address of the flags in environment {address.environment!r} ({scheme}:…) carries a credential, which files and outputs would show. Take it out, revoke it, and name a new one: token = "NAME_OF_AN_ENVIRONMENT_VARIABLE".'
        )


def _opener(address: Address) -> Callable[[Address], FlagBackend]:
    if address.scheme in _OWN:
        return cast("Callable[[Address], FlagBackend]", import_module(_OWN[address.scheme][0]).open_address)
    from importlib.metadata import entry_points  # noqa: PLC0415 - it reads every installed package

    points = entry_points(group=GROUP)
    found = [point for point in points if point.name == address.scheme]
    if not found:
        raise FlagError(_unknown(address, f"starts with {address.scheme + ':'!r}", points.names))
    if len({point.value for point in found}) > 1:
        raise FlagError(
            f"the packages {sorted({_package(point) for point in found})} both bring a flag backend for {address.scheme + ':'!r}; which one is meant is not known. Uninstall one of them."
        )
    try:
        return cast("Callable[[Address], FlagBackend]", found[0].load())
    except (ImportError, AttributeError) as error:
        raise FlagError(
            f"the flag backend for {address.scheme + ':'!r} of the package {_package(found[0])!r} cannot be loaded: {error}. Nothing was changed. Install the package again, or ask its authors."
        ) from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module


def _unknown(address: Address, found: str, others: Collection[str] = ()) -> str:
    forms = [form for _, form in _OWN.values()] + [f"{scheme}:…" for scheme in sorted(others)]
    hint = nearest(address.scheme, [*_OWN, *others]) if address.scheme not in _OWN else ""
    return f"the address of the flags in environment {address.environment!r} {found}; known are: {', '.join(forms)}.{hint} Correct `flags` in expnb.toml."
