"""Requests to a flag server: bounded, never sent twice, and honest about what may have happened."""

import signal
import socket
import socketserver
import threading
import traceback
from contextlib import contextmanager

import httpx
import pytest
from tests.servers import free_port

from expnb.errors import AnswerLostError, CredentialError, FlagError, FlagServerError, PushUncertainError
from expnb.flags.http import FlagServer
from expnb.flags.secret import Secret

TOKEN = "user:6d0f-very-secret"  # noqa: S105 - of a server that lives as long as a test


@contextmanager
def listening(script):
    """A server whose whole conversation is a function of the connection; `heard` are the requests."""
    heard = []
    done = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            data = b""
            while b"\r\n\r\n" not in data:
                more = self.request.recv(65536)
                if not more:
                    return
                data += more
            heard.append(data)
            script(self.request, len(heard), done)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address, daemon_threads = True, True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", heard
        finally:
            done.set()
            server.shutdown()
            thread.join()


def says(*answers):
    """A script: the answers in turn, the last one for ever."""

    def script(connection, number, _done):
        connection.sendall(answers[min(number, len(answers)) - 1])

    return script


def answer(status, body=b"{}", **headers):
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]  # fmt: skip
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("UNLEASH_TOKEN", TOKEN)
    return Secret("UNLEASH_TOKEN")


@pytest.fixture
def pauses():
    return []


@pytest.fixture
def server(token, pauses):
    return lambda base, **options: FlagServer(base, "Unleash", token, pause=pauses.append, **options)


def test_an_answer_comes_back_with_its_status_and_body(server):
    with listening(says(answer(404, b'{"a":1}'))) as (base, heard):
        found = server(base, scheme="Bearer", headers={"X-One": "1"}).send("GET", "/x", params={"q": "ä"})
    assert (found.status_code, found.json()) == (404, {"a": 1})
    assert b"GET /x?q=%C3%A4 HTTP" in heard[0]
    assert f"Authorization: Bearer {TOKEN}\r\n".encode() in heard[0]
    assert b"x-one: 1" in heard[0].lower()


def test_a_server_that_is_down_was_asked_nothing(server):
    with pytest.raises(FlagServerError, match=r"cannot be reached \(ConnectError.*Nothing was changed") as caught:
        server(f"http://127.0.0.1:{free_port()}").send("PATCH", "/x", json=[])
    assert caught.value.runbook == "server-down"


def hang(_connection, _number, done):
    done.wait(30)


def dribble(connection, _number, done):
    """A byte of the header now and then: every single wait is short."""
    for byte in answer(200, b"{}", x_long="y" * 10_000):
        if done.wait(0.02):
            return
        connection.sendall(bytes([byte]))


def drop(connection, _number, _done):
    connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("script", [hang, dribble, drop], ids=lambda script: script.__name__)
def test_a_lost_answer_to_a_write_may_be_done_and_is_never_sent_again(server, script):
    with listening(script) as (base, heard):
        with pytest.raises(AnswerLostError, match="it may be done") as caught:
            server(base, seconds=0.3).send("PATCH", "/x", json=[])
        assert len(heard) == 1
    assert isinstance(caught.value, PushUncertainError)
    assert caught.value.under_way == (script is not drop)  # a connection that ended is no longer worked on


@pytest.mark.parametrize("script", [hang, dribble, drop], ids=lambda script: script.__name__)
def test_a_lost_answer_to_a_question_changed_nothing(server, script):
    with listening(script) as (base, _), pytest.raises(FlagServerError, match="Nothing was changed") as caught:
        server(base, seconds=0.3).send("GET", "/x")
    assert caught.value.runbook == "server-hangs"


def test_a_request_that_was_given_up_before_it_was_sent_is_not_sent_later(server, monkeypatch):
    """A name server that hangs: the request would go out when nobody waits for it any more."""
    looked_up, go_on = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(*arguments, **options):
        looked_up.set()
        go_on.wait(30)
        return real(*arguments, **options)

    with listening(says(answer(200))) as (base, heard):
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        with pytest.raises(FlagServerError, match="cannot be reached .*Nothing was changed"):
            server(base, seconds=0.1).send("PATCH", "/x", json=[])
        assert looked_up.is_set()
        go_on.set()
        for thread in threading.enumerate():
            if thread.name == "expnb flag server":
                thread.join(10)
        assert heard == []


@pytest.mark.parametrize(("status", "under_way"), [(500, False), (502, False), (503, True), (504, True)])
def test_a_server_that_failed_while_it_wrote_may_have_written(server, status, under_way):
    with listening(says(answer(status))) as (base, heard):
        with pytest.raises(AnswerLostError, match=f"answered {status}") as caught:
            server(base).send("POST", "/x")
        assert len(heard) == 1
    assert caught.value.under_way is under_way


def test_a_server_that_is_asked_too_often_is_asked_once_more_after_its_pause(server, pauses):
    with listening(says(answer(429, retry_after=3), answer(200))) as (base, heard):
        assert server(base).send("PATCH", "/x", json=[]).status_code == 200
        assert len(heard) == 2
    assert pauses == [3.0]


def test_a_pause_without_a_number_of_seconds_is_the_longest_one(server, pauses):
    with listening(says(answer(429, retry_after="Tue, 01 Dec 2026 00:00:00 GMT"), answer(200))) as (base, _):
        server(base).send("GET", "/x")
    assert pauses == [10.0]


@pytest.mark.parametrize(("seconds", "sent"), [(1, 2), (11, 1)], ids=["again", "too long"])
def test_a_server_that_stays_busy_or_asks_for_long_is_not_waited_for(server, seconds, sent):
    with listening(says(answer(429, retry_after=seconds))) as (base, heard):
        with pytest.raises(FlagServerError, match="429.*Nothing was changed") as caught:
            server(base).send("PATCH", "/x", json=[])
        assert len(heard) == sent
    assert caught.value.runbook == "rate-limited"


def test_an_unknown_token_is_named_and_not_shown(server):
    with listening(says(answer(401))) as (base, _), pytest.raises(FlagServerError, match="'UNLEASH_TOKEN'") as caught:
        server(base).send("PATCH", "/x", json=[])
    assert caught.value.runbook == "token-refused"


def test_a_redirect_to_a_login_page_is_not_followed(server):
    with listening(says(answer(302, location="http://127.0.0.1:1/login"))) as (base, heard):
        with pytest.raises(FlagServerError, match=r"redirect \(302\)"):
            server(base).send("PATCH", "/x", json=[])
        assert len(heard) == 1


@pytest.mark.parametrize("value", ["abc\ndef", "abc\x00"], ids=["line break", "zero"])
def test_a_malformed_token_is_refused_before_anything_is_sent(server, monkeypatch, value):
    monkeypatch.setenv("UNLEASH_TOKEN", value) if "\x00" not in value else monkeypatch.setattr(
        Secret, "reveal", lambda _: value
    )
    with listening(says(answer(200))) as (base, heard):
        with pytest.raises(FlagError, match=r"malformed.*Nothing was changed") as caught:
            server(base).send("PATCH", "/x", json=[])
        assert heard == []
    assert value not in str(caught.value)


@pytest.mark.parametrize("base", ["http://127.0.0.1:99999", "http://[::1", "ftp://127.0.0.1", "nothing"])
def test_a_malformed_address_changes_nothing(server, base):
    with pytest.raises(FlagError, match="Nothing was changed"):
        server(base).send("PATCH", "/x", json=[])


def test_a_missing_credential_is_said_before_anything_is_sent(server, monkeypatch):
    monkeypatch.delenv("UNLEASH_TOKEN")
    with listening(says(answer(200))) as (base, heard):
        with pytest.raises(CredentialError, match="UNLEASH_TOKEN"):
            server(base).send("PATCH", "/x", json=[])
        assert heard == []


def shown(error):
    """Everything that a notebook may show of our part of an error: also the variables of each frame, and what led to it."""
    parts, link = [], error
    while link:
        frames = traceback.walk_tb(link.__traceback__)
        own = [(frame, line) for frame, line in frames if "expnb/flags" in frame.f_code.co_filename]
        assert own
        parts += [repr(link), repr(vars(link)), *(repr(frame.f_locals) for frame, _ in own)]
        link = link.__context__ or link.__cause__
    return "".join(parts)


@pytest.mark.parametrize(
    "script", [says(answer(401)), says(answer(500)), says(b"nonsense"), drop], ids=["401", "500", "nonsense", "drop"]
)
def test_no_traceback_shows_the_token_not_even_with_variables(server, script):
    with listening(script) as (base, _), pytest.raises(FlagError) as caught:
        server(base).send("PATCH", "/x", json=[])
    assert TOKEN not in shown(caught.value)


def test_neither_proxies_nor_netrc_of_the_environment_are_used(server, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with listening(says(answer(200))) as (base, heard):
        assert server(base).send("GET", "/x").status_code == 200
    assert TOKEN.encode() in heard[0]


def test_the_answer_holds_no_request_with_the_token(server):
    with listening(says(answer(200))) as (base, _):
        found = server(base).send("GET", "/x")
    assert isinstance(found, httpx.Response)
    with pytest.raises(RuntimeError, match="request"):
        _ = found.request


def test_stop_ends_the_wait_at_once(server):
    """The user presses stop while the server hangs."""
    began = threading.Event()

    def script(_connection, _number, done):
        began.set()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        done.wait(30)

    with listening(script) as (base, _), pytest.raises(KeyboardInterrupt):
        server(base, seconds=300).send("PATCH", "/x", json=[])
    assert began.is_set()
