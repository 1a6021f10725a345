"""Encoding as transformers does it."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from paceline.server.errors import SetupError
from paceline.server.tokenizer import ChatTemplateError, Tokenizer, load


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small tokenizer in it."""
    path = tmp_path_factory.mktemp("model")
    inner = tokenizer._inner
    assert isinstance(inner, PreTrainedTokenizerFast)
    inner.save_pretrained(path)
    return path


@pytest.mark.parametrize("text", ["", "Hello wind", "  two  spaces ", "😀é\n", "<|end|> in text"])
@pytest.mark.parametrize("special", [True, False])
def test_encodes_as_transformers(word_tokenizer: Tokenizer, text: str, special: bool) -> None:
    """Ids are those of `tokenizer(text)`, with and without special tokens."""
    expected = word_tokenizer._inner(text, add_special_tokens=special)["input_ids"]
    assert word_tokenizer.encode(text, special) == expected


def test_chat_ends_where_the_answer_begins(tokenizer: Tokenizer) -> None:
    """A conversation is rendered by the template and opens the assistant's turn."""
    ids = tokenizer.encode_chat([("user", "one two")])
    assert tokenizer.decode(ids, skip_special=False) == (
        "<|start|>user\none two<|end|>\n<|start|>assistant\n"
    )


def test_chat_continues_the_final_message(tokenizer: Tokenizer) -> None:
    """With `continue_final_message` the last turn stays open."""
    ids = tokenizer.encode_chat([("user", "count"), ("assistant", "one two")], True)
    assert tokenizer.decode(ids, skip_special=False).endswith("<|start|>assistant\none two")


def test_chat_template_refusal_is_told(tokenizer: Tokenizer) -> None:
    """What the template objects to reaches the caller."""
    with pytest.raises(ChatTemplateError, match="unknown role pirate"):
        tokenizer.encode_chat([("pirate", "arr")])


def test_details_point_into_the_text(tokenizer: Tokenizer) -> None:
    """Offsets cut the text into the tokens' texts."""
    text = "one two café"
    details = tokenizer.details(text)
    assert details.ids == tokenizer.encode(text)
    assert len(details.tokens) == len(details.offsets) == len(details.ids)
    for token, (start, end) in zip(details.tokens, details.offsets, strict=True):
        assert text[start:end] == token or "\ufffd" in token


def test_decode_skips_special_tokens_on_demand(tokenizer: Tokenizer) -> None:
    """Special tokens are text only where they are asked for."""
    ids = [0, *tokenizer.encode("one"), 1]
    assert tokenizer.decode(ids) == "one"
    assert tokenizer.decode(ids, skip_special=False) == "<|start|>one<|end|>"
    assert tokenizer.special_ids == {0, 1}


def test_loads_a_folder(folder: Path, tokenizer: Tokenizer) -> None:
    """A saved tokenizer comes back with ids, template and end of sequence."""
    loaded = load(folder)
    assert loaded.encode("one two 😀") == tokenizer.encode("one two 😀")
    assert loaded.eos_token_ids == (1,)
    assert loaded.vocab_size == tokenizer.vocab_size
    assert loaded.has_chat_template


def test_missing_tokenizer_is_one_line(tmp_path: Path) -> None:
    """A folder without a tokenizer is the operator's error, in one line."""
    with pytest.raises(SetupError) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
