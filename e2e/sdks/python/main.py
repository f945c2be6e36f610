"""A worker and a client of the Python SDK as anybody would write them.

It knows nothing of encryption, and all that it is told of the way to the server is an address. It runs the scenarios that
it is told to on standard input and prints what an application saw of each.

    python main.py ADDRESS NAMESPACE TASK-QUEUE
"""

import asyncio
import json
import logging
import sys
import traceback
from importlib.metadata import version

from temporalio.client import Client

import scenarios
from user import UserHeader


async def main(address: str, namespace: str, queue: str) -> None:
    logging.disable(logging.CRITICAL)  # the SDK logs failures, which the scenarios are full of
    client = await Client.connect(address, namespace=namespace, interceptors=[UserHeader()])
    program = scenarios.Program(client, queue)
    await program.start_worker()
    say({"ready": f"temporalio {version('temporalio')}"})
    while command := (await asyncio.to_thread(sys.stdin.readline)).strip():
        name, _, argument = command.partition(" ")
        run = scenarios.Run(program, name)
        answer: dict[str, object] = {"scenario": name, "lines": run.lines}
        try:
            await asyncio.wait_for(scenarios.ALL[name](run, argument), 120)
        except Exception:
            answer["error"] = traceback.format_exc()
        say(answer)
    await program.stop_worker()


def say(answer: dict[str, object]) -> None:
    print(json.dumps(answer), flush=True)


asyncio.run(main(*sys.argv[1:]))
