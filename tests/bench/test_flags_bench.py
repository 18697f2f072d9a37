"""The benchmark of flags measures what it says, in small."""

from bench import flags


def test_evaluation_and_push_give_their_figures(tmp_path, monkeypatch):
    for name, value in {"RUNS": 1, "UNITS": 3_000, "PROVIDER_UNITS": 200, "PUSHES": 1}.items():
        monkeypatch.setattr(flags, name, value)
    (tmp_path / "file").mkdir()
    (tmp_path / "push").mkdir()
    found = {figure.name: figure.value for figure in flags.evaluation_figures(tmp_path / "file")}
    assert list(found) == [
        "flag_evaluator_speedup_over_provider",
        "flag_evaluator_scalar_speedup_over_provider",
        "flag_million_units_seconds",
    ]
    (push,) = flags.push_figures(tmp_path / "push")
    assert (push.name, push.unit) == ("flag_push_ms_median", "ms")
    assert all(value > 0 for value in (*found.values(), push.value))
