"""The file of bearer tokens, and the command that makes its lines."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from paceline.server import token_cli
from paceline.server.bearer import Tokens, digest_of, parse
from paceline.server.errors import LimitReached, SetupError
from paceline.server.quota import Allowance

HEX = digest_of("secret").hex()


def write(path: Path, *lines: str) -> None:
    """As an operator should: the file is never half there."""
    new = path.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    os.replace(new, path)


def line(name: str, token: str, *options: str) -> str:
    return " ".join([f"{name}:{digest_of(token).hex()}", *options])


def test_a_line_says_who_and_how_much() -> None:
    """Name, hash and options are read; comments and empty lines are not."""
    text = (
        f"# ours\n\nalice:{HEX} rate=2.5 concurrency=8 # since May\n{line('bob', 'b', 'admin')}\n"
    )
    alice, bob = parse(text)
    assert (alice.name, alice.digest.hex()) == ("alice", HEX)
    assert alice.allowance == Allowance(rate=2.5, concurrency=8)
    assert not alice.admin
    assert (bob.name, bob.admin, bob.allowance) == ("bob", True, Allowance())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no token in it"),
        ("alice", "line 1: want name:sha256"),
        (f"\nal/ice:{HEX}", "line 2: want name:sha256"),
        (f"alice:{HEX[:-1]}", "line 1: want name:sha256"),
        (f"alice:{HEX} rate=0", "line 1: rate must be a number above 0"),
        (f"alice:{HEX} rate=nan", "line 1: rate must be a number above 0"),
        (f"alice:{HEX} concurrency=1.5", "line 1: concurrency must be a number above 0"),
        (f"alice:{HEX} burst=3", "line 1: options are"),
        (f"alice:{HEX} admin=no", "line 1: options are"),
        (f"alice:{HEX} rate", "line 1: options are"),
        (f"alice:{HEX}\nbob:{HEX}", "one token is there twice"),
    ],
)
def test_a_bad_line_is_named_and_not_shown(text: str, message: str) -> None:
    """The error tells which line is wrong and how, and nothing of a hash."""
    with pytest.raises(SetupError, match=message) as caught:
        parse(text)
    assert HEX[:-1] not in str(caught.value)


def test_tokens_come_and_go_with_the_file(tmp_path: Path) -> None:
    """Rotation: the old and the new token both hold until the old one's line is gone."""
    path = tmp_path / "tokens"
    write(path, line("alice", "old"))
    tokens = Tokens(path)
    assert tokens.caller("old") and not tokens.caller("new") and not tokens.caller("")
    write(path, line("alice", "old"), line("alice", "new"))
    assert tokens.caller("old") and tokens.caller("new")
    write(path, line("alice", "new"))
    assert not tokens.caller("old")
    assert tokens.caller("new")


def test_a_bad_file_leaves_the_old_tokens_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A half-written or lost file locks nobody out, and is told once."""
    path = tmp_path / "tokens"
    write(path, line("alice", "a"))
    tokens = Tokens(path)
    write(path, "half a li")
    assert tokens.caller("a") and tokens.caller("a")
    path.unlink()
    assert tokens.caller("a") and not tokens.caller("b")
    lines = [record.getMessage() for record in caplog.records]
    assert [f"--tokens {path}: line 1" in text for text in lines] == [True, False]
    assert "no such file" in lines[1] and lines[1].endswith("stays in force")


def test_counts_survive_a_reload(tmp_path: Path) -> None:
    """A token that stays keeps what it runs and owes, under its new limits."""
    path = tmp_path / "tokens"
    write(path, line("alice", "a", "rate=1"), line("bob", "b", "concurrency=1"))
    tokens = Tokens(path, clock=lambda: 0.0)
    alice, bob = tokens.caller("a"), tokens.caller("b")
    assert alice is not None and bob is not None
    alice.quota.enter(1, 0.0)
    bob.quota.enter(1, 0.0)
    write(path, line("bob", "b", "concurrency=2", "admin"), line("alice", "a", "rate=1"))
    alice, bob = tokens.caller("a"), tokens.caller("b")
    assert alice is not None and bob is not None and bob.admin
    with pytest.raises(LimitReached):
        alice.quota.enter(1, 0.0)
    bob.quota.enter(1, 0.0)
    with pytest.raises(LimitReached):
        bob.quota.enter(1, 0.0)


def test_the_command_makes_a_token_that_gets_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It adds a line to a file of the owner's alone and shows the token, which the file does not hold."""
    path = tmp_path / "tokens"
    assert token_cli.main(["alice", "--file", str(path), "--rate", "3"]) == 0
    path.write_text(path.read_text().rstrip("\n"))  # an editor may leave the last line open
    assert token_cli.main(["bob", "--file", str(path), "--admin"]) == 0
    first, second = capsys.readouterr().out.split()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first not in path.read_text() and len(first) > 40 and first != second
    tokens = Tokens(path)
    alice, bob = tokens.caller(first), tokens.caller(second)
    assert alice is not None and (alice.name, alice.admin) == ("alice", False)
    assert bob is not None and (bob.name, bob.admin) == ("bob", True)


def test_the_command_shows_token_and_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file both are written once, and belong together."""
    assert token_cli.main(["alice", "--concurrency", "2"]) == 0
    token, shown = (text.rpartition(": ")[2] for text in capsys.readouterr().out.splitlines())
    assert shown == line("alice", token, "concurrency=2")


@pytest.mark.parametrize(
    "arguments", [["a b"], ["alice", "--rate", "-1"], ["alice", "--file", "/"]]
)
def test_the_command_refuses_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad name, limit or file: exit code 2."""
    assert token_cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1
