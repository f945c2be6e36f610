import {
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  ChildWorkflowFailure,
  condition,
  continueAsNew,
  defineQuery,
  defineSignal,
  defineUpdate,
  executeChild,
  getExternalWorkflowHandle,
  isCancellation,
  patched,
  proxyActivities,
  proxyLocalActivities,
  scheduleActivity,
  setHandler,
  sleep,
  upsertMemo,
  upsertSearchAttributes,
  workflowInfo,
} from '@temporalio/workflow';
import type * as activities from './activities';
import { userOfWorkflow } from './interceptors';
import { secret } from './secret';

const once = proxyActivities<typeof activities>({
  startToCloseTimeout: '1 minute',
  heartbeatTimeout: '10 seconds',
  cancellationType: 'WAIT_CANCELLATION_COMPLETED',
  retry: { maximumAttempts: 1 },
});

const retried = proxyActivities<typeof activities>({
  startToCloseTimeout: '1 minute',
  retry: { initialInterval: 200, backoffCoefficient: 1, maximumAttempts: 5, nonRetryableErrorTypes: ['Fatal'] },
});

const locally = proxyLocalActivities<typeof activities>({ startToCloseTimeout: '1 minute', retry: { maximumAttempts: 1 } });

interface Note {
  text: string;
}

const note = defineSignal<[Note]>('note');
const end = defineSignal('end');

/** A secret of the place that a workflow stands for. */
function here(place: string): string {
  return secret(workflowInfo().taskQueue, place);
}

async function untilEnd(): Promise<void> {
  let ended = false;
  setHandler(end, () => {
    ended = true;
  });
  await condition(() => ended);
}

export async function Document(document: unknown): Promise<unknown> {
  return once.EchoDocument(document);
}

export async function Bytes(bytes: Uint8Array): Promise<Uint8Array> {
  return once.EchoBytes(bytes);
}

export async function Text(text: string): Promise<string> {
  return once.Echo(text);
}

export async function Null(none: null): Promise<null> {
  return none;
}

export async function Failing(): Promise<void> {
  try {
    await once.Fail('failures');
  } catch (err) {
    throw ApplicationFailure.create({ message: `gave up, ${here('failures/workflow')}`, type: 'GaveUp', cause: err as Error });
  }
}

export async function Crashing(): Promise<void> {
  await once.Crash();
}

export async function Stopping(): Promise<void> {
  await retried.Fatal();
}

export async function Retrying(): Promise<string> {
  return retried.Flaky();
}

export async function Beating(): Promise<string> {
  return retried.Beat();
}

/** Does its last work after it was cancelled. */
export async function Cleaning(): Promise<string> {
  try {
    await once.UntilCancel();
  } catch (err) {
    if (isCancellation(err)) return CancellationScope.nonCancellable(() => once.Make('cancellation/cleanup', 'cancel'));
    throw err;
  }
  throw ApplicationFailure.nonRetryable('the activity was not cancelled');
}

export async function Waiting(): Promise<void> {
  await sleep('1 hour');
}

/** Collects three notes. */
export async function Noting(): Promise<string> {
  const notes: string[] = [];
  setHandler(note, ({ text }) => {
    notes.push(text);
  });
  await condition(() => notes.length === 3);
  return notes.join(' ');
}

export async function Poking(id: string): Promise<void> {
  await getExternalWorkflowHandle(id).signal(note, { text: here('signals/external') });
}

export async function Asked(): Promise<void> {
  setHandler(defineQuery<string, [string]>('read'), (question) => `${here('queries/answer')} to ${question}`);
  setHandler(defineQuery('broken'), () => {
    throw new Error(`cannot tell ${here('queries/broken')}`);
  });
  await untilEnd();
}

export async function Updated(): Promise<string> {
  const all: string[] = [];
  setHandler(
    defineUpdate<string, [string]>('add'),
    async (text) => {
      if (text.startsWith('fail')) {
        throw ApplicationFailure.create({
          message: `cannot add ${here('updates/failed')}`,
          type: 'Full',
          details: [here('updates/details')],
        });
      }
      all.push(text);
      return `${here('updates/result')} for ${text}`;
    },
    {
      validator(text) {
        if (text.startsWith('bad')) throw new Error(`will not have ${here('updates/rejected')}`);
      },
    },
  );
  await untilEnd();
  return all.join(' ');
}

/** The message of the application's failure, which a local activity throws and others wrap. */
async function messageOf(failing: Promise<unknown>): Promise<string> {
  try {
    await failing;
  } catch (err) {
    if (err instanceof ApplicationFailure) return err.message;
    if ((err instanceof ActivityFailure || err instanceof ChildWorkflowFailure) && err.cause) return err.cause.message;
    throw err;
  }
  throw ApplicationFailure.nonRetryable('it did not fail');
}

export async function Parent(): Promise<string> {
  const out = await executeChild(Child, { args: [here('children/input')] });
  return `${out}; ${await messageOf(executeChild(Orphan))}`;
}

export async function Child(told: string): Promise<string> {
  return `${here('children/result')} for ${told}`;
}

export async function Orphan(): Promise<void> {
  throw ApplicationFailure.create({ message: `child says ${here('children/failure')}`, type: 'Orphan' });
}

export async function Again(n: number, carried: string): Promise<string> {
  if (n === 0) return carried;
  return continueAsNew<typeof Again>(n - 1, `${carried} ${here(`continue/carry ${n}`)}`);
}

export async function Memo(): Promise<void> {
  upsertMemo({ ward: here('memo/upsert') });
  upsertSearchAttributes({ Region: [`north-${workflowInfo().taskQueue}`] });
  await untilEnd();
}

export async function Header(): Promise<string> {
  const activity = await once.Header();
  const child = await executeChild(HeaderOf);
  return `workflow ${userOfWorkflow()} activity ${activity} child ${child}`;
}

export async function HeaderOf(): Promise<string> {
  return userOfWorkflow();
}

export async function Local(): Promise<string> {
  const out = await locally.Make('local/result', here('local/input'));
  return `${out}; ${await messageOf(locally.Fail('local'))}`;
}

export async function Markers(): Promise<string> {
  const change = patched('change');
  await sleep(100);
  return `patched ${change}`;
}

export async function Scheduled(text: string): Promise<string> {
  return `ran with ${text}`;
}

/** Awaits an activity that somebody else completes by its token, one by its id, and one that they fail. */
export async function Async(): Promise<string> {
  const later = (activityId: string) =>
    scheduleActivity<string>('Later', [], { activityId, startToCloseTimeout: '1 minute', retry: { maximumAttempts: 1 } });
  return [await later('by-token'), await later('by-id'), await messageOf(later('failed'))].join('; ');
}

/** Works before and after a signal, between which its worker goes away. */
export async function Replayed(): Promise<string> {
  const before = await once.Make('replay/before', here('replay/input'));
  setHandler(defineQuery('before'), () => before);
  let told: string | undefined;
  setHandler(defineSignal<[string]>('go on'), (text) => {
    told = text;
  });
  await condition(() => told !== undefined);
  return `${before}; ${await once.Make('replay/after', told as string)}`;
}

/** Runs an activity of another program's, which is written in another language. */
export async function Cross(queue: string, text: string): Promise<string> {
  return proxyActivities<typeof activities>({ taskQueue: queue, startToCloseTimeout: '1 minute' }).Make('cross/result', text);
}
