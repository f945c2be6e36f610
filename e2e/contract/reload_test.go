package contract

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

const (
	openAll = "package temporal\n\nresponse contains {\"action\": \"open\"}\n"
	keepAll = "package temporal\n\nresponse contains {\"action\": \"keep\"}\n"
)

// opensTo waits until a payload reads as wanted.
func (r *rig) opensTo(t *testing.T, namespace string, sealed, want *commonpb.Payload) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		got, err := r.Open(t.Context(), r.client, namespace, "", []*commonpb.Payload{sealed})
		if err != nil {
			return err
		}
		if !proto.Equal(got[0], want) {
			return fmt.Errorf("it reads as %v", got[0])
		}
		return nil
	})
}

func TestChangedPoliciesAreTakenUp(t *testing.T) {
	t.Parallel()
	r := start(t, setup{policy: openAll})
	clear := text("CANARY")
	sealed := r.seal(t, "reload", clear)[0]
	equal(t, "by the first policy", r.open(t, "reload", sealed)[0], clear)
	r.reconfigure(t, setup{policy: keepAll})
	r.opensTo(t, "reload", sealed, sealed)
	// One that does not load changes nothing.
	_, before := r.admin(t, "/readyz")
	r.reconfigure(t, setup{policy: openAll + "\nresponse contains {"})
	eventually(t, 20*time.Second, func() error {
		if _, body := r.admin(t, "/readyz"); body == before {
			return fmt.Errorf("/readyz does not name the policy that does not load: %s", body)
		}
		return nil
	})
	equal(t, "while the new policy does not load", r.open(t, "reload", sealed)[0], sealed)
	r.reconfigure(t, setup{policy: openAll})
	r.opensTo(t, "reload", sealed, clear)
}

// A call is decided by one revision from its start to its end.
func TestACallIsDecidedByOneRevision(t *testing.T) {
	t.Parallel()
	arrived, answer := make(chan bool, 1), make(chan bool)
	var sealed *commonpb.Payload
	frontend, err := blackbox.StartFrontend(func(q blackbox.Received) blackbox.Answer {
		if q.Name() != "QueryWorkflow" || q.Call != "slow" {
			return blackbox.Answer{}
		}
		arrived <- true
		<-answer
		return blackbox.Message(&workflowservice.QueryWorkflowResponse{QueryResult: list(sealed)})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(frontend.Stop)
	r := start(
		t,
		setup{
			policy: openAll,
			upstreams: fmt.Sprintf(
				"  - {namespaces: [revision], address: %q}\n  - address: %q\n",
				frontend.Address,
				frontend.Address,
			),
		},
	)
	e := r.do(
		t,
		blackbox.Request{
			Call:   "seal",
			Method: "SignalWorkflowExecution",
			Body: blackbox.Marshal(
				&workflowservice.SignalWorkflowExecutionRequest{Namespace: "revision", Input: list(text("CANARY"))},
			),
		},
	)
	e.want(t, "OK")
	for _, q := range frontend.Of("seal") {
		if q.Name() == "SignalWorkflowExecution" {
			s := new(workflowservice.SignalWorkflowExecutionRequest)
			if err := proto.Unmarshal(q.Body, s); err != nil {
				t.Fatal(err)
			}
			sealed = s.Input.Payloads[0]
		}
	}
	query := func(call string) blackbox.Response {
		return r.client.Do(
			t.Context(),
			blackbox.Request{Call: call, Method: "QueryWorkflow", Timeout: 60 * time.Second, Body: blackbox.Marshal(
				&workflowservice.QueryWorkflowRequest{
					Namespace: "revision",
					Execution: execution("w"),
					Query:     &querypb.WorkflowQuery{QueryType: "q"},
				},
			)},
		)
	}
	done := make(chan blackbox.Response, 1)
	go func() { done <- query("slow") }()
	<-arrived
	_, before := r.admin(t, "/readyz")
	metric := regexp.MustCompile(`temporal_seal_policy_info\{revision="([^"]+)"`)
	revision := func() string { _, m := r.admin(t, "/metrics"); return fmt.Sprint(metric.FindStringSubmatch(m)) }
	old := revision()
	r.reconfigure(t, setup{policy: keepAll, upstreams: r.setup.upstreams})
	eventually(t, 20*time.Second, func() error {
		if revision() == old {
			return fmt.Errorf("the policy has not changed: %s (%s)", old, before)
		}
		return nil
	})
	close(answer)
	got := answered(t, exchange{<-done, "slow", r}, new(workflowservice.QueryWorkflowResponse))
	equal(t, "an answer to a call that began before the change", got.QueryResult.Payloads[0], text("CANARY"))
	got = answered(t, exchange{query("slow"), "slow", r}, new(workflowservice.QueryWorkflowResponse))
	equal(t, "an answer to a call that began after it", got.QueryResult.Payloads[0], sealed)
}

// Grants and keys are taken up from the config file, and taken back.
func TestChangedKeysAndGrantsAreTakenUp(t *testing.T) {
	t.Parallel()
	r := start(t, setup{policy: openAll})
	old, fresh := filepath.Join(r.dir, "default.key"), filepath.Join(r.dir, "fresh.key")
	if err := newKey(fresh); err != nil {
		t.Fatal(err)
	}
	keys := func(active, openOnly string) string {
		text := fmt.Sprintf("  - name: default\n    active: %q\n", "local:"+active)
		if openOnly != "" {
			text += fmt.Sprintf("    open_only: [%q]\n", "local:"+openOnly)
		}
		return text
	}
	clear := text("CANARY")
	sealed := r.seal(t, "giving", clear)[0]
	equal(t, "without a grant", r.open(t, "taking", sealed)[0], sealed)
	r.reconfigure(t, setup{policy: openAll, extra: "grants: [{from: giving, to: taking}]\n"})
	r.opensTo(t, "taking", sealed, clear)
	r.reconfigure(t, setup{policy: openAll})
	r.opensTo(t, "taking", sealed, sealed)
	// A config that cannot be read changes nothing.
	for _, mistake := range []string{"unheard_of: true\n", "unknown_fields: sometimes\n", "grants: ["} {
		r.reconfigure(t, setup{policy: openAll, extra: "grants: [{from: giving, to: taking}]\n" + mistake})
		time.Sleep(1200 * time.Millisecond)
		equal(t, "with a config that has a mistake", r.open(t, "taking", sealed)[0], sealed)
		equal(t, "in its own namespace", r.open(t, "giving", sealed)[0], clear)
	}
	// Another active key: what the old one sealed opens as long as the config names it.
	before := fmt.Sprint(r.dataKeys(t))
	r.reconfigure(t, setup{policy: openAll, keys: keys(fresh, old)})
	eventually(t, 20*time.Second, func() error {
		if now := fmt.Sprint(r.dataKeys(t)); now == before {
			return fmt.Errorf("the data keys are still %s", now)
		}
		return nil
	})
	equal(t, "with its key for opening only", r.open(t, "giving", sealed)[0], clear)
	r.reconfigure(t, setup{policy: openAll, keys: keys(fresh, "")})
	r.opensTo(t, "giving", sealed, sealed)
	again := r.seal(t, "giving", clear)[0]
	equal(t, "what the new key sealed", r.open(t, "giving", again)[0], clear)
}

var dataKeyID = regexp.MustCompile(`[0-9a-f]{32}`)

// dataKeys are the ids of the data keys that seal now.
func (r *rig) dataKeys(t *testing.T) []string {
	t.Helper()
	_, body := r.admin(t, "/keys")
	return dataKeyID.FindAllString(body, -1)
}

func revoking(ids ...string) string {
	return fmt.Sprintf("revoked_data_keys: [%s]\n", strings.Join(ids, ", "))
}

// A revoked data key opens nothing any more, and seals nothing.
func TestRevokedDataKeys(t *testing.T) {
	t.Parallel()
	k := startKMS(t, setup{policy: openAll})
	clear := text("CANARY")
	sealed := k.seal(t, "revoked", clear)[0]
	equal(t, "before", k.open(t, "revoked", sealed)[0], clear)
	ids := k.dataKeys(t)
	if len(ids) == 0 {
		t.Fatal("the admin listener's /keys names no data key")
	}
	config := k.config
	config.extra = revoking(ids...)
	k.reconfigure(t, config)
	k.opensTo(t, "revoked", sealed, sealed)
	// A fresh one takes its place at once.
	for i := range 3 {
		again := k.seal(t, fmt.Sprint("revoked", map[bool]string{true: "", false: "-2"}[i < 2]), clear)[0]
		equal(
			t,
			"what was sealed after it",
			k.open(t, fmt.Sprint("revoked", map[bool]string{true: "", false: "-2"}[i < 2]), again)[0],
			clear,
		)
	}
	for _, id := range k.dataKeys(t) {
		if id == ids[0] {
			t.Error("the revoked data key still seals")
		}
	}
	// Another proxy that starts with the list, and has it in no cache.
	other := startOn(t, k.kms, setup{policy: openAll, extra: revoking(ids...)})
	equal(t, "in a proxy that starts with the list", other.open(t, "revoked", sealed)[0], sealed)
}

// The list counts for a data key that the key service is just unwrapping: the call that asked began before and may go
// either way, later ones are refused.
func TestDataKeysRevokedWhileTheyAreUnwrapped(t *testing.T) {
	t.Parallel()
	one := startKMS(t, setup{policy: openAll})
	clear := text("CANARY")
	sealed := one.seal(t, "flight", clear)[0]
	ids := one.dataKeys(t)
	two := startOn(t, one.kms, setup{policy: openAll})
	two.seal(t, "flight", clear)
	one.kms.Script("Decrypt", slowly(1500*time.Millisecond))
	done := make(chan bool)
	go func() {
		defer close(done)
		_, _ = two.Open(t.Context(), two.client, "flight", "", []*commonpb.Payload{sealed})
	}()
	time.Sleep(100 * time.Millisecond)
	config := two.config
	config.extra = revoking(ids...)
	two.reconfigure(t, config)
	<-done
	two.opensTo(t, "flight", sealed, sealed)
	time.Sleep(200 * time.Millisecond)
	equal(t, "afterwards", two.open(t, "flight", sealed)[0], sealed)
}

// A key file that is gone, or a config with mistakes, keeps the proxy from starting.
func TestABadConfigDoesNotStart(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]setup{
		"nothing wrong":                       {},
		"an unknown key":                      {extra: "unheard_of: true\n"},
		"a policy that does not load":         {policy: "package temporal\n\nrequest contains {"},
		"a policy of another package":         {policy: "package other\n"},
		"a namespace's rules for another":     {namespaces: map[string]string{"one": "import data.temporal.namespaces.two\n\nrequest contains {\"action\": \"pass\"} if two.x"}},
		"anonymous callers off this machine":  {listeners: "  - address: 0.0.0.0:0\n"},
		"a symmetric algorithm for JWTs":      {listeners: "  - {address: \"127.0.0.1:0\", callers: {jwt: {issuer: \"i\", audience: \"a\", jwks_file: \"/dev/null\", algorithms: [HS256]}}}\n"},
		"an API key without TLS":              {upstreams: "  - {address: \"127.0.0.1:1\", api_key_file: \"/dev/null\"}\n"},
		"a revoked data key that is none":     {extra: "revoked_data_keys: [abc]\n"},
		"a key service in plain http far off": {keys: "  - {name: default, active: \"awskms://alias/x?region=eu-central-1&endpoint=http://203.0.113.1\"}\n"},
	} {
		r := &rig{Script: &blackbox.Script{Frontend: &blackbox.Frontend{Address: "127.0.0.1:1"}}, dir: t.TempDir()}
		if err := newKey(filepath.Join(r.dir, "default.key")); err != nil { // off this machine a missing one is a mistake of its own
			t.Fatal(err)
		}
		if err := r.configure(s); err != nil {
			t.Fatal(err)
		}
		if out, err := checkConfig(r.dir); (err == nil) != (name == "nothing wrong") {
			t.Errorf("%s: `temporal-seal check` says %v: %s", name, err, out)
		}
	}
}
