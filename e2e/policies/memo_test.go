package policies

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	sdk "go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	rounds      = 40 // workflows
	bedsPerTour = 25 // activities in each
)

// TestMemoAnswersAnSDKRun runs workflows of the clinic with the Go SDK and counts: of the decisions that do not hang on
// content, 99 of 100 are to come from the memo.
func TestMemoAnswersAnSDKRun(t *testing.T) {
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{Namespaces: []string{"clinic-prod"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // the server is not what is tested here
	e := start(t, server, "clinic", "clinic-prod", []string{"phi", "jwt", "default"}, "")

	c, err := sdk.Dial(sdk.Options{HostPort: e.proxy.Address, Namespace: e.namespace,
		Logger: sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	w := worker.New(c, "rounds", worker.Options{})
	w.RegisterWorkflowWithOptions(tour, workflow.RegisterOptions{Name: "Rounds"})
	for _, name := range []string{"AssignBed", "FetchLabResults"} {
		w.RegisterActivityWithOptions(func(_ context.Context, bed int) (string, error) { return fmt.Sprint("bed ", bed), nil },
			activity.RegisterOptions{Name: name})
	}
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	var wg sync.WaitGroup
	for i := range rounds {
		wg.Go(func() {
			run, err := c.ExecuteWorkflow(t.Context(), sdk.StartWorkflowOptions{ID: fmt.Sprint("tour-", i), TaskQueue: "rounds"}, "Rounds", i)
			if err == nil {
				err = run.Get(t.Context(), nil)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()

	payloads := metric(t, e, "temporal_seal_payloads_total")
	evaluated, content := metric(t, e, "temporal_seal_policy_evaluations_total"), metric(t, e, "temporal_seal_policy_content_evaluations_total")
	rate := 1 - (evaluated-content)/(payloads-content)
	t.Logf("%.0f payloads, %.0f decided by their content; of the others %.0f were evaluated: %.2f %% came from the memo",
		payloads, content, evaluated-content, 100*rate)
	if payloads < rounds*bedsPerTour || content == 0 || rate < 0.99 {
		t.Errorf("%.2f %% came from the memo, want 99", 100*rate)
	}
}

func tour(ctx workflow.Context, number int) (string, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 10 * time.Second})
	var last string
	for bed := range bedsPerTour {
		name := "AssignBed"
		if bed%2 == 0 {
			name = "FetchLabResults"
		}
		if err := workflow.ExecuteActivity(ctx, name, bed).Get(ctx, &last); err != nil {
			return "", err
		}
	}
	return last, nil
}

// metric sums the series of a metric, or gives one of them where the name has labels.
func metric(t *testing.T, e *example, name string) (sum float64) {
	t.Helper()
	_, page, err := e.proxy.Get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(page) {
		series, number, ok := strings.Cut(strings.TrimSpace(line), " ")
		if before, _, _ := strings.Cut(series, "{"); !ok || (before != name && series != name) {
			continue
		}
		v, err := strconv.ParseFloat(number, 64)
		if err != nil {
			t.Fatal(err)
		}
		sum += v
	}
	return sum
}
