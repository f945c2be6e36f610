import { ApplicationFailure, CompleteAsyncError, Context } from '@temporalio/activity';
import { user } from './user';
import { secret } from './secret';

/** A secret of the place that an activity stands for. */
function here(place: string): string {
  return secret(Context.current().info.taskQueue, place);
}

export async function EchoDocument(document: unknown): Promise<unknown> {
  return document;
}

export async function EchoBytes(bytes: Uint8Array): Promise<Uint8Array> {
  return bytes;
}

export async function Echo(text: string): Promise<string> {
  return text;
}

/** Returns data of its own, and what it received. */
export async function Make(place: string, told: string): Promise<string> {
  return `${here(place)} after ${told}`;
}

export async function Fail(scenario: string): Promise<void> {
  throw ApplicationFailure.create({
    message: `refused: ${here(`${scenario}/message`)}`,
    type: 'OutOfCover',
    nonRetryable: true,
    details: [here(`${scenario}/details`), 7],
    cause: ApplicationFailure.create({ message: `because of ${here(`${scenario}/cause`)}`, type: 'Insurer' }),
  });
}

export async function Crash(): Promise<void> {
  deepInTheClinic();
}

function deepInTheClinic(): void {
  throw new TypeError(`crashed on ${here('failures/crash')}`);
}

export async function Fatal(): Promise<void> {
  throw ApplicationFailure.create({ message: `attempt ${Context.current().info.attempt}: ${here('failures/fatal')}`, type: 'Fatal' });
}

export async function Flaky(): Promise<string> {
  if (Context.current().info.attempt < 3) {
    throw new Error(`not yet: ${here('retries/message')}`);
  }
  return `third time: ${here('retries/result')}`;
}

export async function Beat(): Promise<string> {
  const { attempt, heartbeatDetails } = Context.current().info;
  if (heartbeatDetails === undefined) {
    Context.current().heartbeat({ page: here('heartbeats/details') });
    throw new Error('begin again');
  }
  return `attempt ${attempt} goes on at ${heartbeatDetails.page}`;
}

export async function UntilCancel(): Promise<void> {
  for (;;) {
    Context.current().heartbeat(here('cancellation/heartbeat'));
    await Context.current().sleep(100);
  }
}

export async function Header(): Promise<string> {
  return user.getStore() ?? '';
}

/** Tokens of activities that somebody else completes, and who waits for one. */
const tokens: Uint8Array[] = [];
const waiting: ((token: Uint8Array) => void)[] = [];

export async function Later(): Promise<string> {
  const token = Context.current().info.taskToken;
  const next = waiting.shift();
  if (next) next(token);
  else tokens.push(token);
  throw new CompleteAsyncError();
}

export async function nextToken(): Promise<Uint8Array> {
  return tokens.shift() ?? new Promise((resolve) => waiting.push(resolve));
}
