"""Asks many prompts at once with asyncio, but never more than a few at a time, and shows answers as they come.

python examples/fan_out.py [--at-once 8] [--target HOST:PORT] < prompts.txt
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from paceline.client import DEFAULT_TARGET, AsyncClient, PacelineError


async def answer(client: AsyncClient, prompt: str, room: asyncio.Semaphore) -> str:
    """The answer, or what went wrong: one prompt that fails does not end the others."""
    async with room:  # the deadline of a call starts here, not while it waits for room
        try:
            return (await client.generate(prompt, max_tokens=24, timeout_s=60)).text
        except PacelineError as error:
            return f"({error.code}: {error})"


async def fan_out(target: str, prompts: Sequence[str], at_once: int) -> None:
    room = asyncio.Semaphore(at_once)

    async def show(prompt: str) -> None:
        print(f"{prompt!r} → {await answer(client, prompt, room)!r}", flush=True)

    # One client, so one connection: the server batches what is in flight.
    async with AsyncClient(target) as client, asyncio.TaskGroup() as group:
        for prompt in prompts:
            group.create_task(show(prompt))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--target", default=DEFAULT_TARGET)
    arguments = parser.parse_args()
    prompts = [line.strip() for line in sys.stdin if line.strip()]
    asyncio.run(fan_out(arguments.target, prompts, arguments.at_once))


if __name__ == "__main__":
    main()
