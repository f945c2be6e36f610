package rewrite

import (
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// pathCount is what the independent walk below finds for the version of the
// API that this build is compiled with. A new version changes it: look at the
// new paths (make payload-paths), then put the new number here.
const pathCount = 1116

// paths lists every path on which a message of a type can hold a payload, an
// Any or a serialised history. It does not use the plan. A path is cut
// where a message type comes again that it has been through already.
func paths(d protoreflect.MessageDescriptor, prefix string, through map[protoreflect.FullName]bool, emit func(path string, leaf protoreflect.FieldDescriptor)) {
	if through[d.FullName()] {
		return
	}
	through[d.FullName()] = true
	defer delete(through, d.FullName())
	fields := d.Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		value, path := fd, prefix+"."+string(fd.Name())
		if fd.IsMap() {
			value, path = fd.MapValue(), path+"{}"
		} else if fd.IsList() {
			path += "[]"
		}
		if value.Message() == nil {
			continue
		}
		switch value.Message().FullName() {
		case msgPayload, msgAny, msgDataBlob:
			emit(path, fd)
		default:
			paths(value.Message(), path, through, emit)
		}
	}
}

func services(t testing.TB) []protoreflect.MethodDescriptor {
	t.Helper()
	var all []protoreflect.MethodDescriptor
	for _, name := range rewritten {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			all = append(all, methods.Get(i))
		}
	}
	return all
}

// TestPayloadPaths counts the paths a second time and holds each against the
// plan: a path is handled, or its site stands in the table of exemptions.
// With PAYLOAD_PATHS=1 it prints them.
func TestPayloadPaths(t *testing.T) {
	p, err := newPlan(protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	total, exempt := 0, 0
	for _, md := range services(t) {
		m := p.methods["/"+string(md.Parent().FullName())+"/"+string(md.Name())]
		for _, side := range []struct {
			d    protoreflect.MessageDescriptor
			root *node
		}{{md.Input(), m.request}, {md.Output(), m.response}} {
			paths(side.d, "", map[protoreflect.FullName]bool{}, func(path string, leaf protoreflect.FieldDescriptor) {
				total++
				reason, ok := exemptions[siteName(leaf)]
				what := "sealed"
				if ok {
					exempt++
					what = "exempt: " + reason
				}
				lines = append(lines, fmt.Sprintf("%s %s%s: %s", md.Name(), side.d.Name(), path, what))
				got := planned(side.root, path)
				if want := wantedOp(leaf, ok, side.root == m.response); got != want {
					t.Errorf("%s%s: the plan does %d there, want %d", side.d.Name(), path, got, want)
				}
			})
		}
	}
	if total != pathCount {
		t.Errorf("%d payload paths, want %d: look at the new ones (make payload-paths) before you change the number", total, pathCount)
	}
	if os.Getenv("PAYLOAD_PATHS") != "" {
		sort.Strings(lines)
		fmt.Println(strings.Join(lines, "\n"))
		fmt.Println("cycle rule: a path is cut at the first repeat of a message type")
		fmt.Printf("paths: %d total, %d sealed, %d exempt\n", total, total-exempt, exempt)
	}
}

// wantedOp is what a site of this type must be handled as.
func wantedOp(leaf protoreflect.FieldDescriptor, exempt, response bool) op {
	value := leaf
	if leaf.IsMap() {
		value = leaf.MapValue()
	}
	switch {
	case value.Message().FullName() == msgAny:
		return opAny
	case value.Message().FullName() == msgDataBlob:
		return opHistoryBlob
	case siteName(leaf) == "Failure.encoded_attributes":
		return opFailAttributes
	case !exempt:
		return opPayload
	case response:
		return opSkip
	case siteName(leaf) == "SearchAttributes.indexed_fields":
		return opSearchAttribute
	}
	return opExempt
}

// planned follows a path through the plan and gives what it does at the end.
func planned(n *node, path string) op {
	var f *field
	for _, step := range strings.Split(strings.TrimPrefix(path, "."), ".") {
		if n == nil {
			return opSkip // the plan saw that nothing is to be done below
		}
		name, isMap := strings.CutSuffix(strings.TrimSuffix(step, "[]"), "{}")
		f = n.field(n.desc.Fields().ByName(protoreflect.Name(name)).Number())
		if isMap && f.child != nil {
			f = f.child.field(2)
		}
		n = f.child
		if f.op == opSkipMessage || f.op == opSkip {
			n = nil
		}
	}
	if f.op == opSkipMessage {
		return opSkip
	}
	return f.op
}

// TestEverySiteHasAKind keeps policies from meeting a guess: somebody looks at
// the kind of a new payload site, and puts it into testdata/kinds.txt, before it
// is released.
func TestEverySiteHasAKind(t *testing.T) {
	seen, reviewed := map[string]bool{}, map[string]string{}
	list, err := os.ReadFile("testdata/kinds.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(list)) {
		site, kind, _ := strings.Cut(strings.TrimSpace(line), " ")
		reviewed[site] = kind
	}
	look := func(leaf protoreflect.FieldDescriptor) {
		site := siteName(leaf)
		_, exempt := exemptions[site]
		kind, known := reviewed[site]
		seen[site] = true
		if !exempt && !known {
			t.Errorf("%s has no kind: add it to testdata/kinds.txt", site)
		}
		if known && kindOf(leaf) != kind {
			t.Errorf("%s has the kind %s, want %s", site, kindOf(leaf), kind)
		}
	}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		// The notification service is not Temporal's frontend: nothing of it passes here.
		if pkg := string(file.Package()); strings.HasPrefix(pkg, "temporal.api.") && !strings.HasPrefix(pkg, "temporal.api.notificationservice") {
			eachField := func(fd protoreflect.FieldDescriptor) {
				value := fd
				if fd.IsMap() {
					value = fd.MapValue()
				}
				if value.Message() == nil || fd.ContainingMessage().IsMapEntry() {
					return
				}
				name := value.Message().FullName()
				if name == msgPayload && fd.ContainingMessage().FullName() != msgPayloads || name == msgPayloads {
					look(fd)
				}
			}
			rangeFields(file.Messages(), eachField)
		}
		return true
	})
	for site := range exemptions {
		if !seen[site] {
			t.Errorf("the exemption %s matches no field", site)
		}
	}
	for site := range reviewed {
		if !seen[site] && !textSites[site] {
			t.Errorf("the kind of %s matches no field", site)
		}
	}
	for site := range kinds {
		if !seen[site] && !textSites[site] {
			t.Errorf("the kind of %s matches no field", site)
		}
	}
}

func rangeFields(messages protoreflect.MessageDescriptors, fn func(protoreflect.FieldDescriptor)) {
	for i := range messages.Len() {
		m := messages.Get(i)
		for j := range m.Fields().Len() {
			fn(m.Fields().Get(j))
		}
		rangeFields(m.Messages(), fn)
	}
}
