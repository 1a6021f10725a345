"""`paceline token`: makes a bearer token, shows it once, and writes what the server's file keeps of it."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path

from .bearer import NAME, digest_of, parse
from .errors import SetupError

_BYTES = 32


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for what cannot be."""
    options = _parser().parse_args(argv)
    token = f"pl_{secrets.token_urlsafe(_BYTES)}"
    try:
        line = _line(options, token)
        if options.file is None:
            sys.stdout.write(f"token (shown this once): {token}\nline for --tokens: {line}\n")
        else:
            _append(options.file, line)
            sys.stdout.write(f"{token}\n")
    except SetupError as exc:
        sys.stderr.write(f"paceline token: {exc}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="paceline token",
        description="Make a bearer token. The server's file gets its SHA-256 only.",
    )
    parser.add_argument("name", help="whose it is: letters, digits, and . _ @ -")
    parser.add_argument(
        "--file", type=Path, help="add the line to this file and write the token only"
    )
    parser.add_argument("--rate", metavar="X", help="requests a second, each completion counts")
    parser.add_argument("--concurrency", metavar="N", help="requests at once")
    parser.add_argument("--admin", action="store_true", help="may abort the requests of all")
    return parser


def _line(options: argparse.Namespace, token: str) -> str:
    if not NAME.fullmatch(options.name):
        raise SetupError(f"{options.name!r} is no name: 1 to 64 letters, digits, and . _ @ -")
    words = [f"{options.name}:{digest_of(token).hex()}"]
    words += [
        f"{key}={value}" for key in ("rate", "concurrency") if (value := getattr(options, key))
    ]
    words += ["admin"] if options.admin else []
    line = " ".join(words)
    try:
        parse(line)
    except SetupError as exc:
        raise SetupError(str(exc).removeprefix("line 1: ")) from exc
    return line


def _append(path: Path, line: str) -> None:
    """Adds a line with one write; a new file is for its owner alone."""
    try:
        whole = not path.exists() or path.read_bytes()[-1:] in (b"", b"\n")
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "wb") as file:
            file.write(f"{'' if whole else chr(10)}{line}\n".encode())
    except OSError as exc:
        raise SetupError(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc


if __name__ == "__main__":
    sys.exit(main())
