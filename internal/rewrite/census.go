package rewrite

import (
	_ "embed"
	"strings"
	"sync"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// class is what a field of type string, bytes or map holds, and so who can read it. fields.txt has that of every field.
type class uint8

const (
	classUnknown    class = iota // not in fields.txt
	classPayload                 // sealed as a payload or with one
	classReason                  // a note by a person: stays readable, a policy may deny or redact it
	classText                    // another text of the users' own: likewise
	classCredential              // a map in which credentials travel: likewise, and the shipped policy denies them
	classNamespace               // the name of a namespace
	className                    // a name that the server needs in clear: an id, a type, a task queue, a query
	classServer                  // written by the server, or opaque to all others
	classExempt                  // the users' own, and the server has to read it, for the reason that fields.txt gives
)

// classNames are the classes as fields.txt and the documents name them.
var classNames = [...]string{classUnknown: "unknown", classPayload: "payload", classReason: "reason", classText: "text",
	classCredential: "credential", classNamespace: "namespace", className: "name", classServer: "server", classExempt: "exempt"}

//go:embed fields.txt
var fieldsTable string

// apiPackage is the prefix that fields.txt leaves out.
const apiPackage = "temporal.api."

// fieldClasses returns the classes by the full names of fields.
var fieldClasses = sync.OnceValue(func() map[protoreflect.FullName]class {
	byName := make(map[string]class, len(classNames))
	for c, name := range classNames {
		byName[name] = class(c)
	}
	classes := make(map[protoreflect.FullName]class, strings.Count(fieldsTable, "\n"))
	for line := range strings.Lines(fieldsTable) {
		name, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		site, _, _ := strings.Cut(rest, ":")
		if !strings.HasPrefix(site, "google.") {
			site = apiPackage + site
		}
		classes[protoreflect.FullName(site)] = byName[name]
	}
	return classes
})

// classOf returns the class of a field. The texts of a field that only a newer server describes may be anything, so they
// count as the users' own.
func classOf(fd protoreflect.FieldDescriptor) class {
	if c := fieldClasses()[fd.FullName()]; c != classUnknown {
		return c
	}
	if _, err := protoregistry.GlobalFiles.FindDescriptorByName(fd.FullName()); err != nil {
		return classText
	}
	return classUnknown
}

// isText reports whether a field is a string or a map to strings.
func isText(fd protoreflect.FieldDescriptor) bool {
	if fd.IsMap() {
		fd = fd.MapValue()
	}
	return fd.Kind() == protoreflect.StringKind
}

// readableKind returns the kind that a policy reads of a text that stays readable: "" if nothing is decided about it.
func readableKind(fd protoreflect.FieldDescriptor) string {
	if !isText(fd) || fd.IsList() {
		return ""
	}
	switch classOf(fd) {
	case classReason:
		return policy.KindReason
	case classText, classCredential:
		return policy.KindText
	}
	return ""
}
