"""A head is found in whatever form somebody noted it."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expnb.errors import LedgerBrokenError, LedgerError
from expnb.ledger.ledger import Ledger

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    ledger = Ledger(f"sqlite:///{tmp_path_factory.mktemp('heads') / 'ledger.sqlite'}")
    for number in range(5):
        ledger.append("look", {"number": number}, happened_at=NOW, recorded_at=NOW)
    return ledger


FORMS = {
    "hash": lambda head: head,
    "in capitals": str.upper,
    "first twelve, as `ledger list` prints": lambda head: head[:12],
    "metadata": lambda head: json.dumps({"planId": "ab" * 32, "ledgerHead": head, "revision": 3}),
    "metadata, indented": lambda head: json.dumps({"ledgerHead": head, "planId": "ab" * 32}, indent=2),
    "notification": lambda head: f"plan {'ab' * 32}, ledger head {head}",
    "what verify prints": lambda head: f"5 entries, unbroken; head {head}",
    "with blanks": lambda head: f"  {head}\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_head_of_the_chain_is_known_and_of_another_one_is_not(ledger, form):
    for entry in ledger.entries():
        assert ledger.verify(against=FORMS[form](entry.hash)).entries == 5
    with pytest.raises(LedgerBrokenError, match="truncated or rewritten"):
        ledger.verify(against=FORMS[form]("0123456789ab" + "0" * 52))


@pytest.mark.parametrize("text", ["", "abc", "x" * 64, "0" * 65, "plan " + "ab" * 32, "head abc"])
def test_a_text_without_a_head_is_an_error_and_not_a_pass(ledger, text):
    with pytest.raises(LedgerError, match="names no head"):
        ledger.verify(against=text)


@given(st.text(max_size=80))
def test_no_text_passes_that_holds_no_hash_of_the_chain(ledger, text):
    with pytest.raises(LedgerError):
        ledger.verify(against=text)
