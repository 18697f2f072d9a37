"""Kill works while everything else is down; how fast it is, `make faults` measures."""

import json

import pytest
from tests.faults.dead import break_glass_command, break_ledger, break_the_rest, move_ledger_to, silent_server
from tests.faults.kill_watch import service
from tests.faults.shop import NAME


def by_kernel(shop):
    shop.opened().kill(NAME)


@pytest.mark.parametrize("kill", [by_kernel, break_glass_command], ids=["ws.kill", "break glass"])
def test_a_running_service_stops_serving_the_treatment_while_everything_else_is_down(shop, kill):
    break_ledger(shop)
    break_the_rest(shop)
    with service("flagd", shop.flag_file, shop.flag) as watched:
        kill(shop)
        assert watched.last_wrong() > 0  # says so once it has stopped for longer than it polls
    (waiting,) = (shop.root / ".expnb" / "unrecorded.jsonl").read_text().strip().splitlines()
    assert json.loads(waiting)["body"]["receipt"]["after"]["enabled"] is False


def test_a_kill_does_not_wait_for_a_database_that_says_nothing(shop, monkeypatch):
    move_ledger_to(shop, "EXPNB_SILENT_LEDGER")
    with silent_server() as port:
        monkeypatch.setenv("EXPNB_SILENT_LEDGER", f"postgresql://ana:pw@127.0.0.1:{port}/ledger")
        receipt = shop.opened().kill(NAME)
    assert not receipt.after.enabled
    assert (shop.root / ".expnb" / "unrecorded.jsonl").is_file()
