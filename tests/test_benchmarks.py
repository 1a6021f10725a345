"""The benchmark scripts: their arithmetic on known cases, and every path of theirs that needs no GPU."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine_runs
import overload
import profile_gpu
import soak
import tables
from driving import Driven, Loaded
from gpu_parts import shapes_of
from gpu_scale import smoke
from measuring import ROOT, Bench, Failed
from paceline.server.runner.dummy import shape_config
from profile_gpu import Event, covered, summary
from roofline import Device, Shape

BENCHMARKS = ROOT / "benchmarks"


class TestRoofline:
    @pytest.mark.parametrize(
        ("name", "embeddings", "parameters"),
        [("smollm2-135m", 0, 134_515_008), ("llama-8b", 1, 8_030_261_248)],
    )
    def test_every_weight_is_counted_once(
        self, name: str, embeddings: int, parameters: int
    ) -> None:
        """With norms, and with an input embedding that is not the output matrix, it is the published size."""
        shape = Shape.of(shape_config(name), "bfloat16")
        norms = (2 * shape.layers + 1) * shape.hidden
        assert shape.matrix_elements + norms + embeddings * shape.vocab * shape.hidden == parameters

    def test_a_row_adds_its_keys_values_and_logits(self) -> None:
        """Weights are read once whatever the rows; all else grows with them."""
        shape = Shape(2, 8, 4, 2, 2, 16, 32, "bfloat16")
        added = shape.step_bytes(5, 100) - shape.step_bytes(4, 100)
        assert added == 101 * 2 * 2 * 2 * 2 * 2 + (2 * 32 + 8) * 2

    def test_the_slower_resource_sets_the_floor(self) -> None:
        """Few rows are bound by memory, many by arithmetic."""
        shape, device = Shape.of(shape_config("llama-8b"), "bfloat16"), Device(3e12, 6e14)
        assert device.floor_ms(shape, 1, 128)[1] == "memory"
        assert device.floor_ms(shape, 1024, 128)[1] == "arithmetic"


class TestProfile:
    def test_overlapping_kernels_count_once(self) -> None:
        """What two kernels compute at the same time keeps the device busy once."""
        events = [Event("a", True, 0, 10), Event("b", True, 5, 10), Event("c", True, 30, 5)]
        assert covered(events) == 20

    def test_nothing_seen_is_told(self) -> None:
        """As where OpenVINO computes."""
        with pytest.raises(RuntimeError, match="--runtime torch"):
            summary([], steps=2)

    def test_the_summary_tells_kernels_from_waiting(self) -> None:
        """Shares are of the device's time; calls by which the host waits are counted for each step."""
        events = [
            Event("gemm", True, 0, 30),
            Event("attention", True, 50, 10),
            Event("cudaGraphLaunch", False, 0, 5),
            Event("cudaStreamSynchronize", False, 5, 55),
            Event("aten::zeros", False, 64, 6),
        ]
        found = summary(events, steps=2)
        assert [(line["name"], line["share"]) for line in found["top"]] == [
            ("gemm", 0.75),
            ("attention", 0.25),
        ]
        assert found["device_busy_share"] == pytest.approx(40 / 60)
        assert found["synchronising_calls_per_step"] == 0.5
        assert found["host_calls_per_step"]["cudaGraphLaunch"] == 0.5
        assert found["host_own_ms_per_step"] == pytest.approx((70 - 60) / 2 / 1e6)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loaded, str]]:
    """A tiny model, loaded, and the path of a workload for it."""
    model, scale = smoke(tmp_path_factory.mktemp("smoke"))
    flags = ["--dtype", "float32", "--device", "cpu", "--num-threads", "1"]
    loaded = Loaded(["--dummy-weights", model, *flags, "--max-batch-size", "4"])
    yield loaded, scale.workload
    loaded.close()


class TestEngineRuns:
    def test_a_step_is_timed_where_every_row_decodes(self, tiny: tuple[Loaded, str]) -> None:
        """Nearly as many whole steps as output tokens, around the context that is asked for."""
        found = engine_runs.steps(tiny[0], {"rows": 3, "context": 100})
        assert 40 <= found["full_steps"] <= found["output"]
        assert found["prompt"] < 100 < found["prompt"] + found["output"]
        assert found["step_ms"] > 0

    def test_steps_of_part_of_the_rows_are_left_out(self) -> None:
        """Steps before the last row joined and after the first one left do not count."""
        stamps = [(0.0, 1), (1.0, 2), (2.0, 2), (3.0, 1), (4.0, 2)]
        assert engine_runs.full_steps(Driven(stamps=stamps), rows=2) == [1.0, 2.0]

    @pytest.mark.parametrize("mode", ["sequential", "static", "dynamic", "continuous"])
    def test_a_file_is_run_in_any_mode(self, tiny: tuple[Loaded, str], mode: str) -> None:
        """Every request gets exactly its tokens."""
        loaded, workload = tiny
        found = engine_runs.offline(loaded, {"workload": workload, "mode": mode, "limit": 3})
        assert (found["requests"], found["exact"]) == (3, True)
        assert (found["mean_rows"] == 1) == (mode == "sequential")

    def test_neighbours_are_compared_in_two_crowds(self, tiny: tuple[Loaded, str]) -> None:
        """Each target is held against itself alone, token by token; whether it holds is for the mode to say."""
        found = engine_runs.neighbours(tiny[0], {"targets": 2, "rows": 4})
        assert found["compared"] == 4
        assert found["identical"] == (found["different"] == [])

    def test_a_profile_names_operators(self, tmp_path: Path) -> None:
        """Without a device, torch's operators stand for kernels."""
        model, _ = smoke(tmp_path)
        flags = ["--dummy-weights", model, "--device", "cpu", "--runtime", "torch"]
        loaded = Loaded([*flags, "--num-threads", "1", "--max-batch-size", "4"])
        found = profile_gpu.measure(loaded, rows=2)
        loaded.close()
        assert any(line["name"].startswith("aten::") for line in found["top"])
        assert found["device_busy_share"] is None


class TestBench:
    def test_results_outlast_a_failure(self, tmp_path: Path) -> None:
        """The file holds what was measured, what failed and what there was no time for; a later call adds to it."""
        out = tmp_path / "out.json"
        bench = Bench(out, 60, tmp_path)

        def broken() -> dict[str, Any]:
            raise Failed("no such device")

        bench.unit("one", 0, lambda: {"value": 1})
        bench.unit("two", 0, broken)
        bench.unit("three", 1000, lambda: {"value": 3})
        again = Bench(out, 60, tmp_path)

        assert bench.failed
        assert again.result("one") == {"value": 1}
        assert again.results["units"]["two"]["error"] == "no such device"
        assert "skipped" in again.results["units"]["three"]

    def test_a_measured_unit_is_not_lost_for_want_of_time(self, tmp_path: Path) -> None:
        """A second call that cannot measure something again leaves the first call's result."""
        out = tmp_path / "out.json"
        Bench(out, 60, tmp_path).unit("one", 0, lambda: {"value": 1})
        second = Bench(out, 60, tmp_path)
        second.unit("one", 1000, lambda: {"value": 2})
        assert second.result("one") == {"value": 1}

    def test_only_what_is_missing(self, tmp_path: Path) -> None:
        """A result is kept; what failed or was skipped is measured."""
        out = tmp_path / "out.json"
        first = Bench(out, budget_s=60.0, folder=tmp_path)
        first.unit("done", 1.0, lambda: {"value": 1})
        first.unit("skipped", 600.0, lambda: {"value": 1})

        again = Bench(out, budget_s=60.0, folder=tmp_path, missing=True)
        for name in ("done", "skipped", "new"):
            again.unit(name, 1.0, lambda: {"value": 2})

        found = [again.result(name) for name in ("done", "skipped", "new")]
        assert found == [{"value": 1}, {"value": 2}, {"value": 2}]

    def test_a_command_that_dies_leaves_its_lines(self, tmp_path: Path) -> None:
        """Whole lines that a command printed before it failed come with the failure, and so does its complaint."""
        program = tmp_path / "dies.py"
        program.write_text("import sys; sys.stdout.write('{\"a\": 1}\\n{\"b'); sys.exit('broken')")
        with pytest.raises(Failed, match="broken") as failure:
            Bench(None, 60, tmp_path).lines([str(program)])
        assert failure.value.lines == [{"a": 1}]


def test_a_slope_is_told_with_its_error() -> None:
    """A straight line has its slope and no error; noise around a flat one is within two errors of none."""
    assert soak.slope([(x, 3.0 + 0.5 * x) for x in range(10)]) == pytest.approx((0.5, 0.0))
    found, error = soak.slope([(x, float(x % 2)) for x in range(40)])
    assert abs(found) < 2 * error


@pytest.mark.parametrize(
    ("goodput", "ttft", "reached"), [(95, 190, True), (85, 100, False), (99, 210, False)]
)
def test_overload_is_judged_by_goodput_and_first_tokens(
    goodput: float, ttft: float, reached: bool
) -> None:
    """The highest rate is held against the best goodput and against the first tokens at capacity."""
    levels = [
        {"times": times, "goodput_tok_s": rate, "ttft_p99_ms": wait}
        for times, rate, wait in ((0.7, 70, 20), (1.0, 100, 100), (5.0, goodput, ttft))
    ]
    assert overload.verdict(levels)["reached"] is reached


def test_parts_take_the_shapes_they_are_about() -> None:
    """Steps are shown for three sizes where both ends are asked for; the ladder is about the smallest."""
    assert shapes_of("steps", ["smollm2-135m", "llama-8b"]) == [
        "smollm2-135m",
        "llama-1b",
        "llama-8b",
    ]
    assert shapes_of("steps", ["llama-8b"]) == ["llama-8b"]
    assert shapes_of("ladder", ["llama-8b", "smollm2-135m"]) == ["smollm2-135m"]


@pytest.mark.parametrize(
    ("page", "results"),
    [("performance", ["gpu"]), ("performance-h200", ["gpu_h200", "gpu_h200_x2"])],
)
def test_tables_of_a_page_are_of_the_runs_beside_it(
    page: str, results: list[str], tmp_path: Path
) -> None:
    """Nobody has to remember to make them anew."""
    kept, made = ROOT / f"docs/{page}.md", tmp_path / "page.md"
    made.write_text(kept.read_text())
    files = [str(ROOT / f"benchmarks/results/{name}.json") for name in results]

    tables.main([*files, "--update", str(made)])

    assert made.read_text() == kept.read_text()


def test_tables_replace_what_stands_between_the_marks() -> None:
    """The rest of the page stays as it was; a page without marks is refused."""
    begin, end = tables.MARKS
    page = tables.updated(f"before\n{begin}\nold\n{end}\nafter\n", "new")
    assert page == f"before\n{begin}\nnew\n{end}\nafter\n"
    with pytest.raises(ValueError, match="no <!--"):
        tables.updated("before\n", "new")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server on a model without weights."""
    program = Path(__file__).parent / "mock_serving.py"
    with subprocess.Popen(
        [sys.executable, str(program), "--port", "0", "--metrics-port", "none"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        found = re.search(r" on (\S+:\d+)", process.stdout.readline())
        assert found is not None
        yield found[1]
        process.terminate()


class TestStreams:
    def test_levels_count_every_token(self, server: str) -> None:
        """Each level's counted requests are as many as asked for, and whole."""
        lengths = ["--prompt", "8", "--output", "8", "--requests-per-stream", "2"]
        one, four = _streams(server, "--concurrency", "1,4", *lengths, "--min-requests", "3")
        assert (one["requests"], four["requests"]) == (3, 8)
        for level in (one, four):
            assert level["exact"]
            assert level["output_tok_s"] > 0
            assert 0 < level["ttft_ms"]["p50"] <= level["ttft_ms"]["p99"]

    def test_a_file_is_sent_whole(self, server: str, tmp_path: Path) -> None:
        """All requests of a file are answered with the tokens they ask for."""
        lines = [{"prompt_ids": [5, 6, 7], "max_tokens": tokens} for tokens in (2, 9, 5)]
        workload = tmp_path / "workload.jsonl"
        workload.write_text("".join(json.dumps(line) + "\n" for line in lines))
        (found,) = _streams(server, "--workload", str(workload), "--processes", "2")
        assert found["output_tokens"] == 16
        assert found["exact"]

    def test_other_machines_are_left_alone(self) -> None:
        """A target that is not this machine is refused."""
        done = _script("streams.py", "--target", "192.0.2.1:50051")
        assert done.returncode == 2
        assert "on this machine" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_gpu_script_measures_on_a_cpu(tmp_path: Path) -> None:
    """A tiny run of every kind of command ends well, keeps its figures and makes tables of them."""
    out = tmp_path / "out.json"
    parts = "offline,steps,streams"
    options = ["--smoke", "--parts", parts, "--rounds", "1", "--out", str(out), "--budget-s", "390"]
    done = _script("gpu.py", *options)
    assert done.returncode == 0, done.stderr
    units = json.loads(out.read_text())["units"]
    assert set(units) == {"offline/tiny", "steps/tiny", "streams/auto"}
    assert units["offline/tiny"]["result"]["exact"]
    assert all(case["step_ms"] > 0 for case in units["steps/tiny"]["result"]["cases"])
    assert "### The time of a decode step" in done.stdout
    assert "not measured" not in done.stdout
    assert str(tmp_path) not in out.read_text().replace(str(out), "")


def _streams(target: str, *options: str) -> list[dict[str, Any]]:
    done = _script("streams.py", "--target", target, *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _script(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / name), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=390, check=False)
