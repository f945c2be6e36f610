/**
 * A worker and a client of the TypeScript SDK as anybody would write them: it knows nothing of encryption, and all that it
 * is told of the way to the server is an address. It runs the scenarios that it is told to on standard input and prints
 * what an application saw of each.
 *
 *     node lib/main.js ADDRESS NAMESPACE TASK-QUEUE
 */
import { createInterface } from 'node:readline';
import { inspect } from 'node:util';
import { Client, Connection } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime } from '@temporalio/worker';
import { version } from '@temporalio/worker/package.json';
import { Run, scenarios } from './scenarios';
import { clientInterceptor } from './user';
import { RunningWorker } from './worker';

async function main(address: string, namespace: string, queue: string): Promise<void> {
  // The SDK logs failures, which the scenarios are full of.
  Runtime.install({ logger: new DefaultLogger('ERROR', () => {}) });
  const connection = await Connection.connect({ address });
  const native = await NativeConnection.connect({ address });
  const client = new Client({ connection, namespace, interceptors: { workflow: [clientInterceptor] } });
  const start = () => RunningWorker.start(native, namespace, queue);
  const program = { client, queue, start, worker: await start() };
  say({ ready: `@temporalio/worker ${version}` });
  for await (const line of createInterface({ input: process.stdin })) {
    const [name, argument] = line.split(' ');
    const run = new Run(program, name);
    let error: string | undefined;
    try {
      if (!scenarios[name]) throw new Error(`there is no scenario ${name}`);
      await scenarios[name](run, argument);
    } catch (err) {
      error = inspect(err);
    }
    say({ scenario: name, lines: run.lines, error });
  }
  await program.worker.stop();
  await native.close();
  await connection.close();
}

function say(answer: object): void {
  process.stdout.write(JSON.stringify(answer) + '\n');
}

const [address, namespace, queue] = process.argv.slice(2);
main(address, namespace, queue).catch((err) => {
  console.error(err);
  process.exit(1);
});
