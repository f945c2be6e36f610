package sdks;

import io.temporal.client.WorkflowClient;
import io.temporal.worker.Worker;
import io.temporal.worker.WorkerFactory;
import io.temporal.worker.WorkerOptions;
import java.time.Duration;
import java.util.concurrent.TimeUnit;

/** What the scenarios share. */
final class Program {
  final WorkflowClient client;
  final String queue;
  private WorkerFactory factory;

  Program(WorkflowClient client, String queue) {
    this.client = client;
    this.queue = queue;
  }

  void startWorker() {
    factory = WorkerFactory.newInstance(client);
    Worker worker =
        factory.newWorker(
            queue,
            WorkerOptions.newBuilder()
                .setMaxHeartbeatThrottleInterval(Duration.ofMillis(200))
                .setDefaultHeartbeatThrottleInterval(Duration.ofMillis(200))
                .build());
    worker.registerWorkflowImplementationTypes(Workflows.ALL);
    worker.registerWorkflowImplementationTypes(Talkers.ALL);
    worker.registerActivitiesImplementations(new Activities.Work());
    factory.start();
  }

  void stopWorker() {
    factory.shutdown();
    factory.awaitTermination(30, TimeUnit.SECONDS);
  }
}
