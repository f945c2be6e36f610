"""The workflows that the scenarios run."""

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy, SearchAttributeKey
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from secret import secret
    from user import user

REGION = SearchAttributeKey.for_keyword("Region")
MINUTE = timedelta(minutes=1)
NEVER_AGAIN = RetryPolicy(maximum_attempts=1)


def here(place: str) -> str:
    """A secret of the place that a workflow stands for."""
    return secret(workflow.info().task_queue, place)


async def once(name: str, *args: Any, **options: Any) -> Any:
    """Runs an activity that is not to be tried again."""
    return await workflow.execute_activity(
        name,
        args=args,
        start_to_close_timeout=MINUTE,
        heartbeat_timeout=timedelta(seconds=10),
        cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        retry_policy=NEVER_AGAIN,
        **options,
    )


async def retried(name: str) -> Any:
    """Runs an activity that may be tried five times, but not after a failure of the type Fatal."""
    return await workflow.execute_activity(
        name,
        start_to_close_timeout=MINUTE,
        retry_policy=RetryPolicy(
            initial_interval=timedelta(milliseconds=200), backoff_coefficient=1, maximum_attempts=5, non_retryable_error_types=["Fatal"]
        ),
    )


async def message_of(failing: Any) -> str:
    """The message of the application's failure, which a local activity raises and others wrap."""
    try:
        await failing
    except ApplicationError as err:
        return err.message
    except (ActivityError, ChildWorkflowError) as err:
        if isinstance(err.cause, ApplicationError):
            return err.cause.message
        raise
    raise ApplicationError("it did not fail", non_retryable=True)


class UntilEnd:
    """Workflows that end by a signal."""

    def __init__(self) -> None:
        self.ended = False

    @workflow.signal(name="end")
    def end(self) -> None:
        self.ended = True

    async def until_end(self) -> None:
        await workflow.wait_condition(lambda: self.ended)


@workflow.defn(name="Document")
class Document:
    @workflow.run
    async def run(self, document: dict[str, Any]) -> dict[str, Any]:
        return await once("EchoDocument", document)


@workflow.defn(name="Bytes")
class Bytes:
    @workflow.run
    async def run(self, data: bytes) -> bytes:
        return await once("EchoBytes", data, result_type=bytes)


@workflow.defn(name="Text")
class Text:
    @workflow.run
    async def run(self, text: str) -> str:
        return await once("Echo", text)


@workflow.defn(name="Null")
class Null:
    @workflow.run
    async def run(self, none: None) -> None:
        return none


@workflow.defn(name="Failing")
class Failing:
    @workflow.run
    async def run(self) -> None:
        try:
            await once("Fail", "failures")
        except ActivityError as err:
            raise ApplicationError(f"gave up, {here('failures/workflow')}", type="GaveUp") from err


@workflow.defn(name="Crashing")
class Crashing:
    @workflow.run
    async def run(self) -> None:
        await once("Crash")


@workflow.defn(name="Stopping")
class Stopping:
    @workflow.run
    async def run(self) -> None:
        await retried("Fatal")


@workflow.defn(name="Retrying")
class Retrying:
    @workflow.run
    async def run(self) -> str:
        return await retried("Flaky")


@workflow.defn(name="Beating")
class Beating:
    @workflow.run
    async def run(self) -> str:
        return await retried("Beat")


@workflow.defn(name="Cleaning")
class Cleaning:
    """Does its last work after it was cancelled."""

    @workflow.run
    async def run(self) -> str:
        try:
            await once("UntilCancel")
        except BaseException as err:
            if not is_cancelled_exception(err):
                raise
            return await asyncio.shield(once("Make", "cancellation/cleanup", "cancel"))
        raise ApplicationError("the activity was not cancelled", non_retryable=True)


@workflow.defn(name="Waiting")
class Waiting:
    @workflow.run
    async def run(self) -> None:
        await asyncio.sleep(3600)


@workflow.defn(name="Noting")
class Noting:
    """Collects three notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @workflow.signal(name="note")
    def note(self, note: dict[str, str]) -> None:
        self.notes.append(note["text"])

    @workflow.run
    async def run(self) -> str:
        await workflow.wait_condition(lambda: len(self.notes) == 3)
        return " ".join(self.notes)


@workflow.defn(name="Poking")
class Poking:
    @workflow.run
    async def run(self, id: str) -> None:
        await workflow.get_external_workflow_handle(id).signal("note", {"text": here("signals/external")})


@workflow.defn(name="Asked")
class Asked(UntilEnd):
    @workflow.query(name="read")
    def read(self, question: str) -> str:
        return f"{here('queries/answer')} to {question}"

    @workflow.query(name="broken")
    def broken(self) -> str:
        raise RuntimeError(f"cannot tell {here('queries/broken')}")

    @workflow.run
    async def run(self) -> None:
        await self.until_end()


@workflow.defn(name="Updated")
class Updated(UntilEnd):
    def __init__(self) -> None:
        super().__init__()
        self.all: list[str] = []

    @workflow.update(name="add")
    async def add(self, text: str) -> str:
        if text.startswith("fail"):
            raise ApplicationError(f"cannot add {here('updates/failed')}", here("updates/details"), type="Full")
        self.all.append(text)
        return f"{here('updates/result')} for {text}"

    @add.validator
    def check(self, text: str) -> None:
        if text.startswith("bad"):
            raise ValueError(f"will not have {here('updates/rejected')}")

    @workflow.run
    async def run(self) -> str:
        await self.until_end()
        return " ".join(self.all)


@workflow.defn(name="Parent")
class Parent:
    @workflow.run
    async def run(self) -> str:
        out = await workflow.execute_child_workflow("Child", here("children/input"))
        return f"{out}; {await message_of(workflow.execute_child_workflow('Orphan'))}"


@workflow.defn(name="Child")
class Child:
    @workflow.run
    async def run(self, told: str) -> str:
        return f"{here('children/result')} for {told}"


@workflow.defn(name="Orphan")
class Orphan:
    @workflow.run
    async def run(self) -> None:
        raise ApplicationError(f"child says {here('children/failure')}", type="Orphan")


@workflow.defn(name="Again")
class Again:
    @workflow.run
    async def run(self, n: int, carried: str) -> str:
        if n > 0:
            workflow.continue_as_new(args=[n - 1, f"{carried} {here(f'continue/carry {n}')}"])
        return carried


@workflow.defn(name="Memo")
class Memo(UntilEnd):
    @workflow.run
    async def run(self) -> None:
        workflow.upsert_memo({"ward": here("memo/upsert")})
        workflow.upsert_search_attributes([REGION.value_set(f"north-{workflow.info().task_queue}")])
        await self.until_end()


@workflow.defn(name="Header")
class Header:
    @workflow.run
    async def run(self) -> str:
        activity = await once("Header")
        child = await workflow.execute_child_workflow("HeaderOf")
        return f"workflow {user.get()} activity {activity} child {child}"


@workflow.defn(name="HeaderOf")
class HeaderOf:
    @workflow.run
    async def run(self) -> str:
        return user.get()


@workflow.defn(name="Local")
class Local:
    @workflow.run
    async def run(self) -> str:
        def locally(name: str, *args: Any) -> Any:
            return workflow.execute_local_activity(name, args=args, start_to_close_timeout=MINUTE, retry_policy=NEVER_AGAIN)

        out = await locally("Make", "local/result", here("local/input"))
        return f"{out}; {await message_of(locally('Fail', 'local'))}"


@workflow.defn(name="Markers")
class Markers:
    @workflow.run
    async def run(self) -> str:
        change = workflow.patched("change")
        await asyncio.sleep(0.1)
        return f"patched {change}"


@workflow.defn(name="Scheduled")
class Scheduled:
    @workflow.run
    async def run(self, text: str) -> str:
        return f"ran with {text}"


@workflow.defn(name="Async")
class Async:
    """Awaits an activity that somebody else completes by its token, one by its id, and one that they fail."""

    @workflow.run
    async def run(self) -> str:
        texts = [await once("Later", activity_id=id) for id in ("by-token", "by-id")]
        return "; ".join([*texts, await message_of(once("Later", activity_id="failed"))])


@workflow.defn(name="Replayed")
class Replayed:
    """Works before and after a signal, between which its worker goes away."""

    def __init__(self) -> None:
        self.done: str | None = None
        self.told: str | None = None

    @workflow.query(name="before")
    def before(self) -> str:
        if self.done is None:
            raise ApplicationError("not yet")
        return self.done

    @workflow.signal(name="go on")
    def go_on(self, text: str) -> None:
        self.told = text

    @workflow.run
    async def run(self) -> str:
        self.done = await once("Make", "replay/before", here("replay/input"))
        await workflow.wait_condition(lambda: self.told is not None)
        return f"{self.done}; {await once('Make', 'replay/after', self.told)}"


@workflow.defn(name="Cross")
class Cross:
    """Runs an activity of another program's, which is written in another language."""

    @workflow.run
    async def run(self, queue: str, text: str) -> str:
        return await once("Make", "cross/result", text, task_queue=queue)


ALL = [
    Document, Bytes, Text, Null, Failing, Crashing, Stopping, Retrying, Beating, Cleaning, Waiting, Noting, Poking, Asked, Updated,
    Parent, Child, Orphan, Again, Memo, Header, HeaderOf, Local, Markers, Scheduled, Async, Replayed, Cross,
]  # fmt: skip
