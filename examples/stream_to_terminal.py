"""Writes an answer to the terminal as it is made; Ctrl-C stops the work on the server, too.

python examples/stream_to_terminal.py "Once upon a time" [--max-tokens 80] [--target HOST:PORT]
"""

import argparse
import sys

from paceline.client import DEFAULT_TARGET, Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--max-tokens", type=int, default=80)
    parser.add_argument("--target", default=DEFAULT_TARGET)
    arguments = parser.parse_args()

    with (
        Client(arguments.target) as client,
        client.stream(arguments.prompt, max_tokens=arguments.max_tokens) as stream,
    ):
        try:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
        except KeyboardInterrupt:
            print(" [stopped]", file=sys.stderr)  # leaving the `with` block cancels the call
            return
    print()
    if stream.usage and stream.timings:  # they come with the last message
        print(
            f"{stream.usage.completion_tokens} tokens, the first after {stream.timings.ttft_ms:.0f} ms,"
            f" all in {stream.timings.total_ms:.0f} ms, in steps of {stream.timings.batch_rows_mean:.1f} rows",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
