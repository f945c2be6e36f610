"""The scenarios: what an application does, and what it sees."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleSpec,
    ScheduleState,
    WithStartWorkflowOperation,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError, CancelledError, FailureError
from temporalio.service import RPCError
from temporalio.worker import Worker

import activities
import workflows
from secret import secret
from user import user


class Program:
    """What the scenarios share."""

    def __init__(self, client: Client, queue: str) -> None:
        self.client = client
        self.queue = queue
        self.worker: Worker
        self.running: asyncio.Task[None]

    async def start_worker(self) -> None:
        self.worker = Worker(
            self.client,
            task_queue=self.queue,
            workflows=workflows.ALL,
            activities=activities.ALL,
            max_heartbeat_throttle_interval=timedelta(milliseconds=200),
            default_heartbeat_throttle_interval=timedelta(milliseconds=200),
        )
        self.running = asyncio.create_task(self.worker.run())

    async def stop_worker(self) -> None:
        await self.worker.shutdown()
        await self.running


class Run:
    """One scenario at work."""

    def __init__(self, program: Program, name: str) -> None:
        self.program = program
        self.client = program.client
        self.name = name
        self.lines: list[str] = []

    def print(self, line: str) -> None:
        """Adds a line of what the application saw."""
        self.lines.append(line)

    def secret(self, what: str) -> str:
        """User data of this scenario."""
        return secret(self.program.queue, f"{self.name}/{what}")

    def id(self, name: str) -> str:
        return f"{self.program.queue}-{self.name}-{name}"

    async def start(self, name: str, *args: Any, **options: Any) -> WorkflowHandle[Any, Any]:
        options = {"id": self.id(name), "task_queue": self.program.queue, **options}
        return await self.client.start_workflow(name, args=args, **options)

    async def result(self, name: str, *args: Any, **options: Any) -> Any:
        """Runs a workflow to its end."""
        return await (await self.start(name, *args, **options)).result()

    async def end(self, handle: WorkflowHandle[Any, Any]) -> Any:
        """Lets a workflow end and waits for it."""
        await handle.signal("end")
        return await handle.result()


def returns(name: str, *args: Any) -> Callable[[Run, str], Awaitable[None]]:
    """A scenario that runs a workflow that returns a text."""

    async def scenario(run: Run, _: str) -> None:
        run.print(await run.result(name, *args))

    return scenario


async def values(run: Run, _: str) -> None:
    document = {
        "none": None,
        "yes": True,
        "large": 9007199254740993,
        "small": -0.1,
        "text": f'é漢字🎉\u2028"\\ {run.secret("text")}',
        "nested": {"deep": [{"er": run.secret("nested")}, None]},
        "nothing": [],
    }
    run.print(f"document {json.dumps(await run.result('Document', document), ensure_ascii=False)}")
    data = bytes([0, 255, 128, 34]) + run.secret("bytes").encode()
    back: bytes = await run.result("Bytes", data, result_type=bytes)
    run.print(f"bytes {list(back[:4])} {back[4:].decode()}")
    run.print(f"null {await run.result('Null', None) is None}")
    large = "0123456789" * 50_000 + run.secret("large")
    large_back: str = await run.result("Text", large)
    run.print(f"large {len(large_back)} {large_back == large} {large_back[500_000:]}")


def chain(run: Run, err: BaseException | None) -> None:
    """Prints an error and its causes."""
    while err is not None:
        stack = isinstance(err, FailureError) and err.failure is not None and "deepInTheClinic" in err.failure.stack_trace
        if isinstance(err, ApplicationError):
            run.print(f"application {err.type}: {err.message}; details {err.details}; final {err.non_retryable}; stack {stack}")
        else:
            run.print(f"{type(err).__name__}: {err}")
        err = err.__cause__


async def failures(run: Run, _: str) -> None:
    for name in ("Failing", "Crashing", "Stopping"):
        handle = await run.start(name)
        try:
            await handle.result()
        except WorkflowFailureError as err:
            run.print(name)
            chain(run, err)
        else:
            raise RuntimeError(f"{name} did not fail")


async def cancellation(run: Run, _: str) -> None:
    cleaning = await run.start("Cleaning")
    await await_heartbeat(run, cleaning)
    await cleaning.cancel()
    run.print(await cleaning.result())
    waiting = await run.start("Waiting")
    await waiting.cancel()
    try:
        await waiting.result()
    except WorkflowFailureError as err:
        run.print(f"cancelled {isinstance(err.cause, CancelledError)}")


async def await_heartbeat(run: Run, handle: WorkflowHandle[Any, Any]) -> None:
    """Waits until the server returns the details of the activity's heartbeat, and prints them."""
    while True:
        for pending in (await handle.describe()).raw_description.pending_activities:
            for payload in pending.heartbeat_details.payloads:
                run.print(f"heartbeat {payload.data.decode()}")
                return
        await asyncio.sleep(0.1)


async def signals(run: Run, _: str) -> None:
    first = {"text": run.secret("first")}
    handle = await run.start("Noting", start_signal="note", start_signal_args=[first])
    await handle.signal("note", {"text": run.secret("second")})
    await run.result("Poking", handle.id)
    run.print(await handle.result())


async def queries(run: Run, _: str) -> None:
    handle = await run.start("Asked")
    run.print(await handle.query("read", run.secret("question")))
    try:
        await handle.query("broken")
    except WorkflowQueryFailedError as err:
        run.print(str(err))
    await run.end(handle)


async def updates(run: Run, _: str) -> None:
    start = WithStartWorkflowOperation(
        "Updated", id=run.id("Updated"), task_queue=run.program.queue, id_conflict_policy=WorkflowIDConflictPolicy.FAIL
    )
    run.print(await run.client.execute_update_with_start_workflow("add", run.secret("with start"), start_workflow_operation=start))
    handle = await start.workflow_handle()
    for text in (
        f"good {run.secret('argument')}",
        f"bad {run.secret('rejected argument')}",
        f"fail {run.secret('failed argument')}",
    ):
        try:
            run.print(await handle.execute_update("add", text))
        except WorkflowUpdateFailedError as err:
            chain(run, err)
    run.print(await run.end(handle))


async def memo(run: Run, _: str) -> None:
    handle = await run.start(
        "Memo",
        memo={"desk": run.secret("start")},
        search_attributes=TypedSearchAttributes([SearchAttributePair(workflows.REGION, f"south-{run.program.queue}")]),
        static_summary=run.secret("summary"),
        static_details=run.secret("details"),
    )
    # What the workflow itself has set: visibility lags.
    while (await run.client.count_workflows(f"Region = 'north-{run.program.queue}'")).count != 1:
        await asyncio.sleep(0.1)
    description = await handle.describe()
    for name in ("desk", "ward"):
        run.print(f"memo {name} {await description.memo_value(name)}")
    run.print(f"search attribute {description.typed_search_attributes[workflows.REGION]}")
    run.print(f"summary {await description.static_summary()} details {await description.static_details()}")
    await run.end(handle)


async def headers(run: Run, _: str) -> None:
    user.set(run.secret("user"))
    try:
        run.print(await run.result("Header"))
    finally:
        user.set("")


async def schedules(run: Run, _: str) -> None:
    handle = await run.client.create_schedule(
        run.id("schedule"),
        Schedule(
            action=ScheduleActionStartWorkflow("Scheduled", run.secret("input"), id=run.id("Scheduled"), task_queue=run.program.queue),
            spec=ScheduleSpec(),
            state=ScheduleState(paused=True),
        ),
        memo={"why": run.secret("memo")},
    )
    await handle.trigger()
    while not (description := await handle.describe()).info.recent_actions:
        await asyncio.sleep(0.1)
    recent = description.info.recent_actions[0].action
    out = await run.client.get_workflow_handle(recent.workflow_id).result()
    run.print(f"{await description.memo_value('why')}; {out}")
    await handle.delete()


async def asynchronous(run: Run, _: str) -> None:
    handle = await run.start("Async")
    by_token = run.client.get_async_activity_handle(task_token=await activities.tokens.get())
    await by_token.heartbeat(run.secret("heartbeat"))
    await await_heartbeat(run, handle)
    await by_token.complete(run.secret("by token"))
    await activities.tokens.get()
    by_id = run.client.get_async_activity_handle(workflow_id=handle.id, run_id=None, activity_id="by-id")
    await by_id.complete(run.secret("by id"))
    failed = run.client.get_async_activity_handle(task_token=await activities.tokens.get())
    await failed.fail(ApplicationError(f"failed from outside: {run.secret('failure')}", type="Outside"))
    run.print(await handle.result())


async def replay(run: Run, _: str) -> None:
    """Has a workflow go on with another worker, which has nothing of it but its history."""
    handle = await run.start("Replayed")
    await print_before(run, handle)
    await run.program.stop_worker()
    await run.program.start_worker()
    await print_before(run, handle)
    await handle.signal("go on", run.secret("note"))
    run.print(await handle.result())
    for event in (await handle.fetch_history()).events:
        for payload in event.activity_task_completed_event_attributes.result.payloads:
            run.print(f"history {payload.data.decode()}")


async def print_before(run: Run, handle: WorkflowHandle[Any, Any]) -> None:
    """Asks the workflow for what it did first, as soon as it has."""
    for left in range(600, -1, -1):
        try:
            run.print(await handle.query("before"))
            return
        except (WorkflowQueryFailedError, RPCError):
            if left == 0:
                raise
            await asyncio.sleep(0.1)


async def cross(run: Run, queue: str) -> None:
    """Runs a workflow here of which another program does the work."""
    run.print(await run.result("Cross", queue, run.secret("input"), id=run.id(f"for-{queue}")))


ALL: dict[str, Callable[[Run, str], Awaitable[None]]] = {
    "values": values,
    "failures": failures,
    "retries": returns("Retrying"),
    "heartbeats": returns("Beating"),
    "cancellation": cancellation,
    "signals": signals,
    "queries": queries,
    "updates": updates,
    "children": returns("Parent"),
    "continue": returns("Again", 2, "carried"),
    "memo": memo,
    "headers": headers,
    "local": returns("Local"),
    "markers": returns("Markers"),
    "schedules": schedules,
    "async": asynchronous,
    "replay": replay,
    "cross": cross,
}
