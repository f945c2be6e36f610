package operator

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	sdklog "go.temporal.io/sdk/log"
	sdktemporal "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	scenario(t, "12.3", "a pipe of several histories, lines of a list, and a cut file", opensSeveral)
	scenario(t, "12.4", "what temporal workflow show prints, opened and replayed", opensForReplay)
}

// careful ends differently if it reads another input, or another failure of its activity, than it had.
func careful(ctx workflow.Context, in string) (string, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute,
		RetryPolicy: &sdktemporal.RetryPolicy{MaximumAttempts: 1}})
	err := workflow.ExecuteActivity(ctx, "Fails", in).Get(ctx, nil)
	var failed *sdktemporal.ApplicationError
	if !errors.As(err, &failed) || failed.Message() != "CANARY-FAILURE of "+in || in != "CANARY-INPUT" {
		return "", workflow.Sleep(ctx, time.Hour) // a timer that the history does not have
	}
	return "CANARY-RESULT", nil
}

func fails(in string) error {
	return sdktemporal.NewApplicationError("CANARY-FAILURE of "+in, "Failed")
}

// carefulRun runs the workflow through a proxy, and returns its id and the sealed history as the Temporal CLI saves it.
func carefulRun(s *site) (saved string) {
	s.Helper()
	p := s.serve(shadowed)
	c := s.client(p.address, "default")
	s.work(c, func(r worker.Registry) {
		r.RegisterWorkflowWithOptions(careful, workflow.RegisterOptions{Name: "Careful"})
		r.RegisterActivityWithOptions(fails, activity.RegisterOptions{Name: "Fails"})
	})
	run := s.start(c, "", "Careful", "CANARY-INPUT")
	var out string
	s.ok(run.Get(s.Context(), &out))
	cli, err := peers.BuildCLI(s.Context(), os.Stderr)
	s.ok(err)
	cmd := exec.Command(cli, "workflow", "show", "--workflow-id", run.GetID(), "--output", "json",
		"--address", s.expand("${temporal}"), "--disable-config-file")
	cmd.Env = append(os.Environ(), "HOME="+s.dir)
	text, err := cmd.Output()
	s.ok(err)
	s.lacks("the saved history", string(text), "CANARY")
	return string(text)
}

// keyAlone writes the config that opens what carefulRun has sealed.
func keyAlone(s *site) string {
	s.Helper()
	return s.write("open.yaml", `keys: [{name: default, active: "${key}"}]`)
}

func opensForReplay(s *site) {
	saved := s.write("saved.json", carefulRun(s))
	p := s.run("open", "--config", keyAlone(s), saved)
	s.want(p.code == 0, "open ends with %d: %s", p.code, p.stderr)
	s.contains("the opened history", p.stdout, `"message": "CANARY-FAILURE of CANARY-INPUT"`)
	opened := s.write("opened.json", p.stdout)
	replayer := worker.NewWorkflowReplayer()
	replayer.RegisterWorkflowWithOptions(careful, workflow.RegisterOptions{Name: "Careful"})
	quiet := sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))
	s.ok(replayer.ReplayWorkflowHistoryFromJSONFile(quiet, opened))
	// The replay can fail: it does with the sealed history.
	s.want(replayer.ReplayWorkflowHistoryFromJSONFile(quiet, saved) != nil, "the sealed history replays too")
	p = s.run("open", "--config", keyAlone(s), "--readable", saved)
	s.contains("the readable history", p.stdout, `"CANARY-INPUT"`, `"CANARY-RESULT"`)
}

func opensSeveral(s *site) {
	saved := carefulRun(s)
	var line bytes.Buffer
	s.ok(json.Compact(&line, []byte(saved)))
	several := s.write("several.json", saved+line.String()+"\n"+saved)
	p := s.run("open", "--config", keyAlone(s), "--readable", several)
	s.want(p.code == 0 && strings.Count(p.stdout, `"CANARY-RESULT"`) == 3, "of 3 documents, open printed (exit code %d): %s", p.code, p.all())
	cut := s.write("cut.json", saved+saved[:len(saved)/2])
	p = s.run("open", "--config", keyAlone(s), "--readable", cut)
	s.want(p.code == 1 && strings.Count(p.stdout, `"CANARY-RESULT"`) == 1, "of a cut file, open printed (exit code %d): %s", p.code, p.all())
	s.contains("the error", p.stderr, filepath.Base(cut)+" is not JSON behind its document 1")
}
