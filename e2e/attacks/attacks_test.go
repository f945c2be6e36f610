// Package attacks tries to get at clear text that is somebody else's, on a real Temporal server: a ciphertext stolen from the
// database is put into every place that a caller can write, in its own namespace and in another, and callers without rights read
// through every API. All that an attacker is answered is searched for the secrets.
//
// An attack that could not be carried out fails its test: it would prove nothing.
package attacks

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
)

const (
	victims = "clinic"    // where the secrets are
	thiefs  = "elsewhere" // the thief's own namespace
)

// policy opens everything for the worker. The liar's results pass but for those of one type of activity. The other three have all they write passed in clear, which is the most that a policy can
// do for them. The clerk is opened what was sealed with the default key; the forger and the thief are opened everything, wherever
// they can have it: they must not have it by asking the proxy to open what they hold sealed.
const policy = `package temporal

import rego.v1

request contains {"action": "seal", "key": "phi", "fields": ["/name"]} if {
	input.caller.subject == "worker"
	input.payload.kind == "input"
	input.payload.encoding == "json/plain"
	input.content.json.name
}

request contains {"action": "seal", "key": "phi"} if {
	input.caller.subject == "worker"
	not input.payload.kind == "input"
}

request contains {"action": "seal", "key": "phi"} if {
	input.caller.subject == "worker"
	not input.content.json.name
}

request contains {"action": "pass"} if input.caller.subject in {"clerk", "forger", "thief", "liar"}

request contains {"action": "seal", "key": "phi"} if {
	input.caller.subject == "liar"
	input.payload.kind == "result"
	input.activity.type == "Secret"
}

response contains {"action": "open"} if input.caller.subject in {"worker", "forger", "thief"}

response contains {"action": "open"} if {
	input.caller.subject == "clerk"
	input.sealed.key == "default"
}
`

// summary is what the last line prints.
var summary struct {
	sync.Mutex
	tried, succeeded int
	rows             []string
}

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	if summary.tried > 0 {
		fmt.Printf("\n%-14s %-46s %s\n", "attacker", "attack", "what came of it")
		fmt.Println(strings.Join(summary.rows, "\n"))
		fmt.Printf("attacks: %d tried, %d succeeded\n", summary.tried, summary.succeeded)
	}
	os.Exit(code)
}

// bench is a server, a proxy, and the victim's data.
type bench struct {
	*testing.T
	server   *peers.Process
	proxy    *harness.Proxy
	dir      string
	canaries *harness.Canaries
	secrets  map[string]string // by site
	records  string            // the audit file
	loot     loot
	nexus    sync.Mutex
}

func newBench(t *testing.T, dynamic map[string]any) *bench {
	t.Helper()
	b := &bench{T: t, dir: t.TempDir(), canaries: harness.NewCanaries(), secrets: map[string]string{}}
	settings := map[string]any{"system.enableCrossNamespaceCommands": true, "system.enableEagerWorkflowStart": true,
		"activity.enableStandalone": true, "nexusoperation.enableStandalone": true}
	for name, value := range dynamic {
		settings[name] = value
	}
	var err error
	b.server, err = harness.StartTemporal(t.Context(), peers.TemporalOptions{Namespaces: []string{victims, thiefs}, DynamicConfig: settings,
		SearchAttributes: map[string]string{"Region": "Keyword"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.server.Stop() }) // what it says at its end is not what is tested here
	b.startProxy()
	return b
}

func (b *bench) startProxy() {
	b.Helper()
	b.records = filepath.Join(b.dir, "audit.jsonl")
	var config strings.Builder
	config.WriteString("listeners:\n  - name: everybody\n    address: 127.0.0.1:0\n    callers:\n      token:\n        tokens:\n")
	for subject, namespaces := range map[string]string{"worker": victims, "clerk": victims, "forger": victims, "stranger": victims, "thief": thiefs, "liar": thiefs} {
		file := filepath.Join(b.dir, subject+".token")
		b.write(file, tokenOf(subject))
		fmt.Fprintf(&config, "          - {subject: %s, file: %q, namespaces: [%s]}\n", subject, file, namespaces)
	}
	b.write(filepath.Join(b.dir, "policy.rego"), policy)
	fmt.Fprintf(&config, "upstreams:\n  - address: %s\nadmin: 127.0.0.1:0\nkeys:\n  - {name: phi, active: %q}\n  - {name: default, active: %q}\npolicy: {file: %q}\naudit: {file: %q, required: true}\n",
		b.server.Address, "local:"+filepath.Join(b.dir, "phi.key"), "local:"+filepath.Join(b.dir, "default.key"), filepath.Join(b.dir, "policy.rego"), b.records)
	file := filepath.Join(b.dir, "config.yaml")
	b.write(file, config.String())
	var err error
	b.proxy, err = harness.StartProxy(b.Context(), harness.ProxyOptions{Dir: b.dir, Upstream: b.server.Address, Args: []string{"--config", file}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = b.proxy.Stop() })
}

func tokenOf(subject string) string { return "the-token-of-the-" + subject }

func (b *bench) write(file, text string) {
	b.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
}

// party is somebody with a connection, who notes all that it is answered.
type party struct {
	*testing.T
	workflowservice.WorkflowServiceClient
	operator  operatorservice.OperatorServiceClient
	name      string
	namespace string
	ctx       context.Context

	mu      sync.Mutex
	answers [][]byte
}

// as connects to the proxy with somebody's token; past it where the name is "".
func (b *bench) as(t *testing.T, name, namespace string) *party {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	address := b.server.Address
	if name != "" {
		address = b.proxy.Address
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+tokenOf(name))
	}
	p := &party{T: t, name: name, namespace: namespace, ctx: ctx}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(p.note))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	p.WorkflowServiceClient, p.operator = workflowservice.NewWorkflowServiceClient(conn), operatorservice.NewOperatorServiceClient(conn)
	return p
}

func (p *party) note(ctx context.Context, method string, in, out any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, o ...grpc.CallOption) error {
	err := invoke(ctx, method, in, out, cc, o...)
	for range 50 { // attackers hurry: what the server refuses for its rate has not been tried
		if status.Code(err) != codes.ResourceExhausted {
			break
		}
		time.Sleep(100 * time.Millisecond)
		err = invoke(ctx, method, in, out, cc, o...)
	}
	answer, _ := out.(proto.Message)
	if err != nil {
		answer = status.Convert(err).Proto()
	}
	raw, marshalErr := proto.Marshal(answer)
	if marshalErr != nil {
		p.Errorf("%s: %v", method, marshalErr)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers = append(p.answers, raw)
	return err
}

// told gives everything that a party was answered.
func (p *party) told() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []byte
	for _, a := range p.answers {
		all = append(all, a...)
	}
	return all
}

// record counts an attack, and fails its test if the attacker received a secret.
func (b *bench) record(t *testing.T, attack string, p *party, outcome string) {
	t.Helper()
	sweep := harness.NewSweep(b.canaries)
	sweep.Bytes("the "+p.name+"'s answers", p.told())
	found, _ := sweep.Count()
	summary.Lock()
	defer summary.Unlock()
	summary.tried++
	if found > 0 {
		summary.succeeded++
		outcome = "IT SUCCEEDED"
		t.Error(sweep.Report())
	}
	summary.rows = append(summary.rows, fmt.Sprintf("%-14s %-46s %s", p.name, attack, outcome))
}

func refusal(err error) string {
	st := status.Convert(err)
	return fmt.Sprintf("refused: %s", st.Code())
}

func TestAttacks(t *testing.T) {
	b := newBench(t, nil)
	b.robVictim(t)
	t.Run("Pasting", func(t *testing.T) { pasting(t, b) })
	t.Run("Lying", func(t *testing.T) { lying(t, b) })
	t.Run("Leading", func(t *testing.T) { leading(t, b) })
	t.Run("Reading", func(t *testing.T) { reading(t, b) })
	t.Run("HonestPartyReads", func(t *testing.T) { honest(t, b) })
	t.Run("Records", func(t *testing.T) { recordsHoldNothing(t, b) })
}

// TestAttacksOnRawHistory reads through a server that answers histories as serialised blobs.
func TestAttacksOnRawHistory(t *testing.T) {
	b := newBench(t, map[string]any{"frontend.sendRawWorkflowHistory": true})
	b.robVictim(t)
	for _, attacker := range []string{"stranger", "clerk"} {
		p := b.as(t, attacker, victims)
		_, err := p.GetWorkflowExecutionHistory(p.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: victims, Execution: execution("ward")})
		if err == nil {
			t.Errorf("the %s got a raw history", attacker)
		}
		b.record(t, "a raw history", p, refusal(err))
	}
	worker := b.as(t, "worker", victims)
	a, err := worker.GetWorkflowExecutionHistory(worker.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: victims, Execution: execution("ward")})
	if err != nil || len(a.RawHistory) == 0 {
		t.Fatalf("%v; %d blobs", err, len(a.GetRawHistory()))
	}
	worker.knows(t, b, "input", "memo", "signal")
}
