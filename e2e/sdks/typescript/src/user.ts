import { AsyncLocalStorage } from 'node:async_hooks';
import { WorkflowClientInterceptor } from '@temporalio/client';
import { defaultPayloadConverter } from '@temporalio/common';
import { ActivityInboundCallsInterceptor } from '@temporalio/worker';

/** The name of the user behind a call, which a header carries from the client to workflows and on to activities and children. */
export const user = new AsyncLocalStorage<string>();

export const clientInterceptor: WorkflowClientInterceptor = {
  async start(input, next) {
    const name = user.getStore();
    if (name === undefined) return next(input);
    return next({ ...input, headers: { ...input.headers, user: defaultPayloadConverter.toPayload(name) } });
  },
};

export const activityInterceptor: ActivityInboundCallsInterceptor = {
  async execute(input, next) {
    const header = input.headers.user;
    if (!header) return next(input);
    return user.run(defaultPayloadConverter.fromPayload(header), () => next(input));
  },
};
