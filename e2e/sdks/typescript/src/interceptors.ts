import { defaultPayloadConverter, Headers, WorkflowInterceptorsFactory } from '@temporalio/workflow';

let name: string | undefined;

/** The user that a workflow's header names. Each workflow has an instance of this module. */
export function userOfWorkflow(): string {
  return name ?? '';
}

function withUser<Input extends { headers: Headers }>(input: Input): Input {
  if (name === undefined) return input;
  return { ...input, headers: { ...input.headers, user: defaultPayloadConverter.toPayload(name) } };
}

export const interceptors: WorkflowInterceptorsFactory = () => ({
  inbound: [
    {
      async execute(input, next) {
        if (input.headers.user) name = defaultPayloadConverter.fromPayload(input.headers.user);
        return next(input);
      },
    },
  ],
  outbound: [
    {
      async scheduleActivity(input, next) {
        return next(withUser(input));
      },
      async startChildWorkflowExecution(input, next) {
        return next(withUser(input));
      },
    },
  ],
});
