"""What README.md shows works: its commands run, its Python blocks run, its settings table is true."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.client.cli import SUBCOMMANDS
from paceline.loadgen import bench_options
from paceline.server import settings
from paceline.server.config import ServeConfig

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TARGET = "127.0.0.1:50051"
PACELINE = [sys.executable, "-m", "paceline.client.cli"]
# A test run that `make` started must not lend its own flags and variables to the lines under test.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
PROMPTS = (
    {"id": "a", "prompt": "One, two, three,", "max_tokens": 4, "temperature": 0},
    {"id": "b", "prompt": "The sky is", "max_tokens": 2, "ignore_eos": True},
)


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands(program: str, subcommand: str = "") -> list[list[str]]:
    """The shell lines that call a program, split into words and without comments."""
    lines = [
        shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()
    ]
    found = [[Path(line[0]).name, *line[1:]] for line in lines if line]
    return [line for line in found if line[0] == program and subcommand in ("", *line[1:2])]


def run(
    command: list[str], folder: Path, timeout_s: float = 100, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; it must succeed and say nothing about a traceback."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """The address of a server of the embedded model, started as the README starts it."""
    command = [*PACELINE, "serve", "--port", "0", "--metrics-port", "none"]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        banner = server.stdout.readline()
        address = re.search(r" on (\S+:\d+) ", banner)
        if address is None:
            _, errors = server.communicate()
            if server.returncode == 2 and "cannot fetch the embedded model" in errors:
                pytest.skip(f"no embedded model: {errors.strip()}")
            pytest.fail(f"the server did not start: {errors}")
        try:
            yield address[1]
        finally:
            server.terminate()
            server.communicate(timeout=60)
    assert server.returncode == 0


def test_every_shell_line_is_checked_here() -> None:
    """No command of the README is of a kind that the tests below do not know."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    known = [commands("make"), commands("locust"), *(commands("paceline", n) for n in SUBCOMMANDS)]

    assert sum(map(len, known)) == len(lines)


@pytest.mark.parametrize("command", commands("make"), ids=" ".join)
def test_make_lines_name_targets_and_reach_the_command(command: list[str]) -> None:
    """Each target exists, and its variables arrive as flags that `paceline bench` takes."""
    listed = run(["make", "help"], ROOT).stdout
    planned = run([*command, "--dry-run"], ROOT).stdout.splitlines()

    assert f"make {command[1]} " in listed
    if command[1] == "bench":
        words = shlex.split(planned[-1])
        options = bench_options.parse(words[words.index("bench") + 1 :])
        assert ("QUICK=1" in command) == options.quick
        targets = [word.partition("=")[2] for word in command if word.startswith("TARGET=")]
        assert options.target == (targets[0] if targets else None)


@pytest.mark.parametrize("command", commands("paceline", "serve"), ids=" ".join)
def test_serve_lines_are_valid(command: list[str]) -> None:
    """The flags of every `paceline serve` line are known and their values good."""
    settings.read(command[2:])


@pytest.mark.parametrize("command", commands("paceline", "generate"), ids=" ".join)
def test_generate_lines_write_text(command: list[str], target: str, tmp_path: Path) -> None:
    """Every `paceline generate` line, made short, gets an answer from a running server."""
    short = [*PACELINE, *command[1:], "--max-tokens", "8"]

    done = run(short, tmp_path, PACELINE_TARGET=target)

    assert done.stdout.strip()
    if "--json" in command:
        assert json.loads(done.stdout)["completions"][0]["text"]


@pytest.mark.parametrize("block", blocks("python"), ids=["blocking", "asyncio"])
def test_python_blocks_run(block: str, target: str, tmp_path: Path) -> None:
    """Every Python block runs as it stands, but for the address."""
    assert TARGET in block

    done = run([sys.executable, "-W", "error", "-c", block.replace(TARGET, target)], tmp_path)

    assert done.stdout.strip()


@pytest.mark.parametrize("command", commands("paceline", "batch"), ids=" ".join)
def test_batch_lines_answer_a_file(command: list[str], target: str, tmp_path: Path) -> None:
    """`paceline batch` answers each line of a file and ends with a JSON summary."""
    lines = "".join(json.dumps(prompt) + "\n" for prompt in PROMPTS)
    (tmp_path / command[2]).write_text(lines, encoding="utf-8")

    done = run([*PACELINE, *command[1:]], tmp_path)

    answers = (tmp_path / command[3]).read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["id"] for line in answers} == {"a", "b"}
    assert json.loads(done.stdout.splitlines()[-1])["requests"] == 2


@pytest.mark.parametrize("command", commands("locust"), ids=" ".join)
def test_locust_lines_load_the_server(command: list[str], target: str, tmp_path: Path) -> None:
    """Every `locust` line, made short, runs without a failed request."""
    short = ["-u", "2", "-t", "4s", "--target", target, "--workload", "fixed:8:4"]
    if "--concurrency" in command:
        short = ["--concurrency", "1,2", "--level-min-s", "0.1", "--level-max-s", "1", *short[4:]]
        short += ["--level-requests", "1", "--out", str(tmp_path / "records")]

    run([sys.executable, "-m", *command, *short], ROOT)

    if "--out" in command:
        (records,) = (tmp_path / "records").glob("requests.*.jsonl")
        lines = records.read_text(encoding="utf-8").splitlines()
        assert "OK" in [json.loads(line).get("status") for line in lines]


def test_the_settings_table_tells_the_defaults() -> None:
    """Each setting of the table exists and has the default it is said to have."""
    table = README.partition("| setting | default |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE)
    shown = {
        name: default.strip("`")
        for names, defaults in rows
        for name, default in zip(re.findall(r"`(\w+)`", names), defaults.split(", "), strict=True)
    }

    assert len(shown) > 10
    for name, default in shown.items():
        real = ServeConfig.model_fields[name].default
        if isinstance(real, bool):
            assert default == str(real).lower()
        elif real is None:
            assert not re.fullmatch(r"[\d.]+", default)
        else:
            assert default == format(real, "g" if isinstance(real, float) else "")


def test_links_lead_somewhere() -> None:
    """Every relative link names a file of the repository."""
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)

    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
