"""The pages that are made from code when the site is built, so that they cannot be out of date."""

from __future__ import annotations

import enum
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from paceline.client.cli import SUBCOMMANDS
from paceline.server.batch import BATCH
from paceline.server.config import CPU_DEFAULTS, GPU_DEFAULTS
from paceline.server.settings import SERVE, Command

ROOT = Path(__file__).parent.parent.parent


def settings() -> str:
    """A table of all settings of the server, and of those that `paceline batch` has beside them."""
    lines = [
        "# Settings",
        "",
        "Of `paceline serve`. A flag wins over the environment, the environment over the TOML file",
        "(`--config FILE`, or `PACELINE_CONFIG`), the file over the default. `--max-batch-size 16`,",
        "`PACELINE_MAX_BATCH_SIZE=16` and `max_batch_size = 16` are the same. `none` switches off what has a",
        "default; a flag of a yes-or-no setting has a twin, `--no-…`. `paceline batch` takes the settings of the",
        "model and of batching, too.",
        "",
        *_tables(SERVE),
        "## batch",
        "",
        "`paceline batch` beside them:",
        "",
    ]
    shared = SERVE.config.model_fields.keys()
    own = [name for name in BATCH.config.model_fields if name not in shared]
    return "\n".join([*lines, *_table(BATCH, own), ""])


def _tables(command: Command[Any]) -> Iterator[str]:
    for title, owner in command.groups:
        names = [name for name in owner.__annotations__ if name in owner.model_fields]
        yield from (f"## {title}", "", *_table(command, names), "")


def _table(command: Command[Any], names: list[str]) -> Iterator[str]:
    yield "| setting | values | default | what it does |"
    yield "|---|---|---|---|"
    for name in names:
        field = command.config.model_fields[name]
        told = (field.description or "").replace("|", "\\|")
        yield f"| `{name}` | {_values(field)} | {_default(name, field)} | {told} |"


def _values(field: FieldInfo) -> str:
    """Choices, or the kind of value with its bounds."""
    kind: Any = field.annotation
    if isinstance(kind, types.UnionType):
        kind = next(each for each in typing.get_args(kind) if each is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    words = {bool: "yes or no", int: "whole number", float: "number", str: "text"}
    bounds = [
        f"{sign} {getattr(limit, attribute):g}"
        for limit in field.metadata
        for attribute, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(limit, attribute, None) is not None
    ]
    return " ".join([words.get(kind, getattr(kind, "__name__", str(kind))), ", ".join(bounds)])


def _default(name: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = (
        "unset" if value is None else f"`{value.value if isinstance(value, enum.Enum) else value}`"
    )
    for device, defaults in (("CPU", CPU_DEFAULTS), ("GPU", GPU_DEFAULTS)):
        if name in defaults:
            text += f", on a {device} `{defaults[name]}`"
    return text


def commands() -> str:
    """What every subcommand says with `--help`."""
    lines = ["# Command line", "", "What `--help` says.", "", *_help([])]
    for name in SUBCOMMANDS:
        lines += [f"## paceline {name}", "", *_help([name])]
    return "\n".join(lines)


def _help(arguments: list[str]) -> Iterator[str]:
    command = [sys.executable, "-m", "paceline.client.cli", *arguments, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    yield from ("```text", done.stdout.rstrip(), "```", "")


def contract() -> str:
    """The .proto as it is."""
    text = (ROOT / "proto" / "paceline" / "v1" / "generation.proto").read_text(encoding="utf-8")
    told = (
        "`proto/paceline/v1/generation.proto`: stubs for any language are made from it. `buf breaking` compares\n"
        "it with the released one in every test run: fields and methods are added, never changed."
    )
    return f"# The contract\n\n{told}\n\n```protobuf\n{text}```\n"


def examples() -> str:
    """The examples' own page, with each program below it."""
    folder = ROOT / "examples"
    page = (folder / "README.md").read_text(encoding="utf-8")
    page = page.replace("../proto/paceline/v1/generation.proto", "reference/contract.md")
    files = re.findall(r"\]\(([\w/]+\.(?:py|sh|mjs))\)", page)
    page = re.sub(
        r"\]\(([\w/]+)\.(py|sh|mjs)\)", lambda m: f"](#{m[1].rpartition('/')[2]}{m[2]})", page
    )
    for file in files:
        language = {"py": "python", "sh": "sh", "mjs": "javascript"}[file.rpartition(".")[2]]
        source = (folder / file).read_text(encoding="utf-8")
        anchor = file.rpartition("/")[2].replace(".", "")
        page += f"\n## {file} {{ #{anchor} }}\n\n```{language}\n{source}```\n"
    return page


PAGES: dict[str, Callable[[], str]] = {
    "reference/settings.md": settings,
    "reference/commands.md": commands,
    "reference/contract.md": contract,
    "examples.md": examples,
}
