"""Reads a command's configuration: command line > environment `PACELINE_*` > TOML file > the defaults in `config`."""

from __future__ import annotations

import argparse
import os
import tomllib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .config import CPU_DEFAULTS, GPU_DEFAULTS, EngineConfig, ModelConfig, ServeConfig
from .devices import on_gpu
from .errors import SetupError

_PREFIX = "PACELINE_"
Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Command(Generic[Config]):
    """What a command is configured by: fields by group, in the order of the help, and its positional arguments."""

    name: str
    description: str
    config: type[Config]
    groups: tuple[tuple[str, type[BaseModel]], ...]
    positional: tuple[str, ...] = ()


SERVE = Command(
    "serve",
    "Serve a language model over gRPC.",
    ServeConfig,
    (("model", ModelConfig), ("batching", EngineConfig), ("server", ServeConfig)),
)


class _File(PydanticBaseSettingsSource):
    """The values of the TOML file."""

    def __init__(self, settings: type[BaseSettings], values: dict[str, Any]) -> None:
        super().__init__(settings)
        self._values = values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._values


def _settings_class(config: type[BaseModel], file: dict[str, Any]) -> type[BaseSettings]:
    """`config` with its sources."""

    class Sources(BaseSettings):
        model_config = SettingsConfigDict(
            env_prefix=_PREFIX, env_parse_none_str="none", frozen=True, extra="forbid"
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, _File(settings_cls, file)

    bases: Any = (config, Sources)  # the annotation knows bases of one class only
    return typing.cast(type[BaseSettings], create_model("Settings", __base__=bases))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SetupError(f"{message} (see --help)")


def read(argv: Sequence[str]) -> ServeConfig:
    """What `paceline serve` is configured by. SetupError, in one line, where a value or its source is bad."""
    return read_command(SERVE, argv)


def read_command(command: Command[Config], argv: Sequence[str]) -> Config:
    """The configuration of `command`. SetupError, in one line, where a value or its source is bad."""
    given = {k: v for k, v in vars(_parser(command).parse_args(argv)).items() if v is not None}
    path = given.pop("config", None) or os.environ.get(f"{_PREFIX}CONFIG")
    given = _with_none(given)
    file = {} if path is None else _with_none(_read_file(Path(path)))
    # One file serves all commands: what only another one knows is left alone.
    foreign = ServeConfig.model_fields.keys() - command.config.model_fields.keys()
    file = {name: value for name, value in file.items() if name not in foreign}
    try:
        settings = _settings_class(command.config, file)(**given)
    except ValidationError as exc:
        raise SetupError(_explain(exc, given, path)) from exc
    values = settings.model_dump()
    defaults = GPU_DEFAULTS if on_gpu(values.get("device", "cpu")) else CPU_DEFAULTS
    unset = defaults.keys() & values.keys() - settings.model_fields_set
    values |= {name: defaults[name] for name in unset}
    return command.config(**values)


def _with_none(values: dict[str, Any]) -> dict[str, Any]:
    """`none` switches off what has a default, on the command line as in the file, which has no word for it."""
    return {name: None if value == "none" else value for name, value in values.items()}


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SetupError(f"--config {path}: {(exc.strerror or str(exc)).lower()}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SetupError(f"--config {path}: {exc}") from exc


def _explain(error: ValidationError, given: dict[str, Any], path: str | None) -> str:
    """One line for the first bad value: where it came from, what is wrong, and what it was."""
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if name in given:
        source = _flag(name)
    elif f"{_PREFIX}{name.upper()}" in os.environ:
        source = f"{_PREFIX}{name.upper()}"
    else:  # a default can be wrong only beside another setting
        source = _flag(name) if path is None else f"{name!r} in {path}"
    message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"{source}: there is no such setting"
    return f"{source}: {message}, not {str(first['input'])!r}"


def _parser(command: Command[Any]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"paceline {command.name}",
        usage=" ".join(["%(prog)s", *map(str.upper, command.positional), "[settings]"]),
        description=command.description,
        epilog="Every flag is also read from the environment (--max-batch-size from "
        f"{_PREFIX}MAX_BATCH_SIZE) and from the TOML file (max_batch_size = 16). "
        "The command line wins over the environment, the environment over the file.",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=100),
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with any of the settings below")
    for name in command.positional:
        field = command.config.model_fields[name]
        parser.add_argument(name, help=field.description, metavar=name.upper())
    for title, owner in command.groups:
        group = parser.add_argument_group(title)
        for name in owner.__annotations__:
            if name in owner.model_fields and name not in command.positional:
                _add_flag(group, name, owner.model_fields[name])
    return parser


def _add_flag(group: argparse._ArgumentGroup, name: str, field: FieldInfo) -> None:
    text = (field.description or "").replace("%", "%%")
    if field.default is not None and field.annotation is not bool:
        text += f" (default: {field.default})"
    if field.annotation is bool:
        text += f" (default: {'on' if field.default else 'off'})"
        group.add_argument(
            _flag(name), dest=name, help=text, action=argparse.BooleanOptionalAction, default=None
        )
        return
    group.add_argument(_flag(name), dest=name, help=text, metavar=_metavar(field.annotation))


def _metavar(annotation: Any) -> str:
    """What stands for the value in the help: its choices, or its kind."""
    if typing.get_origin(annotation) is typing.Literal:
        return "{" + ",".join(typing.get_args(annotation)) + "}"
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    if hasattr(annotation, "__members__"):
        return "{" + ",".join(member.value for member in annotation) + "}"
    return {"int": "N", "float": "X"}.get(annotation.__name__, "TEXT")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
