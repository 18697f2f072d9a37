"""A proxy on loopback that breaks the wire in chosen ways, in front of a real flag server."""

import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import httpx

WRITES = ("POST", "PUT", "PATCH", "DELETE")
MODES = ("pass", "drop-before", "drop-after", "hang-before", "hang-after", "502-after", "500", "429", "409")
KEPT = ("authorization", "content-type", "accept", "ld-api-version")


class FaultProxy:
    """Passes requests on, and does to chosen ones what broken networks do.

    Parameters
    ----------
    target : str
        Address of the real server.

    Attributes
    ----------
    mode : str
        One of MODES. "before" is before the server gets the request, "after" is when it has answered.
    methods : tuple of str
        Which requests are hit; writes by default.
    path : str
        Only requests with this text in their path are hit.
    times : int
        How many more requests are hit; the rest pass.
    seen : list of (str, str)
        Method and path of each request that came in.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.seen: list[tuple[str, str]] = []
        self.retry_after = "1"
        self._closing = threading.Event()
        self.heal()

    def heal(self) -> None:
        """Pass everything on."""
        self.mode, self.methods, self.path, self.times = "pass", WRITES, "", 0

    def hurt(self, mode: str, *, methods: tuple[str, ...] = WRITES, path: str = "", times: int = 1_000_000) -> None:
        """Break the next requests that fit."""
        assert mode in MODES
        self.mode, self.methods, self.path, self.times = mode, methods, path, times

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def writes(self) -> list[tuple[str, str]]:
        """Writes that came in, whatever became of them."""
        return [one for one in self.seen if one[0] in WRITES]

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()  # wakes those that hang
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _fault(self, method: str, path: str) -> str:
        self.seen.append((method, path))
        if self.mode == "pass" or method not in self.methods or self.path not in path or self.times < 1:
            return "pass"
        self.times -= 1
        return self.mode


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultProxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = proxy._fault(self.command, self.path)
        if fault.isdecimal():
            self.answer(int(fault), {"retry-after": proxy.retry_after}, json.dumps({"message": "injected"}).encode())
            return
        if not fault.endswith("before"):
            status, headers, content = self.passed_on(body)
        if fault.startswith("hang"):
            proxy._closing.wait(60)
        if fault == "502-after":
            self.answer(502, {}, b"bad gateway")
        elif fault == "pass":
            self.answer(status, headers, content)
        else:
            self.drop()

    def passed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {name: value for name, value in self.headers.items() if name.lower() in KEPT}
        with httpx.Client(timeout=60, trust_env=False) as client:
            found = client.request(self.command, self.server.proxy.target + self.path, content=body, headers=headers)
        kept = {name: value for name, value in found.headers.items() if name in ("content-type", "retry-after")}
        return found.status_code, kept, found.content

    def drop(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        with suppress(OSError):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


for _method in ("GET", *WRITES):
    setattr(_Handler, f"do_{_method}", _Handler.handle_any)
