package erasure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// tally is what the last line says.
var tally struct {
	cases, right int
	inForce      time.Duration
}

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	if code == 0 && tally.cases == 0 {
		fmt.Println("erasure: left out, since there is no PostgreSQL here")
		os.Exit(0)
	}
	fmt.Printf("erasure: %d cases, %d as described; in force on every replica after %.1f s\n", tally.cases, tally.right, tally.inForce.Seconds())
	os.Exit(code)
}

// is records one case.
func (c *clinic) is(what string, err error) {
	c.Helper()
	tally.cases++
	if err != nil {
		c.Errorf("%s: %v", what, err)
		fmt.Printf("%-88s FAILED\n", what)
		return
	}
	tally.right++
	fmt.Printf("%-88s as described\n", what)
}

// record is what inputs, results and signals hold.
type record struct {
	PatientID string `json:"patient_id"`
	Note      string `json:"note"`
	Kind      string `json:"kind"`
}

// The kinds of workflows that each patient has. A worker gets the events since its last workflow task, so it goes on with a workflow in
// memory if the activity was scheduled before that task.
const (
	answers = "answers" // the activity answers after the erasure
	retries = "retries" // it fails after the erasure, and is tried again
	behind  = "behind"  // it answers, and there was no workflow task since it was scheduled
	later   = "later"   // it is scheduled after the erasure, by a worker that has the workflow in memory
)

// stay is the workflow: an activity, a signal, and an activity that runs while the patient is erased.
func stay(ctx workflow.Context, r record) (record, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 5 * time.Minute,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second}})
	if err := workflow.ExecuteActivity(ctx, "Admit", r).Get(ctx, &r); err != nil {
		return r, err
	}
	workflow.GetSignalChannel(ctx, "note").Receive(ctx, &r)
	if r.Kind == later {
		workflow.GetSignalChannel(ctx, "go on").Receive(ctx, nil)
	}
	err := workflow.ExecuteActivity(ctx, "Watch", r).Get(ctx, &r)
	return r, err
}

// ward runs the activities. Those that watch wait until goOn is closed.
type ward struct{ goOn chan struct{} }

func (w ward) admit(_ context.Context, r record) (record, error) { return r, nil }

func (w ward) watch(ctx context.Context, r record) (record, error) {
	select {
	case <-w.goOn:
	case <-ctx.Done():
		return r, ctx.Err()
	}
	if r.Kind == retries && activity.GetInfo(ctx).Attempt == 1 {
		return r, errors.New("not yet")
	}
	return r, nil
}

// patient has a workflow of each kind.
type patient struct {
	id, note string
	runs     []client.WorkflowRun
	later    client.WorkflowRun
	saved    []*historypb.History // as the server has them, from before the erasure
}

// payloads are those of a history.
func payloads(h *historypb.History) (list []*commonpb.Payload) {
	for _, e := range h.GetEvents() {
		list = append(list, e.GetWorkflowExecutionStartedEventAttributes().GetInput().GetPayloads()...)
		list = append(list, e.GetActivityTaskScheduledEventAttributes().GetInput().GetPayloads()...)
		list = append(list, e.GetActivityTaskCompletedEventAttributes().GetResult().GetPayloads()...)
		list = append(list, e.GetWorkflowExecutionSignaledEventAttributes().GetInput().GetPayloads()...)
	}
	return list
}

// each is an error unless a history has its five values (six with the last result), and all hold the text and not the other one.
func each(list []*commonpb.Payload, text, not string) error {
	if len(list) < 5 {
		return fmt.Errorf("%d payloads, want 5", len(list))
	}
	for i, p := range list {
		if !strings.Contains(string(p.GetData()), text) || strings.Contains(string(p.GetData()), not) {
			return fmt.Errorf("payload %d, with the encoding %s, is not what it should be", i, p.GetMetadata()["encoding"])
		}
	}
	return nil
}

func history(ctx context.Context, s workflowservice.WorkflowServiceClient, id, clientName string) (*historypb.History, error) {
	if clientName != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "client-name", clientName)
	}
	answer, err := s.GetWorkflowExecutionHistory(ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
	return answer.GetHistory(), err
}

// admit starts the workflows of three patients and waits until the activities that watch run.
func (c *clinic) admit(canaries *harness.Canaries) (all []*patient) {
	c.Helper()
	a := c.replicas[0]
	for n := range 3 {
		p := &patient{id: canaries.New(fmt.Sprintf("id of patient %d", n)), note: canaries.New(fmt.Sprintf("note of patient %d", n))}
		signals := c.replicas[n%2] // so the replica b opens for patient 0 and 2, and seals for patient 1 too
		for _, kind := range []string{answers, retries, behind, later} {
			r := record{p.id, p.note, kind}
			run, err := a.sdk.ExecuteWorkflow(c.Context(), client.StartWorkflowOptions{ID: fmt.Sprintf("stay-%d-%s", n, kind), TaskQueue: queue}, "Stay", r)
			c.ok(err)
			c.ok(signals.sdk.SignalWorkflow(c.Context(), run.GetID(), "", "note", r))
			p.runs = append(p.runs, run)
		}
		p.later, p.runs = p.runs[3], p.runs[:3]
		all = append(all, p)
	}
	for _, p := range all {
		for _, run := range p.runs {
			c.eventually("the activity of "+run.GetID()+" runs", func() error {
				d, err := a.sdk.DescribeWorkflowExecution(c.Context(), run.GetID(), "")
				if err == nil && (len(d.GetPendingActivities()) != 1 || d.GetPendingActivities()[0].GetActivityType().GetName() != "Watch" ||
					d.GetPendingActivities()[0].GetLastStartedTime() == nil) {
					err = errors.New("it does not")
				}
				return err
			})
			if !strings.HasSuffix(run.GetID(), behind) {
				c.wake(run)
			}
			h, err := history(c.Context(), c.direct.WorkflowService(), run.GetID(), "")
			c.ok(err)
			p.saved = append(p.saved, h)
		}
		c.wake(p.later)
	}
	return all
}

// signal sends a signal that holds nothing.
func (c *clinic) signal(run client.WorkflowRun, name string) {
	c.Helper()
	_, err := c.replicas[1].raw.SignalWorkflowExecution(c.Context(), &workflowservice.SignalWorkflowExecutionRequest{
		Namespace: namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: run.GetID()}, SignalName: name})
	c.ok(err)
}

// wake has a worker do a workflow task.
func (c *clinic) wake(run client.WorkflowRun) {
	c.Helper()
	c.signal(run, "wake")
	c.eventually(run.GetID()+" has done its task", func() error {
		h, err := history(c.Context(), c.direct.WorkflowService(), run.GetID(), "")
		if e := h.GetEvents(); err == nil && e[len(e)-1].GetEventType() != enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
			err = errors.New("it has not")
		}
		return err
	})
}

// reads reads all of a patient by every API: each value has to hold a text, and nothing the other one.
func (c *clinic) reads(p *patient, text, not string) (failed error) {
	add := func(api, workflow string, list []*commonpb.Payload, err error) {
		if err = errors.Join(err, each(list, text, not)); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s, %s: %w", api, workflow, err))
		}
	}
	for i, run := range p.runs {
		for _, r := range c.replicas {
			h, err := history(c.Context(), r.raw, run.GetID(), "temporal-ui")
			add("history by "+r.name, run.GetID(), payloads(h), err)
			opened, err := r.codec.Decode(payloads(p.saved[i]))
			add("codec server of "+r.name, run.GetID(), opened, err)
		}
		saved, err := protojson.Marshal(p.saved[i])
		c.ok(err)
		out, err := c.run(string(saved), "open", "-")
		opened := new(historypb.History)
		err = errors.Join(err, protojson.Unmarshal([]byte(out), opened))
		add("open", run.GetID(), payloads(opened), err)
	}
	return failed
}

// erase erases a patient, and measures until each replica gives a placeholder in the place of a value that it had opened before.
func (c *clinic) erase(p *patient, reason string) (string, error) {
	began := time.Now()
	var replicas sync.WaitGroup
	took := make([]time.Duration, len(c.replicas))
	for i, r := range c.replicas {
		replicas.Go(func() {
			for ; time.Since(began) < time.Minute; time.Sleep(20 * time.Millisecond) {
				if opened, err := r.codec.Decode(payloads(p.saved[0])); err == nil && each(opened, "[erased on ", p.note) == nil {
					took[i] = time.Since(began)
					return
				}
			}
		})
	}
	made, err := c.subjects("erase", p.id, reason)
	if err == nil {
		// Once the command has ended, it is in force.
		err = c.reads(p, "[erased on ", p.note)
	}
	replicas.Wait()
	for i, t := range took {
		if t == 0 {
			err = errors.Join(err, fmt.Errorf("not in force on the replica %s within a minute", c.replicas[i].name))
		}
		tally.inForce = max(tally.inForce, t)
	}
	return made, err
}

func TestErasure(t *testing.T) {
	c := newClinic(t)
	canaries := harness.NewCanaries()
	w := ward{make(chan struct{})}
	// A slow machine must not send a workflow in memory back to the start of its history.
	work := worker.New(c.replicas[0].sdk, queue, worker.Options{StickyScheduleToStartTimeout: time.Minute})
	work.RegisterWorkflowWithOptions(stay, workflow.RegisterOptions{Name: "Stay"})
	work.RegisterActivityWithOptions(w.admit, activity.RegisterOptions{Name: "Admit"})
	work.RegisterActivityWithOptions(w.watch, activity.RegisterOptions{Name: "Watch"})
	c.ok(work.Start())
	t.Cleanup(work.Stop)
	all := c.admit(canaries)
	erased, others := all[0], all[1:]
	sweepOf := harness.NewCanaries()
	for n, p := range all {
		sweepOf.Add(fmt.Sprintf("id of patient %d", n), p.id)
	}
	control := sweepOf.New("the reason")

	for n, p := range all {
		c.is(fmt.Sprintf("before: patient %d by both replicas, both codec servers and `open`", n), c.reads(p, p.note, "[erased on "))
	}
	c.startsLater(erased)
	before, err := c.subjects("erase", erased.id, "request "+control, "--dry-run")
	if err == nil {
		err = lists(before, erased)
	}
	c.is("the dry run lists what runs, or will, with the erased patient's values", err)
	wrapped := c.wrappedKeys()
	printed, err := c.erase(erased, "request "+control)
	c.is("when the command has ended, the erased patient opens nowhere", err)
	var made struct {
		Destroyed []string `json:"destroyed_keys"`
		Confirmed []string `json:"confirmed_by"`
		Missing   []string `json:"not_confirmed_by"`
	}
	if err = json.Unmarshal([]byte(printed), &made); err == nil && (len(made.Destroyed) != 1 || len(made.Confirmed) != 2 || len(made.Missing) != 0) {
		err = fmt.Errorf("the certificate is %+v", made)
	}
	c.is("the certificate names the key, and both replicas have confirmed", err)
	for _, r := range c.replicas {
		_, err := history(c.Context(), r.raw, erased.runs[0].GetID(), "temporal-go")
		c.is("SDK's client, replica "+r.name+": refused, no placeholder for a replay", refusedWith(err, codes.DataLoss))
		c.is("new payloads of the erased patient, replica "+r.name+": denied", c.denied(r, erased))
	}
	close(w.goOn)
	c.is("running activity of the erased patient: its answer ends it as Erased, the workflow ends", ends(c, erased.runs[0]))
	c.is("activity of the erased patient that is tried again: Erased, the workflow ends", ends(c, erased.runs[1]))
	c.is("workflow whose next task brings an erased value: the task fails once, with the reason", c.fails(erased.runs[2], "was erased on"))
	c.signal(erased.later, "go on")
	c.is("workflow in memory that goes on with an erased value: the task fails once, with the reason", c.fails(erased.later, "was erased on"))
	c.is("no line of a log is a warning for it", c.calm())
	printed, err = c.subjects("erase", erased.id, "request "+control, "--terminate")
	c.is("--terminate ends what holds values of the erased patient, with the reason", errors.Join(err, c.terminated(printed, "request "+control, erased)))
	for _, p := range others {
		c.signal(p.later, "go on")
		for _, run := range append(p.runs, p.later) {
			var got record
			if err = run.Get(c.Context(), &got); err == nil && (got.PatientID != p.id || got.Note != p.note) {
				err = errors.New("it has another result")
			}
			c.is("another patient's workflow "+run.GetID()+" completes", err)
		}
		c.is("another patient opens everywhere, as before", c.reads(p, p.note, "[erased on "))
	}
	c.onDisk(wrapped)
	c.sqliteOnDisk()
	c.readmit(erased)
	c.searches(sweepOf)
}

func refusedWith(err error, want codes.Code) error {
	if got := serviceerror.ToStatus(err).Code(); got != want {
		return fmt.Errorf("%s, want %s", got, want)
	}
	return nil
}

// denied starts and signals for a patient who was erased.
func (c *clinic) denied(r *replica, p *patient) error {
	_, err := r.sdk.ExecuteWorkflow(c.Context(), client.StartWorkflowOptions{ID: "new-" + r.name, TaskQueue: queue}, "Stay", record{PatientID: p.id})
	signaled := r.sdk.SignalWorkflow(c.Context(), p.runs[0].GetID(), "", "note", record{PatientID: p.id})
	return errors.Join(refusedWith(err, codes.PermissionDenied), refusedWith(signaled, codes.PermissionDenied))
}

// ends waits until the workflow of an erased patient has failed by its activity.
func ends(c *clinic, run client.WorkflowRun) error {
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	err := run.Get(ctx, nil)
	if cause, ok := errors.AsType[*temporal.ApplicationError](err); !ok || cause.Type() != "Erased" {
		return fmt.Errorf("it ends with %w", err)
	}
	return nil
}

// startsLater starts what holds values of a patient and is run later: a schedule, and a workflow with a cron schedule.
func (c *clinic) startsLater(p *patient) {
	c.Helper()
	r, a := record{p.id, p.note, answers}, c.replicas[0].sdk
	_, err := a.ScheduleClient().Create(c.Context(), client.ScheduleOptions{ID: "rounds", Paused: true,
		Spec:   client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Hour}}},
		Action: &client.ScheduleWorkflowAction{ID: "round", Workflow: "Stay", TaskQueue: "nobody", Args: []any{r}}})
	c.ok(err)
	_, err = a.ExecuteWorkflow(c.Context(), client.StartWorkflowOptions{ID: "yearly", TaskQueue: "nobody", CronSchedule: "0 0 1 1 *",
		RetryPolicy: &temporal.RetryPolicy{MaximumAttempts: 2}}, "Stay", r)
	c.ok(err)
	c.eventually("the list of workflows has all", func() error {
		n, err := c.direct.CountWorkflow(c.Context(), &workflowservice.CountWorkflowExecutionsRequest{Namespace: namespace, Query: "ExecutionStatus = 'Running'"})
		if err == nil && n.GetCount() != 13 {
			err = fmt.Errorf("%d workflows run", n.GetCount())
		}
		return err
	})
	c.eventually("the list of schedules has it", func() error {
		list, err := c.direct.WorkflowService().ListSchedules(c.Context(), &workflowservice.ListSchedulesRequest{Namespace: namespace})
		if err == nil && len(list.GetSchedules()) != 1 {
			err = errors.New("it has not")
		}
		return err
	})
}

// certificate is what erase prints, as far as it is about what runs.
type certificate struct {
	Running []struct {
		Kind, ID   string
		Cron       string `json:"cron_schedule"`
		Retries    bool   `json:"retry_policy"`
		Terminated bool
	}
	NotRead []string `json:"running_not_read"`
}

// lists checks what a dry run lists.
func lists(printed string, p *patient) error {
	var c certificate
	if err := json.Unmarshal([]byte(printed), &c); err != nil {
		return err
	}
	want := map[string]bool{"workflow " + p.later.GetID() + " false": true, "workflow yearly 0 0 1 1 *true": true, "schedule rounds false": true}
	for _, run := range p.runs {
		want["workflow "+run.GetID()+" false"] = true
	}
	for _, r := range c.Running {
		what := fmt.Sprintf("%s %s %s%t", r.Kind, r.ID, r.Cron, r.Retries)
		if !want[what] {
			return fmt.Errorf("it has %s", what)
		}
		delete(want, what)
	}
	if len(want)+len(c.NotRead) > 0 {
		return fmt.Errorf("it lacks %v; not read: %v", want, c.NotRead)
	}
	return nil
}

// fails waits until the server has handed out a workflow's task again after it failed: it may have failed once by then.
func (c *clinic) fails(run client.WorkflowRun, reason string) error {
	c.eventually("the task of "+run.GetID()+" is handed out again", func() error {
		d, err := c.replicas[0].sdk.DescribeWorkflowExecution(c.Context(), run.GetID(), "")
		if task := d.GetPendingWorkflowTask(); err == nil && (task.GetAttempt() < 2 || task.GetState() != enumspb.PENDING_WORKFLOW_TASK_STATE_STARTED) {
			err = fmt.Errorf("the task is %v", task)
		}
		return err
	})
	h, err := history(c.Context(), c.replicas[0].raw, run.GetID(), "temporal-ui")
	if err != nil {
		return err
	}
	var failures []string
	for _, e := range h.GetEvents() {
		if f := e.GetWorkflowTaskFailedEventAttributes().GetFailure(); f != nil {
			failures = append(failures, f.GetMessage())
		}
	}
	if len(failures) != 1 || !strings.Contains(failures[0], reason) {
		return fmt.Errorf("the task failed %d times: %q", len(failures), failures)
	}
	return nil
}

// calm checks that no proxy has warned of what an erasure makes of tasks.
func (c *clinic) calm() error {
	for _, r := range c.replicas {
		for _, line := range r.Log.Lines() {
			if text := fmt.Sprint(line); line["level"] != "INFO" && (strings.Contains(text, "in the worker's place") || line["answered"] == true) {
				return fmt.Errorf("replica %s: %s", r.name, text)
			}
		}
	}
	return nil
}

// terminated checks that a command has terminated the patient's workflows that still ran, and said so.
func (c *clinic) terminated(printed, reason string, p *patient) error {
	var made certificate
	if err := json.Unmarshal([]byte(printed), &made); err != nil {
		return err
	}
	ended := map[string]bool{}
	for _, r := range made.Running {
		ended[r.ID] = r.Terminated
	}
	for _, id := range []string{p.runs[2].GetID(), p.later.GetID(), "yearly"} {
		h, err := history(c.Context(), c.direct.WorkflowService(), id, "")
		if err != nil {
			return err
		}
		if why := h.GetEvents()[len(h.GetEvents())-1].GetWorkflowExecutionTerminatedEventAttributes().GetReason(); !ended[id] || !strings.Contains(why, reason) {
			return fmt.Errorf("%s: terminated %t, with the reason %q", id, ended[id], why)
		}
	}
	if len(ended) != 4 || ended["rounds"] {
		return fmt.Errorf("it lists %v", ended)
	}
	return nil
}

// readmit lets the patient come back: what is new opens, and what was erased stays so.
func (c *clinic) readmit(p *patient) {
	_, err := c.subjects("readmit", p.id, "came back")
	c.is("readmit", err)
	for _, r := range c.replicas {
		var run client.WorkflowRun
		c.eventually("replica "+r.name+" knows of the readmission", func() (err error) {
			run, err = r.sdk.ExecuteWorkflow(c.Context(), client.StartWorkflowOptions{ID: "again-" + r.name, TaskQueue: "nobody"}, "Stay", record{PatientID: p.id, Note: p.note})
			return err
		})
		for _, by := range c.replicas {
			h, err := history(c.Context(), by.raw, run.GetID(), "temporal-go")
			if list := payloads(h); err == nil && (len(list) != 1 || !strings.Contains(string(list[0].GetData()), p.note)) {
				err = errors.New("it does not hold the note")
			}
			c.is("readmitted: a payload sealed by replica "+r.name+" opens by replica "+by.name, err)
		}
	}
	c.is("readmitted: what was erased stays erased", c.reads(p, "[erased on ", p.note))
}

// searches looks for subjects in all that the proxies and the command wrote, and in the key store. The reason of the erasure, which is in
// its certificate and in its row, shows that the search finds something.
func (c *clinic) searches(canaries *harness.Canaries) {
	only := func(what string, search func(s *harness.Sweep) error) {
		s := harness.NewSweep(canaries)
		err := search(s)
		if n, _ := s.Count(); err == nil && (n != 1 || !strings.HasPrefix(s.Report(), "the reason: ")) {
			err = fmt.Errorf("found %d: %s", n, s.Report())
		}
		c.is("no subject is in "+what+", where the reason is", err)
	}
	only("logs, metrics, configs and audit logs of proxies", func(s *harness.Sweep) error {
		var all []error
		for _, r := range c.replicas {
			_, page, err := r.Get("/metrics")
			s.Bytes("log and metrics of "+r.name, append(r.Log.Bytes(), page...))
			all = append(all, err, s.Files(filepath.Dir(r.Config)))
		}
		return errors.Join(all...)
	})
	only("what the command wrote", func(s *harness.Sweep) error { s.Bytes("the command", c.commands.Bytes()); return nil })
	only("a row of the key store", func(s *harness.Sweep) error {
		rows, err := exec.Command(program("pg_dump"), "-h", c.postgresIn, "-U", "owner", "--data-only", "seal").Output()
		s.Bytes("rows", rows)
		return err
	})
	only("a file of PostgreSQL", func(s *harness.Sweep) error { return s.Files(filepath.Join(c.postgresIn, "data")) })
}
