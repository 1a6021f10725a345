"""The GPU's linear layers against eager code in transformers' style: on a GPU, or by Triton's interpreter."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from triton_interpreter import DEVICE

pytest.importorskip("triton")

import layer_ways
from paceline.server.runner import triton_linear, triton_rows
from paceline.server.runner.dummy import shape_config
from paceline.server.runner.linear_configs import (
    TORCH,
    Config,
    Cut,
    Layer,
    Op,
    block_m,
    cut,
    pick,
    row_bucket,
)
from paceline.server.runner.scaled import LARGEST, Scaled, Weight, values_of

# The sigmoid of a very negative number divides by infinity, as meant; NumPy would warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning")

EPS = 1e-5
# All ways through the kernel: K in one block, a loop, a tail behind either, shares of K, no tensor cores.
WAYS = {
    "dot": Config("dot", 16, 32, num_stages=2),
    "dot, whole": Config("dot", 16, 512),
    "dot, split": Config("dot", 32, 16, split_k=3),
    "dot, norm before": Config("dot", 16, 32, fuse_norm=False),
    "vec": Config("vec", 8, 32),
    "vec, whole": Config("vec", 16, 512),
    "vec, split": Config("vec", 8, 16, split_k=2),
    "torch": TORCH,
}
SHAPES = [(1, 16, 128), (3, 21, 77), (18, 5, 7)]
# Rows in one tile of either height; without tensor cores each row is programs of its own.
ROWS_OF_KIND = {"dot": (7, 20), "vec": (3,), "torch": ()}
OPS: tuple[Op, ...] = ("linear_residual", "norm_linear", "norm_gated")
HOPPER, DESKTOP = 223 << 10, 95 << 10  # bytes of shared memory for one program
ONE_ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}

every_way = pytest.mark.parametrize("config", WAYS.values(), ids=WAYS.keys())
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def tensors(dtype: torch.dtype, *shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=chance).to(DEVICE, dtype) for shape in shapes]


def llama_norm(x: Tensor, weight: Tensor) -> Tensor:
    """LlamaRMSNorm.forward."""
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return weight * h.to(x.dtype)


def gemma_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Gemma3RMSNorm.forward."""
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + EPS)
    return (h * (1.0 + weight.float())).type_as(x)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer that sums in float32 and rounds once."""
    out = x.float() @ weight.float().T
    return (out if bias is None else out + bias.float()).to(x.dtype)


def linear(x: Tensor, weight: Weight, bias: Tensor | None = None, *, config: Config) -> Tensor:
    """The kernel's product with nothing fused to it."""
    if config.kind == "torch":
        return triton_linear.product(x, weight, bias)
    out = x.new_empty(len(x), len(values_of(weight)))
    triton_linear.plan(x, weight, bias, out, config).run()
    return out


def check(got: Tensor, expected: Tensor) -> None:
    """Equal but for the order of sums and one rounding that falls the other way for it."""
    assert got.dtype == expected.dtype
    tolerance = ONE_ROUNDING[expected.dtype]
    torch.testing.assert_close(
        got.float(), expected.float(), rtol=tolerance, atol=tolerance * scale_of(expected)
    )


def scale_of(expected: Tensor) -> float:
    return float(expected.float().abs().max()) or 1.0


class TestAgainstEagerCode:
    @every_way
    @every_dtype
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_linear(self, config: Config, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
        """The product is eager code's for any M, N and K."""
        m, n, k = shape
        if config.kind == "vec":
            m = min(m, 3)  # each row has programs of its own, and the interpreter takes its time
        x, weight, bias = tensors(dtype, (m, k), (n, k), (n,))

        check(linear(x, weight, config=config), product(x, weight))
        check(linear(x, weight, bias, config=config), product(x, weight, bias))

    @every_way
    @every_dtype
    def test_linear_residual(self, config: Config, dtype: torch.dtype) -> None:
        """The residual is added to the rounded product."""
        m, n, k = 3, 21, 77
        x, weight, bias, residual = tensors(dtype, (m, k), (n, k), (n,), (m, n))

        got = triton_linear.linear_residual(x, weight, bias, residual, config=config)

        check(got, residual + product(x, weight, bias))

    @every_way
    @every_dtype
    @pytest.mark.parametrize("offset", [0.0, 1.0])
    def test_norm_linear(self, config: Config, dtype: torch.dtype, offset: float) -> None:
        """Llama's norm and, with an offset, Gemma's come before the product."""
        m, n, k = 3, 21, 77
        x, norm, weight, bias = tensors(dtype, (m, k), (k,), (n, k), (n,))

        got = triton_linear.norm_linear(
            x, norm, EPS, weight, bias, norm_offset=offset, config=config
        )

        normed = gemma_norm(x, norm) if offset else llama_norm(x, norm)
        check(got, product(normed, weight, bias))

    @every_way
    @every_dtype
    @pytest.mark.parametrize("activation", ["silu_mul", "gelu_tanh_mul"])
    def test_gated(
        self, config: Config, dtype: torch.dtype, activation: triton_rows.Activation
    ) -> None:
        """Gate and up are rounded, then the activation, then their product."""
        m, n, k = 3, 21, 77
        x, norm, weight, bias = tensors(dtype, (m, k), (k,), (2 * n, k), (2 * n,))
        config = dataclasses.replace(config, split_k=1)

        got = triton_linear.norm_linear(
            x, norm, EPS, weight, bias, activation=activation, config=config
        )

        gate, up = product(llama_norm(x, norm), weight, bias).chunk(2, dim=-1)
        act = F.silu(gate) if activation == "silu_mul" else F.gelu(gate, approximate="tanh")
        check(got, act * up)

    @pytest.mark.parametrize("offset", [0.0, 1.0])
    @every_dtype
    def test_rms_norm(self, dtype: torch.dtype, offset: float) -> None:
        """The norm alone rounds where the model's rounds: hardly a value differs."""
        x, norm = tensors(dtype, (9, 577), (577,))

        got = triton_rows.rms_norm(x, norm, EPS, norm_offset=offset)

        expected = gemma_norm(x, norm) if offset else llama_norm(x, norm)
        check(got, expected)
        if dtype == torch.bfloat16:
            assert (got != expected).float().mean() < 0.002

    @pytest.mark.parametrize("activation", ["silu_mul", "gelu_tanh_mul"])
    def test_activation_rounds_three_times(self, activation: triton_rows.Activation) -> None:
        """The activation alone is eager code's in bfloat16: hardly a value differs."""
        (gate_up,) = tensors(torch.bfloat16, (7, 2 * 1030))

        got = triton_rows.gated(gate_up, activation)

        gate, up = gate_up.chunk(2, dim=-1)
        act = F.silu(gate) if activation == "silu_mul" else F.gelu(gate, approximate="tanh")
        assert (got != act * up).float().mean() < 0.002

    def test_float16(self) -> None:
        """float16 works as well."""
        x, norm, weight = tensors(torch.float16, (4, 80), (80,), (40, 80))

        got = triton_linear.norm_linear(x, norm, EPS, weight, config=WAYS["dot"])

        check(got, product(llama_norm(x, norm), weight))

    @every_way
    def test_zeros(self, config: Config) -> None:
        """A row of zeros gives the bias, and no NaN from its norm."""
        x = torch.zeros(2, 72, dtype=torch.bfloat16, device=DEVICE)
        norm, weight, bias = tensors(torch.bfloat16, (72,), (24, 72), (24,))

        got = triton_linear.norm_linear(x, norm, EPS, weight, bias, config=config)

        assert torch.equal(got, bias.expand(2, -1))

    @every_way
    def test_large_values(self, config: Config) -> None:
        """Squares of large activations are summed in float32."""
        x, norm, weight = tensors(torch.bfloat16, (3, 96), (96,), (24, 96))
        x *= 1e15

        got = triton_linear.norm_linear(x, norm, EPS, weight, config=config)

        check(got, product(llama_norm(x, norm), weight))

    def test_rows_may_lie_apart(self) -> None:
        """Rows of x may be part of a wider matrix."""
        wide, weight = tensors(torch.bfloat16, (4, 200), (24, 96))

        got = linear(wide[:, 40:136], weight, config=WAYS["dot"])

        check(got, product(wide[:, 40:136], weight))

    def test_no_rows(self) -> None:
        """No rows give no rows."""
        x, norm, weight = tensors(torch.bfloat16, (0, 96), (96,), (24, 96))

        assert triton_linear.norm_linear(x, norm, EPS, weight).shape == (0, 24)


class TestFp8Weights:
    @every_way
    def test_every_layer(self, config: Config) -> None:
        """Norm, product, gates, bias and residual with scaled weights are those of the weights they stand for."""
        m, n, k = 3, 32, 80
        tall = n if config.split_k > 1 else 2 * n
        x, norm, weight, bias = tensors(torch.bfloat16, (m, k), (k,), (tall, k), (tall,))
        residual = tensors(torch.bfloat16, (m, tall), seed=1)[0]
        scaled = Scaled.of(weight * torch.logspace(-3, 3, tall, device=DEVICE)[:, None])
        meant = scaled.values.float() * scaled.scale[:, None]
        normed, plain = llama_norm(x, norm), x
        if config.kind != "vec":  # rows are rounded as well
            normed, plain = rounded_rows(normed), rounded_rows(plain)

        got = triton_linear.norm_linear(x, norm, EPS, scaled, bias, config=config)
        check(got, product_with(normed, meant, bias))
        got = triton_linear.linear_residual(x, scaled, None, residual, config=config)
        check(got, residual + product_with(plain, meant))
        if config.split_k == 1:
            got = triton_linear.norm_linear(
                x, norm, EPS, scaled, activation="silu_mul", config=config
            )
            gate, up = product_with(normed, meant).chunk(2, dim=-1)
            check(got, F.silu(gate) * up)

    def test_rounded_rows(self) -> None:
        """Each row's largest value becomes fp8's; zeros stay zeros, and a neighbour changes nothing."""
        (x,) = tensors(torch.bfloat16, (5, 80))
        x[1] = 0
        x[2] *= 1e6

        rows, scale = triton_rows.round_rows(x)

        off = (rows.float() * scale - x.float()).abs()
        half = 1 / 16  # of the last of three bits
        assert (off <= half * x.float().abs() + scale * 2**-9).all()
        assert rows[0].float().abs().max() == LARGEST
        assert not rows[1].float().any()
        alone, lone_scale = triton_rows.round_rows(x[3:4])
        assert torch.equal(alone.float()[0], rows.float()[3]) and lone_scale[0] == scale[3]

    def test_scales_that_do_not_fit(self) -> None:
        """Nothing is read beyond a scale's end."""
        x, weight = tensors(torch.bfloat16, (4, 96), (32, 96))
        scaled = Scaled.of(weight)

        with pytest.raises(ValueError, match="scales"):
            linear(x, scaled._replace(scale=scaled.scale[:8]), config=WAYS["dot"])

    def test_normed_rows(self) -> None:
        """Norm and rounding in one kernel are the two, one after the other."""
        x, norm = tensors(torch.bfloat16, (3, 80), (80,))

        rows, scale = triton_rows.round_rows(x, triton_rows.Norm(norm, EPS, 0.0))

        expected, its_scale = triton_rows.round_rows(triton_rows.rms_norm(x, norm, EPS))
        assert torch.equal(rows.float(), expected.float()) and torch.equal(scale, its_scale)

    @pytest.mark.parametrize(("m", "kind"), [(1, "vec"), (8, "dot"), (32, "dot"), (64, "torch")])
    def test_the_guess(self, m: int, kind: str) -> None:
        """Our kernels compute few rows, with half the bytes; gates are not split."""
        for op in OPS:
            layer = Layer(op, 4096, 4096, element_bytes=1)
            assert layer.weight_bytes == (2 if op == "norm_gated" else 1) << 24
            found = pick(layer, m)
            assert found.kind == kind
            assert op != "norm_gated" or found.split_k == 1


def rounded_rows(x: Tensor) -> Tensor:
    """What the rows in fp8 stand for, in float32."""
    rows, scale = triton_rows.round_rows(x)
    return rows.float() * scale


def product_with(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A product in float32, rounded to bfloat16 before and behind the bias."""
    return product(x, weight, bias).to(torch.bfloat16)


class TestRows:
    @pytest.mark.parametrize(
        ("way", "m"),
        [(way, m) for way in WAYS for m in ROWS_OF_KIND[WAYS[way].kind]],
    )
    def test_a_row_does_not_depend_on_its_mates(self, way: str, m: int) -> None:
        """A row computed among others equals, bit for bit, the row among zeros and the row at another place."""
        x, norm, weight, bias = tensors(torch.bfloat16, (m, 72), (72,), (12, 72), (12,))
        args = (norm, EPS, weight, bias)
        whole = triton_linear.norm_linear(x, *args, config=WAYS[way])

        row = m // 2
        lone = torch.zeros_like(x)
        lone[row] = x[row]
        moved = x.roll(m - 1 - row, dims=0)
        first = triton_linear.norm_linear(lone, *args, config=WAYS[way])
        second = triton_linear.norm_linear(moved, *args, config=WAYS[way])
        assert torch.equal(first[row], whole[row])
        assert torch.equal(second[m - 1], whole[row])

    @pytest.mark.parametrize("way", [way for way in WAYS if way != "torch"])
    def test_a_bucket_computes_alike(self, way: str) -> None:
        """The number of rows does not change a row while the tile has the same height."""
        most = 4 if WAYS[way].kind == "vec" else 16
        x, weight, residual = tensors(torch.bfloat16, (most, 72), (12, 72), (most, 12))
        whole = triton_linear.linear_residual(x, weight, None, residual, config=WAYS[way])

        for m in (1, most // 2 + 1):
            got = triton_linear.linear_residual(x[:m], weight, None, residual[:m], config=WAYS[way])
            assert torch.equal(got, whole[:m])

    def test_shares_are_counted_anew(self) -> None:
        """Call after call with shared tiles gives the same: the last program leaves zeros."""
        x, weight = tensors(torch.bfloat16, (4, 200), (48, 200))

        results = [linear(x, weight, config=WAYS["dot, split"]) for _ in range(3)]

        assert all(torch.equal(result, results[0]) for result in results)


class TestRefusals:
    def test_shapes_that_do_not_fit(self) -> None:
        """Nothing is read beyond a tensor's end."""
        x, norm, weight = tensors(torch.bfloat16, (4, 96), (90,), (24, 96))

        with pytest.raises(ValueError, match="90 weights for 96 columns"):
            triton_linear.norm_linear(x, norm, EPS, weight, config=WAYS["dot"])
        with pytest.raises(ValueError, match="do not fit"):
            linear(x[:, :90], weight, config=WAYS["dot"])
        with pytest.raises(ValueError, match="bias"):
            linear(x, weight, norm, config=WAYS["dot"])
        with pytest.raises(ValueError, match="residual"):
            triton_linear.linear_residual(x, weight, None, x, config=WAYS["dot"])
        with pytest.raises(ValueError, match="one dtype"):
            linear(x, weight.float(), config=WAYS["dot"])

    def test_gates_are_not_split(self) -> None:
        """An activation is not linear, so shares of K cannot have it."""
        x, norm, weight = tensors(torch.bfloat16, (4, 96), (96,), (48, 96))

        with pytest.raises(ValueError, match="cannot be split"):
            triton_linear.norm_linear(
                x, norm, EPS, weight, activation="silu_mul", config=WAYS["dot, split"]
            )

    @pytest.mark.parametrize(
        "wrong", [{"block_n": 24}, {"block_n": 8}, {"block_k": 8}, {"split_k": 0}, {"num_warps": 3}]
    )
    def test_impossible_configs(self, wrong: dict[str, int]) -> None:
        """A config is checked when it is made."""
        with pytest.raises(ValueError):
            Config(**{"kind": "dot", **wrong})  # type: ignore[arg-type]


class TestConfigs:
    @pytest.mark.parametrize("m", [1, 2, 16, 17, 64, 200])
    def test_rows_fit_their_tile(self, m: int) -> None:
        """A bucket's tile holds all rows, in several tiles beyond 64."""
        height = block_m(m, Config("dot"))

        assert height in (16, 32, 64)
        assert height >= min(m, 64)
        assert row_bucket(m) <= height

    @pytest.mark.parametrize("m", [1, 8, 32, 64])
    @pytest.mark.parametrize("element_bytes", [2, 1], ids=["bf16", "fp8"])
    @pytest.mark.parametrize("shape", ["smollm2-135m", "llama-1b", "llama-8b"])
    def test_the_choice_is_one_the_kernel_can_run(
        self, shape: str, element_bytes: int, m: int
    ) -> None:
        """One row goes without tensor cores, several with them or to torch, and a stage fits a program's memory."""
        for layer in layers_of(shape, element_bytes):
            config = pick(layer, m)

            assert (config.kind == "vec") == (m == 1)
            if config == TORCH:
                continue
            assert layer.op != "norm_gated" or config.split_k == 1
            assert config.kind == "vec" or config.block_n >= 16
            assert config.kind == "vec" or config.block_k >= (
                32 if layer.element_bytes == 1 else 16
            )
            for room in (HOPPER, DESKTOP):
                block_n, block_k, tail, stages = cut_for(layer, m, config, room)
                whole = layer.k // block_k == 1 and config.split_k == 1
                place = row_bytes(layer, m, config) + block_n * output_bytes(layer)
                assert (block_k + tail if whole else stages * block_k) * place <= room
                assert whole or stages >= 2

    def test_a_hopper_gpu_has_room_for_the_choice(self) -> None:
        """What was measured there is what runs there."""
        for shape, m in itertools.product(("smollm2-135m", "llama-1b", "llama-8b"), (1, 8, 32, 64)):
            for layer in layers_of(shape, 2):
                if (config := pick(layer, m)) == TORCH:
                    continue
                found = cut_for(layer, m, config, HOPPER)
                assert found.block_n == config.block_n
                assert found.block_k == min(config.block_k, 512 if layer.k == 576 else layer.k)
                assert found.stages == config.num_stages or layer.k < 2 * config.block_k

    def test_less_room_is_met_by_narrower_tiles_first(self) -> None:
        """Of a wide gate on a GPU for desktops."""
        config = Config("dot", 128, 128, num_warps=8, num_stages=3)
        found = cut_for(Layer("norm_gated", 14336, 4096), 32, config, DESKTOP)

        assert found == (32, 128, 0, 3)

    def test_amd_has_one_figure_of_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its properties have no other."""

        class Properties:
            shared_memory_per_block = 65536

        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties())
        room = triton_linear._shared_bytes.__wrapped__(torch.device("cuda", 0))

        assert 0 < room < 65536

    @pytest.mark.parametrize("k", [16, 100, 576, 896, 4096, 14336])
    def test_blocks_and_tail_are_all_of_k(self, k: int) -> None:
        """In however little memory."""
        for block_k, split_k, room in itertools.product((16, 256, 1024), (1, 2), (1 << 30, 30_000)):
            found = cut(Config("dot", 16, block_k, split_k), k, 32, 2, room)
            blocks, rest = divmod(k, found.block_k)
            assert blocks >= 1
            assert rest <= found.tail < max(2 * rest, 17)
            assert found.stages >= 1

    @pytest.mark.parametrize("op", [*OPS, "output"])
    def test_any_layer_has_a_choice(self, op: Op) -> None:
        """Also one of a size that nobody measured."""
        for n, k, m in itertools.product(
            (16, 576, 4096, 49152), (16, 576, 8192), (1, 2, 33, 64, 200)
        ):
            config = pick(Layer(op, n, k), m)

            assert op != "norm_gated" or config.split_k == 1


def row_bytes(layer: Layer, m: int, config: Config) -> int:
    """Rows are rounded to fp8 for tensor cores alone."""
    rounded = layer.element_bytes == 1 and config.kind == "dot"
    return block_m(m, config) * (1 if rounded else 2)


def output_bytes(layer: Layer) -> int:
    return layer.element_bytes * (2 if layer.op == "norm_gated" else 1)


def cut_for(layer: Layer, m: int, config: Config, room: int) -> Cut:
    """As the kernel is cut on a GPU with so much room."""
    least = 32 if layer.element_bytes == 1 and config.kind == "dot" else 16
    return cut(config, layer.k, row_bytes(layer, m, config), output_bytes(layer), room, least)


def layers_of(shape: str, element_bytes: int) -> list[Layer]:
    """All products of a model: those of a decoder layer, and the output matrix, which stays in bfloat16."""
    config = shape_config(shape)
    layers = layer_ways.layers_of(config, element_bytes)
    return [*layers.values(), Layer("output", config.vocab_size, config.hidden_size)]
