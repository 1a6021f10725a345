"""What is asked of the server: seeded prompts. Request i is the same in every run and mode."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from paceline.loadgen.corpus import NOTEBOOK_PROMPTS, SENTENCES

# Tokens of the Azure LLM inference trace 2023, conversations (19,366 requests; see
# github.com/Azure/AzurePublicDataset). Outputs have two humps: quantiles say more than a fit.
AZURE_CONV_QUANTILES = (0.0, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
AZURE_CONV_INPUT = (3, 207, 396, 1020, 1189, 2734, 4083, 4142, 14050)
AZURE_CONV_OUTPUT = (7, 54, 85, 129, 395, 424, 451, 601, 1000)
# Mean tokens of 1,000 ShareGPT prompts as vLLM's benchmark filters them.
SHAREGPT_INPUT, SHAREGPT_OUTPUT = 230, 203

TOKENS_PER_WORD = 1.25  # of the corpus, by the tokenizers of GPT-2 and SmolLM2
TAG_TOKENS = 7
NONCES = 1_000_000
HASHED_REQUESTS = 256


class WorkloadError(ValueError):
    """The workload cannot be used; the text says why, in one line."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request: text or token ids, and how many tokens to make."""

    id: str
    text: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    max_tokens: int = 32
    ignore_eos: bool = True
    temperature: float = 0.0
    seed: int = 0
    options: tuple[tuple[str, Any], ...] = ()  # of OPTIONS, as a file gave them

    def to_json(self) -> dict[str, Any]:
        """The line of the offline format (`paceline batch`) that asks for the same work."""
        line = {"id": self.id, "max_tokens": self.max_tokens, "ignore_eos": self.ignore_eos}
        line |= {"temperature": self.temperature, "seed": self.seed} | dict(self.options)
        if self.prompt_ids is not None:
            return line | {"prompt_ids": list(self.prompt_ids)}
        return line | {"prompt": self.text}


Lengths = Callable[[random.Random], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Synthetic:
    """English text of drawn lengths.

    Requests of different levels have the same text and lengths but another six-digit tag in front,
    so that a server with a prefix cache does not find the prompts of the level before. `nonce`
    shifts the tags, so that it does not find those of the run before either.
    """

    name: str
    notes: str
    lengths: Lengths
    seed: int = 0
    tokens_scale: float = 1.0
    nonce: int = 0

    def prompt(self, index: int, level: int = 0) -> Prompt:
        """Request `index`: about as many prompt tokens as drawn, exactly as many output tokens."""
        rng = random.Random(f"{self.seed}/{self.name}/{index}")
        prompt_tokens, output_tokens = self.lengths(rng)
        words = max(1, round((prompt_tokens - TAG_TOKENS) / TOKENS_PER_WORD))
        tag = f"{(level * 10_000 + index + self.nonce) % NONCES:06d}."
        return Prompt(
            id=f"{self.name}-{index:05d}",
            text=f"{tag} {english(rng, words)}",
            max_tokens=max(1, round(output_tokens * self.tokens_scale)),
            seed=index,
        )


@dataclass(frozen=True, slots=True)
class Listed:
    """A fixed list of prompts, begun again at its end, every level alike."""

    name: str
    notes: str
    prompts: tuple[Prompt, ...]

    def prompt(self, index: int, level: int = 0) -> Prompt:
        """Prompt `index`, counted round the list; a later round shows in its id."""
        again, place = divmod(index, len(self.prompts))
        prompt = self.prompts[place]
        return replace(prompt, id=f"{prompt.id}.{again}") if again else prompt


Workload = Synthetic | Listed


def english(rng: random.Random, words: int) -> str:
    """Exactly `words` words of running text."""
    made: list[str] = []
    while len(made) < words:
        for sentence in rng.sample(SENTENCES, len(SENTENCES)):
            made += sentence.split()
    return " ".join(made[:words])


def quantile_draw(rng: random.Random, values: Sequence[float]) -> float:
    """A draw from the distribution with these Azure quantiles, linear between them."""
    at = rng.random()
    upper = next(i for i, q in enumerate(AZURE_CONV_QUANTILES) if q > at)
    low, high = AZURE_CONV_QUANTILES[upper - 1], AZURE_CONV_QUANTILES[upper]
    share = (at - low) / (high - low)
    return values[upper - 1] + share * (values[upper] - values[upper - 1])


def clipped(value: float, low: int, high: int) -> int:
    return max(low, min(high, round(value)))


CHAT_INPUT_FACTOR, CHAT_OUTPUT_FACTOR = 0.04, 0.31
SHAREGPT_FACTOR = 0.25


def chat_lengths(rng: random.Random) -> tuple[int, int]:
    """Azure conversations, scaled: prompts of 16 to 256 tokens, outputs of 8 to 128, medians 40."""
    prompt = quantile_draw(rng, AZURE_CONV_INPUT) * CHAT_INPUT_FACTOR
    output = quantile_draw(rng, AZURE_CONV_OUTPUT) * CHAT_OUTPUT_FACTOR
    return clipped(prompt, 16, 256), clipped(output, 8, 128)


def sharegpt_lengths(rng: random.Random) -> tuple[int, int]:
    """Log-normal with sigma 1 and ShareGPT's means, scaled."""
    means = SHAREGPT_INPUT * SHAREGPT_FACTOR, SHAREGPT_OUTPUT * SHAREGPT_FACTOR
    prompt, output = (rng.lognormvariate(math.log(mean) - 0.5, 1.0) for mean in means)
    return clipped(prompt, 16, 384), clipped(output, 4, 256)


def mixed_lengths(rng: random.Random) -> tuple[int, int]:
    """Nine short requests to one long: does the long one hold up the others?"""
    return (256, 128) if rng.random() < 0.1 else (32, 24)


def fixed_lengths(prompt_tokens: int, output_tokens: int) -> Lengths:
    """Every request alike."""
    return lambda _rng: (prompt_tokens, output_tokens)


def notebook_prompts() -> tuple[Prompt, ...]:
    """Eight short prompts, 50 tokens each at temperature 0.7."""
    return tuple(
        Prompt(f"notebook-{i}", text, max_tokens=50, temperature=0.7, seed=i)
        for i, text in enumerate(NOTEBOOK_PROMPTS)
    )


PRESETS: dict[str, tuple[str, Lengths]] = {
    "chat": (
        f"Azure conversations 2023, prompt lengths x {CHAT_INPUT_FACTOR} (16 to 256 tokens), "
        f"output lengths x {CHAT_OUTPUT_FACTOR} (8 to 128 tokens)",
        chat_lengths,
    ),
    "sharegpt": (f"ShareGPT lengths x {SHAREGPT_FACTOR}, log-normal", sharegpt_lengths),
    "mixed": ("90 % 32 + 24 tokens, 10 % 256 + 128 tokens", mixed_lengths),
    "fixed": ("64 + 64 tokens", fixed_lengths(64, 64)),
}
NAMES = (*PRESETS, "notebook")


def make_workload(
    spec: str, *, seed: int = 0, tokens_scale: float = 1.0, nonce: int = 0
) -> Workload:
    """The workload of a preset name, `fixed:PROMPT:OUTPUT`, or the path of a JSON-lines file.

    `tokens_scale` multiplies the output lengths of drawn presets, `nonce` tells runs of them apart
    to a prefix cache. Raises WorkloadError.
    """
    if not (math.isfinite(tokens_scale) and tokens_scale > 0):
        raise WorkloadError(f"the output length factor must be above 0, not {tokens_scale}")
    if spec == "notebook":
        return Listed(spec, "eight short prompts, 50 tokens each", notebook_prompts())
    if spec in PRESETS:
        notes, lengths = PRESETS[spec]
        return Synthetic(spec, _scaled(notes, tokens_scale), lengths, seed, tokens_scale, nonce)
    if spec.startswith("fixed:"):
        prompt_tokens, output_tokens = _fixed_spec(spec)
        notes = _scaled(f"{prompt_tokens} + {output_tokens} tokens", tokens_scale)
        lengths = fixed_lengths(prompt_tokens, output_tokens)
        return Synthetic("fixed", notes, lengths, seed, tokens_scale, nonce)
    return read_workload(Path(spec))


def _scaled(notes: str, tokens_scale: float) -> str:
    return notes if tokens_scale == 1.0 else f"{notes}; then outputs x {tokens_scale:g}"


def _fixed_spec(spec: str) -> tuple[int, int]:
    try:
        prompt_tokens, output_tokens = (int(part) for part in spec.split(":")[1:])
    except ValueError:
        raise WorkloadError(f"{spec!r}: write fixed:PROMPT_TOKENS:OUTPUT_TOKENS") from None
    if prompt_tokens < 1 or output_tokens < 1:
        raise WorkloadError(f"{spec!r}: both numbers must be at least 1")
    return prompt_tokens, output_tokens


def read_workload(path: Path) -> Listed:
    """The prompts of a JSON-lines file in the offline format. WorkloadError names the bad line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join(NAMES)
        raise WorkloadError(
            f"workload {str(path)!r} is neither a preset ({names}, fixed:64:64) "
            f"nor a readable file: {error}"
        ) from error
    prompts = tuple(
        _read_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()
    )
    if not prompts:
        raise WorkloadError(f"{path}: no prompts")
    return Listed(path.stem, f"{len(prompts)} prompts of {path.name}", prompts)


def _read_line(path: Path, number: int, line: str) -> Prompt:
    try:
        fields = json.loads(line)
        if unknown := sorted(fields.keys() - FIELDS - OPTIONS.keys()):
            raise WorkloadError(f"the load generator cannot send {unknown[0]!r}")
        if ("prompt" in fields) == ("prompt_ids" in fields):
            raise WorkloadError("exactly one of `prompt` and `prompt_ids` is needed")
        ids = fields.get("prompt_ids")
        return Prompt(
            id=str(fields.get("id", number)),
            text=None if ids is not None else str(fields["prompt"]),
            prompt_ids=None if ids is None else tuple(_counted(token, 32) for token in ids),
            max_tokens=_counted(fields.get("max_tokens", FILE_MAX_TOKENS), 32),
            ignore_eos=bool(fields.get("ignore_eos", False)),
            temperature=float(fields.get("temperature", FILE_TEMPERATURE)),
            seed=_counted(fields.get("seed", 0), 64),
            options=tuple((n, read(fields[n])) for n, read in OPTIONS.items() if n in fields),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise WorkloadError(f"{path}:{number}: {error}") from error


def _counted(value: Any, bits: int) -> int:
    """The value as an unsigned integer that fits the wire."""
    number = int(value)
    if not 0 <= number < 2**bits:
        raise WorkloadError(f"{number} is not a number from 0 to 2**{bits} - 1")
    return number


def _stop_strings(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise WorkloadError("`stop` must be a list of strings")
    return value


FIELDS = {"id", "prompt", "prompt_ids", "max_tokens", "ignore_eos", "temperature", "seed"}
# What else a line may set, with what reads it; the server knows the bounds.
OPTIONS: dict[str, Callable[[Any], Any]] = {
    "top_k": lambda value: _counted(value, 32),
    "top_p": float,
    "min_p": float,
    "min_tokens": lambda value: _counted(value, 32),
    "stop": _stop_strings,
}
# The offline format's own defaults: a file asks for the same work there and here.
FILE_MAX_TOKENS, FILE_TEMPERATURE = 256, 1.0


def first_prompts(workload: Workload, count: int, level: int = 0) -> Iterator[Prompt]:
    """Requests 0 to `count` - 1."""
    return (workload.prompt(index, level) for index in range(count))


def offline_lines(workload: Workload, count: int) -> Iterator[str]:
    """The first requests as lines of the offline format, for `paceline batch` and the baselines."""
    return (json.dumps(prompt.to_json()) + "\n" for prompt in first_prompts(workload, count))


def schedule_sha256(workload: Workload) -> str:
    """A fingerprint of the first 256 requests but for the nonce: two runs with the same one asked for the same."""
    if isinstance(workload, Synthetic):
        workload = replace(workload, nonce=0)
    digest = hashlib.sha256()
    for prompt in first_prompts(workload, HASHED_REQUESTS):
        values = {name: value for name, value in asdict(prompt).items() if name != "options"}
        digest.update(json.dumps(values | dict(prompt.options), sort_keys=True).encode())
    return digest.hexdigest()
