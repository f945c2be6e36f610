package contract

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	querypb "go.temporal.io/api/query/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// granting lets the namespace "reader" open what was sealed in "writer".
var granting = shared(func(dir string) (setup, error) {
	for _, name := range []string{"tenants/acme", "outside"} {
		if err := newKey(filepath.Join(dir, name+".key")); err != nil {
			return setup{}, err
		}
	}
	local := func(name string) string { return fmt.Sprintf("%q", "local:"+filepath.Join(dir, name)) }
	return setup{
		keys: "  - {name: default, active: " + local("default.key") + "}\n" +
			"  - {name: scoped, namespaces: [elsewhere], active: " + local("scoped.key") + "}\n" +
			"  - {name: tenant/*, active: " + local("tenants/{1}.key") + "}\n",
		policy: `package temporal

response contains {"action": "open"}

request contains {"action": "seal", "key": input.workflow.id} if startswith(input.workflow.id, "tenant/")

request contains {"action": "seal", "key": "scoped"} if input.workflow.id == "scoped"
`,
		extra: "grants: [{from: writer, to: reader}]\nnamespaces: [{name: renamed, sealed_as: writer}]\n",
	}, nil
})

func newKey(path string) error {
	bin, err := harness.BuildProxy()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if out, err := exec.Command(bin, "keys", "new", path).CombinedOutput(); err != nil {
		return fmt.Errorf("make a key: %w: %s", err, out)
	}
	return nil
}

// What was sealed in one namespace opens there, and elsewhere only by a grant.
func TestEnvelopesAreBoundToTheirNamespace(t *testing.T) {
	t.Parallel()
	r := granting(t)
	clear := text("CANARY")
	for _, c := range []struct {
		sealedIn, openedIn string
		opens              bool
	}{
		{"writer", "writer", true}, {"writer", "reader", true}, {"reader", "writer", false}, {"writer", "other", false},
		{"other", "reader", false}, {"writer", "writ", false}, {"writer", "writer2", false}, {"Writer", "writer", false},
	} {
		sealed := r.seal(t, c.sealedIn, clear)
		want := sealed[0]
		if c.opens {
			want = clear
		}
		for range 2 { // the second time from whatever is remembered
			equal(
				t,
				fmt.Sprintf("sealed in %q and read in %q", c.sealedIn, c.openedIn),
				r.open(t, c.openedIn, sealed...)[0],
				want,
			)
		}
	}
}

// A namespace that was renamed opens what was sealed under its old name, and is bound to that name from then on.
func TestRenamedNamespacesKeepTheirPayloads(t *testing.T) {
	t.Parallel()
	r := granting(t)
	clear := text("CANARY")
	before, after := r.seal(t, "writer", clear)[0], r.seal(t, "renamed", clear)[0]
	for _, sealed := range []*commonpb.Payload{before, after} {
		for range 2 { // the second time from whatever is remembered
			for _, namespace := range []string{"writer", "renamed", "reader"} {
				equal(t, "read in "+namespace, r.open(t, namespace, sealed)[0], clear)
			}
			equal(t, "read in another namespace", r.open(t, "other", sealed)[0], sealed)
		}
	}
	strange := r.seal(t, "other", clear)[0]
	equal(t, "of another namespace, read in the renamed one", r.open(t, "renamed", strange)[0], strange)
}

// referring seals by reference to a key store.
var referring = shared(func(dir string) (setup, error) {
	bin, err := harness.BuildProxy()
	if err != nil {
		return setup{}, err
	}
	store := "sqlite:" + filepath.Join(dir, "keys.db")
	id, err := exec.Command(bin, "keystore", "init", store).Output()
	if err != nil {
		return setup{}, fmt.Errorf("make a key store: %w", err)
	}
	return setup{
		keys: fmt.Sprintf("  - {name: default, active: %q, envelope: reference}\n", "local:"+filepath.Join(dir, "default.key")),
		policy: `package temporal

response contains {"action": "open"} if input.sealed.key == "default"
`,
		extra: fmt.Sprintf("key_store: {url: %q, id: %q}\ngrants: [{from: writer, to: reader}]\n", store, strings.TrimSpace(string(id))),
	}, nil
})

// byReference seals a value until its envelope is one by reference, which is the shortest.
func (r *rig) byReference(t *testing.T, namespace string, clear *commonpb.Payload) *commonpb.Payload {
	t.Helper()
	longest := 0
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		sealed := r.seal(t, namespace, clear)[0]
		if longest = max(longest, len(sealed.Data)); len(sealed.Data) < longest {
			return sealed
		}
	}
	t.Fatal("no envelope is by reference")
	return nil
}

// An envelope by reference opens where its key belongs, and in no bit changed.
func TestEnvelopesByReference(t *testing.T) {
	t.Parallel()
	r := referring(t)
	clear := text("CANARY")
	sealed := r.byReference(t, "writer", clear)
	for _, namespace := range []string{"writer", "reader"} {
		equal(t, "read in "+namespace, r.open(t, namespace, sealed)[0], clear)
	}
	equal(t, "read in another namespace", r.open(t, "other", sealed)[0], sealed)
	strange := r.byReference(t, "other", clear)
	equal(t, "of another namespace", r.open(t, "writer", strange)[0], strange)
	// With another key id it is Unavailable for a while, since a row that is not there may come.
	changed := slices.DeleteFunc(flips(sealed), func(p *commonpb.Payload) bool {
		return len(p.Data) > 18 && !bytes.Equal(p.Data[2:18], sealed.Data[2:18])
	})
	r.opensToNothingElse(t, "writer", changed)
	equal(t, "read without the key store", plain(t).open(t, "writer", sealed)[0], sealed)
}

// flips changes every byte of a payload in one bit each, and cuts it at several lengths: metadata and data. Nothing is
// known of the layout.
func flips(p *commonpb.Payload) []*commonpb.Payload {
	var all []*commonpb.Payload
	add := func(change func(*commonpb.Payload)) {
		c := proto.CloneOf(p)
		change(c)
		all = append(all, c)
	}
	for i := range p.Data {
		for bit := range 8 {
			add(func(c *commonpb.Payload) { c.Data[i] ^= 1 << bit })
		}
	}
	for n := range p.Data {
		if n%7 == 0 || n > len(p.Data)-40 {
			add(func(c *commonpb.Payload) { c.Data = c.Data[:n] })
		}
	}
	add(func(c *commonpb.Payload) { c.Data = append(c.Data, 0) })
	add(func(c *commonpb.Payload) { c.Data = append(c.Data, c.Data...) })
	return all
}

// opensToNothingElse hands changed payloads to a reader: each comes back as it is.
func (r *rig) opensToNothingElse(t *testing.T, namespace string, changed []*commonpb.Payload) {
	t.Helper()
	for part := range slices.Chunk(changed, 60) { // one message is allowed a limited number of data keys that are refused
		for i, got := range r.open(t, namespace, part...) {
			if !proto.Equal(got, part[i]) {
				t.Fatalf("a changed payload (%d of %d) was opened to %v", i, len(part), got)
			}
		}
	}
}

func TestEveryBitIsAuthenticated(t *testing.T) {
	t.Parallel()
	r := plain(t)
	long := make([]byte, 600)
	rand.Read(long)
	for _, clear := range []*commonpb.Payload{text("CANARY"), {Metadata: map[string][]byte{"encoding": []byte("binary/plain")}, Data: long}} {
		sealed := r.seal(t, "bits", clear)[0]
		equal(t, "the payload as it was sealed", r.open(t, "bits", sealed)[0], clear)
		r.opensToNothingElse(t, "bits", flips(sealed))
	}
}

// Pieces of two envelopes make no third one.
func TestEnvelopesCannotBePutTogether(t *testing.T) {
	t.Parallel()
	r := plain(t)
	one, other := r.seal(t, "bits", text("CANARY one"))[0], r.seal(t, "bits", text("CANARY two"))[0]
	if len(one.Data) != len(other.Data) {
		t.Fatalf("two payloads of one length became %d and %d bytes", len(one.Data), len(other.Data))
	}
	var mixed []*commonpb.Payload
	for n := 1; n < len(one.Data); n++ {
		c := proto.CloneOf(one)
		copy(c.Data[n:], other.Data[n:])
		if !bytes.Equal(c.Data, one.Data) && !bytes.Equal(c.Data, other.Data) {
			mixed = append(mixed, c)
		}
	}
	r.opensToNothingElse(t, "bits", mixed)
}

// Texts have an envelope of their own.
func TestEveryBitOfATextIsAuthenticated(t *testing.T) {
	t.Parallel()
	r := plain(t)
	e := r.send(
		t,
		"RespondQueryTaskCompleted",
		&workflowservice.RespondQueryTaskCompletedRequest{Namespace: "bits", TaskToken: []byte("t"), ErrorMessage: "CANARY text"},
	)
	sealed := forwardedAs(t, e, "RespondQueryTaskCompleted", new(workflowservice.RespondQueryTaskCompletedRequest)).ErrorMessage
	if strings.Contains(sealed, "CANARY") || sealed == "" {
		t.Fatalf("the text was forwarded as %q", sealed)
	}
	if got := r.queryError(t, "bits", sealed); got != "CANARY text" {
		t.Errorf("the text came back as %q", got)
	}
	if got := r.queryError(t, "others", sealed); got != sealed {
		t.Errorf("in another namespace the text came back as %q", got)
	}
	for i := range sealed {
		changed := []byte(sealed)
		changed[i] = map[bool]byte{true: 'A', false: 'B'}[changed[i] == 'B']
		if got := r.queryError(t, "bits", string(changed)); got != string(changed) && got != "CANARY text" {
			t.Fatalf("with letter %d changed the text came back as %q", i, got)
		}
	}
}

// queryError is the text that a caller gets of a query that failed with this one.
func (r *rig) queryError(t *testing.T, namespace, message string) string {
	t.Helper()
	e := r.send(
		t,
		"QueryWorkflow",
		&workflowservice.QueryWorkflowRequest{
			Namespace: namespace,
			Execution: execution("w"),
			Query:     &querypb.WorkflowQuery{QueryType: "q"},
		},
		failing("QueryWorkflow", 3, message),
	)
	e.want(t, "InvalidArgument")
	return e.Status.GetMessage()
}

// Two seals of one value differ, so that nobody sees that the values are the same; and with one nonce twice the key would
// be given up.
func TestEqualValuesLookDifferent(t *testing.T) {
	t.Parallel()
	r := plain(t)
	same := make([]*commonpb.Payload, 200)
	for i := range same {
		same[i] = text("CANARY")
	}
	seen := map[string]bool{}
	for _, p := range r.seal(t, "nonces", same...) {
		if seen[string(p.Data)] {
			t.Fatal("the same bytes came out twice")
		}
		seen[string(p.Data)] = true
	}
	// The last bytes are ciphertext and tag in every AEAD: with a new nonce they all differ.
	ends := map[string]bool{}
	for data := range seen {
		ends[data[len(data)-24:]] = true
	}
	if len(ends) != len(seen) {
		t.Errorf("%d ciphertexts of %d end alike", len(seen)-len(ends), len(seen))
	}
}

// Lengths tell little: short values come out at one length, and nothing is compressed unless a rule says so.
func TestLengthsTellLittle(t *testing.T) {
	t.Parallel()
	r := plain(t)
	short := r.seal(t, "lengths", document("true"), document("false"), document("7"))
	for _, p := range short[1:] {
		if len(p.Data) != len(short[0].Data) {
			t.Errorf("sealed, `true` has %d bytes and another short value %d", len(short[0].Data), len(p.Data))
		}
	}
	random := make([]byte, 3000)
	rand.Read(random)
	letters := base64.StdEncoding.EncodeToString(random)
	long := r.seal(t, "lengths", text(strings.Repeat("a", len(letters))), text(letters))
	if len(long[0].Data) != len(long[1].Data) {
		t.Errorf(
			"of two texts of one length the repetitive one has %d bytes sealed, the random one %d",
			len(long[0].Data),
			len(long[1].Data),
		)
	}
}

func (r *rig) signal(t *testing.T, namespace, workflow string, payloads ...*commonpb.Payload) exchange {
	t.Helper()
	return r.send(t, "SignalWorkflowExecution", &workflowservice.SignalWorkflowExecutionRequest{Namespace: namespace,
		WorkflowExecution: execution(workflow), SignalName: "s", Input: list(payloads...)})
}

func signaled(t *testing.T, e exchange) []*commonpb.Payload {
	t.Helper()
	return forwardedAs(
		t,
		e,
		"SignalWorkflowExecution",
		new(workflowservice.SignalWorkflowExecutionRequest),
	).GetInput().GetPayloads()
}

// A key serves the namespaces that the config says, under a name that cannot lead anywhere else.
func TestKeyNames(t *testing.T) {
	t.Parallel()
	r := granting(t)
	clear := text("CANARY")
	r.isSealed(t, "a payload for a tenant", "keys", signaled(t, r.signal(t, "keys", "tenant/acme", clear))[0], clear)
	r.isSealed(t, "a payload under a scoped key", "elsewhere", signaled(t, r.signal(t, "elsewhere", "scoped", clear))[0], clear)
	r.signal(t, "keys", "scoped", clear).refused(t, "Unavailable")
	r.signal(t, "keys", "tenant/nobody", clear).refused(t, "Unavailable")
	for _, name := range []string{"tenant/../outside", "tenant/", "tenant/./acme", "tenant/acme\x00", "tenant/a/../acme"} {
		r.signal(t, "keys", name, clear).refused(t, "Unavailable")
	}
}

// With a policy that seals parts of a document, the readable part is authenticated as well.
func TestReadablePartsAreAuthenticated(t *testing.T) {
	t.Parallel()
	r := ruled(t)
	clear := document(`{"token":"CANARY","amount":100,"to":"alice"}`)
	sealed := signaled(t, r.signal(t, "parts", "w", clear))[0]
	if bytes.Contains(sealed.Data, []byte("CANARY")) || !bytes.Contains(sealed.Data, []byte("alice")) {
		t.Fatalf("sealed in part it is %s", sealed.Data)
	}
	equal(t, "opened", r.open(t, "parts", sealed)[0], clear)
	var changed []*commonpb.Payload
	for _, c := range []struct{ from, to string }{{"100", "900"}, {"alice", "mal00"}, {`"amount"`, `"amoumt"`}, {`"amount":100`, `"amount":100,"x":1`}} {
		p := proto.CloneOf(sealed)
		p.Data = bytes.Replace(p.Data, []byte(c.from), []byte(c.to), 1)
		if bytes.Equal(p.Data, sealed.Data) {
			t.Fatalf("%s does not stand readable in %s", c.from, sealed.Data)
		}
		changed = append(changed, p)
	}
	r.opensToNothingElse(t, "parts", changed)
	for i := range sealed.Data {
		p := proto.CloneOf(sealed)
		p.Data[i] ^= 1
		if got := r.open(t, "parts", p)[0]; proto.Equal(got, clear) || !proto.Equal(got, p) {
			t.Fatalf("with byte %d changed it opened to %v", i, got)
		}
	}
}

func failing(method string, code int32, message string) answer {
	return answer{method, blackbox.Answer{Status: statusOf(code, message)}}
}
