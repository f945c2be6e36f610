package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

// prometheus is a real one that scrapes a real proxy.
type prometheus struct{ *harness.Prometheus }

func startPrometheus(t *testing.T, target string) prometheus {
	t.Helper()
	alerts := filepath.Join(harness.Root(), "deploy", "prometheus", "alerts.yaml")
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n  - job_name: temporal-seal\n    static_configs: [{targets: [%q]}]\n", alerts, target)
	p, err := harness.StartPrometheus(t.Context(), t.TempDir(), config)
	if errors.Is(err, harness.ErrNoPrometheus) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return prometheus{p}
}

var metricName = regexp.MustCompile(`\b(?:temporal_seal|rpc_server|process|go)_[a-z0-9_]+`)

// check evaluates an expression, and looks for every series that it names among those that were scraped.
func (p prometheus) check(ctx context.Context, t *testing.T, where, expr string) {
	t.Helper()
	expr = strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(expr)
	var result json.RawMessage
	if err := p.Ask(ctx, "/api/v1/query", url.Values{"query": {expr}}, &result); err != nil {
		t.Errorf("%s: %v\n%s", where, err, expr)
	}
	names := metricName.FindAllString(expr, -1)
	if len(names) == 0 {
		t.Errorf("%s reads no metric of the proxy: %s", where, expr)
	}
	for _, selector := range selectors(expr) {
		var series []any
		if err := p.Ask(ctx, "/api/v1/series", url.Values{"match[]": {selector}}, &series); err != nil {
			t.Errorf("%s: %s: %v", where, selector, err)
		} else if len(series) == 0 {
			t.Errorf("%s: the proxy exports no %s", where, selector)
		}
	}
}

// selectors gives each metric of an expression with its labels.
func selectors(expr string) []string {
	var found []string
	for _, at := range metricName.FindAllStringIndex(expr, -1) {
		end := at[1]
		if end < len(expr) && expr[end] == '{' {
			end += strings.IndexByte(expr[end:], '}') + 1
		}
		found = append(found, expr[at[0]:end])
	}
	return found
}

// keyStore makes a key and a key store in a folder, and returns the store's id: some alerts are about keys that expire.
func keyStore(t *testing.T, dir string) (id string) {
	t.Helper()
	bin, err := harness.BuildProxy()
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for _, args := range [][]string{{"keys", "new", "seal.key"}, {"keystore", "init", "sqlite:keys.db"}} {
		cmd := exec.Command(bin, args...)
		cmd.Dir = dir
		if out, err = cmd.Output(); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
	}
	return strings.TrimSpace(string(out))
}

// errorCodes are what no healthy proxy answers: an expression on them is right though there is no such series yet.
var errorCodes = regexp.MustCompile(`rpc_response_status_code[!=]~"[^"]*"`)

// TestDashboardAndAlerts runs every expression of both against a Prometheus that scrapes the built proxy after some calls.
func TestDashboardAndAlerts(t *testing.T) {
	ctx := t.Context()
	server, err := harness.StartTemporal(ctx, peers.TemporalOptions{DBFile: filepath.Join(t.TempDir(), "temporal.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() }) // it is not what is tested here
	collector, err := harness.StartCollector()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collector.Stop)
	certificate := filepath.Join(t.TempDir(), "codec")
	if err := harness.WriteCertificate(filepath.Dir(certificate), "codec", time.Now(), time.Now().Add(90*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	id := keyStore(t, dir)
	proxy, err := harness.StartProxy(ctx, harness.ProxyOptions{Dir: dir, Upstream: server.Address, Env: collector.Env(),
		Keys: []harness.KeyOption{{Name: "default", Active: "local:seal.key"}, {Name: "chat", Active: "local:seal.key", Reference: true, Life: "30d"}},
		Extra: fmt.Sprintf("key_store: {url: 'sqlite:%s', id: %q}\nsurvey: {rate: 1000}\nmetrics: {namespaces: [default]}\naudit: {file: %q}\ncodec_server: {address: \"127.0.0.1:0\", tls: {cert_file: %q, key_file: %q}}\n",
			filepath.Join(dir, "keys.db"), id, filepath.Join(t.TempDir(), "audit.jsonl"), certificate+".crt", certificate+".key")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Kill)
	traffic(t, proxy.Address)
	p := startPrometheus(t, proxy.Admin)
	for range 100 {
		var series []any
		if p.Ask(ctx, "/api/v1/series", url.Values{"match[]": {"temporal_seal_policy_info"}}, &series) == nil && len(series) > 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}

	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations struct{ Summary, Description string }
			}
		}
	}
	decode(t, filepath.Join(harness.Root(), "deploy", "prometheus", "alerts.yaml"), yaml.Unmarshal, &rules)
	operations, err := os.ReadFile(filepath.Join(harness.Root(), "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			n++
			p.check(ctx, t, "alert "+r.Alert, errorCodes.ReplaceAllString(r.Expr, ""))
			if !strings.Contains(string(operations), "`"+r.Alert+"`") {
				t.Errorf("docs/operations.md does not say what to do about the alert %s", r.Alert)
			}
			if r.Annotations.Summary == "" || r.Annotations.Description == "" {
				t.Errorf("alert %s says nothing to the person that it wakes", r.Alert)
			}
		}
	}
	var dashboard struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	decode(t, filepath.Join(harness.Root(), "deploy", "grafana", "temporal-seal.json"), json.Unmarshal, &dashboard)
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			n++
			p.check(ctx, t, "panel "+panel.Title, errorCodes.ReplaceAllString(target.Expr, ""))
		}
	}
	t.Logf("%d expressions", n)
	if n < 30 {
		t.Errorf("only %d expressions were found in the alerts and the dashboard", n)
	}

	// From a slow bucket to a trace of it: the calls above were sampled.
	var exemplars []struct {
		Exemplars []struct{ Labels map[string]string }
	}
	now := time.Now()
	if err := p.Ask(ctx, "/api/v1/query_exemplars", url.Values{"query": {"rpc_server_call_duration_seconds_bucket"},
		"start": {fmt.Sprint(now.Add(-time.Minute).Unix())}, "end": {fmt.Sprint(now.Add(time.Minute).Unix())}}, &exemplars); err != nil {
		t.Error(err)
	}
	if len(exemplars) == 0 || exemplars[0].Exemplars[0].Labels["trace_id"] == "" {
		t.Errorf("no exemplar leads to a trace: %v", exemplars)
	}

	var firing struct {
		Alerts []struct{ Labels map[string]string }
	}
	if err := p.Ask(ctx, "/api/v1/alerts", nil, &firing); err != nil {
		t.Fatal(err)
	}
	for _, a := range firing.Alerts {
		t.Errorf("the alert %s fires at a proxy that is well", a.Labels["alertname"])
	}
}

func decode(t *testing.T, file string, unmarshal func([]byte, any) error, v any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// traffic starts some workflows: each start is sealed, and each history opened.
func traffic(t *testing.T, address string) {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := workflowservice.NewWorkflowServiceClient(conn)
	for i := range 5 {
		execution := &commonpb.WorkflowExecution{WorkflowId: fmt.Sprint("w", i)}
		if _, err := client.StartWorkflowExecution(t.Context(), &workflowservice.StartWorkflowExecutionRequest{Namespace: "default", WorkflowId: execution.WorkflowId,
			RequestId: fmt.Sprint(i), WorkflowType: &commonpb.WorkflowType{Name: "W"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "q"},
			Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"x"`)}}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := client.GetWorkflowExecutionHistory(t.Context(), &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "default", Execution: execution}); err != nil {
			t.Fatal(err)
		}
	}
}
