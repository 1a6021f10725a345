"""Answers a file of prompts, one a line, with a progress line; writes JSON lines in the order of the file.

python examples/batch_with_progress.py prompts.txt [--in-flight 32] [--target HOST:PORT] > answers.jsonl
"""

import argparse
import json
import sys
from pathlib import Path

from paceline.client import DEFAULT_TARGET, Client, Generation


def progress(done: int, total: int) -> None:
    """Overwrites its own line. With tqdm: `lambda done, total: bar.update()`."""
    end = "\n" if done == total else ""
    print(f"\r{done}/{total}", end=end, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--target", default=DEFAULT_TARGET)
    arguments = parser.parse_args()

    prompts = arguments.prompts.read_text(encoding="utf-8").splitlines()
    with Client(arguments.target) as client:
        print(f"asking {client}", file=sys.stderr)
        answers = client.batch(
            prompts, progress=progress, in_flight=arguments.in_flight, max_tokens=24, seed=1
        )
    failed = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        if isinstance(answer, Generation):
            print(json.dumps({"prompt": prompt, "text": answer.text}))
        else:  # this prompt's own error, in its place
            failed += 1
            print(json.dumps({"prompt": prompt, "error": str(answer), "code": answer.code}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
