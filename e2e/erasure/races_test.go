package erasure

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc/codes"
)

// races has erasures meet sealing, each other, and failures of the store. gone is erased already, there is not.
func (c *clinic) races(gone, there *patient) {
	if !c.alone() {
		c.sealsMeanwhile(c.guest("raced"))
	}
	c.readmit(gone)
	twice, late := c.guest("twice"), c.guest("late")
	forgotten := []expected{erased(gone), erased(twice), erased(late)}
	var cutOff, asleep *patient
	if !c.alone() {
		cutOff, asleep = c.guest("cut-off"), c.guest("asleep")
		forgotten = append(forgotten, erased(cutOff), erased(asleep))
	}
	restore := c.db.save(c)
	c.erasesTwice(twice)
	c.outage(late)
	if !c.alone() {
		c.partition(cutOff, there, func() { c.sleeps(asleep) })
	}
	c.restores(restore, there, forgotten)
}

// sealsMeanwhile seals for a patient on each replica while the patient is erased.
func (c *clinic) sealsMeanwhile(p *patient) {
	var mu sync.Mutex
	var failed []error
	var sealing sync.WaitGroup
	all := *p
	for _, r := range c.replicas {
		for n := range 2 {
			sealing.Go(func() {
				for i := 0; c.Context().Err() == nil; i++ {
					run, err := c.seals(r, fmt.Sprintf("raced-%s-%d-%d", r.name, n, i), p)
					mu.Lock()
					switch {
					case err == nil:
						all.runs = append(all.runs, run)
					case serviceerror.ToStatus(err).Code() != codes.PermissionDenied:
						failed = append(failed, err)
					}
					mu.Unlock()
					if err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		}
	}
	time.Sleep(time.Second)
	_, err := c.erases(p)
	sealing.Wait() // each goes on until it is refused
	all.saved = nil
	for _, run := range all.runs {
		all.saved = append(all.saved, c.saves(run))
	}
	for _, r := range c.replicas {
		failed = append(failed, refusedWith(second(c.seals(r, "after-"+r.name, p)), codes.PermissionDenied))
	}
	if len(all.runs) < 2*len(c.replicas) {
		failed = append(failed, fmt.Errorf("only %d payloads were sealed meanwhile", len(all.runs)))
	}
	c.is("seal against erase", "whatever was sealed while the patient was erased opens nowhere, and then sealing is refused",
		errors.Join(append(failed, err, c.reads(erased(&all)))...))
}

// seals starts a workflow that no worker runs.
func (c *clinic) seals(r *replica, id string, p *patient) (client.WorkflowRun, error) {
	return r.sdk.ExecuteWorkflow(c.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: "nobody"}, "Stay", record{PatientID: p.id, Note: p.note})
}

// signals sends a signal with a value of a patient, once. The SDK would try again where a replica is not available.
func (c *clinic) signals(r *replica, p *patient) error {
	input, err := converter.GetDefaultDataConverter().ToPayloads(record{PatientID: p.id})
	c.ok(err)
	_, err = r.raw.SignalWorkflowExecution(c.Context(), &workflowservice.SignalWorkflowExecutionRequest{Namespace: c.namespace,
		WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: p.runs[0].GetID()}, SignalName: "note", Input: input})
	return err
}

func second[A any](_ A, err error) error { return err }

// erasesTwice runs two commands at once.
func (c *clinic) erasesTwice(p *patient) {
	var made [2]certificate
	var errs [2]error
	c.while(func() {
		var both sync.WaitGroup
		for i := range made {
			both.Go(func() { made[i], errs[i] = c.erases(p) })
		}
		both.Wait()
	})
	var failed []error
	destroyed, numbers := 0, map[int64]bool{}
	for i := range made {
		if errs[i] != nil && (!c.alone() || !strings.Contains(errs[i].Error(), "key store")) { // the other has the file, and it says so
			failed = append(failed, errs[i])
		}
		destroyed += len(made[i].Destroyed)
		for _, e := range made[i].Erasures {
			if numbers[e.Seq] {
				failed = append(failed, fmt.Errorf("two erasures have the number %d", e.Seq))
			}
			numbers[e.Seq] = true
		}
	}
	if c.alone() && destroyed == 0 { // each of them kept the file from the other; nothing was changed
		again, err := c.erases(p)
		destroyed, numbers[0] = len(again.Destroyed), true
		failed = append(failed, err)
	}
	if destroyed != 1 || len(numbers) == 0 {
		failed = append(failed, fmt.Errorf("%d keys destroyed by %d erasures", destroyed, len(numbers)))
	}
	c.is("two erases", "two commands at once destroy the key once", errors.Join(append(failed, c.reads(erased(p)))...))
}

// outage erases while the command cannot reach the store, and once it can.
func (c *clinic) outage(p *patient) {
	var err error
	if c.alone() {
		_, err = c.runAs(c.replicas[0].Config, p.id+"\n", c.of("erase", "request 1")...)
	} else {
		heal := c.db.cut(c.replicas[0].name) // the command has this replica's config
		_, err = c.erases(p)
		heal()
	}
	if err != nil && strings.Contains(err.Error(), "key store") {
		err = within(time.Minute, func() error { return c.reads(opens(p)) })
	} else {
		err = fmt.Errorf("the command says %w", errors.Join(err, errors.New("not why it failed")))
	}
	c.is("outage", "a command that does not get the store says so, and the patient is as before", err)
	_, err = c.erases(p)
	c.is("outage", "the same command erases once it gets the store", errors.Join(err, c.reads(erased(p))))
}

// partition erases a patient while a third replica cannot reach the store, and does other things meanwhile.
func (c *clinic) partition(p, other *patient, meanwhile func()) {
	r := c.replica("c", c.server.Address)
	c.ok(c.readsBy(r, opens(p), opens(other)))
	began := time.Now()
	heal := c.db.cut(r.name)
	made, err := c.erases(p, "--wait", "7s")
	c.is("partition", "a replica that cannot reach the store is named, with when it stops by itself", straggler(made, err, len(c.replicas)))
	meanwhile()
	time.Sleep(time.Until(began.Add(maxLag + 5*time.Second)))
	// Which error a reader gets is for other tests; what counts is that no value comes.
	var failed []error
	for _, of := range []*patient{p, other} {
		h, err := c.history(r.raw, of.runs[0].GetID(), "temporal-ui")
		opened, decodeErr := r.codec.Decode(payloads(of.saved[0]))
		for _, list := range [][]*commonpb.Payload{payloads(h), opened} {
			for _, got := range list {
				if strings.Contains(string(got.GetData()), of.note) {
					failed = append(failed, errors.New("it opens a value"))
				}
			}
		}
		if err == nil && decodeErr == nil && len(opened) == 0 {
			failed = append(failed, errors.New("nothing was read"))
		}
	}
	failed = append(failed, refusedWith(c.signals(r, other), codes.Unavailable), c.usable(r, 0))
	c.is("partition", "after erasure_max_lag it opens and seals for nobody, and says so", errors.Join(failed...))
	heal()
	c.is("partition", "when it reaches the store it has the erasure, and opens for others",
		within(time.Minute, func() error { return c.readsBy(r, erased(p), opens(other)) }))
	c.ok(r.Stop())
}

// straggler is an error unless a command has erased, and names replicas that have not confirmed, which stop by themselves.
func straggler(made certificate, err error, confirmed int) error {
	if err == nil || !strings.Contains(err.Error(), "not confirmed") {
		return fmt.Errorf("the command says %w", errors.Join(err, errors.New("not that a replica has not confirmed")))
	}
	if len(made.Destroyed) != 1 || len(made.Missing) == 0 || len(made.Confirmed) > confirmed ||
		!strings.Contains(made.Missing[0], "it stops by itself after "+maxLag.String()) {
		return fmt.Errorf("the certificate is %+v", made)
	}
	return nil
}

// usable is an error unless a replica's metric says whether keys of subjects are in use.
func (c *clinic) usable(r *replica, want int) error {
	_, page, err := r.Get("/metrics")
	line := fmt.Sprintf(`(?m)^temporal_seal_subject_keys_usable(\{[^}]*\})? %d$`, want)
	if err == nil && !regexp.MustCompile(line).MatchString(page) {
		err = fmt.Errorf("replica %s does not say that keys of subjects are usable: %d", r.name, want)
	}
	return err
}

// sleeps erases a patient while a replica's process is stopped.
func (c *clinic) sleeps(p *patient) {
	r := c.replicas[len(c.replicas)-1]
	c.ok(syscall.Kill(r.PID(), syscall.SIGSTOP))
	made, err := c.erases(p, "--wait", "3s")
	c.ok(syscall.Kill(r.PID(), syscall.SIGCONT))
	awake := time.Now()
	c.is("slept", "a replica that sleeps is named", straggler(made, err, len(c.replicas)))
	err = within(time.Minute, func() error { return c.readsBy(r, erased(p)) })
	if after := time.Since(awake); err == nil && after > 10*time.Second {
		err = fmt.Errorf("it took %s after it woke", after)
	}
	c.is("slept", "it has the erasure within seconds after it wakes", err)
}

// restores puts the store back as it was before some erasures, and enters these again from the audit log.
func (c *clinic) restores(restore func(), there *patient, forgotten []expected) {
	journal := filepath.Join(c.replicas[0].dir, "audit.jsonl")
	reapply := func() error {
		_, err := c.run("", "subjects", "reapply-erasures", journal)
		return err
	}
	var err error
	if c.alone() { // as docs/erasure.md has it: before the proxy starts
		c.while(func() {
			restore()
			err = reapply()
		})
	} else {
		restore()
		c.is("halted", "keys of patients are out of use on every replica, and values open nowhere", within(time.Minute, func() error {
			var failed []error
			for _, r := range c.replicas {
				failed = append(failed, c.usable(r, 0))
				if opened, err := r.codec.Decode(payloads(there.saved[0])); err == nil && opens(there).in(opened, nil) == nil {
					failed = append(failed, errors.New("a value opens on "+r.name))
				}
				failed = append(failed, refusedWith(c.signals(r, there), codes.Unavailable))
			}
			return errors.Join(failed...)
		}))
		err = reapply()
		c.is("halted", "once the erasures are entered again, keys are in use", errors.Join(err, within(time.Minute, func() error {
			return errors.Join(c.usable(c.replicas[0], 1), c.usable(c.replicas[1], 1))
		})))
	}
	err = errors.Join(err, within(time.Minute, func() error { return c.reads(append(forgotten, opens(there))...) }))
	c.is("restored store", "who was erased since the backup opens nowhere, and others do", errors.Join(err, c.opensSaved(append(forgotten, opens(there))...)))
	_, err = c.run("", "subjects", "verify")
	c.is("restored store", "no key of an erased patient is left in the store, and all others unwrap", err)
}

// readmit lets the patient come back: what is new opens, and what was erased stays so.
func (c *clinic) readmit(p *patient) {
	_, err := c.subjects("readmit", p.id, "came back")
	c.is("readmit", "a patient is readmitted", err)
	for _, r := range c.replicas {
		var run client.WorkflowRun
		c.eventually("replica "+r.name+" knows of the readmission", func() (err error) {
			run, err = c.seals(r, "again-"+r.name, p)
			return err
		})
		for _, by := range c.replicas {
			h, err := c.history(by.raw, run.GetID(), "temporal-go")
			if list := payloads(h); err == nil && (len(list) != 1 || !strings.Contains(string(list[0].GetData()), p.note)) {
				err = errors.New("it does not hold the note")
			}
			c.is("readmit", "a payload sealed by replica "+r.name+" since then opens by replica "+by.name, err)
		}
	}
	c.is("readmit", "what was erased stays erased", errors.Join(c.reads(erased(p)), c.opensSaved(erased(p))))
}
