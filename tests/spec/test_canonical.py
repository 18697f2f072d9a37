"""Hashes: equal for equal values, and unmoved by fields that a later expnb adds."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

import expnb as xb
from expnb import errors
from expnb.spec.canonical import canonical_json, digest
from expnb.spec.flag import Exposure


@dataclass(frozen=True)
class Inner:
    share: float = 0.5


@dataclass(frozen=True)
class Now:
    name: str
    weights: Mapping[str, float]
    inner: Inner = Inner()


@dataclass(frozen=True)
class LaterInner(Inner):
    unit: str = ""


@dataclass(frozen=True)
class Later:
    name: str
    weights: Mapping[str, float]
    inner: LaterInner = LaterInner()
    limit: float | None = None
    tags: tuple[str, ...] = ()
    extra: Inner = field(default_factory=Inner)


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_a_new_field_with_a_default_leaves_the_hash(share):
    now, later = Now("a", {"x": 1}, Inner(share)), Later("a", {"x": 1}, LaterInner(share))
    assert digest(now) == digest(later)
    assert digest({"spec": [now]}) == digest({"spec": (later,)})


def test_a_field_that_is_used_changes_the_hash():
    plain = Later("a", {"x": 1})
    changed = [
        Later("a", {"x": 1}, limit=0.0),
        Later("a", {"x": 1}, tags=("b",)),
        Later("a", {"x": 2}),
        Later("a", {"x": 1}, LaterInner(0.7)),
        Later("a", {"x": 1}, LaterInner(unit="s")),
        Later("a", {"x": 1}, extra=Inner(0.6)),
    ]
    assert len({digest(value) for value in (plain, *changed)}) == 1 + len(changed)


def test_what_is_recorded_shows_every_field_also_those_with_their_default():
    assert canonical_json(Now("a", {"x": 1})) == '{"inner":{"share":0.5},"name":"a","weights":{"x":1}}'
    exposure = Exposure(weights={"a": 50}, control="a")
    assert (
        canonical_json(exposure)
        == '{"control":"a","dropped":[],"eligibility":{"audience":{},"holdout":0.0,"layer":"","slice":[0.0,100.0]},"enrolled":0.0,"holdback":0.0,"serve":"","weights":{"a":50.0}}'
    )


def test_a_default_that_is_written_out_is_the_same_experiment(gate_position_file):
    before = xb.read_experiment(gate_position_file)
    text = gate_position_file.read_text().replace(
        "[policy]", "[cost]\nquery_tag = 'expnb'\n[policy]\nharm_alpha = 0.01"
    )
    gate_position_file.write_text(text)
    after = xb.read_experiment(gate_position_file)
    assert (after.spec_hash, after.policy_hash) == (before.spec_hash, before.policy_hash)


def test_a_number_that_is_not_finite_has_no_hash():
    with pytest.raises(errors.SpecError, match="NaN or infinite"):
        digest({"value": float("nan")})
