"""The search for a flag in code: every line that names it is found, and nothing that was not read passes for clean."""

import os

import pytest

from expnb.errors import ParameterError, PathNotFoundError
from expnb.hygiene.references import find_references


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.fixture
def code(tmp_path):
    """A folder of code that names the flag three times, and much that is not looked at."""
    write(
        tmp_path / "src" / "shop.py",
        'one\nif flags["gate-position"]:\n    pass\nKEY = "gate-position"  # twice: gate-position\n',
    )
    write(tmp_path / "src" / "deep" / "page.ts", "const on = client.get('gate-position', false)\r\n")
    write(tmp_path / "src" / "other.py", 'flags["gate-position-2"]; flags["old-gate-position"]; gate_position = 1\n')
    for name in (".git", "node_modules", "deep/__pycache__", ".venv"):
        write(tmp_path / "src" / name / "copy.py", 'flags["gate-position"]\n')
    write(tmp_path / "src" / "logo.png", b"\x89PNG\0gate-position")
    return tmp_path / "src"


def test_every_line_that_names_the_flag_is_listed_with_its_place(code, monkeypatch):
    monkeypatch.chdir(code.parent)
    found = find_references("gate-position", ["src"])
    assert [(one.path, one.line) for one in found.references] == [
        ("src/shop.py", 2),
        ("src/shop.py", 4),
        ("src/deep/page.ts", 1),
    ]
    assert str(found.references[0]) == 'src/shop.py:2: if flags["gate-position"]:'
    assert (found.searched, found.binary) == (3, 1)
    assert not found.is_clean


def test_a_longer_key_is_another_flag(code):
    assert find_references("position", [code]).is_clean
    assert len(find_references("gate-position-2", [code]).references) == 1


def test_a_key_is_text_and_no_pattern(tmp_path):
    write(tmp_path / "a.py", '"gateXposition"\n')
    assert find_references("gate.position", [tmp_path]).is_clean


def test_a_file_is_read_once_however_often_it_is_named(code):
    assert len(find_references("gate-position", [code, code / "shop.py", code / "deep"]).references) == 3


def test_what_is_left_out_is_not_read(code):
    found = find_references("gate-position", [code], leave_out=[code / "deep", code / "shop.py"])
    assert found.is_clean
    assert found.searched == 1


def test_a_long_line_shows_the_part_that_names_the_flag(tmp_path):
    write(tmp_path / "bundle.js", "x" * 5000 + ';get("gate-position")' + "y" * 5000)
    (only,) = find_references("gate-position", [tmp_path]).references
    assert 'get("gate-position")' in only.text
    assert len(only.text) <= 120


def test_a_folder_without_files_is_not_clean(tmp_path):
    (tmp_path / "empty").mkdir()
    assert not find_references("gate-position", [tmp_path / "empty"]).is_clean


def test_a_folder_that_cannot_be_read_is_not_clean(open_folder, as_nobody):
    write(open_folder / "fine.py", "pass\n")
    write(open_folder / "closed" / "secret.py", "gate-position\n")
    (open_folder / "closed").chmod(0)
    with as_nobody():
        found = find_references("gate-position", [open_folder])
    (open_folder / "closed").chmod(0o755)
    assert not found.references
    assert len(found.unread) == 1
    assert not found.is_clean


def test_a_pipe_and_a_broken_link_do_not_stop_the_search(code):
    os.mkfifo(code / "pipe")
    (code / "link").symlink_to(code / "nowhere")
    assert len(find_references("gate-position", [code]).references) == 3


def test_a_search_without_a_folder_or_in_none_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="--code src"):
        find_references("gate-position", [])
    with pytest.raises(PathNotFoundError, match="folder of source code"):
        find_references("gate-position", [tmp_path / "nowhere"])
