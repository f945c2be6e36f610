package rewrite

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	workflowpb "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// newField is beyond what the plan keeps in a table.
const newField = 500_000

// newerServer is the service's file as a later release might have it: a new
// payload field in a known request, one in a message that could hold none,
// and a new RPC.
func newerServer(t *testing.T) []*descriptorpb.FileDescriptorProto {
	t.Helper()
	payloads := &descriptorpb.FieldDescriptorProto{Name: proto.String("extra_input"), JsonName: proto.String("extraInput"), Number: proto.Int32(newField),
		Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Type: descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(),
		TypeName: proto.String(".temporal.api.common.v1.Payloads")}
	messages := protodesc.ToFileDescriptorProto(workflowpb.File_temporal_api_workflowservice_v1_request_response_proto)
	for _, m := range messages.MessageType {
		switch m.GetName() {
		case "StartWorkflowExecutionRequest", "DescribeTaskQueueRequest":
			m.Field = append(m.Field, payloads)
		}
	}
	service := protodesc.ToFileDescriptorProto(workflowpb.File_temporal_api_workflowservice_v1_service_proto)
	service.Service[0].Method = append(service.Service[0].Method, &descriptorpb.MethodDescriptorProto{Name: proto.String("StartSomethingNew"),
		InputType:  proto.String(".temporal.api.workflowservice.v1.StartWorkflowExecutionRequest"),
		OutputType: proto.String(".temporal.api.workflowservice.v1.StartWorkflowExecutionResponse")})
	return []*descriptorpb.FileDescriptorProto{messages, service}
}

// TestJoin: what a newer server's reflection describes is sealed as if this build
// had known it, also by those who hold a method of the plan before.
func TestJoin(t *testing.T) {
	r := newRewriter(t, sealAll)
	start, describe := r.Method(service+"StartWorkflowExecution"), r.Method(service+"DescribeTaskQueue")
	in := append(bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, Input: secret("CANARY-1")}),
		wireField(newField, bytesOf(t, secret("CANARY-2")))...)
	if _, err := request(t, r, start.name, in); err == nil {
		t.Fatal("an unknown field with a payload passed")
	}
	if describe.RequestTouched() || r.Method(service+"StartSomethingNew") != nil {
		t.Fatal("known before it was learnt")
	}
	if changed, err := r.Join(newerServer(t)); err != nil || !changed {
		t.Fatalf("join: %v, %v", changed, err)
	}
	if changed, err := r.Join(newerServer(t)); err != nil || changed {
		t.Errorf("the same once more: %v, %v", changed, err)
	}
	if !describe.RequestTouched() {
		t.Error("a method of the old plan does not see the new field")
	}
	for _, name := range []string{"StartWorkflowExecution", "StartSomethingNew"} {
		out, err := request(t, r, name, in)
		if err != nil || bytes.Contains(out, []byte(canaryMark)) {
			t.Fatalf("%s: not sealed: %v", name, err)
		}
		m := r.Method(service + name)
		if back, err := unsealed(t, r, m, m.request.desc, out); err != nil || !bytes.Equal(back, in) {
			t.Errorf("%s: not restored: %v", name, err)
		}
	}
}

// TestJoinTakesNothingAway: an upstream that is older, or wrong about a field,
// changes nothing that this build knows.
func TestJoinTakesNothingAway(t *testing.T) {
	r := newRewriter(t, sealAll)
	messages := protodesc.ToFileDescriptorProto(workflowpb.File_temporal_api_workflowservice_v1_request_response_proto)
	for _, m := range messages.MessageType {
		if m.GetName() != "StartWorkflowExecutionRequest" {
			continue
		}
		for _, f := range m.Field {
			if f.GetName() == "input" {
				f.Type, f.TypeName = descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), nil
			}
		}
		m.Field = m.Field[:len(m.Field)-1]
	}
	if changed, err := r.Join([]*descriptorpb.FileDescriptorProto{messages}); err != nil || changed {
		t.Fatalf("join: %v, %v", changed, err)
	}
	out, err := request(t, r, "StartWorkflowExecution", bytesOf(t, &workflowpb.StartWorkflowExecutionRequest{Namespace: testNamespace, Input: secret("CANARY-1")}))
	if err != nil || bytes.Contains(out, []byte(canaryMark)) {
		t.Errorf("not sealed: %v", err)
	}
}

// TestDescriptorsThatDoNotFit: whatever an upstream's descriptors hold, joining them returns an error and keeps the plan.
func TestDescriptorsThatDoNotFit(t *testing.T) {
	for name, breakIt := range map[string]func(*descriptorpb.DescriptorProto){
		"more singular payload fields than a set has bits": func(m *descriptorpb.DescriptorProto) {
			for i := range int32(65) {
				f := proto.CloneOf(newerServer(t)[0].MessageType[0].Field[0])
				f.Name, f.JsonName, f.Number = proto.String(fmt.Sprint("f", i)), proto.String(fmt.Sprint("f", i)), proto.Int32(newField+i)
				f.Type, f.TypeName = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(), proto.String(".temporal.api.common.v1.Payloads")
				f.Label, f.OneofIndex = descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), nil
				m.Field = append(m.Field, f)
			}
		},
		"a type that nobody declares": func(m *descriptorpb.DescriptorProto) {
			f := proto.CloneOf(m.Field[0])
			f.Name, f.JsonName, f.Number, f.Type = proto.String("f"), proto.String("f"), proto.Int32(newField), nil
			m.Field = append(m.Field, f)
		},
	} {
		r := newRewriter(t, sealAll)
		messages := protodesc.ToFileDescriptorProto(workflowpb.File_temporal_api_workflowservice_v1_request_response_proto)
		for _, m := range messages.MessageType {
			if m.GetName() == "StartWorkflowExecutionRequest" {
				breakIt(m)
			}
		}
		before := r.plan.Load()
		if changed, err := r.Join([]*descriptorpb.FileDescriptorProto{messages}); err == nil || changed || r.plan.Load() != before {
			t.Errorf("%s: changed %v, %v", name, changed, err)
		}
	}
}

// TestHostileDescriptors: an upstream's descriptors cost no more than those of a release, and are refused where they would.
func TestHostileDescriptors(t *testing.T) {
	file := func(name string, messages ...*descriptorpb.DescriptorProto) *descriptorpb.FileDescriptorProto {
		return &descriptorpb.FileDescriptorProto{Name: &name, Package: proto.String("hostile"), Syntax: proto.String("proto3"), MessageType: messages}
	}
	named := func(name string) *descriptorpb.DescriptorProto { return &descriptorpb.DescriptorProto{Name: &name} }
	field := func(name string, number int32, of string) *descriptorpb.FieldDescriptorProto {
		return &descriptorpb.FieldDescriptorProto{Name: &name, JsonName: &name, Number: &number, TypeName: &of,
			Type: descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()}
	}
	many := func(n int) (all []*descriptorpb.DescriptorProto) {
		for i := range n {
			all = append(all, named(fmt.Sprint("M", i)))
		}
		return all
	}
	deep := named("Innermost")
	for range 5000 {
		outer := named("M")
		outer.NestedType = append(outer.NestedType, deep)
		deep = outer
	}
	// Two fields of each type lead to the next one: 2 to the power of 40 paths.
	doubling := many(40)
	for i, m := range doubling {
		next := fmt.Sprint(".hostile.M", i+1)
		if i == len(doubling)-1 {
			next = ".temporal.api.common.v1.Payloads"
		}
		m.Field = append(m.Field, field("a", 1, next), field("b", 2, next))
	}
	paths := file("paths.proto", doubling...)
	paths.Dependency = []string{"temporal/api/common/v1/message.proto"}
	start := protodesc.ToFileDescriptorProto(workflowpb.File_temporal_api_workflowservice_v1_request_response_proto)
	start.Dependency = append(start.Dependency, "paths.proto")
	for _, m := range start.MessageType {
		if m.GetName() == "StartWorkflowExecutionRequest" {
			m.Field = append(m.Field, field("hostile", newField, ".hostile.M0"))
		}
	}
	one, two := file("one.proto", named("One")), file("two.proto", named("Two"))
	one.Dependency, two.Dependency = []string{"two.proto"}, []string{"one.proto"}
	var files []*descriptorpb.FileDescriptorProto
	for i := range 20 {
		messages := many(5000)
		for _, m := range messages {
			m.Name = proto.String(fmt.Sprint(m.GetName(), "_", i))
		}
		files = append(files, file(fmt.Sprint(i), messages...))
	}
	self := named("S")
	self.Field = append(self.Field, field("s", -1, ".hostile.S"))
	for name, upstream := range map[string][]*descriptorpb.FileDescriptorProto{
		"100,000 messages in a file":      {file("many.proto", many(100_000)...)},
		"100,000 messages":                files,
		"messages within messages":        {file("deep.proto", deep)},
		"a name of a megabyte":            {file("long.proto", named(strings.Repeat("M", 1<<20)))},
		"imports in a circle":             {one, two},
		"more paths than memory":          {paths, start},
		"a message that is nothing":       {file("nil.proto", nil, nil)},
		"a field without a proper number": {file("self.proto", self)},
	} {
		r := newRewriter(t, sealAll)
		before := r.plan.Load()
		if changed, err := r.Join(upstream); err == nil || changed || r.plan.Load() != before || len(err.Error()) > 1000 {
			t.Errorf("%s: changed %v, %.300v", name, changed, err)
		}
	}
	// The bounds leave room for what later releases have.
	left := maxElements / 3
	newRewriter(t, sealAll).plan.Load().files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !within(protodesc.ToFileDescriptorProto(f).ProtoReflect(), 2, &left) {
			t.Errorf("%s, of this release, is not within a third of the bounds", f.Path())
		}
		return true
	})
}

// TestOneofThatIsNotDeclared: a field of a oneof that its message does not declare counts as one outside of oneofs.
func TestOneofThatIsNotDeclared(t *testing.T) {
	r := newRewriter(t, sealAll)
	messages := newerServer(t)
	for _, m := range messages[0].MessageType {
		for _, f := range m.Field {
			if f.GetNumber() == newField {
				f.OneofIndex = proto.Int32(7)
			}
		}
	}
	if changed, err := r.Join(messages); err != nil || !changed {
		t.Errorf("changed %v, %v", changed, err)
	}
}

// TestNewOneof: a new member of a new oneof finds its place before the oneofs
// that only stand for `optional`.
func TestNewOneof(t *testing.T) {
	field := func(name string, num int32, oneof int32, optional bool) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, JsonName: &name, Number: &num, OneofIndex: &oneof,
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(), Type: descriptorpb.FieldDescriptorProto_TYPE_INT32.Enum()}
		if optional {
			f.Proto3Optional = proto.Bool(true)
		}
		return f
	}
	oneof := func(names ...string) (all []*descriptorpb.OneofDescriptorProto) {
		for _, n := range names {
			all = append(all, &descriptorpb.OneofDescriptorProto{Name: proto.String(n)})
		}
		return all
	}
	base := &descriptorpb.DescriptorProto{Name: proto.String("M"), OneofDecl: oneof("_a"), Field: []*descriptorpb.FieldDescriptorProto{field("a", 1, 0, true)}}
	up := &descriptorpb.DescriptorProto{Name: proto.String("M"), OneofDecl: oneof("choice", "_a", "_c"), Field: []*descriptorpb.FieldDescriptorProto{
		field("a", 1, 1, true), field("b", 2, 0, false), field("c", 3, 2, true)}}
	if !joinMessage(base, up) {
		t.Fatal("nothing new was found")
	}
	file := &descriptorpb.FileDescriptorProto{Name: proto.String("m.proto"), Syntax: proto.String("proto3"), MessageType: []*descriptorpb.DescriptorProto{base}}
	d, err := protodesc.NewFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := d.Messages().Get(0)
	if o := m.Fields().ByNumber(protowire.Number(2)).ContainingOneof(); o == nil || o.Name() != "choice" {
		t.Errorf("b is in %v", o)
	}
	if !m.Fields().ByNumber(1).HasOptionalKeyword() {
		t.Error("a lost its presence")
	}
}

// TestTextsOfNewerServers: a text of a field that this release does not know comes before the policy, once the server
// describes it.
func TestTextsOfNewerServers(t *testing.T) {
	r := newRewriter(t, sealAll+"\nrequest contains {\"action\": \"redact\"} if input.payload.kind == \"text\"\n")
	messages := protodesc.ToFileDescriptorProto(workflowpb.File_temporal_api_workflowservice_v1_request_response_proto)
	for _, m := range messages.MessageType {
		if m.GetName() == "DescribeTaskQueueRequest" {
			m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{Name: proto.String("remark"), JsonName: proto.String("remark"),
				Number: proto.Int32(newField), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
				Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum()})
		}
	}
	if changed, err := r.Join([]*descriptorpb.FileDescriptorProto{messages}); err != nil || !changed {
		t.Fatalf("join: %v, %v", changed, err)
	}
	in := append(bytesOf(t, &workflowpb.DescribeTaskQueueRequest{Namespace: testNamespace}), wireField(newField, []byte("CANARY-remark"))...)
	out, err := request(t, r, "DescribeTaskQueue", in)
	if err != nil || !bytes.Contains(out, []byte(redactedReason)) || bytes.Contains(out, []byte(canaryMark)) {
		t.Errorf("the text of a new field is not redacted: %q, %v", out, err)
	}
}
