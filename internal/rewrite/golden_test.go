package rewrite

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
)

var updateGolden = flag.Bool("update-golden", false, "write the outputs in testdata/golden anew")

const goldenDir = "testdata/golden"

// TestGolden compares what is made of messages with files that a person can
// read. CASE.txt is a message as an application sends it, or as a caller is to
// get it, in protobuf's text form and written by hand; CASE.sealed.txt is what
// the server gets or holds; and CASE.opened.txt what is made of that in an
// answer, under the rules of policy.rego beside them. -update-golden writes
// the outputs; a change in them is a change of what is sealed.
func TestGolden(t *testing.T) {
	rego, err := os.ReadFile(filepath.Join(goldenDir, "policy.rego"))
	if err != nil {
		t.Fatal(err)
	}
	r := newRewriter(t, string(rego))
	files, err := filepath.Glob(filepath.Join(goldenDir, "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	inputs := slices.DeleteFunc(files, func(f string) bool { return strings.Count(filepath.Base(f), ".") > 1 })
	if len(inputs) == 0 {
		t.Fatal("no cases")
	}
	for _, file := range inputs {
		name := strings.TrimSuffix(file, ".txt")
		t.Run(filepath.Base(name), func(t *testing.T) {
			g := readGolden(t, r, file)
			out := g.sealed(t)
			noClear(t, out)
			g.compare(t, name+".sealed.txt", out)
			if g.part != "request" {
				g.compare(t, name+".opened.txt", g.opened(t, out))
			}
		})
	}
}

// golden is one case.
type golden struct {
	r      *Rewriter
	method *Method
	part   string // request, response or status
	in     proto.Message
}

var goldenHead = regexp.MustCompile(`^# ([A-Za-z]+) (request|response|status)(, the history as raw_history)?\n`)

// readGolden reads a case. Its first line names the RPC and the part of it.
func readGolden(t *testing.T, r *Rewriter, file string) *golden {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head := goldenHead.FindSubmatch(text)
	if head == nil {
		t.Fatalf("%s does not begin with `# METHOD request|response|status`", file)
	}
	g := &golden{r: r, part: string(head[2]), method: r.Method(service + string(head[1]))}
	if g.method == nil {
		t.Fatalf("%s: there is no %s", file, head[1])
	}
	g.in = g.empty(t)
	if err := prototext.Unmarshal(text, g.in); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if len(head[3]) > 0 {
		asRawHistory(t, g.in.(*workflowpb.GetWorkflowExecutionHistoryResponse))
	}
	return g
}

func asRawHistory(t *testing.T, m *workflowpb.GetWorkflowExecutionHistoryResponse) {
	m.RawHistory = []*commonpb.DataBlob{{EncodingType: enumspb.ENCODING_TYPE_PROTO3, Data: bytesOf(t, m.History)}}
	m.History = nil
}

func (g *golden) empty(t *testing.T) proto.Message {
	t.Helper()
	var d protoreflect.MessageDescriptor
	switch g.part {
	case "request":
		d = g.method.request.desc
	case "response":
		d = g.method.response.desc
	default:
		return new(spb.Status)
	}
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return mt.New().Interface()
}

// sealed gives what the server gets of a request, or holds of what it answers.
func (g *golden) sealed(t *testing.T) proto.Message {
	t.Helper()
	switch g.part {
	case "request":
		out, err := request(t, g.r, g.method.name, bytesOf(t, g.in))
		if err != nil {
			t.Fatal(err)
		}
		return decode(t, out, g.empty(t))
	case "response":
		out, err := sealed(t, g.r, g.method, g.method.response.desc, bytesOf(t, g.in))
		if err != nil {
			t.Fatal(err)
		}
		return decode(t, out, g.empty(t))
	}
	return sealedStatus(t, g.r, g.method, g.in.(*spb.Status))
}

func (g *golden) opened(t *testing.T, in proto.Message) proto.Message {
	t.Helper()
	c := g.r.call(g.method)
	defer c.Done()
	if st, ok := in.(*spb.Status); ok {
		return c.Status(context.Background(), st)
	}
	out, err := c.Response(context.Background(), bytesOf(t, in))
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, bytes.Clone(out), g.empty(t))
}

// noClear keeps a careless update from recording clear text as wanted: what is
// to be hidden in a case is written as SECRET and a word.
func noClear(t *testing.T, out proto.Message) {
	t.Helper()
	if clear := goldenSecret.FindAll(bytesOf(t, out), -1); len(clear) > 0 {
		t.Errorf("in clear: %q", clear)
	}
}

var goldenSecret = regexp.MustCompile(`SECRET [A-Z]+`)

func (g *golden) compare(t *testing.T, file string, m proto.Message) {
	t.Helper()
	p := printer{t: t, keys: g.r.state.Load().Keys}
	p.message(m.ProtoReflect())
	got := p.out.String()
	if *updateGolden {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (-update-golden writes it)", err)
	}
	if got != string(want) {
		line := 0
		a, b := strings.Split(got, "\n"), strings.Split(string(want), "\n")
		for line < len(a) && line < len(b) && a[line] == b[line] {
			line++
		}
		t.Errorf("%s: line %d differs (-update-golden writes it anew); got:\n%s", file, line+1, got)
	}
}

// printer writes a message in protobuf's text form with what is sealed
// described, and with the messages within bytes shown as messages. The form of
// package prototext varies from build to build on purpose, so it is no use here.
type printer struct {
	t      *testing.T
	keys   *keyring.Keyring
	out    strings.Builder
	indent int
}

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(&p.out, "%s%s\n", strings.Repeat("  ", p.indent), fmt.Sprintf(format, args...))
}

func (p *printer) block(head string, body func()) {
	p.line("%s {", head)
	p.indent++
	body()
	p.indent--
	p.line("}")
}

func (p *printer) message(m protoreflect.Message) {
	switch m.Descriptor().FullName() {
	case msgAny:
		p.any(m)
		return
	case msgDataBlob:
		p.with(m, "data", "History", new(historypb.History), proto.Unmarshal)
		return
	case msgNexusFailure:
		p.with(m, "details", "Failure as JSON", new(failurepb.Failure), protojson.Unmarshal)
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); m.Has(fd) {
			p.field(fd, m.Get(fd))
		}
	}
}

func (p *printer) field(fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch {
	case fd.IsMap():
		keys := map[string]protoreflect.MapKey{}
		v.Map().Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool { keys[k.String()] = k; return true })
		names := make([]string, 0, len(keys))
		for name := range keys {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			p.block(string(fd.Name()), func() {
				p.line("key: %q", name)
				p.value("value", fd.MapValue(), v.Map().Get(keys[name]))
			})
		}
	case fd.IsList():
		for i := range v.List().Len() {
			p.value(string(fd.Name()), fd, v.List().Get(i))
		}
	default:
		p.value(string(fd.Name()), fd, v)
	}
}

func (p *printer) value(name string, fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch {
	case fd.Message() != nil && fd.Message().FullName() == msgPayload:
		p.payload(name, v.Message())
	case fd.Message() != nil:
		p.block(name, func() { p.message(v.Message()) })
	case fd.Enum() != nil:
		p.line("%s: %s", name, fd.Enum().Values().ByNumber(v.Enum()).Name())
	case fd.Kind() == protoreflect.StringKind:
		p.line("%s: %s", name, quoted(sealedText.ReplaceAllStringFunc(v.String(), p.text)))
	case fd.Kind() == protoreflect.BytesKind:
		p.line("%s: %s", name, quoted(string(v.Bytes())))
	default:
		p.line("%s: %v", name, v)
	}
}

// quoted prefers the quotes that leave JSON readable; a reader of the text
// form takes both.
func quoted(s string) string {
	q := strconv.Quote(s)
	if strings.Contains(s, `"`) && !strings.ContainsAny(s, `'\`) && strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`) == s {
		return "'" + s + "'"
	}
	return q
}

func (p *printer) payload(name string, m protoreflect.Message) {
	s, marked, err := envelope.ParsePayload(bytesOf(p.t, m.Interface()))
	switch {
	case err != nil:
		p.t.Fatalf("%s: %v", name, err)
	case !marked:
		p.block(name, func() { p.message(m) })
	case s.Form == envelope.FormView:
		p.line("%s: %s", name, p.describe(&s))
		p.line("%s.data: %s", name, quoted(string(m.Get(m.Descriptor().Fields().ByName("data")).Bytes())))
	default:
		p.line("%s: %s", name, p.describe(&s))
	}
}

// describe returns of an envelope what does not change from run to run.
func (p *printer) describe(s *envelope.Sealed) string {
	clear, _, err := p.keys.Open(context.Background(), nil, s, testNamespace, new(keyring.Run))
	if err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprintf("<sealed: %s, key %q, namespace %q, %d bytes in clear>", s.Form, s.Header.Key, s.Header.Namespace, len(clear))
}

var sealedText = regexp.MustCompile(regexp.QuoteMeta(envelope.TextPrefix) + `[A-Za-z0-9_-]+`)

func (p *printer) text(text string) string {
	s, marked, err := envelope.ParseText([]byte(text))
	if err != nil || !marked {
		p.t.Fatalf("a text that bears the mark: %v", err)
	}
	return p.describe(&s)
}

func (p *printer) inner(head string, m proto.Message, read func(proto.Message) error) {
	if err := read(m); err != nil {
		p.t.Fatalf("%s: %v", head, err)
	}
	p.block(head, func() { p.message(m.ProtoReflect()) })
}

func (p *printer) any(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	url, value := m.Get(fields.ByName("type_url")).String(), m.Get(fields.ByName("value")).Bytes()
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	if err != nil {
		p.line("type_url: %q", url)
		p.line("value: %q", value)
		return
	}
	p.inner("["+url+"]", mt.New().Interface(), func(m proto.Message) error { return proto.Unmarshal(value, m) })
}

// with shows the bytes of one field as the message that the server reads from them.
func (p *printer) with(m protoreflect.Message, name protoreflect.Name, form string, within proto.Message, read func([]byte, proto.Message) error) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case !m.Has(fd):
		case fd.Name() == name:
			p.inner(fmt.Sprintf("%s: %s", name, form), within, func(w proto.Message) error { return read(m.Get(fd).Bytes(), w) })
		default:
			p.field(fd, m.Get(fd))
		}
	}
}
