"""Carries the name of the user behind a call in a header, from the client to workflows and on to activities and children."""

from contextvars import ContextVar
from typing import Any

from temporalio import client, converter, worker, workflow

user: ContextVar[str] = ContextVar("user", default="")


def _with_user(input: Any) -> Any:
    if user.get():
        payload = converter.default().payload_converter.to_payload(user.get())
        input.headers = {**input.headers, "user": payload}
    return input


def _take_user(input: Any) -> Any:
    if payload := input.headers.get("user"):
        user.set(converter.default().payload_converter.from_payload(payload, str))
    return input


class UserHeader(client.Interceptor, worker.Interceptor):
    """The interceptor of clients and, since those hand theirs over, of workers."""

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:
        return _ClientOutbound(next)

    def intercept_activity(self, next: worker.ActivityInboundInterceptor) -> worker.ActivityInboundInterceptor:
        return _ActivityInbound(next)

    def workflow_interceptor_class(self, input: worker.WorkflowInterceptorClassInput) -> type[worker.WorkflowInboundInterceptor]:
        return _WorkflowInbound


class _ClientOutbound(client.OutboundInterceptor):
    async def start_workflow(self, input: client.StartWorkflowInput) -> Any:
        return await super().start_workflow(_with_user(input))


class _ActivityInbound(worker.ActivityInboundInterceptor):
    async def execute_activity(self, input: worker.ExecuteActivityInput) -> Any:
        return await super().execute_activity(_take_user(input))


class _WorkflowInbound(worker.WorkflowInboundInterceptor):
    def init(self, outbound: worker.WorkflowOutboundInterceptor) -> None:
        super().init(_WorkflowOutbound(outbound))

    async def execute_workflow(self, input: worker.ExecuteWorkflowInput) -> Any:
        return await super().execute_workflow(_take_user(input))


class _WorkflowOutbound(worker.WorkflowOutboundInterceptor):
    def start_activity(self, input: worker.StartActivityInput) -> workflow.ActivityHandle:
        return super().start_activity(_with_user(input))

    async def start_child_workflow(self, input: worker.StartChildWorkflowInput) -> workflow.ChildWorkflowHandle:
        return await super().start_child_workflow(_with_user(input))
