package contract

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	_ "go.temporal.io/api/operatorservice/v1"
	protocolpb "go.temporal.io/api/protocol/v1"
	updatepb "go.temporal.io/api/update/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
)

var plain = shared(func(string) (setup, error) {
	return setup{extra: "codec_server: {address: \"127.0.0.1:0\", allowed_origins: [\"https://ui.example.com\"]}\n"}, nil
})

// stayClear are the payload sites that docs/operations.md and README.md say stay readable, by message and field.
var stayClear = []string{
	"SearchAttributes.indexed_fields",
	"ComputeProvider.details",
	"ComputeScaler.details",
	"EndpointSpec.description",
	"AggregationGroup.group_values",
}

// site is a path through a message to a payload or a failure.
type site []protoreflect.FieldDescriptor

func (s site) String() string {
	names := make([]string, len(s))
	for i, f := range s {
		names[i] = string(f.Name())
	}
	return strings.Join(names, ".")
}

// staysClear reports whether one of the fields on the way is exempt.
func (s site) staysClear() bool {
	return slices.ContainsFunc(s, func(f protoreflect.FieldDescriptor) bool {
		return slices.Contains(stayClear, string(f.ContainingMessage().Name())+"."+string(f.Name()))
	})
}

const (
	payloadName protoreflect.FullName = "temporal.api.common.v1.Payload"
	failureName protoreflect.FullName = "temporal.api.failure.v1.Failure"
)

// sitesOf finds every path to a message of the given name. No message stands twice on a path.
func sitesOf(m protoreflect.MessageDescriptor, leaf protoreflect.FullName) []site {
	var found []site
	var walk func(m protoreflect.MessageDescriptor, way site, within []protoreflect.FullName)
	walk = func(m protoreflect.MessageDescriptor, way site, within []protoreflect.FullName) {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			child := f.Message()
			if f.IsMap() {
				child = f.MapValue().Message()
			}
			if child == nil || slices.Contains(within, child.FullName()) {
				continue
			}
			here := append(slices.Clone(way), f)
			if child.FullName() == leaf {
				found = append(found, here)
				continue
			}
			if child.FullName() == payloadName {
				continue
			}
			walk(child, here, append(slices.Clone(within), child.FullName()))
		}
	}
	walk(m, nil, []protoreflect.FullName{m.FullName()})
	return found
}

// put makes a message that holds nothing but values at a site: one, or two where the last field is a list.
func put(root protoreflect.MessageDescriptor, way site, value func() proto.Message) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(root.FullName())
	if err != nil {
		panic(err) // the descriptor came from there
	}
	m := t.New()
	at := m
	for i, f := range way {
		last := i == len(way)-1
		switch {
		case f.IsMap():
			v := at.Mutable(f).Map()
			e := v.NewValue()
			if last {
				e = protoreflect.ValueOfMessage(value().ProtoReflect())
			}
			v.Set(protoreflect.ValueOfString("name").MapKey(), e)
			at = e.Message()
		case f.IsList():
			l := at.Mutable(f).List()
			if last {
				l.Append(protoreflect.ValueOfMessage(value().ProtoReflect()))
				l.Append(protoreflect.ValueOfMessage(value().ProtoReflect()))
				break
			}
			at = l.AppendMutable().Message()
		case last:
			at.Set(f, protoreflect.ValueOfMessage(value().ProtoReflect()))
		default:
			at = at.Mutable(f).Message()
		}
	}
	if f := root.Fields().ByName("namespace"); f != nil && f.Kind() == protoreflect.StringKind {
		m.Set(f, protoreflect.ValueOfString("sites"))
	}
	return m.Interface()
}

// at gives the messages that stand at a site.
func at(m proto.Message, way site) []proto.Message {
	all := []protoreflect.Message{m.ProtoReflect()}
	for _, f := range way {
		var next []protoreflect.Message
		for _, m := range all {
			switch {
			case !m.Has(f):
			case f.IsMap():
				m.Get(f).Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					next = append(next, v.Message())
					return true
				})
			case f.IsList():
				for i := range m.Get(f).List().Len() {
					next = append(next, m.Get(f).List().Get(i).Message())
				}
			default:
				next = append(next, m.Get(f).Message())
			}
		}
		all = next
	}
	out := make([]proto.Message, len(all))
	for i, m := range all {
		out[i] = m.Interface()
	}
	return out
}

// methods are all those of the services that the proxy rewrites.
func methods(t *testing.T) []protoreflect.MethodDescriptor {
	t.Helper()
	var all []protoreflect.MethodDescriptor
	for _, name := range []protoreflect.FullName{"temporal.api.workflowservice.v1.WorkflowService", "temporal.api.operatorservice.v1.OperatorService"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		service := d.(protoreflect.ServiceDescriptor)
		for i := range service.Methods().Len() {
			all = append(all, service.Methods().Get(i))
		}
	}
	return all
}

func fullName(m protoreflect.MethodDescriptor) string {
	return "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
}

func TestEveryPayloadSiteOfRequestsIsSealed(t *testing.T) {
	t.Parallel()
	r := plain(t)
	sites, clear := 0, 0
	var sealed, wanted []*commonpb.Payload
	for _, m := range methods(t) {
		for _, way := range sitesOf(m.Input(), payloadName) {
			name := fmt.Sprintf("%s.%s", m.Name(), way)
			sites++
			want := text(fmt.Sprintf("CANARY-%d", sites))
			q := put(m.Input(), way, func() proto.Message { return proto.CloneOf(want) })
			e := r.do(t, blackbox.Request{Method: fullName(m), Body: blackbox.Marshal(q)})
			if e.Code() != "OK" {
				t.Errorf("%s: %s: %s", name, e.Code(), e.Status.GetMessage())
				continue
			}
			got := forwardedAs(t, e, string(m.Name()), proto.Clone(q))
			if way.staysClear() {
				clear++
				if !proto.Equal(got, q) {
					t.Errorf("%s has to stay readable and was changed: %v", name, got)
				}
				continue
			}
			if bytes.Contains(e.forwarded(t, string(m.Name())).Body, []byte("CANARY")) {
				t.Errorf("%s was forwarded in clear", name)
				continue
			}
			switch way[len(way)-1].FullName() {
			case "temporal.api.sdk.v1.UserMetadata.summary": // may be a placeholder: see TestSummariesKeepToTheirLimit
				continue
			case failureName + ".encoded_attributes": // holds the texts of the failure: see TestEveryFailureIsSealedAndRestored
				continue
			}
			for _, p := range at(got, way) {
				sealed, wanted = append(sealed, p.(*commonpb.Payload)), append(wanted, want)
			}
		}
	}
	if sites < 150 || clear < 5 {
		t.Errorf(
			"%d payload sites in requests, %d of them exempt: the walk over the API's descriptors does not work",
			sites,
			clear,
		)
	}
	for i, p := range r.open(t, "sites", sealed...) {
		if !proto.Equal(p, wanted[i]) {
			t.Fatalf("payload %d opened to %v, want %v", i, p, wanted[i])
		}
	}
}

func TestEveryPayloadSiteOfAnswersIsOpened(t *testing.T) {
	t.Parallel()
	r := plain(t)
	clear := text("CANARY")
	sealed := r.seal(t, "sites", clear)[0]
	sites := 0
	for _, m := range methods(t) {
		for _, way := range sitesOf(m.Output(), payloadName) {
			sites++
			name := fmt.Sprintf("%s.%s", m.Name(), way)
			from := put(m.Output(), way, func() proto.Message { return proto.CloneOf(sealed) })
			want := put(m.Output(), way, func() proto.Message { return proto.CloneOf(clear) })
			if way.staysClear() {
				want = from
			}
			e := r.do(
				t,
				blackbox.Request{Method: fullName(m), Body: requestOf(m)},
				answer{string(m.Name()), blackbox.Message(from)},
			)
			got := answered(t, e, proto.Clone(want))
			if !proto.Equal(got, want) {
				t.Errorf("%s: the caller got\n  %v\nwant\n  %v", name, got, want)
			}
		}
	}
	if sites < 300 {
		t.Errorf("%d payload sites in answers: the walk over the API's descriptors does not work", sites)
	}
}

// requestOf is a request that names the namespace "sites" and nothing else.
func requestOf(m protoreflect.MethodDescriptor) []byte {
	return blackbox.Marshal(put(m.Input(), nil, nil))
}

// spoken is a failure with texts on three levels, and one that its application encoded itself.
func spoken() *failurepb.Failure {
	return &failurepb.Failure{Message: "CANARY message", StackTrace: "CANARY stack", Source: "GoSDK",
		FailureInfo: &failurepb.Failure_ApplicationFailureInfo{
			ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: "Custom"},
		},
		Cause: &failurepb.Failure{
			Message:           "CANARY cause",
			Source:            "GoSDK",
			EncodedAttributes: document(`{"message":"CANARY encoded"}`),
			Cause:             &failurepb.Failure{Message: "CANARY root", StackTrace: "CANARY root stack"},
		}}
}

func TestEveryFailureIsSealedAndRestored(t *testing.T) {
	t.Parallel()
	r := plain(t)
	var sealed *failurepb.Failure
	for _, m := range methods(t) {
		for _, way := range sitesOf(m.Input(), failureName) {
			name := fmt.Sprintf("%s.%s", m.Name(), way)
			q := put(m.Input(), way, func() proto.Message { return spoken() })
			e := r.do(t, blackbox.Request{Method: fullName(m), Body: blackbox.Marshal(q)})
			if e.Code() != "OK" {
				t.Errorf("%s: %s: %s", name, e.Code(), e.Status.GetMessage())
				continue
			}
			if bytes.Contains(e.forwarded(t, string(m.Name())).Body, []byte("CANARY")) {
				t.Errorf("%s: a text was forwarded in clear", name)
			}
			found := at(forwardedAs(t, e, string(m.Name()), proto.Clone(q)), way)
			if len(found) == 0 {
				t.Fatalf("%s: no failure was forwarded", name)
			}
			sealed = found[0].(*failurepb.Failure)
			if sealed.GetApplicationFailureInfo().GetType() != "Custom" {
				t.Errorf("%s: the failure's type was not left readable: %v", name, sealed)
			}
		}
	}
	for _, m := range methods(t) {
		for _, way := range sitesOf(m.Output(), failureName) {
			from := put(m.Output(), way, func() proto.Message { return proto.CloneOf(sealed) })
			want := put(m.Output(), way, func() proto.Message { return spoken() })
			e := r.do(
				t,
				blackbox.Request{Method: fullName(m), Body: requestOf(m)},
				answer{string(m.Name()), blackbox.Message(from)},
			)
			if got := answered(t, e, proto.Clone(want)); !proto.Equal(got, want) {
				t.Errorf("%s.%s: the caller got\n  %v\nwant\n  %v", m.Name(), way, got, want)
			}
		}
	}
}

// A failure that came to a worker goes back to the server with its retry: what was restored has to be sealed again.
func TestRestoredFailuresAreSealedAgain(t *testing.T) {
	t.Parallel()
	r := plain(t)
	turn := spoken()
	for range 2 {
		e := r.send(
			t,
			"RespondActivityTaskFailed",
			&workflowservice.RespondActivityTaskFailedRequest{Namespace: "sites", TaskToken: []byte("token"), Failure: turn},
		)
		q := forwardedAs(t, e, "RespondActivityTaskFailed", new(workflowservice.RespondActivityTaskFailedRequest))
		if bytes.Contains(blackbox.Marshal(q), []byte("CANARY")) {
			t.Fatalf("a text was forwarded in clear: %v", q)
		}
		e = r.send(
			t,
			"GetWorkflowExecutionHistory",
			&workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "sites"},
			reply(
				"GetWorkflowExecutionHistory",
				&workflowservice.GetWorkflowExecutionHistoryResponse{History: failedHistory(q.Failure)},
			),
		)
		h := answered(t, e, new(workflowservice.GetWorkflowExecutionHistoryResponse))
		turn = h.GetHistory().GetEvents()[0].GetActivityTaskFailedEventAttributes().GetFailure()
		equal(t, "the failure that came back", turn, spoken())
	}
}

func failedHistory(f *failurepb.Failure) *historypb.History {
	return &historypb.History{
		Events: []*historypb.HistoryEvent{{EventId: 1, Attributes: &historypb.HistoryEvent_ActivityTaskFailedEventAttributes{
			ActivityTaskFailedEventAttributes: &historypb.ActivityTaskFailedEventAttributes{Failure: f}}}},
	}
}

func inputHistory(p ...*commonpb.Payload) *historypb.History {
	return &historypb.History{
		Events: []*historypb.HistoryEvent{{EventId: 1, EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
			Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
				WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{Input: list(p...)}}}},
	}
}

func packed(t *testing.T, m proto.Message) *anypb.Any {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Messages within google.protobuf.Any: updates on their way to a worker and back.
func TestAnyIsSealedAndOpened(t *testing.T) {
	t.Parallel()
	r := plain(t)
	clear := text("CANARY")
	bodies := []proto.Message{
		&updatepb.Response{Outcome: &updatepb.Outcome{Value: &updatepb.Outcome_Success{Success: list(clear)}}},
		&updatepb.Response{
			Outcome: &updatepb.Outcome{Value: &updatepb.Outcome_Failure{Failure: &failurepb.Failure{Message: "CANARY"}}},
		},
		&updatepb.Acceptance{
			AcceptedRequest: &updatepb.Request{Input: &updatepb.Input{Name: "u", Args: list(clear), Header: &commonpb.Header{
				Fields: map[string]*commonpb.Payload{"h": clear}}}},
		},
		&updatepb.Rejection{
			RejectedRequest: &updatepb.Request{Input: &updatepb.Input{Args: list(clear)}},
			Failure:         &failurepb.Failure{Message: "CANARY"},
		},
	}
	for _, body := range bodies {
		e := r.send(
			t,
			"RespondWorkflowTaskCompleted",
			&workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "sites", TaskToken: []byte("t"),
				Messages: []*protocolpb.Message{{Id: "m", Body: packed(t, body)}}},
		)
		q := forwardedAs(t, e, "RespondWorkflowTaskCompleted", new(workflowservice.RespondWorkflowTaskCompletedRequest))
		if bytes.Contains(blackbox.Marshal(q), []byte("CANARY")) {
			t.Errorf("%T was forwarded in clear: %v", body, q)
			continue
		}
		e = r.send(
			t,
			"PollWorkflowTaskQueue",
			&workflowservice.PollWorkflowTaskQueueRequest{Namespace: "sites"},
			reply(
				"PollWorkflowTaskQueue",
				&workflowservice.PollWorkflowTaskQueueResponse{TaskToken: []byte("t2"), Messages: q.Messages},
			),
		)
		got := answered(t, e, new(workflowservice.PollWorkflowTaskQueueResponse))
		if len(got.Messages) != 1 {
			t.Fatalf("%T: %d messages came back", body, len(got.Messages))
		}
		back, err := got.Messages[0].Body.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "what came back in Any", back, body)
	}
	// An Any of an unknown type stays unchanged, unless it could hold a payload.
	strange := &anypb.Any{TypeUrl: "type.googleapis.com/example.Unknown", Value: []byte{0x08, 0x01}}
	e := r.send(
		t,
		"RespondWorkflowTaskCompleted",
		&workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "sites", TaskToken: []byte("t"),
			Messages: []*protocolpb.Message{{Id: "m", Body: strange}}},
	)
	q := forwardedAs(t, e, "RespondWorkflowTaskCompleted", new(workflowservice.RespondWorkflowTaskCompletedRequest))
	equal(t, "an unknown message", q.Messages[0].Body, strange)
	strange.Value = blackbox.Marshal(list(clear))
	e = r.send(
		t,
		"RespondWorkflowTaskCompleted",
		&workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: "sites", TaskToken: []byte("t"),
			Messages: []*protocolpb.Message{{Id: "m", Body: strange}}},
	)
	e.refused(t, "InvalidArgument")
}

// Servers with frontend.sendRawWorkflowHistory answer serialized histories.
func TestRawHistoryIsOpened(t *testing.T) {
	t.Parallel()
	r := plain(t)
	clear := text("CANARY")
	sealed := r.seal(t, "sites", clear)[0]
	e := r.send(
		t,
		"GetWorkflowExecutionHistory",
		&workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: "sites"},
		reply(
			"GetWorkflowExecutionHistory",
			&workflowservice.GetWorkflowExecutionHistoryResponse{RawHistory: []*commonpb.DataBlob{
				{EncodingType: enumspb.ENCODING_TYPE_PROTO3, Data: blackbox.Marshal(inputHistory(sealed, sealed))}}},
		),
	)
	got := answered(t, e, new(workflowservice.GetWorkflowExecutionHistoryResponse))
	h := new(historypb.History)
	if len(got.RawHistory) != 1 || proto.Unmarshal(got.RawHistory[0].Data, h) != nil {
		t.Fatalf("the raw history came as %v", got)
	}
	equal(t, "the raw history", h, inputHistory(clear, clear))
}
