package snapshots

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	commonpb "go.temporal.io/api/common/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/kmsstub"
)

// policy has every verdict, and an error. A response verdict goes by the name of a header.
const policy = `package temporal

request contains {"action": "pass"} if input.payload.kind == "memo"

request contains {"action": "deny", "reason": "not here"} if input.workflow.id == "denied"

request contains {"action": "seal", "key": "missing"} if input.workflow.id == "faulty"

response contains {"action": "open"}

response contains {"action": "redact"} if input.payload.name == "redact"

response contains {"action": "keep"} if input.payload.name == "keep"

response contains {"action": "deny", "reason": "not for you"} if input.payload.name == "deny"
`

// candidate differs from policy in clear memos, and from the shipped policy in inputs.
const candidate = `package temporal

request contains {"action": "deny", "reason": "none"} if input.payload.kind == "memo"

request contains {"action": "seal", "fields": ["/member"]} if input.payload.kind == "input"

response contains {"action": "open"}
`

// takeMetrics scrapes proxies before and after they have done all that they count.
func takeMetrics(t *testing.T) []string {
	u := startUpstream(t)
	stub := startKMS(t)
	collector, err := harness.StartCollector()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(collector.Stop)
	p, codec := newProgram(t), freeAddress(t)
	dir := p.dir
	for _, key := range []string{"first.key", "second.key"} {
		if r := p.run(t, "keys", "new", key); r.code != 0 {
			t.Fatal(r.said())
		}
	}
	o := harness.ProxyOptions{Dir: dir, Upstream: u.address, Policy: policy, Candidate: candidate,
		Keys: []harness.KeyOption{
			{Name: "kms", Namespaces: []string{"clinic"}, Active: stub.uri},
			{Name: "default", Active: "local:first.key"}},
		Extra: fmt.Sprintf("survey: {rate: 10000, cpu_percent: 50}\nmetrics: {namespaces: [default]}\naudit: {file: %q}\ncodec_server: {address: %q}\n", filepath.Join(dir, "audit.jsonl"), codec),
		Env:   append(stub.env, collector.Env()...)}
	proxy, conn := start(t, o)
	before := scrape(t, proxy)
	exercise(t, conn, codec)
	scrapes := rotate(t, proxy, o)
	scrapes = append(scrapes, exerciseLimits(t, u), exerciseTLS(t, u), exerciseExpiry(t, u))

	var lines []string
	for _, scraped := range scrapes {
		for name, f := range scraped {
			lines = append(lines, f.facts(name, before[name])...)
		}
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

// exercise makes every kind of call whose count a series shows.
func exercise(t *testing.T, conn *grpc.ClientConn, codec string) {
	t.Helper()
	client := workflowservice.NewWorkflowServiceClient(conn)
	starts := func(namespace, id string, want codes.Code) {
		t.Helper()
		r := startRequest(namespace, id)
		r.Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{"memo": text("memo")}}
		if _, err := client.StartWorkflowExecution(t.Context(), r); status.Code(err) != want {
			t.Fatalf("start of %s in %s: %v, want %s", id, namespace, err, want)
		}
	}
	reads := func(namespace, id string, want codes.Code) {
		t.Helper()
		if _, err := client.GetWorkflowExecutionHistory(t.Context(), historyRequest(namespace, id)); status.Code(err) != want {
			t.Fatalf("history of %s in %s: %v, want %s", id, namespace, err, want)
		}
	}
	starts("default", "good", codes.OK)
	starts("clinic", "good-by-kms", codes.OK)
	starts("default", "denied", codes.PermissionDenied)
	starts("default", "faulty", codes.Unavailable)
	reads("default", "good", codes.OK)
	reads("clinic", "good-by-kms", codes.OK)
	reads("stranger", "good", codes.FailedPrecondition)
	reads("default", "nobody", codes.NotFound)
	if _, err := client.DescribeTaskQueue(t.Context(), &workflowservice.DescribeTaskQueueRequest{Namespace: "default",
		TaskQueue: &taskqueuepb.TaskQueue{Name: "q"}}); status.Code(err) != codes.Unimplemented {
		t.Fatalf("a method that the upstream does not have: %v", err)
	}
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	for _, r := range codecRequests {
		r.send(t, codec)
	}
}

// rotate changes the keys of the proxy, so that one of them has every role in turn, and scrapes after each change.
func rotate(t *testing.T, proxy *harness.Proxy, o harness.ProxyOptions) []map[string]*family {
	t.Helper()
	var scrapes []map[string]*family
	for i, openOnly := range [][]string{{"local:first.key"}, nil} {
		o.Keys[1] = harness.KeyOption{Name: "default", Active: "local:second.key", OpenOnly: openOnly}
		if _, err := harness.WriteConfig(o); err != nil {
			t.Fatal(err)
		}
		role := []string{`role="open_only"`, `role="former"`}[i]
		until(t, "the keys are taken from the changed config", func() bool {
			_, page, err := proxy.Get("/metrics")
			return err == nil && strings.Contains(page, role)
		})
		scrapes = append(scrapes, scrape(t, proxy))
	}
	return scrapes
}

// exerciseLimits goes over each limit of a proxy that has small ones.
func exerciseLimits(t *testing.T, u *upstream) map[string]*family {
	t.Helper()
	proxy, conn := start(t, harness.ProxyOptions{Upstream: u.address,
		Extra: "limits: {calls: 2, long_polls: 1, connections: 1, bytes: 16777216}\n"})
	client := workflowservice.NewWorkflowServiceClient(conn)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	starts := func(id string, size int) error {
		r := startRequest("default", id)
		r.Input.Payloads[0] = text(strings.Repeat("x", size))
		_, err := client.StartWorkflowExecution(ctx, r)
		return err
	}
	poll := func() error {
		_, err := client.PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "default",
			TaskQueue: &taskqueuepb.TaskQueue{Name: "empty"}})
		return err
	}
	occupied := int64(0)
	occupy := func(call func() error) {
		go func() { _ = call() }() // ends with ctx
		occupied++
		until(t, "a call hangs in the upstream", func() bool { return u.hanging.Load() == occupied })
	}
	refused := func(limit string, want codes.Code, call func() error) {
		if err := call(); status.Code(err) != want {
			t.Fatalf("a call over limits.%s: %v, want %s", limit, err, want)
		}
	}
	occupy(func() error { return starts(hangingWorkflow, 7<<20) })
	refused("bytes", codes.ResourceExhausted, func() error { return starts("good", 7<<20) })
	occupy(func() error { return starts(hangingWorkflow, 1) })
	refused("calls", codes.ResourceExhausted, func() error { return starts("good", 1) })
	occupy(poll)
	refused("long_polls", codes.ResourceExhausted, poll)
	other := workflowservice.NewWorkflowServiceClient(dial(t, proxy.Address))
	refused("connections", codes.Unavailable, func() error {
		_, err := other.GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{})
		return err
	})
	return scrape(t, proxy)
}

// exerciseExpiry scrapes a proxy with a key that expires.
func exerciseExpiry(t *testing.T, u *upstream) map[string]*family {
	t.Helper()
	p := newProgram(t)
	store := p.run(t, "keystore", "init", "sqlite:keys.db")
	if r := p.run(t, "keys", "new", "chat.key"); store.code != 0 || r.code != 0 {
		t.Fatal(store.said(), r.said())
	}
	proxy, _ := start(t, harness.ProxyOptions{Dir: p.dir, Upstream: u.address,
		Keys:  []harness.KeyOption{{Name: "default", Active: "local:chat.key", Reference: true, Life: "30d"}},
		Extra: fmt.Sprintf("key_store: {url: 'sqlite:%s', id: %q}\n", filepath.Join(p.dir, "keys.db"), strings.TrimSpace(store.stdout))})
	return scrape(t, proxy)
}

// exerciseTLS scrapes a proxy that has a certificate.
func exerciseTLS(t *testing.T, u *upstream) map[string]*family {
	t.Helper()
	dir := t.TempDir()
	if err := harness.WriteCertificate(dir, "server", time.Now(), time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	proxy, _ := start(t, harness.ProxyOptions{Dir: dir, Upstream: u.address,
		Extra: fmt.Sprintf("codec_server: {address: %q, tls: {cert_file: server.crt, key_file: server.key}}\n", freeAddress(t))})
	return scrape(t, proxy)
}

// family is a metric as a scrape shows it.
type family struct {
	kind, help string
	labels     map[string]bool
	series     map[string]bool // by labels, without those of buckets
	buckets    map[string]bool
}

var (
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? \S+$`)
	labelPair  = regexp.MustCompile(`([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"`)
)

// openLabels have values of the user's: names of keys, references, revisions.
var openLabels = []string{"key", "kek", "arn", "revision", "version", "commit", "address"}

// scrape reads the metrics. Those of the Go runtime and of the process become one entry each.
func scrape(t *testing.T, proxy *harness.Proxy) map[string]*family {
	t.Helper()
	code, page, err := proxy.Get("/metrics")
	if err != nil || code != http.StatusOK {
		t.Fatalf("/metrics: %d, %v", code, err)
	}
	all := map[string]*family{}
	of := func(name string) *family {
		if all[name] == nil {
			all[name] = &family{labels: map[string]bool{}, series: map[string]bool{}, buckets: map[string]bool{}}
		}
		return all[name]
	}
	for line := range strings.Lines(page) {
		line = strings.TrimRight(line, "\n")
		if text, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(text, " ")
			of(name).help = help
			continue
		}
		if text, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(text, " ")
			of(name).kind = kind
			continue
		}
		m := sampleLine.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("/metrics: this test cannot read %q", line)
		}
		name := m[1]
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && all[base] != nil && all[base].kind == "histogram" {
				name = base
			}
		}
		of(name).sample(m[2])
	}
	for name := range all {
		if prefix, _, _ := strings.Cut(name, "_"); prefix == "go" || prefix == "process" {
			delete(all, name)
			of(prefix + "_*").kind = "as the Prometheus client library has them"
		}
	}
	return all
}

func (f *family) sample(labels string) {
	var pairs []string
	for _, m := range labelPair.FindAllStringSubmatch(labels, -1) {
		name, text := m[1], m[2]
		if name == "le" && f.kind == "histogram" {
			f.buckets[text] = true
			continue
		}
		f.labels[name] = true
		if slices.Contains(openLabels, name) {
			text = "*"
		}
		pairs = append(pairs, fmt.Sprintf("%s=%q", name, text))
	}
	slices.Sort(pairs)
	f.series[strings.Join(pairs, " ")] = true
}

// facts lists what the family is. before is the same family right after the start, or nil.
func (f *family) facts(name string, before *family) []string {
	lines := []string{name + ": type " + f.kind}
	if f.help != "" {
		lines = append(lines, name+": help "+f.help)
	}
	for label := range f.labels {
		lines = append(lines, name+": label "+label)
	}
	if len(f.buckets) > 0 {
		lines = append(lines, name+": buckets "+strings.Join(inOrder(f.buckets), " "))
	}
	for labels := range f.series {
		if labels == "" {
			continue
		}
		since := " (with its first count)"
		if before != nil && before.series[labels] {
			since = " (from the start)"
		}
		lines = append(lines, name+": series "+labels+since)
	}
	return lines
}

// inOrder sorts the bounds of buckets by their value.
func inOrder(bounds map[string]bool) []string {
	number := func(text string) (value float64) {
		_, _ = fmt.Sscan(text, &value) // +Inf is a number to Sscan
		return value
	}
	return slices.SortedFunc(maps.Keys(bounds), func(a, b string) int {
		switch {
		case number(a) < number(b):
			return -1
		case number(a) > number(b):
			return 1
		}
		return 0
	})
}

// kmsKey is a key in a KMS of this test.
type kmsKey struct {
	*kmsstub.Server
	uri string
	env []string
}

func startKMS(t *testing.T) kmsKey {
	t.Helper()
	k := kmsKey{Server: kmsstub.New(kmsstub.Options{})}
	if err := k.Start("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	client := kms.New(kms.Options{Region: "eu-central-1", BaseEndpoint: &k.URL,
		Credentials: credentials.NewStaticCredentialsProvider("AKIATEST", "secret", "")})
	made, err := client.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CreateAlias(t.Context(), &kms.CreateAliasInput{AliasName: aws.String("alias/seal"),
		TargetKeyId: made.KeyMetadata.KeyId}); err != nil {
		t.Fatal(err)
	}
	k.uri = "awskms://alias/seal?region=eu-central-1"
	k.env = []string{"AWS_ENDPOINT_URL_KMS=" + k.URL, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=secret",
		"AWS_EC2_METADATA_DISABLED=true"}
	return k
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
