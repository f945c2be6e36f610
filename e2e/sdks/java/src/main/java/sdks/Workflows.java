package sdks;

import io.temporal.activity.ActivityCancellationType;
import io.temporal.activity.ActivityOptions;
import io.temporal.activity.LocalActivityOptions;
import io.temporal.common.RetryOptions;
import io.temporal.common.SearchAttributeKey;
import io.temporal.failure.ActivityFailure;
import io.temporal.failure.ApplicationFailure;
import io.temporal.failure.CanceledFailure;
import io.temporal.failure.TemporalFailure;
import io.temporal.workflow.ChildWorkflowOptions;
import io.temporal.workflow.Workflow;
import io.temporal.workflow.WorkflowInterface;
import io.temporal.workflow.WorkflowMethod;
import java.time.Duration;
import java.util.Map;

/** The workflows that nobody talks to while they run. */
final class Workflows {
  private Workflows() {}

  static final SearchAttributeKey<String> REGION = SearchAttributeKey.forKeyword("Region");
  private static final RetryOptions NEVER_AGAIN = RetryOptions.newBuilder().setMaximumAttempts(1).build();

  static final ActivityOptions ONCE =
      ActivityOptions.newBuilder()
          .setStartToCloseTimeout(Duration.ofMinutes(1))
          .setHeartbeatTimeout(Duration.ofSeconds(10))
          .setCancellationType(ActivityCancellationType.WAIT_CANCELLATION_COMPLETED)
          .setRetryOptions(NEVER_AGAIN)
          .build();
  private static final ActivityOptions RETRIED =
      ActivityOptions.newBuilder()
          .setStartToCloseTimeout(Duration.ofMinutes(1))
          .setRetryOptions(
              RetryOptions.newBuilder()
                  .setInitialInterval(Duration.ofMillis(200))
                  .setBackoffCoefficient(1)
                  .setMaximumAttempts(5)
                  .setDoNotRetry("Fatal")
                  .build())
          .build();

  /** Activities that are not to be tried again. */
  static Activities once() {
    return Workflow.newActivityStub(Activities.class, ONCE);
  }

  /** Activities that may be tried five times, but not after a failure of the type Fatal. */
  private static Activities retried() {
    return Workflow.newActivityStub(Activities.class, RETRIED);
  }

  /** A secret of the place that a workflow stands for. */
  static String here(String place) {
    return Secret.at(Workflow.getInfo().getTaskQueue(), place);
  }

  /** The message of the application's failure below an activity's or child's. */
  static String messageOf(Runnable failing) {
    try {
      failing.run();
    } catch (TemporalFailure failure) {
      if (failure.getCause() instanceof ApplicationFailure application) {
        return application.getOriginalMessage();
      }
      throw failure;
    }
    throw ApplicationFailure.newNonRetryableFailure("it did not fail", "Test");
  }

  @WorkflowInterface
  public interface Document {
    @WorkflowMethod
    Map<String, Object> run(Map<String, Object> document);
  }

  public static final class DocumentFlow implements Document {
    @Override
    public Map<String, Object> run(Map<String, Object> document) {
      return once().echoDocument(document);
    }
  }

  @WorkflowInterface
  public interface Bytes {
    @WorkflowMethod
    byte[] run(byte[] bytes);
  }

  public static final class BytesFlow implements Bytes {
    @Override
    public byte[] run(byte[] bytes) {
      return once().echoBytes(bytes);
    }
  }

  @WorkflowInterface
  public interface Text {
    @WorkflowMethod
    String run(String text);
  }

  public static final class TextFlow implements Text {
    @Override
    public String run(String text) {
      return once().echo(text);
    }
  }

  @WorkflowInterface
  public interface Null {
    @WorkflowMethod
    String run(String none);
  }

  public static final class NullFlow implements Null {
    @Override
    public String run(String none) {
      return none;
    }
  }

  @WorkflowInterface
  public interface Failing {
    @WorkflowMethod
    void run();
  }

  public static final class FailingFlow implements Failing {
    @Override
    public void run() {
      try {
        once().fail("failures");
      } catch (ActivityFailure failure) {
        throw ApplicationFailure.newFailureWithCause("gave up, " + here("failures/workflow"), "GaveUp", failure);
      }
    }
  }

  @WorkflowInterface
  public interface Crashing {
    @WorkflowMethod
    void run();
  }

  public static final class CrashingFlow implements Crashing {
    @Override
    public void run() {
      once().crash();
    }
  }

  @WorkflowInterface
  public interface Stopping {
    @WorkflowMethod
    void run();
  }

  public static final class StoppingFlow implements Stopping {
    @Override
    public void run() {
      retried().fatal();
    }
  }

  @WorkflowInterface
  public interface Retrying {
    @WorkflowMethod
    String run();
  }

  public static final class RetryingFlow implements Retrying {
    @Override
    public String run() {
      return retried().flaky();
    }
  }

  @WorkflowInterface
  public interface Beating {
    @WorkflowMethod
    String run();
  }

  public static final class BeatingFlow implements Beating {
    @Override
    public String run() {
      return retried().beat();
    }
  }

  @WorkflowInterface
  public interface Cleaning {
    @WorkflowMethod
    void run();
  }

  /** Does its last work after it was cancelled. */
  public static final class CleaningFlow implements Cleaning {
    @Override
    public void run() {
      try {
        once().untilCancel();
      } catch (ActivityFailure failure) {
        if (!(failure.getCause() instanceof CanceledFailure)) {
          throw failure;
        }
        Workflow.newDetachedCancellationScope(() -> once().make("cancellation/cleanup", "cancel")).run();
      }
    }
  }

  @WorkflowInterface
  public interface Waiting {
    @WorkflowMethod
    void run();
  }

  public static final class WaitingFlow implements Waiting {
    @Override
    public void run() {
      Workflow.sleep(Duration.ofHours(1));
    }
  }

  @WorkflowInterface
  public interface Parent {
    @WorkflowMethod
    String run();
  }

  public static final class ParentFlow implements Parent {
    @Override
    public String run() {
      ChildWorkflowOptions options = ChildWorkflowOptions.getDefaultInstance();
      String out = Workflow.newChildWorkflowStub(Child.class, options).run(here("children/input"));
      return out + "; " + messageOf(() -> Workflow.newChildWorkflowStub(Orphan.class, options).run());
    }
  }

  @WorkflowInterface
  public interface Child {
    @WorkflowMethod
    String run(String told);
  }

  public static final class ChildFlow implements Child {
    @Override
    public String run(String told) {
      return here("children/result") + " for " + told;
    }
  }

  @WorkflowInterface
  public interface Orphan {
    @WorkflowMethod
    void run();
  }

  public static final class OrphanFlow implements Orphan {
    @Override
    public void run() {
      throw ApplicationFailure.newFailure("child says " + here("children/failure"), "Orphan");
    }
  }

  @WorkflowInterface
  public interface Again {
    @WorkflowMethod
    String run(int n, String carried);
  }

  public static final class AgainFlow implements Again {
    @Override
    public String run(int n, String carried) {
      if (n > 0) {
        Workflow.newContinueAsNewStub(Again.class).run(n - 1, carried + " " + here("continue/carry " + n));
      }
      return carried;
    }
  }

  @WorkflowInterface
  public interface Header {
    @WorkflowMethod
    String run();
  }

  public static final class HeaderFlow implements Header {
    @Override
    public String run() {
      String activity = once().header();
      String child = Workflow.newChildWorkflowStub(HeaderOf.class).run();
      return "workflow " + UserHeader.USER.get() + " activity " + activity + " child " + child;
    }
  }

  @WorkflowInterface
  public interface HeaderOf {
    @WorkflowMethod
    String run();
  }

  public static final class HeaderOfFlow implements HeaderOf {
    @Override
    public String run() {
      return UserHeader.USER.get();
    }
  }

  @WorkflowInterface
  public interface Local {
    @WorkflowMethod
    String run();
  }

  public static final class LocalFlow implements Local {
    @Override
    public String run() {
      Activities locally =
          Workflow.newLocalActivityStub(
              Activities.class,
              LocalActivityOptions.newBuilder()
                  .setStartToCloseTimeout(Duration.ofMinutes(1))
                  .setRetryOptions(NEVER_AGAIN)
                  .build());
      return locally.make("local/result", here("local/input")) + "; " + messageOf(() -> locally.fail("local"));
    }
  }

  @WorkflowInterface
  public interface Markers {
    @WorkflowMethod
    String run();
  }

  /** Has recorded what is not the same at each replay. */
  public static final class MarkersFlow implements Markers {
    @Override
    public String run() {
      int version = Workflow.getVersion("change", Workflow.DEFAULT_VERSION, 1);
      String effect = Workflow.sideEffect(String.class, () -> here("markers/side effect"));
      String mutable =
          Workflow.mutableSideEffect("m", String.class, (was, is) -> !was.equals(is), () -> here("markers/mutable side effect"));
      Workflow.sleep(Duration.ofMillis(100));
      return "version " + version + " " + effect + " " + mutable;
    }
  }

  @WorkflowInterface
  public interface Scheduled {
    @WorkflowMethod
    String run(String text);
  }

  public static final class ScheduledFlow implements Scheduled {
    @Override
    public String run(String text) {
      return "ran with " + text;
    }
  }

  @WorkflowInterface
  public interface Async {
    @WorkflowMethod
    String run();
  }

  /** Awaits an activity that somebody else completes by its token, one by its id, and one that they fail. */
  public static final class AsyncFlow implements Async {
    @Override
    public String run() {
      return once().later() + "; " + once().later() + "; " + messageOf(() -> once().later());
    }
  }

  @WorkflowInterface
  public interface Cross {
    @WorkflowMethod
    String run(String queue, String text);
  }

  /** Runs an activity of another program's, which is written in another language. */
  public static final class CrossFlow implements Cross {
    @Override
    public String run(String queue, String text) {
      ActivityOptions options = ActivityOptions.newBuilder(ONCE).setTaskQueue(queue).build();
      return Workflow.newActivityStub(Activities.class, options).make("cross/result", text);
    }
  }

  static final Class<?>[] ALL = {
    DocumentFlow.class, BytesFlow.class, TextFlow.class, NullFlow.class, FailingFlow.class, CrashingFlow.class, StoppingFlow.class,
    RetryingFlow.class, BeatingFlow.class, CleaningFlow.class, WaitingFlow.class, ParentFlow.class, ChildFlow.class, OrphanFlow.class,
    AgainFlow.class, HeaderFlow.class, HeaderOfFlow.class, LocalFlow.class, MarkersFlow.class, ScheduledFlow.class, AsyncFlow.class,
    CrossFlow.class,
  };
}
