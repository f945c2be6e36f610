package clinic

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// hospital stands for the systems that the activities call.
type hospital struct {
	story Story
	log   *json.Encoder
}

// say reports what an activity did, for the demo to show. The values are those that the SDK handed to the activity.
func (h *hospital) say(ctx context.Context, got any, text string) {
	info := activity.GetInfo(ctx)
	h.log.Encode(Report{Who: "worker", What: info.ActivityType.Name, Attempt: int(info.Attempt), Got: got, Text: text})
}

// Report is a line on the standard output of the worker or the client.
type Report struct {
	Who     string `json:"who"`
	What    string `json:"what"`
	Attempt int    `json:"attempt,omitempty"`
	Got     any    `json:"got,omitempty"` // as the SDK gave it
	Text    string `json:"text"`
}

// CheckCoverage asks the insurer, whose line is down at the first attempt. The error has more than it should, as errors often do.
func (h *hospital) CheckCoverage(ctx context.Context, in OnBehalf) (Coverage, error) {
	user, err := h.user(in.Token)
	if err != nil {
		return Coverage{}, err
	}
	if activity.GetInfo(ctx).Attempt == 1 {
		err := fmt.Errorf("insurer timed out on policy %s of %s", h.story.Insurer, h.story.Lab.Patient)
		h.say(ctx, in, "fails: "+err.Error())
		return Coverage{}, err
	}
	h.say(ctx, in, "for "+user+": covered")
	return Coverage{Covered: true, Plan: "standard"}, nil
}

// FetchLabResults reads the patient's record, as far as the user may see it.
func (h *hospital) FetchLabResults(ctx context.Context, in OnBehalf) (LabRecord, error) {
	user, err := h.user(in.Token)
	if err != nil {
		return LabRecord{}, err
	}
	lab := h.story.Lab
	lab.OrderedBy = user
	h.say(ctx, in, "for "+user+": record "+lab.Record+" of "+lab.Patient)
	return lab, nil
}

// BookScan books a scan on behalf of the user; the scanner's system requires the diagnosis.
func (h *hospital) BookScan(ctx context.Context, in Scan) (time.Time, error) {
	user, err := h.user(in.Token)
	if err != nil {
		return time.Time{}, err
	}
	h.say(ctx, in, "for "+user+": scan for \""+in.Lab.Diagnosis+"\"")
	return time.Now().Add(90 * time.Minute).UTC().Truncate(time.Minute), nil
}

// AssignBed finds a bed; no secret comes near it.
func (h *hospital) AssignBed(ctx context.Context, ward string) (Bed, error) {
	h.say(ctx, ward, "bed 7 on ward "+ward)
	return Bed{Ward: ward, Bed: 7}, nil
}

// user verifies a token, as any service would that acts on a user's behalf: a token that was changed on its way does not pass.
func (h *hospital) user(token string) (string, error) {
	return Verify(token, h.story.JWTKey)
}

// RunWorker is the worker's program. It serves until its standard input ends.
func RunWorker(hostPort string, story Story, out io.Writer) error {
	c, err := client.Dial(client.Options{HostPort: hostPort, Namespace: Namespace, Logger: errorLog()})
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	defer c.Close()
	h := &hospital{story: story, log: json.NewEncoder(out)}
	w := worker.New(c, TaskQueue, worker.Options{WorkerStopTimeout: time.Second})
	w.RegisterWorkflowWithOptions(Admission, workflow.RegisterOptions{Name: "Admission"})
	w.RegisterActivity(h)
	if err := w.Start(); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	h.log.Encode(Report{Who: "worker", What: "ready", Text: "polls task queue " + TaskQueue})
	io.Copy(io.Discard, os.Stdin) // an error ends it just as well
	w.Stop()
	return nil
}

// errorLog keeps the SDK's own messages to errors.
func errorLog() sdklog.Logger {
	return sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
}
