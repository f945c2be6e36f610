"""What the workflows have done."""

import asyncio
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError

from secret import secret
from user import user

# Tokens of activities that somebody else completes.
tokens: asyncio.Queue[bytes] = asyncio.Queue()


def here(place: str) -> str:
    """A secret of the place that an activity stands for."""
    return secret(activity.info().task_queue, place)


@activity.defn(name="EchoDocument")
async def echo_document(document: dict[str, Any]) -> dict[str, Any]:
    return document


@activity.defn(name="EchoBytes")
async def echo_bytes(data: bytes) -> bytes:
    return data


@activity.defn(name="Echo")
async def echo(text: str) -> str:
    return text


@activity.defn(name="Make")
async def make(place: str, told: str) -> str:
    """Returns data of its own, and what it received."""
    return f"{here(place)} after {told}"


@activity.defn(name="Fail")
async def fail(scenario: str) -> None:
    message = f"refused: {here(scenario + '/message')}"
    cause = ApplicationError(f"because of {here(scenario + '/cause')}", type="Insurer")
    raise ApplicationError(message, here(scenario + "/details"), 7, type="OutOfCover", non_retryable=True) from cause


@activity.defn(name="Crash")
async def crash() -> None:
    deepInTheClinic()


def deepInTheClinic() -> None:
    raise KeyError(f"crashed on {here('failures/crash')}")


@activity.defn(name="Fatal")
async def fatal() -> None:
    raise ApplicationError(f"attempt {activity.info().attempt}: {here('failures/fatal')}", type="Fatal")


@activity.defn(name="Flaky")
async def flaky() -> str:
    if activity.info().attempt < 3:
        raise RuntimeError(f"not yet: {here('retries/message')}")
    return f"third time: {here('retries/result')}"


@activity.defn(name="Beat")
async def beat() -> str:
    info = activity.info()
    if not info.heartbeat_details:
        activity.heartbeat({"page": here("heartbeats/details")})
        raise RuntimeError("begin again")
    return f"attempt {info.attempt} goes on at {info.heartbeat_details[0]['page']}"


@activity.defn(name="UntilCancel")
async def until_cancel() -> None:
    while True:
        activity.heartbeat(here("cancellation/heartbeat"))
        await asyncio.sleep(0.1)


@activity.defn(name="Header")
async def header() -> str:
    return user.get()


@activity.defn(name="Later")
async def later() -> str:
    await tokens.put(activity.info().task_token)
    activity.raise_complete_async()


ALL = [echo_document, echo_bytes, echo, make, fail, crash, fatal, flaky, beat, until_cancel, header, later]
