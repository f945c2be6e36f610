package sdks;

import static sdks.Workflows.here;
import static sdks.Workflows.once;

import io.temporal.failure.ApplicationFailure;
import io.temporal.workflow.QueryMethod;
import io.temporal.workflow.SignalMethod;
import io.temporal.workflow.UpdateMethod;
import io.temporal.workflow.UpdateValidatorMethod;
import io.temporal.workflow.Workflow;
import io.temporal.workflow.WorkflowInterface;
import io.temporal.workflow.WorkflowMethod;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** The workflows that take signals, queries and updates. */
final class Talkers {
  private Talkers() {}

  /** Ends by a signal. */
  public interface UntilEnd {
    @SignalMethod
    void end();
  }

  /** What those have in common. */
  abstract static class Ending implements UntilEnd {
    private boolean ended;

    @Override
    public void end() {
      ended = true;
    }

    void untilEnd() {
      Workflow.await(() -> ended);
    }
  }

  @WorkflowInterface
  public interface Noting {
    @WorkflowMethod
    String run();

    @SignalMethod
    void note(Map<String, String> note);
  }

  /** Collects three notes. */
  public static final class NotingFlow implements Noting {
    private final List<String> notes = new ArrayList<>();

    @Override
    public String run() {
      Workflow.await(() -> notes.size() == 3);
      return String.join(" ", notes);
    }

    @Override
    public void note(Map<String, String> note) {
      notes.add(note.get("text"));
    }
  }

  @WorkflowInterface
  public interface Poking {
    @WorkflowMethod
    void run(String id);
  }

  public static final class PokingFlow implements Poking {
    @Override
    public void run(String id) {
      Workflow.newUntypedExternalWorkflowStub(id).signal("note", Map.of("text", here("signals/external")));
    }
  }

  @WorkflowInterface
  public interface Asked extends UntilEnd {
    @WorkflowMethod
    void run();

    @QueryMethod
    String read(String question);

    @QueryMethod
    String broken();
  }

  public static final class AskedFlow extends Ending implements Asked {
    @Override
    public void run() {
      untilEnd();
    }

    @Override
    public String read(String question) {
      return here("queries/answer") + " to " + question;
    }

    @Override
    public String broken() {
      throw new IllegalStateException("cannot tell " + here("queries/broken"));
    }
  }

  @WorkflowInterface
  public interface Updated extends UntilEnd {
    @WorkflowMethod
    String run();

    @UpdateMethod
    String add(String text);

    @UpdateValidatorMethod(updateName = "add")
    void check(String text);
  }

  public static final class UpdatedFlow extends Ending implements Updated {
    private final List<String> all = new ArrayList<>();

    @Override
    public String run() {
      untilEnd();
      return String.join(" ", all);
    }

    @Override
    public String add(String text) {
      if (text.startsWith("fail")) {
        throw ApplicationFailure.newFailure("cannot add " + here("updates/failed"), "Full", here("updates/details"));
      }
      all.add(text);
      return here("updates/result") + " for " + text;
    }

    @Override
    public void check(String text) {
      if (text.startsWith("bad")) {
        throw new IllegalArgumentException("will not have " + here("updates/rejected"));
      }
    }
  }

  @WorkflowInterface
  public interface Memo extends UntilEnd {
    @WorkflowMethod
    void run();
  }

  public static final class MemoFlow extends Ending implements Memo {
    @Override
    public void run() {
      Workflow.upsertMemo(Map.of("ward", here("memo/upsert")));
      Workflow.upsertTypedSearchAttributes(Workflows.REGION.valueSet("north-" + Workflow.getInfo().getTaskQueue()));
      untilEnd();
    }
  }

  @WorkflowInterface
  public interface Replayed {
    @WorkflowMethod
    String run();

    @QueryMethod
    String before();

    @SignalMethod(name = "go on")
    void goOn(String text);
  }

  /** Works before and after a signal, between which its worker goes away. */
  public static final class ReplayedFlow implements Replayed {
    private String before;
    private String told;

    @Override
    public String run() {
      before = once().make("replay/before", here("replay/input"));
      Workflow.await(() -> told != null);
      return before + "; " + once().make("replay/after", told);
    }

    @Override
    public String before() {
      if (before == null) {
        throw new IllegalStateException("not yet");
      }
      return before;
    }

    @Override
    public void goOn(String text) {
      told = text;
    }
  }

  static final Class<?>[] ALL = {
    NotingFlow.class, PokingFlow.class, AskedFlow.class, UpdatedFlow.class, MemoFlow.class, ReplayedFlow.class,
  };
}
