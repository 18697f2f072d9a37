"""Requests to a flag server, with hard time limits and answers that tell what may have happened.

A write whose answer is lost has mostly been done. So a write is never sent twice: `AnswerLostError` says that the flag must be read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from functools import cache
from queue import Empty, SimpleQueue
from ssl import SSLContext
from typing import Final

import httpx

from expnb.errors import AnswerLostError, ExpnbError, FlagError, FlagServerError
from expnb.flags.secret import Secret
from expnb.spec.canonical import Json

SECONDS: Final = 5.0  # for each of connect, send and receive; a whole request takes no longer than twice that
LONGEST_PAUSE: Final = 10.0  # that a 429 may ask for
_READS: Final = ("GET", "HEAD")
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol)
_MALFORMED: Final = (ValueError, httpx.InvalidURL, httpx.LocalProtocolError)  # a token with a line break, a bad address
_AT_WORK: Final = (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)  # the server behind may go on


class FlagServer:
    """One flag server, spoken to with one credential.

    Every request has a connection of its own: a write on a connection that the server closed meanwhile would look like a lost answer.

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
    seconds : float
        For each of connect, send and receive; a whole request is given up after twice that.
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
        AnswerLostError
            If the answer to a write was lost, or the server failed while it wrote: read the flag. It is a `PushUncertainError`.
        """
        answer = self._once(method, path, json, params, content_type)
        if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
            self.pause(self._asked_pause(answer))
            answer = self._once(method, path, json, params, content_type)
        self._check(method, answer)
        return answer

    def _check(self, method: str, answer: httpx.Response) -> None:
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
        if answer.is_redirect:
            raise FlagServerError(
                self.name,
                f"answers with a redirect ({status}), as a login page does. Nothing was changed. Check the address in expnb.toml.",
                "server-down",
            )
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise self._loss(method, f"answered {status}", under_way=status in _AT_WORK)

    def _once(
        self, method: str, path: str, json: Json, params: Mapping[str, str] | None, content_type: str
    ) -> httpx.Response:
        headers = self.headers | ({"Content-Type": content_type} if content_type else {})
        attempt = _Attempt()

        def exchange() -> httpx.Response:
            with httpx.Client(
                base_url=self.base, timeout=self.seconds, trust_env=False, verify=_certificates(), auth=_Token(self)
            ) as client:
                answer = client.request(
                    method, path, json=json, params=params, headers=headers, extensions={"trace": attempt.trace}
                )
            return httpx.Response(answer.status_code, headers=_plain(answer.headers), content=answer.content)

        outcome = attempt.within(2 * self.seconds, exchange)
        if isinstance(outcome, httpx.Response):
            return outcome
        raise self._failure(method, outcome, sent=attempt.sent)

    def _failure(self, method: str, error: Exception | None, *, sent: bool) -> Exception:
        """What became of a request that has no answer; nothing in it leads back to an error that carries headers."""
        if isinstance(error, ExpnbError):
            return error
        if isinstance(error, _MALFORMED):
            return FlagError(
                f"{self.name} cannot be asked: the address or the token {self._token_name()} is malformed ({type(error).__name__}). Nothing was changed."
            )
        if isinstance(error, _NOT_SENT) or not sent:
            why = f"{type(error).__name__}: {error}" if error else f"not within {2 * self.seconds:g} s"
            return FlagServerError(
                self.name,
                f"cannot be reached ({why}). Nothing was changed. Check the address in expnb.toml, and whether the server is up.",
                "server-down",
            )
        if error is None:
            return self._loss(method, f"took longer than {2 * self.seconds:g} s", under_way=True)
        return self._loss(
            method, f"broke off ({type(error).__name__})", under_way=isinstance(error, httpx.TimeoutException)
        )

    def _loss(self, method: str, how: str, *, under_way: bool) -> FlagError:
        if method in _READS:
            return FlagServerError(
                self.name,
                f"{how} when it was asked. Nothing was changed. What the flag serves is not known: try again in a minute.",
                "server-hangs",
            )
        return AnswerLostError(self.name, how, under_way)

    def _asked_pause(self, answer: httpx.Response) -> float:
        text = answer.headers.get("Retry-After", "1").strip()
        seconds = float(text) if text.isdecimal() else LONGEST_PAUSE
        if seconds > LONGEST_PAUSE:
            raise FlagServerError(
                self.name,
                f"asks to wait {seconds:g} s (429), longer than the {LONGEST_PAUSE:g} s that a push waits. Nothing was changed. Try again then.",
                "rate-limited",
            )
        return seconds

    def _token_name(self) -> str:
        return repr(self.token.name) if self.token is not None else "(none is named)"


@dataclass
class _Token(httpx.Auth):
    """Puts the credential into the header at the last moment: no variable of ours holds it, so no traceback shows it."""

    server: FlagServer

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self.server.token is not None:
            request.headers["Authorization"] = f"{self.server.scheme} {self.server.token.reveal()}".strip()
        yield request


@dataclass
class _Attempt:
    """One request in a thread of its own, which is given up when its time is over.

    The limits of httpx hold for single steps: a name server that hangs, or a server that sends a byte now and then, would keep a push waiting for ever.
    """

    sent: bool = False
    _given_up: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def trace(self, step: str, _facts: object) -> None:
        """Called by httpx before each step: nothing is sent once the request was given up."""
        if step.endswith("send_request_headers.started"):
            with self._lock:
                if self._given_up:
                    raise TimeoutError
                self.sent = True

    def within(self, seconds: float, exchange: Callable[[], httpx.Response]) -> httpx.Response | Exception | None:
        """The answer, what went wrong, or None when the time is over."""
        outcomes: SimpleQueue[httpx.Response | Exception] = SimpleQueue()

        def run() -> None:
            try:
                outcomes.put(exchange())
            except Exception as error:  # noqa: BLE001 - raised again where the answer is waited for
                outcomes.put(error)

        threading.Thread(target=run, daemon=True, name="expnb flag server").start()
        try:
            return outcomes.get(timeout=seconds)
        except Empty:
            return None
        finally:  # also when the user presses stop
            with self._lock:
                self._given_up = True


@cache
def _certificates() -> SSLContext:
    """Authorities that are trusted; SSL_CERT_FILE names a company's own. Made once: it takes longer than a request."""
    return httpx.create_ssl_context()


def _plain(headers: httpx.Headers) -> dict[str, str]:
    """Headers that say nothing about how the body was sent."""
    return {
        name: value
        for name, value in headers.items()
        if name.lower() not in {"content-encoding", "content-length", "transfer-encoding"}
    }
