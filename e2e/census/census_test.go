// Package census counts the texts of Temporal's API a second time. It takes the list from docs/fields.md and the API from
// the serialized descriptors, and shares no code with the product.
package census

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	_ "go.temporal.io/api/errordetails/v1"
	_ "go.temporal.io/api/operatorservice/v1"
	_ "go.temporal.io/api/update/v1"
	_ "go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// api is what the serialized descriptors hold: messages by their names, and the messages from which others are reached.
type api struct {
	messages map[string]*descriptorpb.DescriptorProto
	roots    []string
	methods  int
}

// readAPI reads the descriptors of Temporal's API and of the messages of protobuf that it uses.
func readAPI() *api {
	a := &api{messages: map[string]*descriptorpb.DescriptorProto{}}
	protoregistry.GlobalFiles.RangeFiles(func(fd protoreflect.FileDescriptor) bool {
		file := protodesc.ToFileDescriptorProto(fd)
		pkg := file.GetPackage()
		if !strings.HasPrefix(pkg, "temporal.api.") && pkg != "google.protobuf" {
			return true
		}
		for _, m := range file.GetMessageType() {
			a.add("."+pkg, m)
			if pkg == "temporal.api.update.v1" || pkg == "temporal.api.errordetails.v1" {
				a.roots = append(a.roots, "."+pkg+"."+m.GetName())
			}
		}
		for _, s := range file.GetService() {
			if s.GetName() != "WorkflowService" && s.GetName() != "OperatorService" {
				continue
			}
			for _, m := range s.GetMethod() {
				a.methods++
				a.roots = append(a.roots, m.GetInputType(), m.GetOutputType())
			}
		}
		return true
	})
	return a
}

// add adds a message and those declared within it.
func (a *api) add(scope string, m *descriptorpb.DescriptorProto) {
	name := scope + "." + m.GetName()
	a.messages[name] = m
	for _, nested := range m.GetNestedType() {
		a.add(name, nested)
	}
}

// texts returns the fields of type string, bytes or map that the roots reach, as docs/fields.md names them.
func (a *api) texts() []string {
	var found []string
	seen, todo := map[string]bool{}, slices.Clone(a.roots)
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		m := a.messages[name]
		entry := m.GetOptions().GetMapEntry()
		for _, f := range m.GetField() {
			text := f.GetType() == descriptorpb.FieldDescriptorProto_TYPE_STRING || f.GetType() == descriptorpb.FieldDescriptorProto_TYPE_BYTES
			if f.GetType() == descriptorpb.FieldDescriptorProto_TYPE_MESSAGE {
				todo = append(todo, f.GetTypeName())
				text = a.messages[f.GetTypeName()].GetOptions().GetMapEntry()
			}
			if text && !entry {
				found = append(found, strings.TrimPrefix(strings.TrimPrefix(name, "."), "temporal.api.")+"."+f.GetName())
			}
		}
	}
	return found
}

var row = regexp.MustCompile("^\\| ([a-z]+) \\| `([A-Za-z0-9_.]+)` \\| (.+) \\|$")
var quoted = regexp.MustCompile("`([a-z0-9_]+)`")

// readTable returns the class of each field in docs/fields.md.
func readTable(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/fields.md")
	if err != nil {
		t.Fatal(err)
	}
	classes := map[string]string{}
	for line := range strings.Lines(string(text)) {
		m := row.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		fields, _, _ := strings.Cut(m[3], ": ")
		for _, f := range quoted.FindAllStringSubmatch(fields, -1) {
			classes[m[2]+"."+f[1]] = m[1]
		}
	}
	return classes
}

// TestCensus counts the fields of each class; each field of the API has one.
func TestCensus(t *testing.T) {
	a, classes := readAPI(), readTable(t)
	if a.methods != 135 {
		t.Errorf("the API has %d methods, not 135: look at the new ones", a.methods)
	}
	counts, fields := map[string]int{}, a.texts()
	for _, f := range fields {
		if classes[f] == "" {
			t.Errorf("%s has no class in docs/fields.md", f)
		}
		counts[classes[f]]++
	}
	if len(fields) != len(classes) {
		t.Errorf("the API has %d fields, docs/fields.md has %d", len(fields), len(classes))
	}
	fmt.Printf("fields: %d total, %d payload, %d text, %d name, %d namespace, %d credential, %d server, %d exempt; %d unclassified\n",
		len(fields), counts["payload"], counts["text"]+counts["reason"], counts["name"], counts["namespace"], counts["credential"],
		counts["server"], counts["exempt"], counts[""])
}
