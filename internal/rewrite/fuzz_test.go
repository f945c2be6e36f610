package rewrite

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// fuzzMethods are the RPCs with the richest messages.
var fuzzMethods = []string{"StartWorkflowExecution", "RespondWorkflowTaskCompleted", "RespondActivityTaskFailed",
	"ExecuteMultiOperation", "RespondNexusTaskCompleted", "StartBatchOperation"}

func fuzzSeeds(f *testing.F, r *Rewriter, response bool) {
	for i, name := range fuzzMethods {
		m := r.Method(service + name)
		d := m.request.desc
		if response {
			d = m.response.desc
		}
		for round := range 3 {
			g := &generator{rand: rand.New(rand.NewPCG(uint64(round), 3)), dense: round == 0}
			f.Add(uint8(i), marshal(g.message(d, 4)))
		}
	}
}

// FuzzRequest gives the sealing arbitrary bytes. Whatever it lets through must
// be free of canaries where the server would read a payload, and must mean the
// same when it is opened again. It must not take more memory than the table in
// docs/operations.md allows.
func FuzzRequest(f *testing.F) {
	r := newRewriter(f, sealAll)
	fuzzSeeds(f, r, false)
	f.Add(uint8(0), []byte("*,\n*\n(\n\b00000000%0000\b0%0000100000000100000000")) // a map's key of two types: see decodeDynamic
	factor := slices.Max(slices.Collect(maps.Values(memoryFactors(f))))
	f.Fuzz(func(t *testing.T, method uint8, in []byte) {
		m := r.Method(service + fuzzMethods[int(method)%len(fuzzMethods)])
		before := bytes.Clone(in)
		out, err := request(t, r, m.name, in)
		checkMemory(t, r, factor, m.name, in, false) // the second time, since rules are evaluated once
		if !bytes.Equal(in, before) {
			t.Fatal("the message was changed in place")
		}
		if err != nil {
			return
		}
		want, err := decodeDynamic(m.request.desc, in)
		if err != nil {
			return // the server refuses it, or this decoder fails; what matters is that nothing panicked
		}
		got := dynamicpb.NewMessage(m.request.desc)
		if err := proto.Unmarshal(out, got); err != nil {
			t.Fatalf("a legal message became an illegal one: %v", err)
		}
		if left := clearPayloads(got); left > 0 {
			t.Fatalf("%d payloads are left in clear", left)
		}
		back, err := unsealed(t, r, m, m.request.desc, out)
		if err != nil {
			t.Fatalf("what was sealed does not open: %v", err)
		}
		restored := dynamicpb.NewMessage(m.request.desc)
		if err := proto.Unmarshal(back, restored); err != nil {
			t.Fatalf("what was opened is not a message: %v", err)
		}
		dropTexts(restored)
		dropTexts(want)
		if !proto.Equal(restored, want) {
			t.Fatal("what was opened means something else")
		}
	})
}

// FuzzResponse gives the opening arbitrary bytes. They must not take more memory than
// the table allows.
func FuzzResponse(f *testing.F) {
	r := newRewriter(f, sealAll)
	fuzzSeeds(f, r, true)
	factor := memoryFactors(f)["an answer"]
	f.Fuzz(func(t *testing.T, method uint8, in []byte) {
		checkMemory(t, r, factor, fuzzMethods[int(method)%len(fuzzMethods)], in, true)
	})
}

// clearPayloads counts the payloads of a decoded message that are neither
// sealed, nor exempt, nor empty by the rule for deleting memo keys.
func clearPayloads(m protoreflect.Message) int {
	n := 0
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if _, exempt := exemptions[siteName(fd)]; exempt || fd.Message() == nil {
			return true
		}
		each := func(v protoreflect.Message) {
			if v.Descriptor().FullName() != msgPayload {
				n += clearPayloads(v)
				return
			}
			md := v.Get(v.Descriptor().Fields().ByName("metadata")).Map()
			encoding := md.Get(protoreflect.ValueOfString("encoding").MapKey())
			data := v.Get(v.Descriptor().Fields().ByName("data")).Bytes()
			h := head{data: data}
			if (!encoding.IsValid() || string(encoding.Bytes()) != "binary/sealed.v1") && !h.deletes() {
				n++
			}
		}
		switch {
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool { each(v.Message()); return true })
			}
		case fd.IsList():
			for i := range v.List().Len() {
				each(v.List().Get(i).Message())
			}
		default:
			each(v.Message())
		}
		return true
	})
	return n
}
