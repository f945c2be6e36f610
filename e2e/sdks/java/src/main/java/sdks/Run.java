package sdks;

import io.temporal.client.WorkflowClient;
import io.temporal.client.WorkflowOptions;
import io.temporal.client.WorkflowStub;
import java.util.ArrayList;
import java.util.List;

/** One scenario at work. */
final class Run {
  final Program program;
  final WorkflowClient client;
  final List<String> lines = new ArrayList<>();
  private final String name;

  Run(Program program, String name) {
    this.program = program;
    this.client = program.client;
    this.name = name;
  }

  /** Adds a line of what the application saw. */
  void print(String line) {
    lines.add(line);
  }

  /** User data of this scenario. */
  String secret(String what) {
    return Secret.at(program.queue, name + "/" + what);
  }

  String id(String of) {
    return program.queue + "-" + name + "-" + of;
  }

  WorkflowOptions.Builder options(String workflow) {
    return WorkflowOptions.newBuilder().setWorkflowId(id(workflow)).setTaskQueue(program.queue);
  }

  WorkflowStub start(String workflow, Object... args) {
    WorkflowStub stub = client.newUntypedWorkflowStub(workflow, options(workflow).build());
    stub.start(args);
    return stub;
  }

  /** Runs a workflow to its end. */
  <T> T result(Class<T> type, String workflow, Object... args) {
    return start(workflow, args).getResult(type);
  }

  /** Lets a workflow end and waits for it. */
  String end(WorkflowStub stub) {
    stub.signal("end");
    return stub.getResult(String.class);
  }
}
