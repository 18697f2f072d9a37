"""Parameters: known, typed, never a secret."""

import pytest

from expnb.errors import ParameterError, ReportError
from expnb.reports.parameters import check_parameters, refuse_secrets
from expnb.reports.run import template_parameters, template_path

KNOWN = {"experiment": "x", "seed": 20, "apply": False, "share": 0.5}


def test_given_parameters_replace_the_defaults():
    assert check_parameters({"seed": 3, "share": 1}, KNOWN) == {**KNOWN, "seed": 3, "share": 1}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"sed": 3},
            "the notebook has no parameter 'sed'; it has experiment, seed, apply, share. Did you mean 'seed'?",
        ),
        ({"seed": "3"}, "parameter 'seed' is '3' (str); it should be int, such as 20."),
        ({"seed": True}, "parameter 'seed' is True (bool); it should be int, such as 20."),
        ({"apply": 1}, "parameter 'apply' is 1 (int); it should be bool, such as False."),
        ({"api_token": "x"}, "parameter 'api_token' looks like a secret"),
        ({"db_password": "x"}, "parameter 'db_password' looks like a secret"),
        ({"API_KEY": "x"}, "parameter 'API_KEY' looks like a secret"),
    ],
)
def test_a_wrong_parameter_is_one_sentence(given, sentence):
    with pytest.raises(ParameterError) as caught:
        check_parameters(given, KNOWN)
    assert sentence in str(caught.value)


def test_no_error_repeats_a_secret():
    with pytest.raises(ParameterError) as caught:
        check_parameters({"api_token": "s3cr3t-value"}, KNOWN)
    assert "s3cr3t-value" not in str(caught.value)


def test_the_template_has_the_parameters_it_documents():
    known = template_parameters(template_path("ramp_decision"))
    assert known == {
        "experiment": "gate_position",
        "workspace": ".",
        "environment": "",
        "actor": "",
        "source": "",
        "engine": "exact",
        "seed": 20,
        "apply": False,
    }


def test_an_unknown_template_offers_the_nearest():
    with pytest.raises(LookupError, match="no template is called 'ramp_decison'. Did you mean 'ramp_decision'"):
        template_path("ramp_decison")


def test_a_notebook_that_holds_a_secret_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAG_TOKEN", "abcdef-0123456789")
    path = tmp_path / "report.ipynb"
    path.write_text("nothing to see")
    refuse_secrets(path)
    path.write_text("the token is abcdef-0123456789")
    with pytest.raises(ReportError, match="environment variable FLAG_TOKEN") as caught:
        refuse_secrets(path)
    assert "abcdef" not in str(caught.value)
    assert not path.exists()
