"""The face of the package: what can be named, and what importing it costs."""

import json
import subprocess
import sys

import pytest

import expnb


def test_import_loads_nothing_outside_the_standard_library():
    code = (
        "import sys, json; before = set(sys.modules); import expnb; "
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert loaded - {"expnb"} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", expnb.__all__)
def test_every_name_of_the_face_exists(name):
    assert getattr(expnb, name) is not None


def test_the_face_lists_exactly_what_it_loads():
    lazy = {*expnb._HOMES, *expnb._MODULES, "__version__"}
    assert set(expnb.__all__) == lazy
    assert dir(expnb) == sorted(expnb.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = expnb.fitt
