"""Real tokenizers, small enough to be trained on the spot: no test downloads one."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TRAINING_LINES = [
    "Cyclists in a paceline share the wind: the first one works, the others rest.",
    "Requests that arrive together ride one call together. STOP here, then stop there.",
    "naïve café — déjà vu, 你好，世界, привет, 😀 👩‍🚀 and ＦＵＬＬ width.",
    "one two three four five six seven eight nine ten",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m.role) }}{% endif %}"
    "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


_wrap: Any = PreTrainedTokenizerFast  # its constructor has no types


def byte_level_tokenizer(vocab_size: int = 400) -> Any:
    """A byte-level BPE tokenizer: all 256 bytes, a few merges, two special tokens."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TRAINING_LINES, trainer)
    fast: Any = _wrap(tokenizer_object=inner, eos_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def sentence_piece_like_tokenizer() -> Any:
    """A tokenizer of Llama 2's kind: word borders are tokens' own, unknown characters are byte tokens."""
    pieces = ["<s>", "</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz", "th", "▁th", "▁the"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e")]
    inner = tokenizers.Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True)
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    inner.add_special_tokens(["<s>", "</s>", "<unk>"])
    return _wrap(tokenizer_object=inner, eos_token="</s>", bos_token="<s>")
