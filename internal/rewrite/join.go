package rewrite

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Join adds what the upstream's descriptors have beyond those of this build:
// RPCs, messages and fields of a newer server. Nothing that this build knows
// is taken away or changed, so a wrong answer of the upstream can only make
// the plan look at more. Calls that began before keep the plan that they
// began with. It tells whether anything was new.
func (r *Rewriter) Join(upstream []*descriptorpb.FileDescriptorProto) (bool, error) {
	r.joining.Lock()
	defer r.joining.Unlock()
	old := r.plan.Load()
	files, changed, err := joinFiles(old.files, upstream)
	if err != nil || !changed {
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

// joinFiles unites two sets of descriptors; where they differ on a field, the
// known one stays.
func joinFiles(known *protoregistry.Files, upstream []*descriptorpb.FileDescriptorProto) (*protoregistry.Files, bool, error) {
	set := new(descriptorpb.FileDescriptorSet)
	byPath := make(map[string]*descriptorpb.FileDescriptorProto)
	known.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		p := protodesc.ToFileDescriptorProto(f)
		byPath[p.GetName()] = p
		set.File = append(set.File, p)
		return true
	})
	changed := false
	for _, up := range upstream {
		base, ok := byPath[up.GetName()]
		if !ok {
			byPath[up.GetName()] = up
			set.File = append(set.File, up)
			changed = true
			continue
		}
		changed = joinFile(base, up) || changed
	}
	if !changed {
		return known, false, nil
	}
	// A file may name another that the upstream did not send: options of no interest here.
	files, err := protodesc.FileOptions{AllowUnresolvable: true}.NewFiles(set)
	if err != nil {
		return nil, false, fmt.Errorf("the upstream's descriptors do not fit this release's: %w", err)
	}
	return files, true, nil
}

func joinFile(base, up *descriptorpb.FileDescriptorProto) bool {
	changed := false
	for _, dep := range up.GetDependency() {
		if !slices.Contains(base.Dependency, dep) {
			base.Dependency = append(base.Dependency, dep)
		}
	}
	base.MessageType, changed = joinMessages(base.MessageType, up.MessageType)
	base.EnumType = joinEnums(base.EnumType, up.EnumType, &changed)
	for _, s := range up.GetService() {
		i := slices.IndexFunc(base.Service, func(b *descriptorpb.ServiceDescriptorProto) bool { return b.GetName() == s.GetName() })
		if i < 0 {
			base.Service = append(base.Service, s)
			changed = true
			continue
		}
		for _, m := range s.GetMethod() {
			if !slices.ContainsFunc(base.Service[i].Method, func(b *descriptorpb.MethodDescriptorProto) bool { return b.GetName() == m.GetName() }) {
				base.Service[i].Method = append(base.Service[i].Method, m)
				changed = true
			}
		}
	}
	return changed
}

func joinEnums(base, up []*descriptorpb.EnumDescriptorProto, changed *bool) []*descriptorpb.EnumDescriptorProto {
	for _, e := range up {
		if !slices.ContainsFunc(base, func(b *descriptorpb.EnumDescriptorProto) bool { return b.GetName() == e.GetName() }) {
			base = append(base, e)
			*changed = true
		}
	}
	return base // new values of a known enum change nothing here: enums pass as numbers
}

func joinMessages(base, up []*descriptorpb.DescriptorProto) ([]*descriptorpb.DescriptorProto, bool) {
	changed := false
	for _, m := range up {
		i := slices.IndexFunc(base, func(b *descriptorpb.DescriptorProto) bool { return b.GetName() == m.GetName() })
		if i < 0 {
			base = append(base, m)
			changed = true
			continue
		}
		changed = joinMessage(base[i], m) || changed
	}
	return base, changed
}

func joinMessage(base, up *descriptorpb.DescriptorProto) bool {
	changed := false
	base.NestedType, changed = joinMessages(base.NestedType, up.NestedType)
	base.EnumType = joinEnums(base.EnumType, up.EnumType, &changed)
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
		base.ReservedRange, base.ReservedName = nil, nil // a number that was reserved may be in use by now
	}
	return changed
}

// placeInOneof points an added field at the oneof of the same name. One that
// only stands for `optional` is left out: presence is of no interest here. So
// is one that its message does not declare.
func placeInOneof(base, up *descriptorpb.DescriptorProto, f *descriptorpb.FieldDescriptorProto) {
	if f.OneofIndex == nil {
		return
	}
	if f.GetProto3Optional() || uint(f.GetOneofIndex()) >= uint(len(up.OneofDecl)) {
		f.OneofIndex, f.Proto3Optional = nil, nil
		return
	}
	decl := up.OneofDecl[f.GetOneofIndex()]
	i := slices.IndexFunc(base.OneofDecl, func(o *descriptorpb.OneofDescriptorProto) bool { return o.GetName() == decl.GetName() })
	if i < 0 {
		i = firstSynthetic(base) // those must stay behind all real ones
		base.OneofDecl = slices.Insert(base.OneofDecl, i, decl)
		for _, b := range base.Field {
			if b.OneofIndex != nil && int(b.GetOneofIndex()) >= i {
				b.OneofIndex = proto.Int32(b.GetOneofIndex() + 1)
			}
		}
	}
	f.OneofIndex = proto.Int32(int32(i))
}

func firstSynthetic(m *descriptorpb.DescriptorProto) int {
	first := len(m.OneofDecl)
	for _, f := range m.Field {
		if f.GetProto3Optional() {
			first = min(first, int(f.GetOneofIndex()))
		}
	}
	return first
}
