package sdks;

import com.fasterxml.jackson.databind.ObjectMapper;
import io.grpc.Status;
import io.temporal.activity.ActivityInfo;
import io.temporal.api.common.v1.Payload;
import io.temporal.api.enums.v1.WorkflowIdConflictPolicy;
import io.temporal.api.history.v1.HistoryEvent;
import io.temporal.api.workflow.v1.PendingActivityInfo;
import io.temporal.client.ActivityCompletionClient;
import io.temporal.client.UpdateOptions;
import io.temporal.client.WorkflowExecutionDescription;
import io.temporal.client.WorkflowFailedException;
import io.temporal.client.WorkflowQueryException;
import io.temporal.client.WorkflowStub;
import io.temporal.client.WorkflowUpdateException;
import io.temporal.client.WorkflowUpdateStage;
import io.temporal.client.schedules.Schedule;
import io.temporal.client.schedules.ScheduleActionExecutionStartWorkflow;
import io.temporal.client.schedules.ScheduleActionStartWorkflow;
import io.temporal.client.schedules.ScheduleClient;
import io.temporal.client.schedules.ScheduleClientOptions;
import io.temporal.client.schedules.ScheduleDescription;
import io.temporal.client.schedules.ScheduleHandle;
import io.temporal.client.schedules.ScheduleOptions;
import io.temporal.client.schedules.ScheduleSpec;
import io.temporal.client.schedules.ScheduleState;
import io.temporal.common.SearchAttributes;
import io.temporal.failure.ApplicationFailure;
import io.temporal.failure.CanceledFailure;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/** The scenarios: what an application does, and what it sees. */
final class Scenarios {
  private Scenarios() {}

  interface Scenario {
    void run(Run run, String argument) throws Exception;
  }

  static final Map<String, Scenario> ALL = new LinkedHashMap<>();

  static {
    ALL.put("values", (run, argument) -> values(run));
    ALL.put("failures", (run, argument) -> failures(run));
    ALL.put("retries", returns("Retrying"));
    ALL.put("heartbeats", returns("Beating"));
    ALL.put("cancellation", (run, argument) -> cancellation(run));
    ALL.put("signals", (run, argument) -> signals(run));
    ALL.put("queries", (run, argument) -> queries(run));
    ALL.put("updates", (run, argument) -> updates(run));
    ALL.put("children", returns("Parent"));
    ALL.put("continue", returns("Again", 2, "carried"));
    ALL.put("memo", (run, argument) -> memo(run));
    ALL.put("headers", (run, argument) -> headers(run));
    ALL.put("local", returns("Local"));
    ALL.put("markers", returns("Markers"));
    ALL.put("schedules", (run, argument) -> schedules(run));
    ALL.put("async", (run, argument) -> async(run));
    ALL.put("replay", (run, argument) -> replay(run));
    ALL.put("cross", Scenarios::cross);
  }

  /** A scenario that runs a workflow that returns a text. */
  private static Scenario returns(String workflow, Object... args) {
    return (run, argument) -> run.print(run.result(String.class, workflow, args));
  }

  private static void values(Run run) throws Exception {
    Map<String, Object> document = new LinkedHashMap<>();
    document.put("none", null);
    document.put("yes", true);
    document.put("large", Long.MAX_VALUE);
    document.put("small", -0.1);
    document.put("text", "é漢字🎉\u2028\"\\ " + run.secret("text"));
    document.put("nested", Map.of("deep", Arrays.asList(Map.of("er", run.secret("nested")), null)));
    document.put("nothing", List.of());
    Map<?, ?> documentBack = run.result(Map.class, "Document", document);
    run.print("document " + new ObjectMapper().writeValueAsString(documentBack));
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    bytes.write(new byte[] {0, -1, -128, 34});
    bytes.write(run.secret("bytes").getBytes(StandardCharsets.UTF_8));
    byte[] back = run.result(byte[].class, "Bytes", (Object) bytes.toByteArray());
    run.print("bytes " + Arrays.toString(Arrays.copyOf(back, 4)) + " " + new String(back, 4, back.length - 4, StandardCharsets.UTF_8));
    run.print("null " + (run.result(String.class, "Null", (Object) null) == null));
    String large = "0123456789".repeat(50_000) + run.secret("large");
    String largeBack = run.result(String.class, "Text", large);
    run.print("large " + largeBack.length() + " " + largeBack.equals(large) + " " + largeBack.substring(500_000));
  }

  /** Prints an error and its causes. */
  private static void chain(Run run, Throwable error) {
    for (; error != null; error = error.getCause()) {
      boolean stack = Arrays.stream(error.getStackTrace()).anyMatch(frame -> frame.getMethodName().equals("deepInTheClinic"));
      if (error instanceof ApplicationFailure failure) {
        int details = failure.getDetails().getSize();
        run.print(
            "application " + failure.getType() + ": " + failure.getOriginalMessage()
                + "; details " + (details > 0 ? failure.getDetails().get(0, String.class) : "")
                + (details > 1 ? " " + failure.getDetails().get(1, Integer.class) : "")
                + "; final " + failure.isNonRetryable() + "; stack " + stack);
      } else {
        run.print(error.getClass().getName());
      }
    }
  }

  private static void failures(Run run) {
    for (String workflow : List.of("Failing", "Crashing", "Stopping")) {
      WorkflowStub stub = run.start(workflow);
      try {
        stub.getResult(Void.class);
      } catch (WorkflowFailedException e) {
        run.print(workflow);
        chain(run, e);
        continue;
      }
      throw new IllegalStateException(workflow + " did not fail");
    }
  }

  private static void cancellation(Run run) throws InterruptedException {
    WorkflowStub cleaning = run.start("Cleaning");
    awaitHeartbeat(run, cleaning);
    cancel(run, cleaning);
    // Once it was cancelled, what a workflow returns is lost in Java.
    printHistory(run, "Cleaning");
    cancel(run, run.start("Waiting"));
  }

  private static void cancel(Run run, WorkflowStub stub) {
    stub.cancel();
    try {
      stub.getResult(Void.class);
    } catch (WorkflowFailedException e) {
      run.print("cancelled " + (e.getCause() instanceof CanceledFailure));
    }
  }

  /** Waits until the server returns the details of the activity's heartbeat, and prints them. */
  private static void awaitHeartbeat(Run run, WorkflowStub stub) throws InterruptedException {
    while (true) {
      for (PendingActivityInfo pending : stub.describe().getRawDescription().getPendingActivitiesList()) {
        for (Payload payload : pending.getHeartbeatDetails().getPayloadsList()) {
          run.print("heartbeat " + payload.getData().toStringUtf8());
          return;
        }
      }
      Thread.sleep(100);
    }
  }

  private static void signals(Run run) {
    WorkflowStub noting = run.client.newUntypedWorkflowStub("Noting", run.options("Noting").build());
    noting.signalWithStart("note", new Object[] {Map.of("text", run.secret("first"))}, new Object[] {});
    noting.signal("note", Map.of("text", run.secret("second")));
    run.result(Void.class, "Poking", run.id("Noting"));
    run.print(noting.getResult(String.class));
  }

  private static void queries(Run run) {
    WorkflowStub asked = run.start("Asked");
    run.print(asked.query("read", String.class, run.secret("question")));
    try {
      asked.query("broken", String.class);
    } catch (WorkflowQueryException e) {
      // Java has the stack trace in it, where thread numbers differ.
      run.print(Status.fromThrowable(e).getDescription().lines().findFirst().orElse(""));
    }
    run.end(asked);
  }

  private static void updates(Run run) {
    WorkflowStub updated =
        run.client.newUntypedWorkflowStub(
            "Updated",
            run.options("Updated").setWorkflowIdConflictPolicy(WorkflowIdConflictPolicy.WORKFLOW_ID_CONFLICT_POLICY_FAIL).build());
    UpdateOptions<String> add =
        UpdateOptions.newBuilder(String.class).setUpdateName("add").setWaitForStage(WorkflowUpdateStage.COMPLETED).build();
    run.print(updated.executeUpdateWithStart(add, new Object[] {run.secret("with start")}, new Object[] {}));
    for (String text :
        List.of(
            "good " + run.secret("argument"), "bad " + run.secret("rejected argument"), "fail " + run.secret("failed argument"))) {
      try {
        run.print(updated.update("add", String.class, text));
      } catch (WorkflowUpdateException e) {
        chain(run, e);
      }
    }
    run.print(run.end(updated));
  }

  private static void memo(Run run) throws InterruptedException {
    WorkflowStub memo =
        run.client.newUntypedWorkflowStub(
            "Memo",
            run.options("Memo")
                .setMemo(Map.of("desk", run.secret("start")))
                .setTypedSearchAttributes(SearchAttributes.newBuilder().set(Workflows.REGION, "south-" + run.program.queue).build())
                .setStaticSummary(run.secret("summary"))
                .setStaticDetails(run.secret("details"))
                .build());
    memo.start();
    // What the workflow itself has set: visibility lags.
    while (run.client.countWorkflows("Region = 'north-" + run.program.queue + "'").getCount() != 1) {
      Thread.sleep(100);
    }
    WorkflowExecutionDescription description = memo.describe();
    run.print("memo desk " + description.getMemo("desk", String.class));
    run.print("memo ward " + description.getMemo("ward", String.class));
    run.print("search attribute " + description.getTypedSearchAttributes().get(Workflows.REGION));
    run.print("summary " + description.getStaticSummary() + " details " + description.getStaticDetails());
    run.end(memo);
  }

  private static void headers(Run run) {
    UserHeader.USER.set(run.secret("user"));
    try {
      run.print(run.result(String.class, "Header"));
    } finally {
      UserHeader.USER.remove();
    }
  }

  private static void schedules(Run run) throws InterruptedException {
    ScheduleClient client =
        ScheduleClient.newInstance(
            run.client.getWorkflowServiceStubs(),
            ScheduleClientOptions.newBuilder().setNamespace(run.client.getOptions().getNamespace()).build());
    Schedule schedule =
        Schedule.newBuilder()
            .setAction(
                ScheduleActionStartWorkflow.newBuilder()
                    .setWorkflowType("Scheduled")
                    .setArguments(run.secret("input"))
                    .setOptions(run.options("Scheduled").build())
                    .build())
            .setSpec(ScheduleSpec.newBuilder().build())
            .setState(ScheduleState.newBuilder().setPaused(true).build())
            .build();
    ScheduleHandle handle =
        client.createSchedule(run.id("schedule"), schedule, ScheduleOptions.newBuilder().setMemo(Map.of("why", run.secret("memo"))).build());
    handle.trigger();
    ScheduleDescription description = handle.describe();
    while (description.getInfo().getRecentActions().isEmpty()) {
      Thread.sleep(100);
      description = handle.describe();
    }
    var started = (ScheduleActionExecutionStartWorkflow) description.getInfo().getRecentActions().get(0).getAction();
    String out = run.client.newUntypedWorkflowStub(started.getWorkflowId()).getResult(String.class);
    run.print(description.getMemo("why", String.class) + "; " + out);
    handle.delete();
  }

  private static void async(Run run) throws InterruptedException {
    WorkflowStub async = run.start("Async");
    ActivityCompletionClient client = run.client.newActivityCompletionClient();
    byte[] token = Activities.Work.LATER.take().getTaskToken();
    client.heartbeat(token, run.secret("heartbeat"));
    awaitHeartbeat(run, async);
    client.complete(token, run.secret("by token"));
    ActivityInfo next = Activities.Work.LATER.take();
    client.complete(next.getWorkflowId(), Optional.of(next.getRunId()), next.getActivityId(), run.secret("by id"));
    Exception failure = ApplicationFailure.newFailure("failed from outside: " + run.secret("failure"), "Outside");
    client.completeExceptionally(Activities.Work.LATER.take().getTaskToken(), failure);
    run.print(async.getResult(String.class));
  }

  /** Has a workflow go on with another worker, which has nothing of it but its history. */
  private static void replay(Run run) throws InterruptedException {
    WorkflowStub replayed = run.start("Replayed");
    printBefore(run, replayed);
    run.program.stopWorker();
    run.program.startWorker();
    printBefore(run, replayed);
    replayed.signal("go on", run.secret("note"));
    run.print(replayed.getResult(String.class));
    printHistory(run, "Replayed");
  }

  /** Prints the results of a workflow's activities as its history has them. */
  private static void printHistory(Run run, String workflow) {
    for (HistoryEvent event : run.client.fetchHistory(run.id(workflow)).getEvents()) {
      for (Payload payload : event.getActivityTaskCompletedEventAttributes().getResult().getPayloadsList()) {
        run.print("history " + payload.getData().toStringUtf8());
      }
    }
  }

  /** Asks the workflow for what it did first, as soon as it has. */
  private static void printBefore(Run run, WorkflowStub replayed) throws InterruptedException {
    for (int left = 600; ; left--) {
      try {
        run.print(replayed.query("before", String.class));
        return;
      } catch (WorkflowQueryException e) {
        if (left == 0) {
          throw e;
        }
        Thread.sleep(100);
      }
    }
  }

  /** Runs a workflow here of which another program does the work. */
  private static void cross(Run run, String queue) {
    WorkflowStub cross =
        run.client.newUntypedWorkflowStub("Cross", run.options("Cross").setWorkflowId(run.id("for-" + queue)).build());
    cross.start(queue, run.secret("input"));
    run.print(cross.getResult(String.class));
  }
}
