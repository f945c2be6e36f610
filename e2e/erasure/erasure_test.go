package erasure

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc/codes"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// TestErasure does the same in a clinic for each key store, at the same time. Before anybody is erased, the server's database is backed up.
func TestErasure(t *testing.T) {
	h := newHospital(t)
	var clinics []*clinic
	for _, store := range stores {
		if c := newClinic(t, h, store); c != nil {
			clinics = append(clinics, c)
		}
	}
	phase := func(name string, do func(*clinic)) {
		if t.Failed() {
			return
		}
		t.Run(name, func(t *testing.T) {
			for _, c := range clinics {
				t.Run(c.db.name(), func(t *testing.T) {
					t.Parallel()
					c.T = t
					do(c)
				})
			}
		})
	}
	phase("Admit", func(c *clinic) { c.opened() })
	backup := h.backup(t)
	phase("Erase", func(c *clinic) { c.erasesOneOfThree() })
	phase("Races", func(c *clinic) {
		c.races(c.patients[0], c.patients[1])
		c.searches()
	})
	restored, err := h.start(t, backup)
	if err != nil {
		t.Fatal(err)
	}
	phase("RestoredServer", func(c *clinic) { c.opensRestored(restored.Address) })
	if !t.Failed() {
		report(t)
	}
}

// opened starts a worker and the workflows of three patients, all of whom open.
func (c *clinic) opened() {
	// A slow machine must not send a workflow in memory back to the start of its history.
	work := worker.New(c.replicas[0].sdk, queue, worker.Options{StickyScheduleToStartTimeout: time.Minute})
	work.RegisterWorkflowWithOptions(stay, workflow.RegisterOptions{Name: "Stay"})
	work.RegisterActivityWithOptions(c.ward.admit, activity.RegisterOptions{Name: "Admit"})
	work.RegisterActivityWithOptions(c.ward.watch, activity.RegisterOptions{Name: "Watch"})
	c.ok(work.Start())
	c.root.Cleanup(work.Stop)
	c.patients = c.admit()
	var all []expected
	for n, p := range c.patients {
		c.is("before", fmt.Sprintf("patient %d opens on each replica and by each codec server", n), c.reads(opens(p)))
		c.ok(c.queries(p))
		all = append(all, opens(p))
	}
	c.is("before", "the saved and archived histories of all open", c.opensSaved(all...))
}

// queries asks the closed run of a patient.
func (c *clinic) queries(p *patient) error {
	value, err := c.replicas[0].sdk.QueryWorkflow(c.Context(), p.closed.GetID(), "", "where")
	if err != nil {
		return err
	}
	var where string
	if err := value.Get(&where); err != nil || where != queue {
		return fmt.Errorf("the answer is %q, error %w", where, err)
	}
	return nil
}

// erasesOneOfThree erases the first patient.
func (c *clinic) erasesOneOfThree() {
	gone, others := c.patients[0], c.patients[1:]
	c.startsLater(gone)
	made, err := c.erases(gone, "--dry-run")
	c.is("dry run", "what runs, or will, with the patient's values is listed", errors.Join(err, made.lists(gone)))
	wrapped := c.db.wrapped(c)
	made, err = c.erasesAndReads(gone)
	c.is("nowhere", "when the command has ended, the patient opens on no replica and by no codec server", err)
	rest := []expected{erased(gone)}
	for _, p := range others {
		rest = append(rest, opens(p))
	}
	c.is("saved", "saved and archived histories of the patient do not open, and those of others do", c.opensSaved(rest...))
	if err = nil; len(made.Destroyed) != 1 || len(made.Confirmed) != c.confirming() || len(made.Missing) != 0 {
		err = fmt.Errorf("the certificate is %+v", made)
	}
	c.is("certificate", "the certificate names the key, and the replicas that run have confirmed", err)
	for _, r := range c.replicas {
		_, err := c.history(r.raw, gone.runs[0].GetID(), "temporal-go")
		c.is("replay", "an SDK's client is refused by replica "+r.name, refusedWith(err, codes.DataLoss))
		c.is("denied", "new payloads of the patient are refused by replica "+r.name, c.denied(r, gone))
	}
	close(c.ward.goOn)
	c.runningWork(gone)
	for _, p := range others {
		c.goesOn(p)
	}
	c.onDisk(wrapped)
}

// confirming is how many replicas confirm an erasure: those that run while the command does.
func (c *clinic) confirming() int {
	if c.alone() {
		return 0
	}
	return len(c.replicas)
}

// erasesAndReads erases a patient, and measures until each replica gives a placeholder in the place of a value that it had opened before.
func (c *clinic) erasesAndReads(p *patient) (made certificate, err error) {
	began := time.Now()
	var replicas sync.WaitGroup
	took := make([]time.Duration, len(c.replicas))
	for i, r := range c.replicas {
		replicas.Go(func() {
			for ; time.Since(began) < time.Minute; time.Sleep(20 * time.Millisecond) {
				if opened, err := r.codec.Decode(payloads(p.saved[0])); erased(p).in(opened, err) == nil {
					took[i] = time.Since(began)
					return
				}
			}
		})
	}
	made, err = c.erases(p)
	if err == nil {
		err = c.reads(erased(p)) // once the command has ended, it is in force
	}
	replicas.Wait()
	for i, t := range took {
		if t == 0 {
			err = errors.Join(err, fmt.Errorf("not in force on the replica %s within a minute", c.replicas[i].name))
		}
		c.took(t)
	}
	return made, err
}

func refusedWith(err error, want codes.Code) error {
	if got := serviceerror.ToStatus(err).Code(); got != want {
		return fmt.Errorf("%s, want %s: %w", got, want, err)
	}
	return nil
}

// denied starts and signals for a patient who was erased.
func (c *clinic) denied(r *replica, p *patient) error {
	return errors.Join(refusedWith(second(c.seals(r, "new-"+r.name, p)), codes.PermissionDenied), refusedWith(c.signals(r, p), codes.PermissionDenied))
}

// runningWork checks what happens to workflows of a patient who is erased while they run.
func (c *clinic) runningWork(gone *patient) {
	c.is("activity", "a running activity's answer ends it as Erased, and the workflow", c.ends(gone.runs[0]))
	c.is("activity", "an activity that is tried again fails as Erased, and the workflow", c.ends(gone.runs[1]))
	c.is("workflow task", "a task that brings an erased value fails once, with the reason", c.fails(gone.runs[2], "was erased on"))
	c.signal(gone.later, "go on")
	c.is("workflow task", "a task of a workflow in memory that answers with an erased value fails once, with the reason", c.fails(gone.later, "was erased on"))
	err := c.queries(gone)
	if err == nil || !strings.Contains(err.Error(), "was erased on") {
		err = fmt.Errorf("the query gets %w", errors.Join(err, errors.New("not the reason")))
	} else {
		err = nil
	}
	c.is("query", "a query on a closed run gets the reason", err)
	c.is("calm", "no line of a log is a warning for it", c.calm())
	made, err := c.erases(gone, "--terminate")
	c.is("terminate", "--terminate ends what holds values of the patient, with the reason", errors.Join(err, c.terminated(made, gone)))
}

// goesOn ends the workflows of a patient who was not erased.
func (c *clinic) goesOn(p *patient) {
	c.signal(p.later, "go on")
	for _, run := range append(p.runs, p.later) {
		ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
		var got record
		err := run.Get(ctx, &got)
		cancel()
		if err == nil && (got.PatientID != p.id || got.Note != p.note) {
			err = errors.New("it has another result")
		}
		c.is("others", "another patient's workflow "+run.GetID()+" completes", err)
	}
	c.is("others", "another patient's closed run answers queries", c.queries(p))
	c.is("others", "another patient opens everywhere, as before", c.reads(opens(p)))
}

// ends waits until the workflow of an erased patient has failed by its activity.
func (c *clinic) ends(run client.WorkflowRun) error {
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	err := run.Get(ctx, nil)
	if cause, ok := errors.AsType[*temporal.ApplicationError](err); !ok || cause.Type() != "Erased" || !cause.NonRetryable() {
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
		n, err := c.direct.CountWorkflow(c.Context(), &workflowservice.CountWorkflowExecutionsRequest{Namespace: c.namespace, Query: "ExecutionStatus = 'Running'"})
		if err == nil && n.GetCount() != 13 {
			err = fmt.Errorf("%d workflows run", n.GetCount())
		}
		return err
	})
	c.eventually("the list of schedules has it", func() error {
		list, err := c.direct.WorkflowService().ListSchedules(c.Context(), &workflowservice.ListSchedulesRequest{Namespace: c.namespace})
		if err == nil && len(list.GetSchedules()) != 1 {
			err = errors.New("it has not")
		}
		return err
	})
}

// certificate is what erase prints, as far as it is looked at here.
type certificate struct {
	Erasures  []struct{ Seq int64 }
	Destroyed []string `json:"destroyed_keys"`
	Confirmed []string `json:"confirmed_by"`
	Missing   []string `json:"not_confirmed_by"`
	Running   []struct {
		Kind, ID   string
		Cron       string `json:"cron_schedule"`
		Retries    bool   `json:"retry_policy"`
		Terminated bool
	}
	NotRead []string `json:"running_not_read"`
}

// parse reads what a command printed: nothing, if it has erased nothing.
func (c *certificate) parse(printed string) error {
	if printed == "" {
		return nil
	}
	return json.Unmarshal([]byte(printed), c)
}

// lists checks what a dry run lists.
func (c *certificate) lists(p *patient) error {
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
	h, err := c.history(c.replicas[0].raw, run.GetID(), "temporal-ui")
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
		for _, log := range r.logs {
			for _, line := range log.Lines() {
				if text := fmt.Sprint(line); line["level"] != "INFO" && (strings.Contains(text, "in the worker's place") || line["answered"] == true) {
					return fmt.Errorf("replica %s: %s", r.name, text)
				}
			}
		}
	}
	return nil
}

// terminated checks that a command has terminated the patient's workflows that still ran, and said so.
func (c *clinic) terminated(made certificate, p *patient) error {
	ended := map[string]bool{}
	for _, r := range made.Running {
		ended[r.ID] = r.Terminated
	}
	for _, id := range []string{p.runs[2].GetID(), p.later.GetID(), "yearly"} {
		h, err := c.history(c.direct.WorkflowService(), id, "")
		if err != nil {
			return err
		}
		why := h.GetEvents()[len(h.GetEvents())-1].GetWorkflowExecutionTerminatedEventAttributes().GetReason()
		if !ended[id] || !strings.Contains(why, "request "+c.control) {
			return fmt.Errorf("%s: terminated %t, with the reason %q", id, ended[id], why)
		}
	}
	if len(ended) != 4 || ended["rounds"] {
		return fmt.Errorf("it lists %v", ended)
	}
	return nil
}

// opensRestored reads through a proxy in front of a server that was restored from a backup, with the same key store.
func (c *clinic) opensRestored(address string) {
	for _, r := range c.replicas {
		c.ok(r.Stop())
	}
	r := c.replica("restored", address)
	all := []expected{erased(c.patients[0])}
	for _, p := range c.patients[1:] {
		all = append(all, opens(p))
	}
	c.is("restored server", "histories of the patient do not open there, and those of others do", c.readsBy(r, all...))
	_, err := c.history(r.raw, c.patients[0].runs[0].GetID(), "temporal-go")
	c.is("restored server", "a replay there gets an error, and no placeholder", refusedWith(err, codes.DataLoss))
	c.ok(r.Stop())
}

// searches looks for texts of patients in all that the proxies and the command wrote, and in the key store and the server. The reason of the
// erasure, which is in its certificate, in its row and in what was terminated, shows that the search finds something.
func (c *clinic) searches() {
	only := func(what string, search func(s *harness.Sweep) error) {
		s := harness.NewSweep(c.canaries)
		err := search(s)
		if n, _ := s.Count(); err == nil && (n != 1 || !strings.HasPrefix(s.Report(), "the reason: ")) {
			err = fmt.Errorf("found %d: %s", n, s.Report())
		}
		c.is("text", "no text of a patient is in "+what+", where the reason is", err)
	}
	only("logs, metrics, configs and audit records of proxies", func(s *harness.Sweep) error {
		var all []error
		for _, r := range c.replicas {
			_, page, err := r.Get("/metrics")
			s.Bytes("metrics of "+r.name, []byte(page))
			all = append(all, err)
		}
		for _, r := range c.started {
			for _, log := range r.logs {
				s.Bytes("log of "+r.name, log.Bytes())
			}
			all = append(all, s.Files(r.dir))
		}
		return errors.Join(all...)
	})
	only("what the command wrote", func(s *harness.Sweep) error { s.Bytes("the command", c.commands.Bytes()); return nil })
	only("a row or item of the key store", func(s *harness.Sweep) error { s.Bytes("rows", c.db.rows(c)); return nil })
	if dir := c.db.files(); dir != "" {
		only("a file of the key store", func(s *harness.Sweep) (err error) {
			c.while(func() { err = s.Files(dir) })
			return err
		})
	}
	only("a file or log of the Temporal server", func(s *harness.Sweep) error {
		s.Bytes("the server's log", c.log.Bytes())
		return s.Files(c.hospital.dir)
	})
	s := harness.NewSweep(c.canaries)
	s.Bytes("spans", c.collector.Raw())
	n, size := s.Count()
	var err error
	if n > 0 || size == 0 || !strings.Contains(string(c.collector.Raw()), c.namespace) {
		err = fmt.Errorf("found %d in %d bytes: %s", n, size, s.Report())
	}
	c.is("text", "no text of a patient is in the spans, where its namespace is", err)
}
