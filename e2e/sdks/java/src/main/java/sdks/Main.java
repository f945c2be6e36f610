package sdks;

import com.fasterxml.jackson.databind.ObjectMapper;
import io.temporal.client.WorkflowClient;
import io.temporal.client.WorkflowClientOptions;
import io.temporal.serviceclient.Version;
import io.temporal.serviceclient.WorkflowServiceStubs;
import io.temporal.serviceclient.WorkflowServiceStubsOptions;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * A worker and a client of the Java SDK as anybody would write them: it knows nothing of encryption, and all that it is told
 * of the way to the server is an address. It runs the scenarios that it is told to on standard input and prints what an
 * application saw of each.
 *
 * <pre>java sdks.Main ADDRESS NAMESPACE TASK-QUEUE</pre>
 */
public final class Main {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  private Main() {}

  public static void main(String[] args) throws IOException {
    WorkflowServiceStubs service =
        WorkflowServiceStubs.newConnectedServiceStubs(WorkflowServiceStubsOptions.newBuilder().setTarget(args[0]).build(), null);
    WorkflowClient client =
        WorkflowClient.newInstance(
            service,
            WorkflowClientOptions.newBuilder().setNamespace(args[1]).setContextPropagators(List.of(new UserHeader())).build());
    Program program = new Program(client, args[2]);
    program.startWorker();
    say(Map.of("ready", "io.temporal " + Version.LIBRARY_VERSION));
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      String[] command = line.split(" ", 2);
      Run run = new Run(program, command[0]);
      Map<String, Object> answer = new HashMap<>();
      answer.put("scenario", command[0]);
      try {
        Scenarios.ALL.get(command[0]).run(run, command.length > 1 ? command[1] : "");
      } catch (Exception e) {
        StringWriter trace = new StringWriter();
        e.printStackTrace(new PrintWriter(trace));
        answer.put("error", trace.toString());
      }
      answer.put("lines", run.lines);
      say(answer);
    }
    program.stopWorker();
    service.shutdownNow();
  }

  private static void say(Map<String, Object> answer) throws IOException {
    OUT.println(JSON.writeValueAsString(answer));
  }
}
