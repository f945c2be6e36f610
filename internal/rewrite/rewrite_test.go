package rewrite

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

const testNamespace = "clinic-prod"

// sealAll has no verdict for requests, so everything is sealed.
const sealAll = `package temporal

response contains {"action": "open"}
`

// newRewriter gives a rewriter with a local key and this policy.
func newRewriter(t testing.TB, rego string) *Rewriter {
	t.Helper()
	file := filepath.Join(t.TempDir(), "seal.key")
	if err := localkey.Create(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	return newRewriterWith(t, rego, file, localkey.Open)
}

// newRewriterWith is newRewriter with a key that exists, opened in a way of the test's own.
func newRewriterWith(t testing.TB, rego, file string, open func(context.Context, string) (crypto.Provider, error)) *Rewriter {
	t.Helper()
	ctx := context.Background()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	keys, err := keyring.New(ctx, keyring.Options{
		Keys: []keyring.KeyConfig{{Name: "phi", Active: "local:" + file}, {Name: "default", Active: "local:" + file}},
		Open: open,
		Log:  quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keys.Close)
	keys.Confirm(testNamespace) // as after the first answer of the upstream
	engine, err := policy.NewEngine(ctx, policy.Options{Shipped: []byte(rego), KeyRank: keys.Rank, DefaultKey: keys.DefaultKey})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Options{Keys: keys, Policy: engine, Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// call begins a call in the tests' namespace.
func (r *Rewriter) call(m *Method) *Session {
	c := r.Begin(m, nil)
	c.call.namespace = testNamespace
	return c
}

// sealed seals a message of any type as if it were a request's.
func sealed(t testing.TB, r *Rewriter, m *Method, d protoreflect.MessageDescriptor, in []byte) ([]byte, error) {
	t.Helper()
	c := compiler{plan: r.plan.Load(), method: m.name}
	asRequest := *m
	asRequest.request = c.message(d, "", "")
	call := r.call(&asRequest)
	defer call.Done()
	out, err := call.Request(context.Background(), bytes.Clone(in))
	return bytes.Clone(out), err
}

// unsealed opens a message of any type as if it were an answer.
func unsealed(t testing.TB, r *Rewriter, m *Method, d protoreflect.MessageDescriptor, in []byte) ([]byte, error) {
	t.Helper()
	c := compiler{plan: r.plan.Load(), method: m.name, response: true}
	asResponse := *m
	asResponse.response = c.message(d, "", "")
	asResponse.task, asResponse.whole, asResponse.limits = true, true, false // everything must open, and nothing else change
	call := r.call(&asResponse)
	defer call.Done()
	out, err := call.Response(context.Background(), bytes.Clone(in))
	return bytes.Clone(out), err
}

// eachMessage runs fn for every message type of every rewritten RPC.
func eachMessage(t *testing.T, r *Rewriter, fn func(t *testing.T, m *Method, d protoreflect.MessageDescriptor, response bool)) {
	for _, name := range rewritten {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			md := methods.Get(i)
			m := r.Method("/" + string(name) + "/" + string(md.Name()))
			if m == nil {
				t.Fatalf("%s has no plan", md.FullName())
			}
			t.Run(string(md.Name())+"/request", func(t *testing.T) { fn(t, m, md.Input(), false) })
			t.Run(string(md.Name())+"/response", func(t *testing.T) { fn(t, m, md.Output(), true) })
		}
	}
}

// generator makes random messages of a type in which every payload and every
// text that is to be hidden holds a canary.
type generator struct {
	rand     *rand.Rand
	canaries int
	dense    bool // every field of every message is set, to a small depth
	marked   int  // one payload in so many has our marker; 0: none
}

func (g *generator) canary() string {
	g.canaries++
	return fmt.Sprintf("CANARY-%d", g.canaries)
}

const canaryMark = "CANARY-"

func (g *generator) message(d protoreflect.MessageDescriptor, depth int) *dynamicpb.Message {
	m := dynamicpb.NewMessage(d)
	switch d.FullName() {
	case msgPayload:
		g.payload(m)
		return m
	case msgAny:
		g.any(m, depth)
		return m
	case msgDataBlob:
		h, _ := protoregistry.GlobalFiles.FindDescriptorByName(msgHistory)
		m.Set(d.Fields().ByName("encoding_type"), protoreflect.ValueOfEnum(1))
		m.Set(d.Fields().ByName("data"), protoreflect.ValueOfBytes(marshal(g.message(h.(protoreflect.MessageDescriptor), depth+2))))
		return m
	}
	fields := d.Fields()
	if d.FullName() == msgNexusFailure {
		m.Set(fields.ByName("message"), protoreflect.ValueOfString(g.canary()))
		m.Set(fields.ByName("stack_trace"), protoreflect.ValueOfString(g.canary()))
		m.Set(fields.ByName("details"), protoreflect.ValueOfBytes([]byte(`{"v":"`+g.canary()+`"}`)))
		return m
	}
	for i := range fields.Len() {
		if fd := fields.Get(i); g.wants(fd, depth) {
			g.set(m, fd, depth)
		}
	}
	if d.FullName() == msgFailure {
		m.Set(d.Fields().ByName("message"), protoreflect.ValueOfString(g.canary()))
		m.Set(d.Fields().ByName("stack_trace"), protoreflect.ValueOfString(g.canary()))
	}
	return m
}

func (g *generator) wants(fd protoreflect.FieldDescriptor, depth int) bool {
	if fd.Message() != nil && depth > 12 {
		return false
	}
	if g.dense && depth < 9 {
		return fd.ContainingOneof() == nil || g.rand.IntN(2) == 0
	}
	return g.rand.IntN(3) == 0
}

func (g *generator) payload(m *dynamicpb.Message) {
	fields := m.Descriptor().Fields()
	md := m.Mutable(fields.ByName("metadata")).Map()
	kind := g.rand.IntN(8)
	if g.marked > 0 && g.rand.IntN(g.marked) == 0 {
		kind = -1
	}
	switch kind {
	case -1:
		md.Set(protoreflect.ValueOfString("encoding").MapKey(), protoreflect.ValueOfBytes([]byte(envelope.EncodingWhole)))
	case 0: // an app's payload without metadata
	case 1:
		md.Set(protoreflect.ValueOfString("encoding").MapKey(), protoreflect.ValueOfBytes([]byte("my-encoding")))
		md.Set(protoreflect.ValueOfString("x").MapKey(), protoreflect.ValueOfBytes(nil))
	default:
		md.Set(protoreflect.ValueOfString("encoding").MapKey(), protoreflect.ValueOfBytes([]byte("json/plain")))
	}
	m.Set(fields.ByName("data"), protoreflect.ValueOfBytes([]byte(`{"v":"`+g.canary()+`"}`)))
	if g.rand.IntN(6) == 0 {
		e := m.Mutable(fields.ByName("external_payloads")).List().AppendMutable().Message()
		e.Set(e.Descriptor().Fields().ByName("size_bytes"), protoreflect.ValueOfInt64(7))
	}
}

var anyTypes = []protoreflect.FullName{
	"temporal.api.update.v1.Request", "temporal.api.update.v1.Acceptance", "temporal.api.update.v1.Response",
	"temporal.api.update.v1.Rejection", "temporal.api.errordetails.v1.QueryFailedFailure",
	"temporal.api.errordetails.v1.MultiOperationExecutionFailure", "google.protobuf.Duration",
}

func (g *generator) any(m *dynamicpb.Message, depth int) {
	name := anyTypes[g.rand.IntN(len(anyTypes))]
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		panic(err)
	}
	fields := m.Descriptor().Fields()
	m.Set(fields.ByName("type_url"), protoreflect.ValueOfString("type.googleapis.com/"+string(name)))
	m.Set(fields.ByName("value"), protoreflect.ValueOfBytes(marshal(g.message(d.(protoreflect.MessageDescriptor), depth+2))))
}

func (g *generator) set(m *dynamicpb.Message, fd protoreflect.FieldDescriptor, depth int) {
	switch {
	case fd.IsMap():
		mp := m.Mutable(fd).Map()
		for range 1 + g.rand.IntN(3) {
			key := g.scalar(fd.MapKey())
			if v := fd.MapValue(); v.Message() != nil {
				mp.Set(key.MapKey(), protoreflect.ValueOfMessage(g.message(v.Message(), depth+1)))
			} else {
				mp.Set(key.MapKey(), g.scalar(v))
			}
		}
	case fd.IsList():
		l := m.Mutable(fd).List()
		for range 1 + g.rand.IntN(2) {
			if fd.Message() != nil {
				l.Append(protoreflect.ValueOfMessage(g.message(fd.Message(), depth+1)))
			} else {
				l.Append(g.scalar(fd))
			}
		}
	case fd.Message() != nil:
		m.Set(fd, protoreflect.ValueOfMessage(g.message(fd.Message(), depth+1)))
	case textSites[siteName(fd)]:
		m.Set(fd, protoreflect.ValueOfString(g.canary()))
	default:
		m.Set(fd, g.scalar(fd))
	}
}

func (g *generator) scalar(fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(1 + g.rand.IntN(2)))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(g.rand.Int32())
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(g.rand.Uint32())
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(g.rand.Int64())
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(g.rand.Uint64())
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(g.rand.Float32())
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(g.rand.Float64())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{1, 2, 3})
	}
	return protoreflect.ValueOfString(fmt.Sprintf("text-%d", g.rand.IntN(1000)))
}

func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// rounds is how many random messages a type gets.
func rounds() int {
	if os.Getenv("REWRITE_ROUNDS") != "" {
		var n int
		fmt.Sscan(os.Getenv("REWRITE_ROUNDS"), &n)
		return n
	}
	return 6
}

// TestEveryMessageIsSealedAndRestored seals a random message of every type in
// both directions, looks for canaries in the result and opens it again.
func TestEveryMessageIsSealedAndRestored(t *testing.T) {
	r := newRewriter(t, sealAll)
	total := 0
	eachMessage(t, r, func(t *testing.T, m *Method, d protoreflect.MessageDescriptor, response bool) {
		for round := range rounds() {
			g := &generator{rand: rand.New(rand.NewPCG(uint64(round), 7)), dense: round%2 == 0}
			in := marshal(g.message(d, 0))
			out, err := sealed(t, r, m, d, in)
			if err != nil {
				t.Fatalf("round %d: seal: %v", round, err)
			}
			if clear := clearOutsideExemptions(t, d, out); clear > 0 {
				t.Errorf("round %d: %d of %d canaries are in clear after sealing", round, clear, g.canaries)
			}
			// Asking to open must give the message back, byte for byte; a second sealing must not see clear text.
			back, err := unsealed(t, r, m, d, out)
			if err != nil {
				t.Fatalf("round %d: open: %v", round, err)
			}
			if !bytes.Equal(back, in) && !textsOnly(d, back, in) {
				t.Fatalf("round %d: what was opened is not what was sealed:\n%s", round, firstDifference(in, back))
			}
			total += g.canaries
		}
	})
	t.Logf("%d canaries sealed and restored", total)
}

// textsOnly reports whether two messages differ in what never comes back in
// this form: the texts of an error answer, and Nexus failures, which the
// server turns into Temporal ones.
func textsOnly(d protoreflect.MessageDescriptor, a, b []byte) bool {
	drop := func(raw []byte) []byte {
		m := dynamicpb.NewMessage(d)
		if err := proto.Unmarshal(raw, m); err != nil {
			return nil
		}
		dropTexts(m)
		return marshal(m)
	}
	return bytes.Equal(drop(a), drop(b))
}

func dropTexts(m protoreflect.Message) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case textSites[siteName(fd)], fd.Message() != nil && fd.Message().FullName() == msgNexusFailure:
			m.Clear(fd)
		case fd.Message() == nil || fd.IsMap() && fd.MapValue().Message() == nil:
		case fd.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { dropTexts(v.Message()); return true })
		case fd.IsList():
			for i := range v.List().Len() {
				dropTexts(v.List().Get(i).Message())
			}
		default:
			dropTexts(v.Message())
		}
		return true
	})
}

func firstDifference(a, b []byte) string {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	end := func(s []byte) int { return min(len(s), i+60) }
	return fmt.Sprintf("at %d of %d and %d bytes\nin:   %q\nback: %q", i, len(a), len(b), a[max(0, i-40):end(a)], b[max(0, i-40):end(b)])
}

// clearOutsideExemptions counts the canaries in a message after those at
// exempt sites have been taken out. It decodes the message by reflection, so
// that it shares nothing with the walk that it checks.
func clearOutsideExemptions(t *testing.T, d protoreflect.MessageDescriptor, raw []byte) int {
	t.Helper()
	m := dynamicpb.NewMessage(d)
	if err := proto.Unmarshal(raw, m); err != nil {
		t.Fatalf("the sealed message does not decode: %v", err)
	}
	dropExempt(m)
	return bytes.Count(marshal(m), []byte(canaryMark))
}

func dropExempt(m protoreflect.Message) {
	if m.Descriptor().FullName() == msgDataBlob {
		dropExemptInBlob(m)
		return
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		_, exempt := exemptions[siteName(fd)]
		switch {
		case exempt:
			m.Clear(fd)
		case fd.Message() == nil || fd.IsMap() && fd.MapValue().Message() == nil:
		case fd.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { dropExempt(v.Message()); return true })
		case fd.IsList():
			for i := range v.List().Len() {
				dropExempt(v.List().Get(i).Message())
			}
		default:
			dropExempt(v.Message())
		}
		return true
	})
}

func dropExemptInBlob(blob protoreflect.Message) {
	h, _ := protoregistry.GlobalFiles.FindDescriptorByName(msgHistory)
	data := blob.Descriptor().Fields().ByName("data")
	m := dynamicpb.NewMessage(h.(protoreflect.MessageDescriptor))
	if err := proto.Unmarshal(blob.Get(data).Bytes(), m); err != nil {
		panic(err)
	}
	dropExempt(m)
	blob.Set(data, protoreflect.ValueOfBytes(marshal(m)))
}
