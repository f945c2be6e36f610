package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/temporal-seal/temporal-seal/demo/clinic"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// erasurePolicy gives each patient a key.
const erasurePolicy = `package temporal

request contains {"action": "seal", "key": "phi", "subject": {"pointer": "/patient_id"}} if input.payload.kind == "input"

response contains {"action": "open"}
`

// visit is the input of a workflow.
type visit struct {
	PatientID string `json:"patient_id"`
	Note      string `json:"note"`
}

// visitor is a patient of the demo's second act, with a workflow.
type visitor struct {
	visit
	workflow string
	archive  string // file with the workflow's history, as the server had it before the erasure
}

// runErasure is the demo's second act: one of three patients is erased, and the others are not.
func runErasure(ctx context.Context, s *screen) error {
	st, err := newStage(s, false)
	if err != nil {
		return err
	}
	defer st.close()
	s.line("%s  %s", s.paint(bold, "temporal-seal"), s.paint(dim, "three patients, each with a key of their own; one asks to be erased"))
	s.step("The servers")
	if err := st.startForErasure(ctx); err != nil {
		return err
	}
	s.step("Three patients")
	all, err := st.visits(ctx)
	if err != nil {
		return err
	}
	if err := st.read(ctx, all, ""); err != nil {
		return err
	}

	s.step("One of them asks to be erased")
	s.note("The key store of the demo is a SQLite file, which one process has to itself, so the proxy stops meanwhile. With PostgreSQL it goes on.")
	st.proxy.Stop()
	if err := st.openArchives(ctx, all, ""); err != nil {
		return err
	}
	if err := st.erase(ctx, all[0]); err != nil {
		return err
	}

	s.step("Afterwards")
	if err := st.openArchives(ctx, all, all[0].PatientID); err != nil {
		return err
	}
	if err := st.startProxy(ctx); err != nil {
		return err
	}
	if err := st.read(ctx, all, all[0].PatientID); err != nil {
		return err
	}
	s.line("\n   %s", s.paint(green, "1 of 3 patients opens nowhere any more, in no copy; the others open as before"))
	return nil
}

// startForErasure starts a Temporal server, and a proxy with a key store.
func (st *stage) startForErasure(ctx context.Context) error {
	st.findServer(ctx)
	if err := st.buildProxy(ctx, "local", true); err != nil {
		return err
	}
	if err := st.startTemporal(ctx); err != nil {
		return err
	}
	store := "sqlite:" + filepath.Join(st.dir, "keys.db")
	var made struct{ ID string }
	if err := st.command(ctx, &made, "", "keystore", "init", store, "-o", "json"); err != nil {
		return err
	}
	st.options.Keys = []harness.KeyOption{{Name: "phi", Active: "local:" + filepath.Join(st.dir, "phi.key")}}
	st.options.Policy = erasurePolicy
	st.options.Extra += fmt.Sprintf("key_store: {url: %q, id: %q}\naudit: {file: %q}\n", store, made.ID, filepath.Join(st.dir, "audit.jsonl"))
	return st.startProxy(ctx)
}

// visits starts a workflow for each patient and keeps its history, as an archive of the server would.
func (st *stage) visits(ctx context.Context) (all []visitor, err error) {
	c, err := client.DialContext(ctx, client.Options{HostPort: st.proxy.Address, Namespace: clinic.Namespace})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for i, note := range []string{"asthma since childhood", "fracture of the left wrist", "migraine, twice a month"} {
		v := visitor{visit: visit{"patient-" + random(3), note}, workflow: fmt.Sprintf("visit-%d", i+1)}
		if _, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: v.workflow, TaskQueue: "visits"}, "Visit", v.visit); err != nil {
			return nil, err
		}
		events, err := history(ctx, st.temporal.Address, clinic.Namespace, v.workflow)
		if err != nil {
			return nil, err
		}
		text, err := protojson.Marshal(&historypb.History{Events: events})
		if err != nil {
			return nil, err
		}
		v.archive = filepath.Join(st.dir, v.workflow+".json")
		if err := os.WriteFile(v.archive, text, 0o600); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// read reads each history through the proxy, as the Web UI and the CLI do.
func (st *stage) read(ctx context.Context, all []visitor, erased string) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "client-name", "temporal-ui")
	for _, v := range all {
		events, err := history(ctx, st.proxy.Address, clinic.Namespace, v.workflow)
		if err != nil {
			return err
		}
		if err := st.show(v, "history through the proxy", events, erased); err != nil {
			return err
		}
	}
	return nil
}

// openArchives opens the histories that were kept.
func (st *stage) openArchives(ctx context.Context, all []visitor, erased string) error {
	for _, v := range all {
		var text string
		if err := st.command(ctx, &text, "", "open", v.archive, "--config", st.proxy.Config); err != nil {
			return err
		}
		h := new(historypb.History)
		if err := protojson.Unmarshal([]byte(text), h); err != nil {
			return err
		}
		if err := st.show(v, "archived history", h.GetEvents(), erased); err != nil {
			return err
		}
	}
	return nil
}

// show shows a workflow's input, and returns an error unless it opens, or for the erased patient does not.
func (st *stage) show(v visitor, where string, events []*historypb.HistoryEvent, erased string) error {
	var input []*commonpb.Payload
	for _, e := range events {
		input = append(input, e.GetWorkflowExecutionStartedEventAttributes().GetInput().GetPayloads()...)
	}
	if len(input) != 1 {
		return fmt.Errorf("%s: %d inputs in the %s", v.workflow, len(input), where)
	}
	got, want := string(input[0].GetData()), v.Note
	if v.PatientID == erased {
		want = "[erased on "
	}
	st.s.line("   %s  %-26s %s", v.workflow, where, got)
	if !strings.Contains(got, want) || v.PatientID == erased && strings.Contains(got, v.Note) {
		return fmt.Errorf("%s: the %s should have %q", v.workflow, where, want)
	}
	return nil
}

// erase erases a patient, and terminates the workflow that holds the patient's data.
func (st *stage) erase(ctx context.Context, v visitor) error {
	args := []string{"subjects", "erase", "--config", st.proxy.Config, "--namespace", clinic.Namespace, "--subject-file", "-", "--reason", "request 4711"}
	var made struct {
		Destroyed []string `json:"destroyed_keys"`
		Running   []struct {
			ID         string
			Terminated bool
		}
	}
	for _, flags := range [][]string{{"--dry-run"}, {"--terminate", "--yes"}} {
		if err := st.command(ctx, &made, v.PatientID+"\n", append(args, flags...)...); err != nil {
			return err
		}
		if len(made.Destroyed) != 1 || len(made.Running) != 1 || made.Running[0].ID != v.workflow {
			return fmt.Errorf("subjects erase %s printed %+v", flags[0], made)
		}
		st.s.done("subjects erase %s: key %s, workflow %s", strings.Join(flags, " "), made.Destroyed[0], made.Running[0].ID)
	}
	if !made.Running[0].Terminated {
		return fmt.Errorf("%s was not terminated", v.workflow)
	}
	return nil
}
