"""Random weights of named shapes, and the tokenizer of bytes that goes with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from paceline.server.config import ModelConfig
from paceline.server.errors import SetupError
from paceline.server.runner import dummy
from paceline.server.runner.loading import load
from paceline.server.tokenizer import Tokenizer
from tiny_models import FAMILIES, tiny_config

CPU = torch.device("cpu")
# As the published models have them; tied weights count once.
PARAMETERS = {
    "gpt2": 124_439_808,
    "smollm2-135m": 134_515_008,
    "llama-1b": 1_235_814_400,
    "llama-8b": 8_030_261_248,
}


@pytest.mark.parametrize("shape", dummy.SHAPES)
def test_named_shapes_have_the_published_size(shape: str) -> None:
    """Counted without memory: a shape is as large as the model it is named after."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(dummy.shape_config(shape))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[shape]


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_filled_and_seeded(family: str) -> None:
    """Nothing stays as the memory was found, buffers included, and two builds are the same model."""
    config = tiny_config(family)
    first, second = (dummy.build(config, CPU, torch.bfloat16, "eager") for _ in range(2))
    expected = AutoModelForCausalLM.from_config(config)
    buffers = dict(expected.named_buffers())
    assert dict(first.named_buffers()).keys() == buffers.keys()
    for name, buffer in first.named_buffers():
        torch.testing.assert_close(buffer.float(), buffers[name].float())
    for (name, one), (_, other) in zip(
        first.named_parameters(), second.named_parameters(), strict=True
    ):
        assert one.dtype == torch.bfloat16
        assert torch.equal(one, other)
        if one.dim() > 1:
            assert 0.005 < one.float().std() < 0.1, name
    assert first.num_parameters() == expected.num_parameters()


def test_a_config_file_is_a_shape(tmp_path: Path) -> None:
    """The loader takes a config.json, names the model after its folder and serves bytes."""
    tiny_config("llama").save_pretrained(tmp_path / "small")
    path = tmp_path / "small" / "config.json"
    loaded = load(ModelConfig(dummy_weights=str(path), device="cpu", num_threads=1), "eager")
    assert loaded.info.name == "dummy-small"
    assert loaded.info.architecture == "llama"
    assert loaded.tokenizer.encode("aé") == [0x61, 0xC3, 0xA9]


@pytest.mark.parametrize(
    "content", [None, "{", "[1]", '{"model_type": "mamba"}', '{"hidden_size": 8}']
)
def test_a_bad_shape_is_one_line(tmp_path: Path, content: str | None) -> None:
    """Neither a name nor a configuration of a checked family."""
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SetupError, match=r"^[^\n]*(takes gpt2|not supported)[^\n]*$"):
        load(ModelConfig(dummy_weights=str(path), device="cpu", num_threads=1))


@pytest.mark.parametrize("shape", ["gpt2", "smollm2-135m"])
def test_any_text_survives_the_byte_tokenizer(shape: str) -> None:
    """Text comes back as it was; every id of the vocabulary is text of its own, or special."""
    config = dummy.shape_config(shape)
    tokenizer = Tokenizer(dummy.byte_tokenizer(config))
    text = "naïve  café\n\t你好 😀 <|eos_token|"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert tokenizer.vocab_size == config.vocab_size
    assert tokenizer.eos_token_ids == (config.eos_token_id,)
    assert tokenizer.decode([config.eos_token_id]) == ""
    assert tokenizer.decode([1000, 1001]) == " 1000 1001"


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path: Path) -> None:
    """A byte has to be an id."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gpt2", "vocab_size": 200, "n_embd": 12}))
    with pytest.raises(SetupError, match="too small"):
        load(ModelConfig(dummy_weights=str(path), device="cpu", num_threads=1))
