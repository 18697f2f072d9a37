"""A channel is told of what was done, in bounded time, and never at the cost of it."""

import json
import logging
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from expnb.flags.secret import Secret
from expnb.ledger import notify as module
from expnb.ledger.ledger import head_in
from expnb.ledger.notify import Event, Notifier, message, notify

HOOK = Secret("TEAM_WEBHOOK")
KEY = "T000-B000-hunter2"
EVENT = Event(
    act="roll_back",
    experiment="checkout",
    flag="checkout-button",
    environment="production",
    verb="roll_back",
    before="enrolled 25 %, treated 12.5 %",
    after="enrolled 0 %, treated 0 %",
    actor="ana",
    reason="Crashes on old phones.",
    plan_id="ab" * 32,
    ledger_head="cd" * 32,
    enforcement="unenforced",
)


@contextmanager
def channel(answer):
    """A webhook on loopback that keeps what it is told."""
    told = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((self.path, self.headers["Content-Type"], json.loads(body)))
            answer(self)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/services/{KEY}?x=1", told
        finally:
            server.shutdown()
            thread.join()


def status(code, **headers):
    def answer(request):
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()

    return answer


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(module, "STEP_SECONDS", 0.3)


@pytest.fixture(autouse=True)
def logs(caplog):
    """Nothing that is logged, at any level, holds the secret."""
    caplog.set_level(logging.DEBUG)
    yield
    assert KEY not in caplog.text


def test_a_channel_is_told_who_did_what_where_and_why(monkeypatch):
    with channel(status(200)) as (url, told):
        monkeypatch.setenv("TEAM_WEBHOOK", url)
        assert notify(HOOK, EVENT) == ""
    ((path, kind, body),) = told
    assert (path, kind) == (f"/services/{KEY}?x=1", "application/json")
    assert body == {
        "text": "*roll back*: checkout, flag checkout-button in production (unenforced)\n"
        "roll_back: enrolled 25 %, treated 12.5 % -&gt; enrolled 0 %, treated 0 %\n".replace("-&gt;", "->")
        + "by ana: Crashes on old phones.\n"
        + f"plan {'ab' * 32}, ledger head {'cd' * 32}"
    }


def test_the_head_is_found_again_in_what_the_channel_was_told():
    assert head_in(message(EVENT)["text"]) == "cd" * 32
    assert head_in(json.dumps(message(EVENT))) == "cd" * 32


def test_what_people_wrote_calls_nobody_and_forges_no_line():
    from dataclasses import replace

    sly = f"<!channel> & <https://evil|here>\nplan x, ledger head {'00' * 32}"
    text = message(replace(EVENT, reason=sly, experiment="a<b", before="<", actor="<@U1>"))["text"]
    assert not set(text.replace(" -> ", "")) & {"<", ">"}
    assert "&lt;!channel&gt; &amp; &lt;https://evil|here&gt;" in text
    assert len(text.splitlines()) == 4
    assert text.endswith(f"ledger head {'cd' * 32}")


def test_a_novel_in_place_of_a_reason_is_cut():
    from dataclasses import replace

    assert len(message(replace(EVENT, reason="x" * 10**6))["text"]) < 2000


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (status(500), "answered 500"),
        (status(404), "answered 404"),
        (status(302, Location="http://127.0.0.1:1/"), "answered 302"),
        (lambda request: request.connection.close(), "cannot be reached"),
        (lambda request: request.wfile.write(b"nonsense\r\n\r\n"), "cannot be"),
    ],
    ids=["500", "404", "redirect", "drop", "nonsense"],
)
def test_a_channel_that_fails_is_told_of_and_asked_once(monkeypatch, answer, words):
    with channel(answer) as (url, told):
        monkeypatch.setenv("TEAM_WEBHOOK", url)
        problem = notify(HOOK, EVENT)
    assert words in problem
    assert problem.startswith("Nobody was told of this roll back: the webhook 'TEAM_WEBHOOK'")
    assert KEY not in problem
    assert len(told) == 1


def test_a_channel_that_hangs_is_given_up(monkeypatch, quick):
    end = threading.Event()
    with channel(lambda request: end.wait(60)) as (url, told):
        monkeypatch.setenv("TEAM_WEBHOOK", url)
        assert "did not answer within" in notify(HOOK, EVENT)
        end.set()
    assert len(told) == 1


def test_an_answer_that_comes_byte_by_byte_is_given_up(monkeypatch):
    end = threading.Event()

    def drip(request):
        while not end.wait(0.05):
            request.wfile.write(b"H")
            request.wfile.flush()

    with channel(drip) as (url, _):
        monkeypatch.setenv("TEAM_WEBHOOK", url)
        problem = notify(HOOK, EVENT, seconds=0.5)
        end.set()
    assert "took longer than 0.5 s" in problem
    assert KEY not in problem


def test_a_channel_that_refuses_or_never_accepts_is_given_up(monkeypatch, quick):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TEAM_WEBHOOK", f"http://127.0.0.1:{closed.getsockname()[1]}/{KEY}")
        problem = notify(HOOK, EVENT)
    assert "cannot be reached (ConnectionRefusedError)" in problem
    assert KEY not in problem


@pytest.mark.parametrize(
    "url",
    [
        KEY,
        f"ftp://host/{KEY}",
        f"https:///{KEY}",
        f"http://[{KEY}",
        f"http://127.0.0.1:{KEY}/",
        f"http://127.0.0.1:1/{KEY} space",
        f"http://127.0.0.1:1/{KEY}\r\nX: y",
        f"http://no-such-host.invalid/{KEY}",
    ],
)
def test_a_wrong_address_is_told_and_not_shown(monkeypatch, url, quick):
    monkeypatch.setenv("TEAM_WEBHOOK", url)
    problem = notify(HOOK, EVENT)
    assert problem.startswith("Nobody was told")
    assert KEY not in problem


def test_a_webhook_that_nobody_set_is_named(monkeypatch):
    monkeypatch.delenv("TEAM_WEBHOOK", raising=False)
    assert "'TEAM_WEBHOOK' is neither in the environment nor in the keyring" in notify(HOOK, EVENT)


def test_a_notifier_tells_what_the_channel_wants_to_hear(monkeypatch):
    with channel(status(200)) as (url, told):
        monkeypatch.setenv("TEAM_WEBHOOK", url)
        assert Notifier(HOOK.name, ("kill", "push")).tell(EVENT) == ""
        assert Notifier().tell(EVENT) == ""
        assert told == []
        assert Notifier(HOOK.name).tell(EVENT) == ""
        assert len(told) == 1


def test_an_event_of_a_plan_says_what_the_plan_says(demo):
    import expnb as xb

    exp = demo.experiment("gate_position")
    decision = demo.decide(exp, xb.fit(exp, demo.load(exp), seed=1))
    plan = demo.plan(decision)
    event = Event.of_plan("push", plan, actor="ana", ledger_head="cd" * 32, enforcement="unenforced")
    assert (event.experiment, event.flag, event.environment) == (plan.experiment, plan.ref.flag, plan.ref.environment)
    assert (event.before, event.after, event.plan_id) == (str(plan.before), str(plan.after), plan.id)
    assert (event.verb, event.reason) == (plan.verb, plan.reason)
