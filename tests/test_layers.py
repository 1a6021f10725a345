"""The benchmark of whole layers: which ways it measures, how it searches, and a tiny run in Triton's interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import layer_chain
import layers
from layer_chain import Case, Chain
from layer_ways import as_run, ways
from measuring import ROOT
from paceline.server.runner import triton_early, triton_linear, triton_rows
from paceline.server.runner.linear_configs import TORCH, Config, block_m, pick
from triton_interpreter import DEVICE

IMPOSSIBLE = Config("dot", 16, 16, split_k=2)  # for a gate, which is not linear
CASES = [
    Case(shape, rows, fp8)
    for shape in ("smollm2-135m", "llama-1b", "llama-8b")
    for rows in (1, 8, 32, 64)
    for fp8 in (False, True)
]


class TestWays:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_the_built_in_choice_is_measured_first(self, case: Case) -> None:
        """No way is there twice, and torch's product is one of them unless there is one row."""
        for layer in case.layers.values():
            found = ways(layer, case.rows)

            assert found[0] == pick(layer, case.rows)
            assert len({as_run(each, layer) for each in found}) == len(found) > 5
            assert (TORCH in found) == (case.rows > 1)
            assert {each.kind for each in found} <= {"vec" if case.rows == 1 else "dot", "torch"}
            assert layer.op != "norm_gated" or all(each.split_k == 1 for each in found)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_programs_for_several_rows_are_large(self, case: Case) -> None:
        """Those of a large layer, tried beside the engine's choice: few fit into a multiprocessor, and one does."""
        for layer in case.layers.values():
            if case.rows == 1 or layer.weight_bytes < 8 << 20:
                continue
            for each in ways(layer, case.rows)[1:]:
                height = block_m(case.rows, each) + each.block_n * (1 + (layer.op == "norm_gated"))
                size = height * each.block_k * each.num_stages * layer.element_bytes
                assert each == TORCH or 114 << 10 < size <= 222 << 10

    def test_what_comes_to_the_same_is_one_way(self) -> None:
        """Blocks beyond K, and a norm that is not there."""
        layer = Case("smollm2-135m", 8).layers["o"]
        one, other = Config("dot", 16, 1024), Config("dot", 16, 512, fuse_norm=False)

        assert as_run(one, layer) == as_run(other, layer)
        assert as_run(one, layer) != as_run(Config("dot", 32, 512), layer)


class FakeChain:
    """A chain whose time depends on which ways come together."""

    def __init__(self, us: Mapping[tuple[int, int], float]) -> None:
        self.us = us

    def measure(self, chosen: Mapping[str, Config]) -> tuple[float, float]:
        first, second = (config.block_n for config in chosen.values())
        return self.us[first, second], 0.0


class TestSearch:
    def test_a_second_round_sees_changed_neighbours(self) -> None:
        """What is best for a layer depends on what another one turned out to be."""
        narrow, wide = Config("dot", 16), Config("dot", 32)
        chain: Any = FakeChain({(16, 16): 10, (32, 16): 11, (16, 32): 8, (32, 32): 5})

        best, tried = layers.search(chain, {"o": [narrow, wide], "down": [narrow, wide]})

        assert best == {"o": wide, "down": wide}
        assert [each["us"] for each in tried["o"]] == [8, 5]
        assert [each["us"] for each in tried["down"]] == [11, 5]

    def test_a_way_that_cannot_run_is_no_candidate(self) -> None:
        """It is listed with its error, and told; the others are measured all the same."""
        case = Case(layer_chain.SMOKE, 2)
        ways_of = {name: [TORCH] for name in case.layers} | {"gate_up": [TORCH, IMPOSSIBLE]}

        result: dict[str, Any] = {"case": str(case)} | layers.run_case(case, ways_of, DEVICE)

        assert result["best"]["gate_up"]["kind"] == "torch"
        ran, failed = result["ways"]["gate_up"]
        assert ran["us"] > 0
        assert "cannot be split" in failed["error"]
        assert "us" not in failed
        assert any("gate_up dot 16x16 split 2" in line for line in layers.remarks([result]))

    @pytest.mark.parametrize(("factor", "wrong"), [(1.0, False), (1.5, True), (float("nan"), True)])
    def test_wrong_logits_are_an_error(
        self, factor: float, wrong: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A way whose product is not the reference's is no candidate, however fast."""
        chain, right = Chain(Case(layer_chain.SMOKE, 2), DEVICE), triton_linear.product
        chosen = dict.fromkeys(chain.layers, TORCH)
        chain.measure(chosen)

        def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return right(x, weight, bias) * factor

        monkeypatch.setattr(triton_linear, "product", product)
        found = layers.attempt(chain, chosen, TORCH)

        assert ("off by" in found.get("error", "")) is wrong
        assert ("us" in found) is not wrong


class TestChain:
    def test_ways_hold_for_their_layer_within_a_measurement(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Others run as the kernels choose, and behind it all of them do."""
        chain, seen = Chain(Case(layer_chain.SMOKE, 2), DEVICE), {}
        way, real = Config("dot", 32, 16), triton_linear.plan

        def plan(
            x: Tensor, weight: Any, bias: Any, out: Tensor, config: Config, **rest: Any
        ) -> Any:
            seen[tuple(weight.shape)] = config
            return real(x, weight, bias, out, config, **rest)

        monkeypatch.setattr(triton_linear, "plan", plan)
        chain.measure({"o": way})

        qkv = chain.layers["qkv"]
        assert seen[16, 16] == way
        assert seen[qkv.n, qkv.k] == pick(qkv, 2)
        assert vars(triton_linear)["pick"] is pick

    def test_early_launches_can_be_switched_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For one measurement."""
        monkeypatch.setattr(triton_early, "can", lambda: True)
        for wanted in (False, True):
            with layer_chain._launched(wanted):
                assert triton_early.early_options(1)["EARLY"] is wanted
            assert triton_early.early_options(1)["EARLY"]

    @pytest.mark.parametrize(
        "text", ["llama-8b", "llama-8b:0", "llama-8b:65", ":8", "llama-8b:8:int8"]
    )
    def test_cases_that_are_none(self, text: str) -> None:
        """Beyond 64 rows torch multiplies, whatever the choice."""
        with pytest.raises(ValueError, match="is not SHAPE:ROWS"):
            Case.parse(text)

    def test_a_case_reads_as_it_was_written(self) -> None:
        """Also where the shape is a file."""
        for text in ("llama-8b:8:fp8", "llama-1b:64", "a:b/config.json:1"):
            assert str(Case.parse(text)) == text


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
def test_what_is_compiled_before_is_what_runs(
    fp8: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same types and constants: else every kernel would be compiled again where it is timed."""
    case = Case(layer_chain.SMOKE, rows, fp8)
    ways_of = {name: pick(layer, rows) for name, layer in case.layers.items()}
    chain, launches, real = Chain(case, DEVICE), [], triton_linear.plan

    def plan(*args: Any, **rest: Any) -> Any:
        launches.append(real(*args, **rest))
        return launches[-1]

    monkeypatch.setattr(triton_linear, "plan", plan)
    with torch.inference_mode():
        chain._step()  # once, where a measurement does it again for its graph
    ran = [_identity(each) for each in launches[: len(ways_of)]]  # without the output matrix
    launches.clear()
    monkeypatch.setattr(triton_rows.Launch, "compile", lambda launch: None)
    for name, config in ways_of.items():
        layer_chain.compile_one(case.layers[name], rows, config)

    assert [_identity(each) for each in launches] == ran


def _identity(launch: triton_rows.Launch) -> tuple[Any, ...]:
    # Float32 stands for bfloat16 on CPUs.
    kinds = [
        str(each.dtype).replace("bfloat16", "float32") if isinstance(each, Tensor) else each
        for each in launch.args
    ]
    return launch.kernel, launch.grid, kinds, launch.options


def test_a_tiny_run(tmp_path: Path) -> None:
    """All paths of the script on a CPU; a case that there is no time for is listed."""
    out = tmp_path / "out.json"
    found = _script("--smoke", "--cases", "smoke:3", "--out", str(out))
    skipped = _script("--smoke", "--cases", "smoke:1", "--seconds", "-1")

    told = json.loads(out.read_text())
    (case,) = told["cases"]
    assert told["machine"]["versions"]["torch"] == torch.__version__
    assert told["command"][:3] == ["--smoke", "--cases", "smoke:3"]
    assert (case["shape"], case["rows"], case["fp8"]) == ("smoke", 3, False)
    times = [case[f"{key}_us"] for key in ("early_off", "early_on", "best", "best_early_off")]
    assert min(times) > 0
    assert set(case["best"]) == set(case["ways"]) == {"qkv", "o", "gate_up", "down"}
    for name, tried in case["ways"].items():
        assert len(tried) == layers.SMOKE_WAYS
        assert all(each["us"] > 0 and each["differs"] < 0.05 for each in tried)
        assert case["best"][name] in [each["config"] for each in tried]
    assert any(each["differs"] > 0 for tried in case["ways"].values() for each in tried)
    assert "| case | early off | early on | best ways | gain |" in found
    assert f"| smoke:3 | {times[0]:.1f} | {times[1]:.1f} | {times[2]:.1f} |" in found
    assert "| smoke:1 | skipped | | | |" in skipped


def test_a_choice_that_is_behind_is_told() -> None:
    """By more than 2 %, with what is better; less is noise."""
    built_in = {name: asdict(Config("dot", 16)) for name in ("o", "down")}
    case: dict[str, Any] = {"case": "llama-8b:8", "best_us": 100.0, "built_in": built_in}
    case["best"] = built_in | {"down": asdict(Config("dot", 32, split_k=2))}

    (line,) = layers.remarks([case | {"early_on_us": 103.0}])
    assert line == (
        "llama-8b:8: the built-in choice is 3.0% behind: down dot 32x256 split 2, warps 4, stages 4"
    )
    assert list(layers.remarks([case | {"early_on_us": 101.0}])) == []


def _script(*options: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / "layers.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
