import path from 'node:path';
import { NativeConnection, Worker } from '@temporalio/worker';
import * as activities from './activities';
import { activityInterceptor } from './user';

export const bundlePath = path.join(__dirname, 'workflows-bundle.js');
export const modules = [require.resolve('./interceptors')];

/** A worker that runs until it is stopped. */
export class RunningWorker {
  private constructor(
    private readonly worker: Worker,
    private readonly done: Promise<void>,
  ) {}

  static async start(connection: NativeConnection, namespace: string, taskQueue: string): Promise<RunningWorker> {
    const { nextToken: _, ...registered } = activities;
    const worker = await Worker.create({
      connection,
      namespace,
      taskQueue,
      workflowBundle: { codePath: bundlePath },
      activities: registered,
      interceptors: { activity: [() => ({ inbound: activityInterceptor })], workflowModules: modules },
      maxHeartbeatThrottleInterval: 200,
      defaultHeartbeatThrottleInterval: 200,
    });
    return new RunningWorker(worker, worker.run());
  }

  async stop(): Promise<void> {
    this.worker.shutdown();
    await this.done;
  }
}
