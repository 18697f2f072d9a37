"""Requests to a flag server, with hard time limits and answers that tell what may have happened.

A write whose answer is lost has mostly been done. So a write is never sent twice: `PushUncertainError` says that the flag must be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

import httpx

from expnb.errors import FlagError, FlagServerError, PushUncertainError
from expnb.flags.secret import Secret
from expnb.spec.canonical import Json

SECONDS: Final = 5.0  # for each of connect, send and receive
LONGEST_PAUSE: Final = 10.0  # that a 429 may ask for
_READS: Final = ("GET", "HEAD")


class FlagServer:
    """One flag server, spoken to with one credential.

    Parameters
    ----------
    base : str
        Address of the server, without a credential.
    name : str
        What errors call it, such as ``"Unleash at http://127.0.0.1:4242"``.
    token : Secret, optional
        Looked up for each request.
    scheme : str
        What stands before the token in the header; mostly nothing.
    pause : callable
        Waits the seconds that a 429 asks for.
    """

    def __init__(
        self,
        base: str,
        name: str,
        token: Secret | None,
        *,
        headers: Mapping[str, str] | None = None,
        scheme: str = "",
        seconds: float = SECONDS,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base, self.name, self.token, self.scheme = base, name, token, scheme
        self.headers = dict(headers or {})
        self.seconds = seconds
        self.pause = pause

    def __repr__(self) -> str:
        return f"FlagServer({self.base!r})"

    def send(
        self,
        method: str,
        path: str,
        *,
        json: Json = None,
        params: Mapping[str, str] | None = None,
        content_type: str = "",
    ) -> httpx.Response:
        """The answer to one request, of status 2xx, or 4xx that the caller knows better than we do.

        Waits once when the server asks for it (429), and no longer than 10 s.

        Raises
        ------
        FlagServerError
            If the server cannot be reached, refuses the credential, or asks for a longer pause; nothing was changed.
        PushUncertainError
            If the answer to a write was lost, or the server failed while it wrote: read the flag.
        """
        answer = self._once(method, path, json, params, content_type)
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            self.pause(self._asked_pause(answer))
            answer = self._once(method, path, json, params, content_type)
        status = answer.status_code
        if status == httpx.codes.TOO_MANY_REQUESTS:
            raise FlagServerError(
                self.name,
                "is asked too often (429), also after the pause it asked for. Nothing was changed. Try again in a minute.",
                "rate-limited",
            )
        if status == httpx.codes.UNAUTHORIZED:
            raise FlagServerError(
                self.name,
                f"does not know the token {self._token_name()} (401). Nothing was changed. Renew it, and set it in the environment or the keyring.",
                "token-refused",
            )
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            self._lost(method, f"answered {status}")
        return answer

    def _once(
        self, method: str, path: str, json: Json, params: Mapping[str, str] | None, content_type: str
    ) -> httpx.Response:
        headers = dict(self.headers)
        if self.token is not None:
            headers["Authorization"] = f"{self.scheme} {self.token.reveal()}".strip()
        if content_type:
            headers["Content-Type"] = content_type
        deadline = time.monotonic() + 2 * self.seconds
        try:
            # A slow server may send a byte now and then for ever: the time of the whole answer is limited too.
            with (
                httpx.Client(base_url=self.base, timeout=self.seconds, trust_env=False) as client,
                client.stream(method, path, json=json, params=params, headers=headers) as answer,
            ):
                parts = []
                for part in answer.iter_bytes():
                    parts.append(part)
                    if time.monotonic() > deadline:
                        self._lost(method, f"took longer than {2 * self.seconds:g} s")
                return httpx.Response(
                    answer.status_code, headers=_plain(answer.headers), content=b"".join(parts), request=answer.request
                )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:  # nothing was sent
            raise FlagServerError(
                self.name,
                f"cannot be reached ({type(error).__name__}). Nothing was changed. Check the address in expnb.toml, and whether the server is up.",
                "server-down",
            ) from None
        except httpx.HTTPError as error:
            self._lost(method, f"broke off ({type(error).__name__})")
        except ValueError as error:  # a token with a line break, an address that is none
            raise FlagError(
                f"{self.name} cannot be asked: the address or the token {self._token_name()} is malformed ({type(error).__name__}). Nothing was changed."
            ) from None
        raise AssertionError  # unreachable: `_lost` raises

    def _lost(self, method: str, how: str) -> None:
        if method in _READS:
            raise FlagServerError(
                self.name,
                f"{how} when it was asked. Nothing was changed. What the flag serves is not known: try again in a minute.",
                "server-hangs",
            )
        raise PushUncertainError(
            f"{self.name} {how} after a change was sent; it may be done. Nothing is sent twice: read the flag."
        )

    def _asked_pause(self, answer: httpx.Response) -> float:
        text = answer.headers.get("Retry-After", "1")
        seconds = float(text) if text.strip().isdigit() else LONGEST_PAUSE
        if seconds > LONGEST_PAUSE:
            raise FlagServerError(
                self.name,
                f"asks to wait {seconds:g} s (429), longer than the {LONGEST_PAUSE:g} s that a push waits. Nothing was changed. Try again then.",
                "rate-limited",
            )
        return seconds

    def _token_name(self) -> str:
        return repr(self.token.name) if self.token is not None else "(none is named)"


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Headers that say nothing about how the body was sent."""
    return {
        name: value
        for name, value in headers.items()
        if name.lower() not in {"content-encoding", "content-length", "transfer-encoding"}
    }
