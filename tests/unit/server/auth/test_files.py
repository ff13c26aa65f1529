"""Files of secrets: what is refused, and when a change is noticed."""

from __future__ import annotations

import os

import pytest

from polyhead_server.auth.files import CredentialsError, FileChanges, read_file
from polyhead_server.auth.token_file import TokenFile
from polyhead_server.auth.tokens import make_token


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_text("one")
    return path


def test_a_file_is_read(path):
    assert read_file("--flag", path) == b"one"


def make_pipe(path):
    path.unlink()
    os.mkfifo(path)


def make_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda path: path.unlink(), "cannot be read: No such file"),
        (make_folder, "cannot be read: Is a directory"),
        (make_pipe, "is not a regular file"),
        (lambda path: path.write_bytes(bytes((1 << 20) + 1)), "larger than 1,048,576 bytes"),
        (lambda path: path.chmod(0o666), "can be written by every user"),
    ],
)
def test_other_files_are_refused_by_flag_and_reason(path, spoil, problem):
    spoil(path)
    with pytest.raises(CredentialsError, match=problem) as caught:
        read_file("--flag", path, others_may_write=False)
    assert str(caught.value).startswith(f"--flag {path} ")


def test_a_change_is_reported_once_when_it_is_stable(path):
    changes = FileChanges([path])
    assert not changes.check()
    path.write_text("two, and longer")
    assert not changes.check()  # it may still be written
    assert changes.check()
    assert not changes.check()
    path.write_text("three")
    assert not changes.check()
    path.write_text("three, again")
    assert not changes.check()
    assert changes.check()


def test_a_deleted_and_a_new_file_are_changes(path):
    changes = FileChanges([path])
    path.unlink()
    assert [changes.check(), changes.check()] == [False, True]
    path.write_text("one")
    assert [changes.check(), changes.check()] == [False, True]


def test_a_link_that_leads_elsewhere_is_a_change(path, tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        os.link(path, folder / "file")
    path = tmp_path / "link" / "file"
    path.parent.symlink_to(folders[0])
    changes = FileChanges([path])
    (folders[1] / "file").unlink()
    (folders[1] / "file").write_text("one")
    path.parent.unlink()
    path.parent.symlink_to(folders[1])
    assert [changes.check(), changes.check()] == [False, True]


@pytest.fixture
def tokens(path):
    token, line = make_token("ci", ["infer"])
    path.write_text(f"{line}\n")
    return token, line, TokenFile(path)


def test_a_wrong_line_takes_no_effect_and_the_others_do(tokens, path):
    token, line, file = tokens
    revoked, revoked_line = make_token("old", ["infer"])
    path.write_text(f"{line}\n{revoked_line}\n")
    file.read()
    assert file.caller_of(revoked)
    path.write_text(f"{line}\nnonsense\n" + "more\n" * 9)
    with pytest.raises(CredentialsError, match=r"line 2: expected .*; and 5 more$"):
        file.read()
    assert file.caller_of(token)
    assert file.caller_of(revoked) is None


def test_a_file_that_an_editor_of_windows_wrote_is_read(tokens, path):
    token, line, file = tokens
    path.write_bytes(b"\xef\xbb\xbf" + f"# tokens\r\n{line}\r\n".encode())
    file.read()
    assert file.caller_of(token)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(""),
        lambda path: path.write_bytes(b"\xff"),
        lambda path: path.chmod(0o666),
    ],
)
def test_an_unusable_file_admits_nobody(tokens, path, spoil):
    token, _, file = tokens
    spoil(path)
    with pytest.raises(CredentialsError):
        TokenFile(path)
    with pytest.raises(CredentialsError):
        file.read()
    assert file.caller_of(token) is None
