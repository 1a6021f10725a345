"""The shape of the repository: who may import whom, what stays light, what the distribution holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import paceline.client

ROOT = Path(__file__).parent.parent
PORTIONS = ("proto", "server", "client", "loadgen")

PURE = {
    f"paceline.server.{name}"
    for name in (
        "bare_step",
        "bounds",
        "caller",
        "counters",
        "deterministic",
        "drain_rate",
        "errors",
        "glimpse",
        "history",
        "inbox",
        "lifecycle",
        "pages",
        "planner",
        "policy",
        "processes.backoff",
        "processes.loads",
        "processes.messages",
        "processes.quarantine",
        "processes.routing",
        "processes.suspects",
        "quota",
        "rectangles",
        "request",
        "residency",
        "running",
        "scheduler",
        "sequence",
        "step",
        "stops",
        "tally",
        "waiting",
    )
} | {f"paceline.loadgen.{name}" for name in ("histogram", "live_figures", "live_tally", "slo")}
PURE_LOAD = {
    f"paceline.loadgen.{name}"
    for name in (
        "arrivals",
        "open_words",
        "rate_search",
        "repeats",
        "saturation",
        "schedule",
        "units",
    )
}
IMPURE = {"asyncio", "concurrent", "grpc", "random", "secrets", "socket", "threading", "time"}
PROTOBUF_HOLDERS = {
    "paceline.client": {"_aio", "_answers", "_record", "_requests", "_status", "_sync"},
    "paceline.server": {
        "listener",
        "openai_api.answers",
        "openai_api.asked",
        "openai_api.completions",
        "openai_api.endpoints",
        "openai_api.logprobs",
        "playground",
        "ray_serve",
        "rpc",
        "rpc_convert",
        "rpc_errors",
        "rpc_guard",
        "server_info",
        "validation",
        "wire",
    },
    "paceline.loadgen": {"grpc_wire", "probe"},
}
LOCUST_HOLDERS = {
    *("arrival_stream", "entry.locustfile", "health", "live_run", "live_terminal", "open_loop"),
    *("probe_stream", "run", "session", "shape", "user", "web"),
}


def modules() -> dict[str, Path]:
    """Every hand-written module of the product by its import name."""
    found = {}
    for portion in PORTIONS:
        for path in (ROOT / portion / "paceline").rglob("*.py"):
            if "_pb2" not in path.name:
                parts = path.relative_to(ROOT / portion).with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """What a module imports when it runs: names under TYPE_CHECKING are not counted."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in running_nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {as_module(each) for each in found}


def running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from running_nodes(child)


def as_module(name: str) -> str:
    """`paceline.server.errors.QueueFull` is the module `paceline.server.errors`; others stay as they are."""
    while name.startswith("paceline.") and name not in MODULES and "_pb2" not in name:
        name = name.rpartition(".")[0]
    return name


def reachable(name: str) -> set[str]:
    """All a module imports, through the product's own modules."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for each in imports(waiting.pop()) - seen:
            seen.add(each)
            if each in MODULES:
                waiting.append(each)
    return seen


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def portion(name: str) -> str:
    return ".".join(name.split(".")[:2])


class TestArrows:
    def test_the_walk_sees_imports(self) -> None:
        """The checks below stand on a walk that finds absolute, relative and lazy imports."""
        assert "paceline.server.request" in imports("paceline.server.sequence")
        assert "grpc" in imports("paceline.client._sync")
        assert "paceline.server.errors" in reachable("paceline.server.scheduler")

    @pytest.mark.parametrize(
        ("who", "may_reach"),
        [
            ("paceline.client", {"paceline.client", "paceline.v1"}),
            ("paceline.server", {"paceline.server", "paceline.v1"}),
            ("paceline.loadgen", {"paceline.loadgen", "paceline.client", "paceline.v1"}),
            ("paceline.v1", {"paceline.v1"}),
        ],
    )
    def test_portions_reach_only_what_they_may(self, who: str, may_reach: set[str]) -> None:
        """Server and client never import each other; the load generator stands on the client."""
        wrong = {
            (name, each)
            for name in MODULES
            if portion(name) == who
            for each in imports(name)
            if each.startswith("paceline") and portion(each) not in may_reach
        }

        assert wrong == set()

    def test_only_the_runner_imports_torch(self) -> None:
        """torch appears in server/paceline/server/runner alone."""
        holders = {name for name in MODULES if "torch" in tops(imports(name))}

        assert holders
        assert {name for name in holders if ".runner" not in name} == set()

    def test_only_locusts_side_imports_locust(self) -> None:
        """locust and gevent appear in the locustfile and what it alone imports."""
        holders = {name for name in MODULES if {"locust", "gevent"} & tops(imports(name))}
        allowed = {f"paceline.loadgen.{name}" for name in LOCUST_HOLDERS}
        importers = {name for name in MODULES if imports(name) & allowed}

        assert holders <= allowed
        assert importers <= allowed

    def test_protobuf_stays_at_the_border(self) -> None:
        """Messages appear where the wire is, nowhere deeper."""
        wrong = {
            name
            for name in MODULES
            if any(each.startswith(("google.protobuf", "paceline.v1.")) for each in imports(name))
            if name.removeprefix(portion(name) + ".")
            not in PROTOBUF_HOLDERS.get(portion(name), set())
        }

        assert wrong == set()

    @pytest.mark.parametrize("name", sorted(PURE))
    def test_pure_modules_stay_pure(self, name: str) -> None:
        """Policy, scheduler and pages know no clock, no threads, no torch, no gRPC, no chance."""
        found = reachable(name)

        assert tops(found) & (IMPURE | {"torch", "transformers", "google"}) == set()

    @pytest.mark.parametrize("name", sorted(PURE_LOAD))
    def test_schedules_and_searches_stay_pure(self, name: str) -> None:
        """What the load is and what it means knows no clock, no wire, no Locust; chance only from a seed."""
        found = tops(reachable(name))

        assert found & ((IMPURE - {"random"}) | {"gevent", "locust", "torch", "google"}) == set()

    def test_the_engine_knows_no_wire_and_no_model(self) -> None:
        """The engine reaches neither gRPC nor torch nor the event loop."""
        found = reachable("paceline.server.engine")

        assert tops(found) & {"asyncio", "grpc", "torch", "transformers", "google"} == set()

    def test_the_supervisor_stays_light(self) -> None:
        """It outlives engines and front ends: it reaches neither torch nor gRPC nor their sockets."""
        found = tops(reachable("paceline.server.processes.supervisor"))

        assert found & {"torch", "grpc", "grpc_health", "zmq"} == set()

    def test_front_ends_reach_no_model(self) -> None:
        """Nothing that needs torch is within a front end's reach."""
        found = reachable("paceline.server.processes.frontend")

        assert {name for name in found if ".runner." in f"{name}."} == set()

    @pytest.mark.parametrize("name", sorted(MODULES))
    def test_no_module_reaches_itself(self, name: str) -> None:
        """Imports form no cycle."""
        if MODULES[name].name != "__init__.py":
            assert name not in reachable(name)


class TestPortions:
    def test_no_portion_claims_the_namespace(self) -> None:
        """An `__init__.py` directly under `paceline/` would hide the other portions."""
        assert sorted(ROOT.glob("*/paceline/__init__.py")) == []

    @pytest.mark.parametrize("package", ["proto/paceline/v1", "server/paceline/server"])
    def test_every_portion_is_typed(self, package: str) -> None:
        """`py.typed` tells type checkers to believe the annotations."""
        assert (ROOT / package / "py.typed").is_file()

    def test_the_clients_exports_are_exact(self) -> None:
        """`__all__` is sorted by kind and names every public name, and nothing is exported by accident."""
        exported = paceline.client.__all__
        public = {
            name
            for name, value in vars(paceline.client).items()
            if not name.startswith("_") and not isinstance(value, type(sys))
        }

        assert len(exported) == len(set(exported))
        assert public == set(exported)

    def test_the_client_stays_light(self) -> None:
        """Importing client and command line loads no torch, no locust, no pydantic."""
        code = (
            "import sys, paceline.client, paceline.client.cli, paceline.client.cli_generate\n"
            "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )

        loaded = set(done.stdout.split())
        assert {"grpc", "paceline"} <= loaded
        heavy = {"torch", "transformers", "locust", "gevent", "pydantic", "numpy", "requests"}
        assert loaded & heavy == set()


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """The names inside the sdist, and inside the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (sdist,) = folder.glob("*.tar.gz")
    # The build environment is made anew: the pinned stub generators are not part of this one.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(folder)]
    done = subprocess.run([*command, str(sdist)], capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr or "Could not find a version" in done.stderr:
        pytest.skip("no package index reachable to build the wheel with")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        inside_sdist = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive_zip:
        return inside_sdist, set(archive_zip.namelist())


class TestDistributions:
    def test_the_wheel_holds_every_module_and_the_stubs(
        self, distributions: tuple[set[str], set[str]]
    ) -> None:
        """All four portions, the generated stubs, `py.typed` and the report's assets are inside."""
        _, wheel = distributions
        expected = {
            str(path.relative_to(ROOT / portion_root))
            for portion_root in PORTIONS
            for path in (ROOT / portion_root / "paceline").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }

        assert "paceline/v1/generation_pb2_grpc.pyi" in expected
        assert expected - wheel == set()
        extra = {name for name in wheel if ".dist-info/" not in name} - expected
        assert extra == set()

    def test_the_wheel_does_not_own_the_namespace(
        self, distributions: tuple[set[str], set[str]]
    ) -> None:
        """Other distributions may add portions of their own."""
        assert "paceline/__init__.py" not in distributions[1]

    def test_the_sdist_holds_sources_only(self, distributions: tuple[set[str], set[str]]) -> None:
        """Tests, build hook and contract are inside; generated stubs are not."""
        sdist, _ = distributions

        assert {"hatch_build.py", "constraints.txt", "Makefile", "tests/test_layout.py"} <= sdist
        assert "proto/paceline/v1/generation.proto" in sdist
        assert {name for name in sdist if "_pb2" in name} == set()
