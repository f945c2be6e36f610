package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	_ "go.temporal.io/api/errordetails/v1" // registers the messages
	historypb "go.temporal.io/api/history/v1"
	_ "go.temporal.io/api/operatorservice/v1" // registers the service
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	spb "google.golang.org/genproto/googleapis/rpc/status"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

// testCase is one call through both binaries. request and answer make the bytes for one of them: sealed values differ.
type testCase struct {
	name      string
	method    string // full name
	token     string
	in, out   protoreflect.MessageDescriptor // nil: unknown
	request   func(context.Context, *side) ([]byte, error)
	answer    func(context.Context, *side) (blackbox.Answer, error)
	messages  int    // that were made for the case: the request, the answer
	codec     string // instead of a call: the path of the codec server that gets the request
	namespace string // of a request to the codec server
}

// methods are those of both services, by name.
func methods() ([]protoreflect.MethodDescriptor, error) {
	var list []protoreflect.MethodDescriptor
	for _, name := range []protoreflect.FullName{
		"temporal.api.workflowservice.v1.WorkflowService", "temporal.api.operatorservice.v1.OperatorService",
	} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			return nil, fmt.Errorf("find the service: %w", err)
		}
		all := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range all.Len() {
			list = append(list, all.Get(i))
		}
	}
	return list, nil
}

func fullName(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

// generated is a case with a made-up request and answer. Each part has random numbers of its own, so that both sides
// get the same though one of them may have drawn more.
func generated(f *profile, m protoreflect.MethodDescriptor, seed, index uint64) testCase {
	numbers := func(part uint64) *rand.Rand { return rand.New(rand.NewPCG(seed+part<<32, index)) }
	r := numbers(0)
	namespace := namespaces[min(r.IntN(2*len(namespaces)), len(namespaces)-1)]
	if r.IntN(2) == 0 {
		namespace = namespaces[0]
	}
	c := testCase{name: fmt.Sprintf("%s/%s#%d", f.name, m.Name(), index),
		method: fullName(m), in: m.Input(), out: m.Output(), messages: 2}
	if len(f.tokens) > 0 {
		c.token = f.tokens[r.IntN(len(f.tokens))]
		if r.IntN(3) > 0 {
			c.token = f.tokens[0]
		}
	}
	pasted, spoiled, spoiledAnswer, failing := r.IntN(8) == 0, r.IntN(4) == 0, r.IntN(7) == 0, r.IntN(8) == 0
	c.request = func(ctx context.Context, s *side) ([]byte, error) {
		g := &generator{r: numbers(1), left: 60, namespace: namespace, sealed: pasted}
		b, err := s.made(ctx, g.message(m.Input(), 6), namespace, numbers(2), pasted)
		return maybeSpoil(b, m.Input(), numbers(3), spoiled), err
	}
	c.answer = func(ctx context.Context, s *side) (blackbox.Answer, error) {
		g := &generator{r: numbers(4), left: 90, namespace: namespace, sealed: true}
		if failing {
			return s.failing(ctx, g, namespace, numbers(5))
		}
		b, err := s.made(ctx, g.message(m.Output(), 7), namespace, numbers(5), true)
		return blackbox.Answer{Body: maybeSpoil(b, m.Output(), numbers(6), spoiledAnswer)}, err
	}
	return c
}

// made encodes a message, after values in it were sealed if that is wanted.
func (s *side) made(ctx context.Context, m proto.Message, namespace string, r *rand.Rand, seal bool) ([]byte, error) {
	if seal {
		z := &sealer{ctx: ctx, side: s, namespace: namespace, r: r}
		z.walk(m.ProtoReflect())
		if z.err != nil {
			return nil, z.err
		}
	}
	return marshal(m), nil
}

// failing is an error answer with details.
func (s *side) failing(ctx context.Context, g *generator, namespace string, r *rand.Rand) (blackbox.Answer, error) {
	st := &spb.Status{Code: int32(1 + g.r.IntN(16)), Message: texts[g.r.IntN(len(texts))]}
	for range g.r.IntN(3) {
		a := new(anypb.Any)
		g.any(a.ProtoReflect(), 4)
		st.Details = append(st.Details, a)
	}
	z := &sealer{ctx: ctx, side: s, namespace: namespace, r: r}
	z.walk(st.ProtoReflect())
	if g.r.IntN(3) == 0 && z.err == nil {
		st.Message, z.err = s.sealText(ctx, namespace, "SECRET TEXT")
	}
	return blackbox.Answer{Status: st}, z.err
}

func maybeSpoil(b []byte, d protoreflect.MessageDescriptor, r *rand.Rand, yes bool) []byte {
	if !yes {
		return b
	}
	nodes, err := parse(b, d)
	if err != nil {
		return b
	}
	nodes, cut := spoil(r, nodes)
	b = encode(nil, nodes)
	if cut && len(b) > 0 {
		b = b[:len(b)-1]
	}
	return b
}

// captured are the recorded RPCs: each request unchanged, and each answer sealed.
func captured(f *profile, root string) ([]testCase, error) {
	files, err := filepath.Glob(filepath.Join(root, "testdata/rpc/*.binpb"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s/testdata/rpc holds no recorded RPCs", root)
	}
	var cases []testCase
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		parts := strings.Split(filepath.Base(file), ".") // METHOD.N.PART.binpb
		c, err := recorded(f, "captured/"+filepath.Base(file), parts[0], parts[2], b)
		if err != nil {
			return nil, err
		}
		cases = append(cases, c)
	}
	return cases, nil
}

// recorded is a case with one given message, in clear.
func recorded(f *profile, name, method, part string, b []byte) (testCase, error) {
	full := protoreflect.FullName("temporal.api.workflowservice.v1.WorkflowService." + method)
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(full)
	if err != nil {
		return testCase{}, fmt.Errorf("%s: %w", name, err)
	}
	m := d.(protoreflect.MethodDescriptor)
	c := testCase{name: f.name + "/" + name, method: fullName(m), in: m.Input(), out: m.Output(), messages: 1}
	if len(f.tokens) > 0 {
		c.token = f.tokens[0]
	}
	c.request = func(context.Context, *side) ([]byte, error) { return namespaceOnly(m.Input()), nil }
	c.answer = func(context.Context, *side) (blackbox.Answer, error) { return blackbox.Answer{}, nil }
	switch part {
	case "request":
		c.request = func(context.Context, *side) ([]byte, error) { return b, nil }
	case "response":
		c.answer = func(ctx context.Context, s *side) (blackbox.Answer, error) {
			t, err := protoregistry.GlobalTypes.FindMessageByName(m.Output().FullName())
			if err != nil {
				return blackbox.Answer{}, err
			}
			response := t.New().Interface()
			if err := proto.Unmarshal(b, response); err != nil {
				return blackbox.Answer{}, fmt.Errorf("%s: %w", name, err)
			}
			body, err := s.made(ctx, response, namespaces[0], nil, true)
			return blackbox.Answer{Body: body}, err
		}
	case "status":
		c.answer = func(ctx context.Context, s *side) (blackbox.Answer, error) {
			st := new(spb.Status)
			if err := proto.Unmarshal(b, st); err != nil {
				return blackbox.Answer{}, fmt.Errorf("%s: %w", name, err)
			}
			z := &sealer{ctx: ctx, side: s, namespace: namespaces[0]}
			z.walk(st.ProtoReflect())
			if z.err == nil {
				st.Message, z.err = s.sealText(ctx, namespaces[0], st.Message)
			}
			return blackbox.Answer{Status: st}, z.err
		}
	default:
		return c, fmt.Errorf("%s: %q is none of request, response, status", name, part)
	}
	return c, nil
}

// namespaceOnly is a request with nothing but its namespace.
func namespaceOnly(d protoreflect.MessageDescriptor) []byte {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	field := d.Fields().ByName("namespace")
	if err != nil || field == nil {
		return nil
	}
	m := t.New()
	m.Set(field, protoreflect.ValueOfString(namespaces[0]))
	return marshal(m.Interface())
}

var goldenHead = regexp.MustCompile(`^# ([A-Za-z]+) (request|response|status)(, the history as raw_history)?\n`)

// golden are the inputs of the golden pairs, as messages of the method that their first line names.
func golden(f *profile, root string) ([]testCase, error) {
	files, err := filepath.Glob(filepath.Join(root, "internal/rewrite/testdata/golden/*.txt"))
	if err != nil {
		return nil, err
	}
	files = slices.DeleteFunc(files, func(file string) bool { return strings.Count(filepath.Base(file), ".") > 1 })
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no golden pairs", root)
	}
	var cases []testCase
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		head := goldenHead.FindSubmatch(text)
		if head == nil {
			return nil, fmt.Errorf("%s: the first line names no method and part", file)
		}
		b, err := goldenMessage(string(head[1]), string(head[2]), len(head[3]) > 0, text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		c, err := recorded(f, "golden/"+filepath.Base(file), string(head[1]), string(head[2]), b)
		if err != nil {
			return nil, err
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func goldenMessage(method, part string, rawHistory bool, text []byte) ([]byte, error) {
	suffix := map[string]string{"request": "Request", "response": "Response"}[part]
	if part == "status" {
		st := new(spb.Status)
		err := prototext.Unmarshal(text, st)
		return marshal(st), err
	}
	full := protoreflect.FullName("temporal.api.workflowservice.v1." + method + suffix)
	t, err := protoregistry.GlobalTypes.FindMessageByName(full)
	if err != nil {
		return nil, err
	}
	m := t.New().Interface()
	if err := prototext.Unmarshal(text, m); err != nil {
		return nil, err
	}
	if r, ok := m.(*workflowservice.GetWorkflowExecutionHistoryResponse); ok && rawHistory {
		h := &historypb.History{Events: r.GetHistory().GetEvents()}
		r.RawHistory = []*commonpb.DataBlob{{EncodingType: 1, Data: marshal(h)}}
		r.History = nil
	}
	return marshal(m), nil
}

// others are calls to what is not a method of Temporal's two services.
func others(f *profile) []testCase {
	var cases []testCase
	for _, method := range []string{
		"/grpc.health.v1.Health/Check",
		"/temporal.server.api.adminservice.v1.AdminService/DescribeCluster",
		"/temporal.api.workflowservice.v1.WorkflowService/NoSuchMethod",
		"/temporal.api.cloud.cloudservice.v1.CloudService/GetUsers",
		"/no.such.Service/Method",
	} {
		c := testCase{name: f.name + "/other" + method, method: method, messages: 1}
		if len(f.tokens) > 0 {
			c.token = f.tokens[0]
		}
		c.request = func(context.Context, *side) ([]byte, error) { return nil, nil }
		c.answer = func(context.Context, *side) (blackbox.Answer, error) { return blackbox.Answer{}, nil }
		cases = append(cases, c)
	}
	return cases
}

// codecCases are requests to the codec server.
func codecCases(f *profile, seed uint64, count int) []testCase {
	var cases []testCase
	for i := range count {
		r := rand.New(rand.NewPCG(seed+77, uint64(i)))
		c := testCase{name: fmt.Sprintf("%s/codec#%d", f.name, i), codec: "/decode", messages: 1,
			token: f.tokens[r.IntN(len(f.tokens))]}
		if r.IntN(3) == 0 {
			c.codec = "/encode"
		}
		c.namespace = namespaces[r.IntN(len(namespaces))]
		c.request = func(ctx context.Context, s *side) ([]byte, error) {
			r := rand.New(rand.NewPCG(seed+78, uint64(i)))
			g := &generator{r: r, left: 20}
			z := &sealer{ctx: ctx, side: s, namespace: c.namespace, r: r}
			var list []string
			for range r.IntN(4) {
				p := new(commonpb.Payload)
				g.payload(p.ProtoReflect())
				if z.payload(p); z.err != nil {
					return nil, z.err
				}
				list = append(list, payloadJSON(p))
			}
			return []byte(`{"payloads":[` + strings.Join(list, ",") + `]}`), nil
		}
		cases = append(cases, c)
	}
	return cases
}

// payloadJSON is a payload in protobuf's JSON form, with the metadata in the order of their keys.
func payloadJSON(p *commonpb.Payload) string {
	var keys []string
	for k := range p.GetMetadata() {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var list []string
	for _, k := range keys {
		list = append(list, fmt.Sprintf("%q:%q", k, base64.StdEncoding.EncodeToString(p.GetMetadata()[k])))
	}
	return fmt.Sprintf(`{"metadata":{%s},"data":%q}`, strings.Join(list, ","), base64.StdEncoding.EncodeToString(p.GetData()))
}

// callTimeout bounds one call. Nothing that is generated has to wait for anything.
const callTimeout = 10 * time.Second
