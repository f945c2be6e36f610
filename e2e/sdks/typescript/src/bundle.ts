import { writeFile } from 'node:fs/promises';
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';
import { bundlePath, modules } from './worker';

// Bundled once, as one does for production: a worker that bundles at its start takes a while.
async function bundle(): Promise<void> {
  const { code } = await bundleWorkflowCode({
    workflowsPath: require.resolve('./workflows'),
    workflowInterceptorModules: modules,
    logger: new DefaultLogger('WARN'),
  });
  await writeFile(bundlePath, code);
}

void bundle();
