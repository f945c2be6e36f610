package sdks;

import io.temporal.activity.Activity;
import io.temporal.activity.ActivityExecutionContext;
import io.temporal.activity.ActivityInfo;
import io.temporal.activity.ActivityInterface;
import io.temporal.failure.ApplicationFailure;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/** What the workflows have done. */
@ActivityInterface
public interface Activities {
  Map<String, Object> echoDocument(Map<String, Object> document);

  byte[] echoBytes(byte[] bytes);

  String echo(String text);

  /** Returns data of its own, and what it received. */
  String make(String place, String told);

  void fail(String scenario);

  void crash();

  void fatal();

  String flaky();

  String beat();

  void untilCancel();

  String header();

  String later();

  /** The work itself. */
  final class Work implements Activities {
    /** Activities that somebody else completes. */
    static final BlockingQueue<ActivityInfo> LATER = new LinkedBlockingQueue<>();

    /** A secret of the place that an activity stands for. */
    private static String here(String place) {
      return Secret.at(info().getActivityTaskQueue(), place);
    }

    private static ActivityInfo info() {
      return Activity.getExecutionContext().getInfo();
    }

    @Override
    public Map<String, Object> echoDocument(Map<String, Object> document) {
      return document;
    }

    @Override
    public byte[] echoBytes(byte[] bytes) {
      return bytes;
    }

    @Override
    public String echo(String text) {
      return text;
    }

    @Override
    public String make(String place, String told) {
      return here(place) + " after " + told;
    }

    @Override
    public void fail(String scenario) {
      Exception cause = ApplicationFailure.newFailure("because of " + here(scenario + "/cause"), "Insurer");
      throw ApplicationFailure.newNonRetryableFailureWithCause(
          "refused: " + here(scenario + "/message"), "OutOfCover", cause, here(scenario + "/details"), 7);
    }

    @Override
    public void crash() {
      deepInTheClinic();
    }

    private static void deepInTheClinic() {
      throw new IllegalStateException("crashed on " + here("failures/crash"));
    }

    @Override
    public void fatal() {
      throw ApplicationFailure.newFailure("attempt " + info().getAttempt() + ": " + here("failures/fatal"), "Fatal");
    }

    @Override
    public String flaky() {
      if (info().getAttempt() < 3) {
        throw new IllegalStateException("not yet: " + here("retries/message"));
      }
      return "third time: " + here("retries/result");
    }

    @Override
    public String beat() {
      ActivityExecutionContext context = Activity.getExecutionContext();
      Optional<Map> details = context.getHeartbeatDetails(Map.class);
      if (details.isEmpty()) {
        context.heartbeat(Map.of("page", here("heartbeats/details")));
        throw new IllegalStateException("begin again");
      }
      return "attempt " + info().getAttempt() + " goes on at " + details.get().get("page");
    }

    @Override
    public void untilCancel() {
      while (true) {
        Activity.getExecutionContext().heartbeat(here("cancellation/heartbeat")); // throws once it is cancelled
        try {
          Thread.sleep(100);
        } catch (InterruptedException e) {
          throw Activity.wrap(e);
        }
      }
    }

    @Override
    public String header() {
      return UserHeader.USER.get();
    }

    @Override
    public String later() {
      Activity.getExecutionContext().doNotCompleteOnReturn();
      LATER.add(info());
      return null;
    }
  }
}
