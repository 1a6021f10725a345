"""What int8 costs in quality: the embedded model's answers beside its own in float32.

    python benchmarks/quality.py

Prints, over texts that the float32 model continues greedily for 64 tokens each: the share of places where the
quantised model, given the same text before it, would choose the same token, and the mean absolute error of its
logits and of the log-probability of float32's token.
"""

from __future__ import annotations

import copy
import json

import torch

from paceline.server.config import ModelConfig
from paceline.server.runner import loading
from paceline.server.runner.fuse import fuse_projections
from paceline.server.runner.quantize import quantize_linear_layers

LENGTH = 64
PROMPTS = (
    "The three primary colours are",
    "Once upon a time, in a small village by the sea,",
    "def fibonacci(n):",
    "Q: What is the capital of France?\nA:",
    "Cyclists ride close behind one another because the one in front breaks the wind, and so",
    "1, 2, 3, 4,",
    "Dear Ms Miller,\n\nthank you for your letter of",
    "The difference between a virus and a bacterium is that",
    "SELECT name, price FROM products WHERE",
    "In 1969, for the first time,",
)


@torch.inference_mode()
def main() -> None:
    loaded = loading.load(ModelConfig(device="cpu", dtype="float32"))
    exact = loaded.model
    fuse_projections(exact)
    rough = copy.deepcopy(exact)
    quantize_linear_layers(rough)
    same, places, logit_error, logprob_error = 0, 0, 0.0, 0.0
    for prompt in PROMPTS:
        ids = torch.tensor([loaded.tokenizer.encode(prompt)])
        ids = exact.generate(ids, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False)  # type: ignore[operator]
        want, got = (model(input_ids=ids).logits[0, -LENGTH - 1 : -1] for model in (exact, rough))
        chosen = want.argmax(-1)
        same += int((got.argmax(-1) == chosen).sum())
        places += len(chosen)
        logit_error += float((got - want).abs().mean()) * len(chosen)
        want, got = (each.log_softmax(-1).gather(1, chosen[:, None]) for each in (want, got))
        logprob_error += float((got - want).abs().sum())
    print(  # noqa: T201
        json.dumps(
            {
                "method": "int8",
                "places": places,
                "same_choice": same / places,
                "mean_logit_error": logit_error / places,
                "mean_logprob_error": logprob_error / places,
            }
        )
    )


if __name__ == "__main__":
    main()
