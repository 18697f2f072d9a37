"""Canaries: an SDK that puts units elsewhere is found before it is let at a running experiment."""

import json

import pytest
from tests.flags.npm import flagd_core

from expnb.errors import FlagError, RebucketedError
from expnb.flags.bucketing import assign_all
from expnb.flags.canaries import UNITS, WIDE_UNITS, canaries, probe
from expnb.flags.generations import GENERATIONS
from expnb.flags.sdks import Answers, check_sdks, python_answers, refuse_when_sdks_disagree
from expnb.spec.flag import FlagSpec

FLAG, SPLIT = "gate-position", (("gate_30", 50), ("gate_40", 50))
WEIGHTS = dict(SPLIT)


def sdk_of(generation, flip=0):
    """A Python SDK of that hash generation; of its first answers so many are nonsense."""

    def ask(document, flag, units):
        assert json.loads(document)["flags"][flag]["state"] == "ENABLED"
        found = assign_all(flag, probe(WEIGHTS, "gate_30"), units, generation=generation)
        return Answers("Python SDK", "9.9", {flag: ["code default"] * flip + found[flip:]})

    return ask


def test_the_sdk_that_expnb_depends_on_agrees():
    (found,) = check_sdks(FLAG, WEIGHTS, "gate_30")
    assert found.agrees
    assert (found.generation, found.differ, found.wide_differ) == ("2", 0, 0)
    assert str(found).startswith("Python openfeature-provider-flagd 0.5.")
    refuse_when_sdks_disagree(FLAG, SPLIT, "gate_30", canaries(FLAG, WEIGHTS, "gate_30"))


def test_the_javascript_sdk_agrees_for_ascii_units_and_is_told_to_keep_to_them():
    found = check_sdks(FLAG, WEIGHTS, "gate_30", node=flagd_core())[1]
    assert found.agrees
    assert (found.name, found.generation, found.differ) == ("npm @openfeature/flagd-core", "2", 0)
    assert found.wide_differ > 0
    assert "let it ask with ASCII units" in str(found)


@pytest.mark.parametrize("generation", ["1", "3"])
def test_an_sdk_of_another_generation_is_named_and_refused(generation):
    (found,) = check_sdks(FLAG, WEIGHTS, "gate_30", python=sdk_of(generation))
    assert not found.agrees
    assert found.generation == generation
    assert found.differ > 20
    with pytest.raises(RebucketedError, match=f"hashes as generation {generation}, and flag 'gate-position' is made"):
        refuse_when_sdks_disagree(FLAG, SPLIT, "gate_30", python=sdk_of(generation))


def test_one_canary_that_differs_is_enough_to_refuse():
    with pytest.raises(RebucketedError, match="1 of 64 canary units get another variant; it hashes as no known"):
        refuse_when_sdks_disagree(FLAG, SPLIT, "gate_30", python=sdk_of("2", flip=1))


def test_a_flag_that_was_made_with_other_buckets_is_refused_whatever_the_sdk_says():
    promised = canaries(FLAG, WEIGHTS, "gate_30", "3")
    for sdk in (sdk_of("2"), sdk_of("3")):
        with pytest.raises(RebucketedError, match="was made with other buckets"):
            refuse_when_sdks_disagree(FLAG, SPLIT, "gate_30", promised, python=sdk)


def test_an_sdk_is_asked_once_in_a_process():
    asked = []

    def ask(document, flag, units):
        asked.append(flag)
        return sdk_of("2")(document, flag, units)

    for _ in range(3):
        refuse_when_sdks_disagree(FLAG, SPLIT, "gate_30", python=ask)
    refuse_when_sdks_disagree("another-flag", SPLIT, "gate_30", python=ask)
    assert len(asked) == 1


def test_without_an_sdk_nothing_is_refused():
    refuse_when_sdks_disagree(FLAG, SPLIT, "gate_30", python=lambda *_: None)
    assert check_sdks(FLAG, WEIGHTS, "gate_30", python=lambda *_: None) == []


@pytest.mark.parametrize("weights", [{"only": 1}, {"a": 1, "b": 99}, {f"arm {n}": 1 for n in range(50)}], ids=len)
def test_canaries_tell_the_generations_apart_for_any_split(weights):
    told = {canaries("flag", weights, min(weights), generation) for generation in GENERATIONS}
    assert len(told) == len(GENERATIONS)


def test_canaries_are_ascii_but_for_those_that_ask_about_other_letters():
    assert all(unit.isascii() for unit in UNITS)
    assert not any(unit.isascii() for unit in WIDE_UNITS)


def test_a_flag_keeps_its_canaries_byte_for_byte(ramp):
    made = ramp.backend.canaries(ramp.ref)
    (told,) = python_answers(ramp.path.read_text(), FLAG, ["u"]).answers.values()
    assert told == ["off"]
    assert made == canaries(FLAG, WEIGHTS, "gate_30")
    ramp.push(enrolled=5)
    ramp.edit(lambda flag: flag["metadata"].update(canaries="as another expnb wrote it"))
    ramp.push("ramp_down", enrolled=1)
    ramp.kill()
    assert ramp.backend.canaries(ramp.ref) == "as another expnb wrote it"


def test_no_more_units_are_treated_by_an_expnb_that_hashes_otherwise_than_the_one_that_made_the_flag(ramp):
    ramp.push(enrolled=5)
    ramp.edit(lambda flag: flag["metadata"].update(canaries="as another expnb wrote it"))
    with pytest.raises(RebucketedError, match="was made with other buckets"):
        ramp.push(enrolled=25)
    with pytest.raises(RebucketedError, match="was made with other buckets"):
        ramp.push("ship", serve="gate_40")
    assert ramp.backend.read(ramp.ref).exposure.enrolled == 5


def test_a_flag_of_an_expnb_that_wrote_no_canaries_is_read(ramp):
    ramp.edit(lambda flag: flag["metadata"].pop("canaries"))
    ramp.push(enrolled=5)
    assert ramp.backend.canaries(ramp.ref) == ""
    refuse_when_sdks_disagree(FLAG, SPLIT, "gate_30", ramp.backend.canaries(ramp.ref))


def test_each_new_flag_has_canaries_of_its_own(ramp):
    other = FlagSpec(type(ramp.ref)("other", "production"), WEIGHTS, "gate_30")
    ramp.backend.create(other, now=ramp.now)
    assert ramp.backend.canaries(other.ref) != ramp.backend.canaries(ramp.ref)


def test_a_folder_without_the_sdk_is_refused(tmp_path):
    flagd_core()  # node is here
    with pytest.raises(FlagError, match="npm install @openfeature/flagd-core"):
        check_sdks(FLAG, WEIGHTS, "gate_30", node=tmp_path)
