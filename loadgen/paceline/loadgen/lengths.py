"""How long prompts and answers are: published quantiles, factors and bounds. Pure, seeded by the caller."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

# Tokens of the Azure LLM inference traces 2023: conversations (19,366 requests) and code (8,819; see
# github.com/Azure/AzurePublicDataset). Outputs of conversations have two humps: quantiles say more than a fit.
AZURE_QUANTILES = (0.0, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
AZURE_CONV_INPUT = (3, 207, 396, 1020, 1189, 2734, 4083, 4142, 14050)
AZURE_CONV_OUTPUT = (7, 54, 85, 129, 395, 424, 451, 601, 1000)
# The smallest values of the code trace are not part of the table: 1 stands for them.
AZURE_CODE_INPUT = (1, 147, 578, 1469, 2744, 5187, 7303, 7436, 7437)
AZURE_CODE_OUTPUT = (1, 7, 9, 13, 24, 55, 90, 251, 1899)
# Mean tokens of 1,000 ShareGPT prompts as vLLM's benchmark filters them.
SHAREGPT_INPUT, SHAREGPT_OUTPUT = 230, 203

CONTEXT_SHARE = 0.8  # of the context is planned with: words are not tokens, and tokenizers differ

Draw = Callable[[random.Random], float]


@dataclass(frozen=True, slots=True)
class Length:
    """Tokens: a draw times a factor, rounded and kept within bounds; `trace`: the bounds of a trace's own lengths."""

    draw: Draw
    factor: float
    low: int
    high: int
    trace: tuple[int, int] | None = None

    def of(self, rng: random.Random) -> int:
        return max(self.low, min(self.high, round(self.draw(rng) * self.factor)))

    def times(self, factor: float) -> Length:
        """The same shape, longer or shorter; never below one token."""
        return self._within((self.low, self.high), self.factor * factor, factor)

    def scaled(self, factor: float) -> Length:
        """The trace's own lengths times `factor`, clipped above its p99; without a trace just `times`."""
        if self.trace is None:
            return self.times(factor)
        return self._within(self.trace, factor, factor)

    def _within(self, bounds: tuple[int, int], whole: float, factor: float) -> Length:
        low, high = (max(1, round(bound * factor)) for bound in bounds)
        return replace(self, factor=whole, low=low, high=high)


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of prompt and answer, drawn in this order."""

    prompt: Length
    output: Length

    def times(self, factor: float) -> Lengths:
        return Lengths(self.prompt.times(factor), self.output.times(factor))

    def scaled(self, factor: float) -> Lengths:
        """A trace's own lengths times `factor`; 0 leaves the preset's factors."""
        if not factor:
            return self
        return Lengths(self.prompt.scaled(factor), self.output.scaled(factor))

    @property
    def notes(self) -> str:
        """Factors and bounds in words."""
        parts = {"prompt": self.prompt, "output": self.output}
        if self.prompt.trace is not None:
            told = (
                f"{name} lengths x {one.factor:.3g} ({one.low} to {one.high} tokens)"
                for name, one in parts.items()
            )
            return ", ".join(told)
        return " + ".join(_span(one) for one in parts.values()) + " tokens"


def _span(one: Length) -> str:
    return str(one.low) if one.low == one.high else f"{one.low} to {one.high}"


def quantile_draw(rng: random.Random, values: Sequence[float]) -> float:
    """A draw from the distribution with these values at AZURE_QUANTILES, linear between them."""
    at = rng.random()
    upper = next(i for i, q in enumerate(AZURE_QUANTILES) if q > at)
    low, high = AZURE_QUANTILES[upper - 1], AZURE_QUANTILES[upper]
    share = (at - low) / (high - low)
    return values[upper - 1] + share * (values[upper] - values[upper - 1])


def _log_normal(rng: random.Random, mean: float) -> float:
    return rng.lognormvariate(math.log(mean) - 0.5, 1.0)


def _azure(values: tuple[int, ...], factor: float, low: int, high: int) -> Length:
    trace = (values[0], values[-2])  # p99: above it are a few single requests
    return Length(partial(quantile_draw, values=values), factor, low, high, trace)


def _sharegpt(mean: int, low: int, high: int) -> Length:
    trace = (low, round(6.2 * mean))  # p99 of a log-normal with sigma 1
    return Length(partial(_log_normal, mean=mean), 0.25, low, high, trace)


def conversation_lengths() -> Lengths:
    """Azure conversations for a small machine: prompts of 16 to 256 tokens, answers of 8 to 128, medians 40."""
    return Lengths(_azure(AZURE_CONV_INPUT, 0.04, 16, 256), _azure(AZURE_CONV_OUTPUT, 0.31, 8, 128))


def code_lengths() -> Lengths:
    """Azure code completions for a small machine: long prompts of up to 256 tokens, short answers, median 13."""
    return Lengths(_azure(AZURE_CODE_INPUT, 0.04, 16, 256), _azure(AZURE_CODE_OUTPUT, 1.0, 4, 128))


def sharegpt_lengths() -> Lengths:
    """Log-normal with sigma 1 and a quarter of ShareGPT's means."""
    return Lengths(_sharegpt(SHAREGPT_INPUT, 16, 384), _sharegpt(SHAREGPT_OUTPUT, 4, 256))


def even_lengths(prompt_tokens: int, output_tokens: int, spread: float = 0.0) -> Lengths:
    """Evenly between (1 - spread) and (1 + spread) times these tokens; without a spread every request alike."""
    return Lengths(_even(prompt_tokens, spread), _even(output_tokens, spread))


def _even(tokens: int, spread: float) -> Length:
    low, high = (max(1, round(tokens * (1 + sign * spread))) for sign in (-1, 1))
    return Length(partial(_uniform, low=low, high=high), 1.0, low, high)


def _uniform(rng: random.Random, low: int, high: int) -> float:
    return low if low == high else rng.uniform(low - 0.5, high + 0.5)


def fit_factor(longest_tokens: float, context_tokens: int) -> float:
    """What lengths are multiplied by so that the longest request fits a model's context. 0: the context is unknown."""
    room = CONTEXT_SHARE * context_tokens
    if not context_tokens or longest_tokens <= room:
        return 1.0
    return math.floor(1000 * room / longest_tokens) / 1000
