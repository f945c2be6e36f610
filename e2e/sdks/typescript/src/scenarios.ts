import {
  ActivityFailure,
  ApplicationFailure,
  CancelledFailure,
  Client,
  WithStartWorkflowOperation,
  WorkflowFailedError,
  WorkflowHandle,
  WorkflowStartOptions,
  WorkflowUpdateFailedError,
} from '@temporalio/client';
import { nextToken } from './activities';
import { secret } from './secret';
import { user } from './user';
import { RunningWorker } from './worker';

/** What the scenarios share. */
export interface Program {
  client: Client;
  queue: string;
  worker: RunningWorker;
  start(): Promise<RunningWorker>;
}

/** One scenario at work. */
export class Run {
  readonly lines: string[] = [];

  constructor(
    readonly program: Program,
    readonly name: string,
  ) {}

  get client(): Client {
    return this.program.client;
  }

  /** Adds a line of what the application saw. */
  print(line: string): void {
    this.lines.push(line);
  }

  /** User data of this scenario. */
  secret(what: string): string {
    return secret(this.program.queue, `${this.name}/${what}`);
  }

  id(name: string): string {
    return `${this.program.queue}-${this.name}-${name}`;
  }

  async start(name: string, args: unknown[] = [], options: Partial<WorkflowStartOptions> = {}): Promise<WorkflowHandle> {
    return this.client.workflow.start(name, { taskQueue: this.program.queue, workflowId: this.id(name), args, ...options });
  }

  /** Runs a workflow to its end. */
  async result(name: string, ...args: unknown[]): Promise<any> {
    return (await this.start(name, args)).result();
  }

  /** Lets a workflow end and waits for it. */
  async end(handle: WorkflowHandle): Promise<any> {
    await handle.signal('end');
    return handle.result();
  }
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 100));

export const scenarios: Record<string, (run: Run, argument: string) => Promise<void>> = {
  values,
  failures,
  retries: (run) => returns(run, 'Retrying'),
  heartbeats: (run) => returns(run, 'Beating'),
  cancellation,
  signals,
  queries,
  updates,
  children: (run) => returns(run, 'Parent'),
  continue: (run) => returns(run, 'Again', 2, 'carried'),
  memo,
  headers: (run) => user.run(run.secret('user'), () => returns(run, 'Header')),
  local: (run) => returns(run, 'Local'),
  markers: (run) => returns(run, 'Markers'),
  schedules,
  async: asynchronous,
  replay,
  cross,
};

/** Runs a workflow that returns a text. */
async function returns(run: Run, name: string, ...args: unknown[]): Promise<void> {
  run.print(await run.result(name, ...args));
}

async function values(run: Run): Promise<void> {
  const document = {
    none: null,
    yes: true,
    large: 9007199254740991,
    small: -0.1,
    text: `é漢字🎉\u2028"\\ ${run.secret('text')}`,
    nested: { deep: [{ er: run.secret('nested') }, null] },
    nothing: [],
  };
  run.print(`document ${JSON.stringify(await run.result('Document', document))}`);
  const bytes = new Uint8Array([0, 255, 128, 34, ...Buffer.from(run.secret('bytes'))]);
  const back: Uint8Array = await run.result('Bytes', bytes);
  run.print(`bytes ${back.slice(0, 4)} ${Buffer.from(back.slice(4))}`);
  run.print(`null ${(await run.result('Null', null)) === null}`);
  const large = '0123456789'.repeat(50_000) + run.secret('large');
  const largeBack: string = await run.result('Text', large);
  run.print(`large ${largeBack.length} ${largeBack === large} ${largeBack.slice(500_000)}`);
}

/** Prints an error and its causes. */
function chain(run: Run, err: unknown): void {
  for (; err instanceof Error; err = err.cause) {
    if (err instanceof ApplicationFailure) {
      const stack = err.stack?.includes('deepInTheClinic');
      run.print(`application ${err.type}: ${err.message}; details ${JSON.stringify(err.details)}; final ${err.nonRetryable}; stack ${stack}`);
    } else if (err instanceof ActivityFailure) {
      run.print(`activity ${err.activityType}: ${err.message}`);
    } else {
      run.print(`${err.name}: ${err.message}`);
    }
  }
}

async function failures(run: Run): Promise<void> {
  for (const name of ['Failing', 'Crashing', 'Stopping']) {
    const handle = await run.start(name);
    try {
      await handle.result();
    } catch (err) {
      run.print(name);
      chain(run, err);
      continue;
    }
    throw new Error(`${name} did not fail`);
  }
}

async function cancellation(run: Run): Promise<void> {
  const cleaning = await run.start('Cleaning');
  await awaitHeartbeat(run, cleaning);
  await cleaning.cancel();
  run.print(await cleaning.result());
  const waiting = await run.start('Waiting');
  await waiting.cancel();
  try {
    await waiting.result();
  } catch (err) {
    run.print(`cancelled ${err instanceof WorkflowFailedError && err.cause instanceof CancelledFailure}`);
  }
}

/** Waits until the server returns the details of the activity's heartbeat, and prints them. */
async function awaitHeartbeat(run: Run, handle: WorkflowHandle): Promise<void> {
  for (;;) {
    const { raw } = await handle.describe();
    for (const activity of raw.pendingActivities ?? []) {
      const data = activity.heartbeatDetails?.payloads?.[0].data;
      if (data) {
        run.print(`heartbeat ${Buffer.from(data)}`);
        return;
      }
    }
    await pause();
  }
}

async function signals(run: Run): Promise<void> {
  const handle = await run.client.workflow.signalWithStart('Noting', {
    taskQueue: run.program.queue,
    workflowId: run.id('Noting'),
    signal: 'note',
    signalArgs: [{ text: run.secret('first') }],
  });
  await handle.signal('note', { text: run.secret('second') });
  await run.result('Poking', handle.workflowId);
  run.print(await handle.result());
}

async function queries(run: Run): Promise<void> {
  const handle = await run.start('Asked');
  run.print(await handle.query('read', run.secret('question')));
  try {
    await handle.query('broken');
  } catch (err) {
    run.print(String(err));
  }
  await run.end(handle);
}

async function updates(run: Run): Promise<void> {
  const startWorkflowOperation = new WithStartWorkflowOperation('Updated', {
    taskQueue: run.program.queue,
    workflowId: run.id('Updated'),
    workflowIdConflictPolicy: 'FAIL',
  });
  run.print(await run.client.workflow.executeUpdateWithStart('add', { args: [run.secret('with start')], startWorkflowOperation }));
  const handle: WorkflowHandle = await startWorkflowOperation.workflowHandle();
  for (const text of [
    `good ${run.secret('argument')}`,
    `bad ${run.secret('rejected argument')}`,
    `fail ${run.secret('failed argument')}`,
  ]) {
    try {
      run.print(await handle.executeUpdate<string, [string]>('add', { args: [text] }));
    } catch (err) {
      if (!(err instanceof WorkflowUpdateFailedError)) throw err;
      chain(run, err);
    }
  }
  run.print(await run.end(handle));
}

async function memo(run: Run): Promise<void> {
  const handle = await run.start('Memo', [], {
    memo: { desk: run.secret('start') },
    searchAttributes: { Region: [`south-${run.program.queue}`] },
    staticSummary: run.secret('summary'),
    staticDetails: run.secret('details'),
  });
  // What the workflow itself has set: visibility lags.
  while ((await run.client.workflow.count(`Region = 'north-${run.program.queue}'`)).count !== 1) await pause();
  const description = await handle.describe();
  run.print(`memo desk ${description.memo?.desk}`);
  run.print(`memo ward ${description.memo?.ward}`);
  run.print(`search attribute ${description.searchAttributes.Region}`);
  run.print(`summary ${await description.staticSummary()} details ${await description.staticDetails()}`);
  await run.end(handle);
}

async function schedules(run: Run): Promise<void> {
  const handle = await run.client.schedule.create({
    scheduleId: run.id('schedule'),
    spec: {},
    state: { paused: true },
    memo: { why: run.secret('memo') },
    action: {
      type: 'startWorkflow',
      workflowType: 'Scheduled',
      workflowId: run.id('Scheduled'),
      taskQueue: run.program.queue,
      args: [run.secret('input')],
    },
  });
  await handle.trigger();
  for (;;) {
    const description = await handle.describe();
    const [recent] = description.info.recentActions;
    if (!recent) {
      await pause();
      continue;
    }
    const out = await run.client.workflow.getHandle(recent.action.workflow.workflowId).result();
    run.print(`${description.memo?.why}; ${out}; ${description.action.args}`);
    await handle.delete();
    return;
  }
}

async function asynchronous(run: Run): Promise<void> {
  const handle = await run.start('Async');
  const token = await nextToken();
  await run.client.activity.heartbeat(token, run.secret('heartbeat'));
  await awaitHeartbeat(run, handle);
  await run.client.activity.complete(token, run.secret('by token'));
  await nextToken();
  await run.client.activity.complete({ workflowId: handle.workflowId, activityId: 'by-id' }, run.secret('by id'));
  const failure = ApplicationFailure.create({ message: `failed from outside: ${run.secret('failure')}`, type: 'Outside' });
  await run.client.activity.fail(await nextToken(), failure);
  run.print(await handle.result());
}

/** Has a workflow go on with another worker, which has nothing of it but its history. */
async function replay(run: Run): Promise<void> {
  const handle = await run.start('Replayed');
  await printBefore(run, handle);
  await run.program.worker.stop();
  run.program.worker = await run.program.start();
  await printBefore(run, handle);
  await handle.signal('go on', run.secret('note'));
  run.print(await handle.result());
  const history = await handle.fetchHistory();
  for (const event of history.events ?? []) {
    const data = event.activityTaskCompletedEventAttributes?.result?.payloads?.[0].data;
    if (data) run.print(`history ${Buffer.from(data)}`);
  }
}

/** Asks the workflow for what it did first, as soon as it has. */
async function printBefore(run: Run, handle: WorkflowHandle): Promise<void> {
  for (let left = 600; ; left--) {
    try {
      run.print(await handle.query('before'));
      return;
    } catch (err) {
      if (left === 0) throw err;
      await pause();
    }
  }
}

/** Runs a workflow here of which another program does the work. */
async function cross(run: Run, queue: string): Promise<void> {
  const handle = await run.start('Cross', [queue, run.secret('input')], { workflowId: run.id(`for-${queue}`) });
  run.print(await handle.result());
}
