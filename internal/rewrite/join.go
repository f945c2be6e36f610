package rewrite

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/temporal-seal/temporal-seal/internal/x/fault"
)

// Join adds the RPCs, messages and fields of a newer server to the plan, from its
// descriptors. It never removes or changes what this build knows, so wrong
// descriptors can only make the plan look at more. Sessions that began before keep
// their plan. Join reports whether anything was new. Whatever the descriptors hold, it neither panics nor takes more memory than
// a few times that of the plan.
func (r *Rewriter) Join(upstream []*descriptorpb.FileDescriptorProto) (changed bool, err error) {
	r.joining.Lock()
	defer r.joining.Unlock()
	defer func() {
		if p := recover(); p != nil {
			changed, err = false, fmt.Errorf("the upstream's descriptors cannot be read: %s", fault.Describe(p))
		}
	}()
	if !fits(upstream) {
		return false, errors.New("the upstream describes more than any release of Temporal")
	}
	old := r.plan.Load()
	files, isNew, err := joinFiles(old.files, upstream)
	if err != nil || !isNew {
		return false, err
	}
	p, err := newPlan(files)
	if err != nil {
		return false, err
	}
	for full, m := range old.methods {
		m.next.Store(p.methods[full])
	}
	r.plan.Store(p)
	return true, nil
}

// These bound the descriptors of an upstream. Those of this release are some 10,000 elements: messages, fields, options and so on.
const (
	maxElements = 50_000
	maxInList   = 5000 // elements of one list
	maxNesting  = 10
	maxName     = 200 // bytes; a full name holds those of all that surround it
)

// fits reports whether descriptors are within the bounds.
func fits(files []*descriptorpb.FileDescriptorProto) bool {
	left := maxElements
	return !slices.ContainsFunc(files, func(f *descriptorpb.FileDescriptorProto) bool { return !within(f.ProtoReflect(), 0, &left) })
}

// within reports whether a part of the descriptors is within the bounds, of which left is what elements are left.
func within(m protoreflect.Message, depth int, left *int) bool {
	ok := depth <= maxNesting
	part := func(v protoreflect.Value) { ok = ok && within(v.Message(), depth+1, left) }
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsList():
			n := v.List().Len()
			*left -= n
			ok = ok && n <= maxInList && *left >= 0
			for i := 0; ok && fd.Message() != nil && i < n; i++ {
				part(v.List().Get(i))
			}
		case fd.Message() != nil:
			part(v)
		case fd.Name() == "name" || fd.Name() == "package":
			ok = ok && len(v.String()) <= maxName
		}
		return ok
	})
	return ok
}

// joinFiles unites two sets of descriptors. Where they differ about a field, the
// known one stays.
func joinFiles(known *protoregistry.Files, upstream []*descriptorpb.FileDescriptorProto) (*protoregistry.Files, bool, error) {
	set := new(descriptorpb.FileDescriptorSet)
	known.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		set.File = append(set.File, protodesc.ToFileDescriptorProto(f))
		return true
	})
	changed := false
	if set.File, changed = joinNamed(set.File, upstream, joinFile); !changed {
		return known, false, nil
	}
	// The upstream may leave out files that others import, such as those of options.
	files, err := protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(set)
	if err != nil {
		return nil, false, fmt.Errorf("the upstream's descriptors do not fit this release's: %w", err)
	}
	return files, true, nil
}

// joinNamed appends the elements whose names base lacks, and calls join for those
// that both have. It reports whether anything was new. If join is nil, known elements
// stay as they are.
func joinNamed[T interface{ GetName() string }](base, up []T, join func(base, up T) bool) ([]T, bool) {
	changed := false
	for _, u := range up {
		i := slices.IndexFunc(base, func(b T) bool { return b.GetName() == u.GetName() })
		if i < 0 {
			base, changed = append(base, u), true
		} else if join != nil {
			changed = join(base[i], u) || changed
		}
	}
	return base, changed
}

// joinFile adds to a file what the upstream has beyond it.
func joinFile(base, up *descriptorpb.FileDescriptorProto) bool {
	for _, dep := range up.GetDependency() {
		if !slices.Contains(base.Dependency, dep) {
			base.Dependency = append(base.Dependency, dep)
		}
	}
	var messages, enums, services bool
	base.MessageType, messages = joinNamed(base.MessageType, up.MessageType, joinMessage)
	base.EnumType, enums = joinNamed(base.EnumType, up.EnumType, nil) // values of enums pass as numbers, known or not
	base.Service, services = joinNamed(base.Service, up.Service, func(base, up *descriptorpb.ServiceDescriptorProto) (changed bool) {
		base.Method, changed = joinNamed(base.Method, up.Method, nil)
		return changed
	})
	return messages || enums || services
}

// joinMessage adds to a message what the upstream has beyond it.
func joinMessage(base, up *descriptorpb.DescriptorProto) bool {
	var changed, enums bool
	base.NestedType, changed = joinNamed(base.NestedType, up.NestedType, joinMessage)
	base.EnumType, enums = joinNamed(base.EnumType, up.EnumType, nil)
	changed = changed || enums
	for _, f := range up.GetField() {
		clash := func(b *descriptorpb.FieldDescriptorProto) bool {
			return b.GetNumber() == f.GetNumber() || b.GetName() == f.GetName() || b.GetJsonName() == f.GetJsonName()
		}
		if slices.ContainsFunc(base.Field, clash) {
			continue
		}
		added := proto.CloneOf(f)
		placeInOneof(base, up, added)
		base.Field = append(base.Field, added)
		changed = true
	}
	if changed {
		base.ReservedRange, base.ReservedName = nil, nil // the newer server may use a reserved number
	}
	return changed
}

// placeInOneof points an added field at the oneof of the same name. It drops oneofs
// that only implement `optional`, since presence does not matter here, and those that
// the message does not declare.
func placeInOneof(base, up *descriptorpb.DescriptorProto, f *descriptorpb.FieldDescriptorProto) {
	if f.OneofIndex == nil {
		return
	}
	if f.GetProto3Optional() || uint(f.GetOneofIndex()) >= uint(len(up.OneofDecl)) {
		f.OneofIndex, f.Proto3Optional = nil, nil
		return
	}
	decl := up.OneofDecl[f.GetOneofIndex()]
	i := slices.IndexFunc(base.OneofDecl, func(o *descriptorpb.OneofDescriptorProto) bool {
		return o.GetName() == decl.GetName()
	})
	if i < 0 {
		i = firstSynthetic(base) // synthetic oneofs have to follow all others
		base.OneofDecl = slices.Insert(base.OneofDecl, i, decl)
		for _, b := range base.Field {
			if b.OneofIndex != nil && int(b.GetOneofIndex()) >= i {
				b.OneofIndex = proto.Int32(b.GetOneofIndex() + 1)
			}
		}
	}
	f.OneofIndex = proto.Int32(int32(i))
}

// firstSynthetic returns the index of the first oneof that only implements
// `optional`.
func firstSynthetic(m *descriptorpb.DescriptorProto) int {
	first := len(m.OneofDecl)
	for _, f := range m.Field {
		if f.GetProto3Optional() {
			first = min(first, int(f.GetOneofIndex()))
		}
	}
	return first
}
