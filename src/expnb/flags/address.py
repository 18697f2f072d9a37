"""A flag backend from its address in expnb.toml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from expnb.errors import FlagError, nearest

if TYPE_CHECKING:
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
    if not place or ":" not in address.url:
        # Only the scheme is shown: an address may carry a credential.
        found = "names no place" if ":" in address.url else "has no scheme such as 'flagd:'"
        raise FlagError(_unknown(address, found))
    if "@" in place.partition("/")[0] or "token=" in place:
        raise FlagError(
            f'the address of the flags in environment {address.environment!r} ({scheme}:…) carries a credential, which files and outputs would show. Take it out, revoke it, and name a new one: token = "NAME_OF_AN_ENVIRONMENT_VARIABLE".'
        )


def _opener(address: Address) -> Callable[[Address], FlagBackend]:
    if address.scheme in _OWN:
        return cast("Callable[[Address], FlagBackend]", import_module(_OWN[address.scheme][0]).open_address)
    from importlib.metadata import entry_points  # noqa: PLC0415 - it reads every installed package

    found = {point.name: point for point in entry_points(group=GROUP)}
    if address.scheme not in found:
        raise FlagError(_unknown(address, f"starts with {address.scheme + ':'!r}", found))
    return cast("Callable[[Address], FlagBackend]", found[address.scheme].load())


def _unknown(address: Address, found: str, others: Mapping[str, object] | None = None) -> str:
    forms = [form for _, form in _OWN.values()] + [f"{scheme}:…" for scheme in others or ()]
    hint = nearest(address.scheme, [*_OWN, *(others or ())]) if address.scheme not in _OWN else ""
    return f"the address of the flags in environment {address.environment!r} {found}; known are: {', '.join(forms)}.{hint} Correct `flags` in expnb.toml."
