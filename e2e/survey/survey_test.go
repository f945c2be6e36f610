// Package survey proves on a real Temporal server that `temporal-seal survey` finds what is planted in a few of many payloads, shows
// none of it, and writes a policy with which the proxy keeps all of it from the server.
package survey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// summary is the last line.
var summary string

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	if summary != "" {
		fmt.Println(summary)
	}
	os.Exit(code)
}

// workflows returns how many to make: WORKFLOWS, or enough for each place to be searched as a policy requires.
func workflows(t *testing.T) int {
	text := os.Getenv("WORKFLOWS")
	if text == "" {
		return 1_320
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 110*len(workflowTypes) {
		t.Fatalf("WORKFLOWS=%q: write a number of at least %d", text, 110*len(workflowTypes))
	}
	return n
}

func TestSurvey(t *testing.T) {
	canaries := harness.NewCanaries()
	all := plants(func() string { return canaries.New("a part of a planted value") })
	for _, p := range all {
		canaries.Add(p.place(), p.value)
	}
	each := workflows(t) / len(workflowTypes)
	dir := t.TempDir()

	db := t.TempDir()
	plain := startServer(t, filepath.Join(db, "temporal.db"))
	(&workload{client: dial(t, plain.Address), plants: all, each: each}).make(t)
	awaitVisible(t, plain.Address, each*len(workflowTypes))
	out := filepath.Join(dir, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(out, name) }
	common := []string{"survey", "--upstream", plain.Address, "--namespace", namespace, "--rate", "2000", "--list-rate", "50", "-o", "json"}
	first := survey(t, in("first"), append(common, "--html", in("first.html"), "--state", in("state.json"), "--write-policy", in("policies"))...)
	found, wrong := compare(t, all, first)

	run(t, in("check"), "check", "--namespaces", in("policies"), "--key", "local:"+filepath.Join(dir, "new.key"))
	second := survey(t, in("second"), append(common, "--policy", in("policies"))...)
	if second.Summary.Candidate == nil {
		t.Fatal("the second survey does not say what the candidate would leave in clear")
	}
	if *second.Summary.Candidate != 0 || second.Summary.Stored != second.Summary.Places || second.Summary.Places != first.Summary.Places {
		t.Errorf("the second survey: %+v", second.Summary)
	}
	if state, err := os.ReadFile(in("state.json")); err != nil || !bytes.Contains(state, []byte(`"any":`)) {
		t.Errorf("the state file has no place whose name is data, so that searching it shows nothing (error %v)", err)
	}
	leaks := harness.NewSweep(canaries)
	if err := leaks.Files(out); err != nil {
		t.Fatal(err)
	}
	if values, _ := leaks.Found(); len(values) > 0 {
		t.Errorf("what the survey wrote holds planted values: %v", values)
	}
	if err := plain.Stop(); err != nil {
		t.Fatal(err)
	}
	stored := harness.NewSweep(canaries)
	if err := stored.Files(db); err != nil {
		t.Fatal(err)
	}
	if _, absent := stored.Found(); len(absent) > 0 {
		t.Errorf("without a proxy, the search does not find what was planted: %q", absent)
	}
	sealed(t, all, each, canaries, in("policies"))
	rules := 0
	for _, file := range glob(t, in("policies"), "*.rego") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		rules += bytes.Count(text, []byte("\nrequest contains "))
	}
	summary = fmt.Sprintf("survey: %d places planted, %d found, %d false; policy: %d rules; second pass: %d in clear",
		len(all), found, wrong, rules, *second.Summary.Candidate)
}

// sealed makes the same workload through a proxy with the policy, and searches all that the server stored.
func sealed(t *testing.T, all []plant, each int, canaries *harness.Canaries, policies string) {
	t.Helper()
	dir, db := t.TempDir(), t.TempDir()
	server := startServer(t, filepath.Join(db, "temporal.db"))
	proxy, err := harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: dir, Upstream: server.Address,
		Extra: fmt.Sprintf("policy: {namespaces: %q}\nsurvey: {rate: 10000, cpu_percent: 50}\n", policies)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = proxy.Stop() })
	(&workload{client: dial(t, proxy.Address), plants: all, each: each}).make(t)
	_, metrics, err := proxy.Get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	leaks := harness.NewSweep(canaries)
	for _, path := range []string{"/", "/status", "/survey"} {
		status, page, err := proxy.Get(path)
		if err != nil || status != http.StatusOK {
			t.Errorf("%s: status %d, error %v", path, status, err)
		}
		leaks.Bytes("the proxy's page "+path, []byte(page))
		if path == "/survey" {
			foundLive(t, page)
		}
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := leaks.Files(db); err != nil {
		t.Fatal(err)
	}
	leaks.Bytes("the proxy's log", proxy.Log.Bytes())
	leaks.Bytes("the proxy's metrics", []byte(metrics))
	if values, _ := leaks.Found(); len(values) > 0 {
		t.Errorf("the server, the log, the metrics or the pages hold planted values: %v", values)
	}
	if _, searched := leaks.Count(); searched < 100_000 {
		t.Errorf("only %d bytes were searched", searched)
	}
}

// foundLive requires that the survey of the running proxy found planted places, and none of them in clear.
func foundLive(t *testing.T, page string) {
	t.Helper()
	var live struct {
		Findings []struct {
			Pointer  string `json:"pointer"`
			Findings []struct {
				What  string `json:"what"`
				Clear int    `json:"policy_leaves_in_clear"`
			} `json:"findings"`
		} `json:"findings"`
	}
	if err := json.Unmarshal([]byte(page), &live); err != nil || len(live.Findings) == 0 {
		t.Errorf("the survey of the running proxy found nothing (error %v):\n%s", err, page)
	}
	for _, row := range live.Findings {
		for _, f := range row.Findings {
			if f.Clear > 0 {
				t.Errorf("the survey of the running proxy found %s at %s in clear %d times", f.What, row.Pointer, f.Clear)
			}
		}
	}
}

// make runs the workload.
func (w *workload) make(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	if err := w.run(ctx); err != nil {
		t.Fatal(err)
	}
}

// report is what the test reads of the survey's JSON.
type report struct {
	Rows []struct {
		At struct {
			Workflow string `json:"workflow_type"`
			Activity string `json:"activity_type"`
			Kind     string `json:"kind"`
			Name     string `json:"name"`
		} `json:"at"`
		Pointer  string `json:"pointer"`
		Findings []struct {
			What string `json:"what"`
		} `json:"findings"`
	} `json:"rows"`
	Summary struct {
		Places    int  `json:"places"`
		Searched  int  `json:"searched"`
		Stored    int  `json:"places_stored_in_clear"`
		Candidate *int `json:"places_candidate_leaves_in_clear"`
	} `json:"summary"`
}

// compare returns how many planted places were found, and how many other ones.
func compare(t *testing.T, all []plant, r report) (found, wrong int) {
	t.Helper()
	want := map[string]plant{}
	for _, p := range all {
		want[p.place()] = p
	}
	for _, row := range r.Rows {
		if len(row.Findings) == 0 {
			continue
		}
		at := plant{workflow: row.At.Workflow, activity: row.At.Activity, kind: row.At.Kind, name: row.At.Name, pointer: row.Pointer}
		p, planted := want[at.place()]
		delete(want, at.place())
		whats := []string{}
		for _, f := range row.Findings {
			whats = append(whats, f.What)
		}
		switch {
		case !planted:
			wrong++
			t.Errorf("found where nothing was planted: %s: %q", at.place(), whats)
		case !slices.Contains(whats, p.what):
			t.Errorf("%s: found %q, planted was %s", at.place(), whats, p.what)
		default:
			found++
		}
	}
	for _, place := range slices.Sorted(maps.Keys(want)) {
		t.Errorf("not found: %s", place)
	}
	return found, wrong
}

// survey runs the command, keeps what it writes, and reads its report.
func survey(t *testing.T, file string, args ...string) (r report) {
	t.Helper()
	began := time.Now()
	if err := json.Unmarshal(run(t, file, args...), &r); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d payloads searched in %s", r.Summary.Searched, time.Since(began).Round(time.Second))
	return r
}

// run runs the built program, and keeps its output in files, which are searched for planted values.
func run(t *testing.T, file string, args ...string) []byte {
	t.Helper()
	bin, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if err := errors.Join(os.WriteFile(file+".out", stdout.Bytes(), 0o600), os.WriteFile(file+".err", stderr.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatalf("temporal-seal %s: %v\n%s%s", strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.Bytes()
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s in %s: %v", pattern, dir, err)
	}
	return files
}

func startServer(t *testing.T, db string) *peers.Process {
	t.Helper()
	server, err := harness.StartTemporal(t.Context(), peers.TemporalOptions{DBFile: db, Namespaces: []string{namespace}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	return server
}

func dial(t *testing.T, address string) workflowservice.WorkflowServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return workflowservice.NewWorkflowServiceClient(conn)
}

// awaitVisible waits until the visibility store has all workflows.
func awaitVisible(t *testing.T, address string, n int) {
	t.Helper()
	client := dial(t, address)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		answer, err := client.CountWorkflowExecutions(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Namespace: namespace,
			Query: "ExecutionStatus != 'Running'"})
		if err == nil && int(answer.GetCount()) >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d of %d workflows are visible: %v", answer.GetCount(), n, err)
		}
	}
}
