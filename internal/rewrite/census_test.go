package rewrite

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// texts calls do for each field of type string, bytes or map that a message type reaches, once per type.
func texts(d protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool, do func(protoreflect.FieldDescriptor)) {
	if seen[d.FullName()] {
		return
	}
	seen[d.FullName()] = true
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		if fd.IsMap() || fd.Kind() == protoreflect.StringKind || fd.Kind() == protoreflect.BytesKind {
			do(fd)
		}
		if m := messageOf(fd); m != nil {
			texts(m, seen, do)
		}
	}
}

// allTexts returns the fields of type string, bytes or map that a caller or the server can fill.
func allTexts(t *testing.T) map[string]protoreflect.FieldDescriptor {
	t.Helper()
	all, seen := map[string]protoreflect.FieldDescriptor{}, map[protoreflect.FullName]bool{}
	add := func(fd protoreflect.FieldDescriptor) {
		all[strings.TrimPrefix(string(fd.FullName()), apiPackage)] = fd
	}
	for _, md := range services(t) {
		texts(md.Input(), seen, add)
		texts(md.Output(), seen, add)
	}
	// These travel in a google.protobuf.Any.
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if pkg := file.Package(); pkg == "temporal.api.update.v1" || pkg == "temporal.api.errordetails.v1" {
			for i := range file.Messages().Len() {
				texts(file.Messages().Get(i), seen, add)
			}
		}
		return true
	})
	return all
}

// censusLine is a line of fields.txt.
type censusLine struct{ class, site, why string }

// readCensus returns the lines of fields.txt.
func readCensus(t *testing.T) []censusLine {
	t.Helper()
	var lines []censusLine
	for line := range strings.Lines(fieldsTable) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		site, why, _ := strings.Cut(rest, ": ")
		if !slices.Contains(classNames[1:], name) || site == "" {
			t.Errorf("fields.txt: %q has no class", line)
		}
		lines = append(lines, censusLine{name, site, why})
	}
	return lines
}

// TestCensusIsComplete holds fields.txt to the descriptors: a new field of the API needs a class before it is released.
func TestCensusIsComplete(t *testing.T) {
	all, listed := allTexts(t), map[string]bool{}
	for _, l := range readCensus(t) {
		switch {
		case listed[l.site]:
			t.Errorf("%s has two lines", l.site)
		case all[l.site] == nil:
			t.Errorf("%s is not a field of the API", l.site)
		case l.class == classNames[classExempt] && l.why == "":
			t.Errorf("%s is exempt and has no reason", l.site)
		}
		listed[l.site] = true
	}
	for _, site := range slices.Sorted(maps.Keys(all)) {
		if !listed[site] {
			t.Errorf("%s has no class: whose text is it, and who can read it? Add it to fields.txt", site)
		}
	}
}

// TestCensusHoldsInThePlan follows each text of each request through the plan: what the census calls the users' own comes
// before the policy, and nothing else that stays readable does.
func TestCensusHoldsInThePlan(t *testing.T) {
	p, err := newPlan(protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	sealed := map[string]bool{}
	found := map[string]int{}
	for _, md := range services(t) {
		m := p.methods["/"+string(md.Parent().FullName())+"/"+string(md.Name())]
		visitPlan(m.request, nil, func(n *node, fd protoreflect.FieldDescriptor, f *field) {
			site := strings.TrimPrefix(string(fd.FullName()), apiPackage)
			c := fieldClasses()[fd.FullName()]
			got, want := f.op, ""
			if fd.IsMap() && f.child != nil {
				got = f.child.field(2).op
				f = f.child.field(2)
			}
			switch c {
			case classReason:
				want = policy.KindReason
			case classText, classCredential:
				want = policy.KindText
			}
			if (got == opReadable) != (want != "") || want != "" && f.kind != want {
				t.Errorf("%s: %s is of the class %s; the plan does %d there, as kind %q", m.name, site, classNames[c], got, f.kind)
			}
			if c == classPayload && (got == opText || got == opFailMessage || got == opFailStack) {
				sealed[site] = true
			}
			found[classNames[c]]++
		})
	}
	for _, site := range []string{"failure.v1.Failure.message", "failure.v1.Failure.stack_trace", "query.v1.WorkflowQueryResult.error_message",
		"workflowservice.v1.RespondQueryTaskCompletedRequest.error_message"} {
		if !sealed[site] {
			t.Errorf("the text %s is not sealed", site)
		}
	}
	for _, name := range classNames[classPayload:] {
		if found[name] == 0 {
			t.Errorf("no field of the class %s was looked at", name)
		}
	}
}

// visitPlan calls do for each text of the messages that a request reaches. Where the plan has no node for a message, the
// fields of that message are seen without a plan.
func visitPlan(n *node, open []*node, do func(*node, protoreflect.FieldDescriptor, *field)) {
	if slices.Contains(open, n) {
		return
	}
	open = append(open, n)
	for i := range n.desc.Fields().Len() {
		fd := n.desc.Fields().Get(i)
		f := n.field(fd.Number())
		if fd.IsMap() || fd.Kind() == protoreflect.StringKind || fd.Kind() == protoreflect.BytesKind {
			do(n, fd, f)
		}
		child := f.child
		if fd.IsMap() && child != nil {
			child = child.field(2).child
		}
		if child != nil {
			visitPlan(child, open, do)
			continue
		}
		if d := messageOf(fd); d != nil && f.op != opPayload && f.op != opNexusFailure && f.op != opAny {
			texts(d, map[protoreflect.FullName]bool{}, func(fd protoreflect.FieldDescriptor) { do(n, fd, &field{}) })
		}
	}
}

const (
	fieldsDocs  = "../../docs/fields.md"
	fieldsBegin = "<!-- fields: written by `make census` -->\n"
	fieldsEnd   = "<!-- end of fields -->\n"
)

// TestFieldTable holds the table in the documentation to the census. With -update-docs it writes it.
func TestFieldTable(t *testing.T) {
	text, err := os.ReadFile(fieldsDocs)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), fieldsBegin)
	_, after, ok2 := strings.Cut(rest, fieldsEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table of fields", fieldsDocs)
	}
	want := before + fieldsBegin + fieldTable(readCensus(t)) + fieldsEnd + after
	if *updateDocs {
		if err := os.WriteFile(fieldsDocs, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if want != string(text) {
		t.Errorf("the table in %s is not what fields.txt says: run make census", fieldsDocs)
	}
}

// fieldTable writes a row per class and message, in the order of fields.txt. An exempt field has a row of its own.
func fieldTable(lines []censusLine) string {
	var b strings.Builder
	b.WriteString("| class | message | fields |\n|---|---|---|\n")
	for i := 0; i < len(lines); {
		l := lines[i]
		message := l.site[:strings.LastIndexByte(l.site, '.')]
		var names []string
		for ; i < len(lines) && lines[i].class == l.class && lines[i].why == l.why &&
			lines[i].site[:strings.LastIndexByte(lines[i].site, '.')] == message; i++ {
			names = append(names, "`"+lines[i].site[len(message)+1:]+"`")
		}
		fmt.Fprintf(&b, "| %s | `%s` | %s", l.class, message, strings.Join(names, ", "))
		if l.why != "" {
			fmt.Fprintf(&b, ": %s", l.why)
		}
		b.WriteString(" |\n")
	}
	return b.String()
}

// eachReadable calls do for every path of a message type to a text that is the users' own and stays readable.
func eachReadable(d protoreflect.MessageDescriptor, path []protoreflect.FieldDescriptor, do func([]protoreflect.FieldDescriptor)) {
	for _, step := range path {
		if step.ContainingMessage() == d {
			return
		}
	}
	for i := range d.Fields().Len() {
		fd := d.Fields().Get(i)
		at := append(slices.Clip(path), fd)
		if readableKind(fd) != "" {
			do(at)
		}
		if m := messageOf(fd); m != nil && (!fd.IsMap() || m.FullName() != msgPayload) {
			eachReadable(m, at, do)
		}
	}
}

// withText returns a message with a text at a path.
func withText(d protoreflect.MessageDescriptor, path []protoreflect.FieldDescriptor, text string) *dynamicpb.Message {
	m := dynamicpb.NewMessage(d)
	key := protoreflect.ValueOfString("key").MapKey()
	switch fd, rest := path[0], path[1:]; {
	case fd.IsMap() && fd.MapKey().Kind() != protoreflect.StringKind:
		panic("a map with other keys: " + string(fd.FullName()))
	case fd.IsMap() && len(rest) == 0:
		m.Mutable(fd).Map().Set(key, protoreflect.ValueOfString(text))
	case fd.IsMap():
		m.Mutable(fd).Map().Set(key, protoreflect.ValueOfMessage(withText(fd.MapValue().Message(), rest, text)))
	case len(rest) == 0:
		m.Set(fd, protoreflect.ValueOfString(text))
	case fd.IsList():
		m.Mutable(fd).List().Append(protoreflect.ValueOfMessage(withText(fd.Message(), rest, text)))
	default:
		m.Set(fd, protoreflect.ValueOfMessage(withText(fd.Message(), rest, text)))
	}
	return m
}

// TestEveryReadableText puts a text into every place of every request that stays readable and is the users' own, and has the
// policy redact it and deny it.
func TestEveryReadableText(t *testing.T) {
	const readables = "\nrequest contains {\"action\": \"%s\"} if input.payload.kind in {\"reason\", \"text\"}\n"
	redacting := newRewriter(t, sealAll+fmt.Sprintf(readables, "redact"))
	denying := newRewriter(t, sealAll+fmt.Sprintf(readables, "deny"))
	kinds := map[string]int{}
	for _, md := range services(t) {
		if md.Parent().Name() != "WorkflowService" {
			continue
		}
		eachReadable(md.Input(), nil, func(path []protoreflect.FieldDescriptor) {
			in, err := proto.Marshal(withText(md.Input(), path, canaryMark))
			if err != nil {
				t.Fatal(err)
			}
			last := path[len(path)-1].FullName()
			out, err := request(t, redacting, string(md.Name()), in)
			if err != nil || bytes.Contains(out, []byte(canaryMark)) || !bytes.Contains(out, []byte(redactedReason)) && !bytes.Contains(out, []byte(encodedFailure)) {
				t.Errorf("%s: %s is not redacted: %v", md.Name(), last, err)
			}
			if err := proto.Unmarshal(out, dynamicpb.NewMessage(md.Input())); err != nil {
				t.Errorf("%s: with %s redacted, it cannot be read: %v", md.Name(), last, err)
			}
			var e *Error
			if _, err := request(t, denying, string(md.Name()), in); !errors.As(err, &e) || e.Kind != KindDenied {
				t.Errorf("%s: %s is not denied: %v", md.Name(), last, err)
			}
			kinds[readableKind(path[len(path)-1])]++
		})
	}
	if kinds[policy.KindReason] < 25 || kinds[policy.KindText] < 15 {
		t.Errorf("only %v places were tried", kinds)
	}
	cause := bytesOf(t, &workflowpb.RespondActivityTaskFailedRequest{Namespace: testNamespace,
		Failure: &failurepb.Failure{Message: "m", Cause: &failurepb.Failure{Source: canaryMark, Message: "n"}}})
	if out, err := request(t, redacting, "RespondActivityTaskFailed", cause); err != nil || bytes.Contains(out, []byte(canaryMark)) {
		t.Errorf("the source of a cause is not redacted: %v", err)
	}
}

// TestDroppedSearchAttribute: the server gets the attribute and its type, without the value.
func TestDroppedSearchAttribute(t *testing.T) {
	r := newRewriter(t, sealAll+"\nrequest contains {\"action\": \"drop\"} if input.payload.name == \"Owner\"\n")
	attribute := func(value string) *commonpb.Payload {
		return &commonpb.Payload{Data: []byte(`"` + value + `"`), Metadata: map[string][]byte{"encoding": []byte("json/plain"), "type": []byte("Keyword")}}
	}
	out, err := request(t, r, "StartWorkflowExecution", bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace,
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{
			"Owner": attribute(canaryMark), "Region": attribute("eu")}}}))
	if err != nil {
		t.Fatal(err)
	}
	got := new(workflowpb.StartWorkflowExecutionRequest)
	if err := proto.Unmarshal(out, got); err != nil {
		t.Fatal(err)
	}
	want := map[string]*commonpb.Payload{"Region": attribute("eu"),
		"Owner": {Metadata: map[string][]byte{"encoding": []byte("binary/null"), "type": []byte("Keyword")}}}
	for name, p := range got.SearchAttributes.GetIndexedFields() {
		if !proto.Equal(p, want[name]) {
			t.Errorf("%s became %v", name, p)
		}
	}
	if len(got.SearchAttributes.GetIndexedFields()) != len(want) {
		t.Errorf("%d attributes", len(got.SearchAttributes.GetIndexedFields()))
	}
}
