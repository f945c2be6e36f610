package abuse

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	nexuspb "go.temporal.io/api/nexus/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
)

const gzipped = "gzip"

// decision is the head of a RespondWorkflowTaskCompletedRequest, with its namespace so many times.
func decision(times int) []byte {
	var in []byte
	for range times {
		in = field(in, fieldOf(&workflowservice.RespondWorkflowTaskCompletedRequest{}, "namespace"), []byte(badNamespace))
	}
	return in
}

// chain is a failure of the API, or of Nexus, with so many causes.
func chain(depth int, cause protowire.Number, leaf []byte) []byte {
	f := leaf
	for range depth {
		f = field(bytes.Clone(leaf), cause, f)
	}
	return f
}

func startOf(id string, input []byte) *workflowservice.StartWorkflowExecutionRequest {
	return &workflowservice.StartWorkflowExecutionRequest{Namespace: badNamespace, WorkflowId: id, RequestId: id,
		WorkflowType: &commonpb.WorkflowType{Name: "T"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "q"},
		Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{jsonPayload(string(input))}}}
}

func jsonPayload(text string) *commonpb.Payload {
	return &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text)}
}

// commands is a workflow task's answer with so many commands, each with empty attributes of that field.
func commands(head []byte, count int, command []byte) []byte {
	number := fieldOf(&workflowservice.RespondWorkflowTaskCompletedRequest{}, "commands")
	return append(head, bytes.Repeat(field(nil, number, command), count)...)
}

// result is an activity's answer with so many empty payloads.
func result(count int) []byte {
	in := field(nil, 1, []byte("token"))
	in = field(in, fieldOf(&workflowservice.RespondActivityTaskCompletedRequest{}, "namespace"), []byte(badNamespace))
	return field(in, fieldOf(&workflowservice.RespondActivityTaskCompletedRequest{}, "result"), bytes.Repeat([]byte{0x0a, 0}, count))
}

func withToken(callers int, method string, in func() []byte, options ...grpc.CallOption) func(target) error {
	return func(t target) error { return t.repeat(callers, t.Token, method, in(), options...) }
}

func init() {
	const decide = "RespondWorkflowTaskCompleted"
	attributes := fieldOf(&commandpb.Command{}, "schedule_activity_task_command_attributes")
	for _, n := range []int{1_000_000, 4_000_000, 14_000_000} {
		add(elements, fmt.Sprintf("%d empty commands after a repeated field", n), withToken(2, decide, func() []byte { return commands(decision(2), n, nil) }))
		add(elements, fmt.Sprintf("%d empty payloads in a worker's answer", n), withToken(2, "RespondActivityTaskCompleted", func() []byte { return result(n) }))
	}
	for _, n := range []int{1_000_000, 7_000_000} {
		add(elements, fmt.Sprintf("%d commands with empty attributes", n), withToken(2, decide, func() []byte {
			return commands(decision(1), n, field(nil, attributes, nil))
		}))
	}
	add(elements, "chains of failures", withToken(2, decide, func() []byte {
		fail := fieldOf(&commandpb.Command{}, "fail_workflow_execution_command_attributes")
		return commands(decision(1), 1000, field(nil, fail, field(nil, 1, chain(1000, 4, nil))))
	}))
	add(elements, "chains of failures with messages", withToken(2, decide, func() []byte {
		fail := fieldOf(&commandpb.Command{}, "fail_workflow_execution_command_attributes")
		return commands(decision(1), 1500, field(nil, fail, field(nil, 1, chain(500, 4, field(nil, 1, []byte("m"))))))
	}))
	add(elements, "27 KB of gzip with 14,000,000 payloads", withToken(4, "RespondActivityTaskCompleted", func() []byte { return result(14_000_000) }, grpc.UseCompressor(gzipped)))
	add(elements, "27 KB of gzip with 14,000,000 commands", withToken(4, decide, func() []byte { return commands(decision(2), 14_000_000, nil) }, grpc.UseCompressor(gzipped)))
	add(elements, "gzip of 100 MB of zeros", withToken(4, "StartWorkflowExecution", func() []byte {
		return marshal(startOf("zeros", []byte(`"`+strings.Repeat("0", 100_000_000)+`"`)))
	}, grpc.UseCompressor(gzipped)))
	add(elements, "JSON of many empty lists in a search attribute", withToken(6, "StartWorkflowExecution", func() []byte {
		q := startOf("content", []byte("1"))
		q.SearchAttributes = &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{
			"Ward": jsonPayload("[" + strings.Repeat("[],", 1_390_000) + "0]")}}
		return marshal(q)
	}))
	add(elements, "JSON of many members in an input that a rule reads", withToken(6, "StartWorkflowExecution", func() []byte {
		var b strings.Builder
		for i := range 200_000 {
			fmt.Fprintf(&b, `"m%d":{},`, i)
		}
		return marshal(startOf("members", []byte("{"+b.String()+`"z":0}`)))
	}))
	add(elements, "deep JSON in an input that a rule reads", withToken(4, "StartWorkflowExecution", func() []byte {
		return marshal(startOf("deep", []byte(strings.Repeat("[", 1_000_000)+strings.Repeat("]", 1_000_000))))
	}))
	add(elements, "memo and header of many entries", withToken(4, "StartWorkflowExecution", func() []byte {
		q := startOf("entries", []byte("1"))
		q.Memo, q.Header = &commonpb.Memo{Fields: map[string]*commonpb.Payload{}}, &commonpb.Header{Fields: map[string]*commonpb.Payload{}}
		for i := range 100_000 {
			q.Memo.Fields[fmt.Sprintf("%x", i)], q.Header.Fields[fmt.Sprintf("%x", i)] = &commonpb.Payload{}, &commonpb.Payload{}
		}
		return marshal(q)
	}))
	add(elements, "payload metadata of many entries", withToken(4, "StartWorkflowExecution", func() []byte {
		q := startOf("metadata", []byte("1"))
		for i := range 200_000 {
			q.Input.Payloads[0].Metadata[fmt.Sprintf("%x", i)] = nil
		}
		return marshal(q)
	}))
	add(elements, "unknown fields and groups", withToken(4, "StartWorkflowExecution", func() []byte {
		in := marshal(startOf("groups", []byte("1")))
		for range 5_000 {
			in = protowire.AppendTag(in, 1999, protowire.StartGroupType)
		}
		for range 5_000 {
			in = protowire.AppendTag(in, 1999, protowire.EndGroupType)
		}
		return append(in, bytes.Repeat([]byte{0xf8, 0x7c, 0x01}, 2_000_000)...)
	}))
	add(elements, "a history that opens to many times its size", bomb)
	add(elements, "a history that opens to many times its size, left unread", unreadBomb)

	add(caches, "Any in Any in Any", func(t target) error { return anys(t, 2000, 1) })
	add(caches, "Any in Any of ever new types", func(t target) error { return anys(t, 24, 1_000_000) })
	add(caches, "namespaces of 20 MB, zipped", func(t target) error {
		c := t.dial(t.Open)
		defer c.Close()
		for i := 0; !t.over(); i++ {
			q := startOf("n", []byte("1"))
			q.Namespace = fmt.Sprint("open-", i, filler(7_000_000))
			_, _ = t.call(c, "StartWorkflowExecution", marshal(q), 20*time.Second, grpc.UseCompressor(gzipped))
		}
		return nil
	})
	add(caches, "ever new namespaces", func(t target) error {
		return t.each(4, t.Open, func(c *grpc.ClientConn, i int) {
			q := startOf("n", []byte("1"))
			q.Namespace = fmt.Sprint("open-", i, filler(900))
			_, _ = t.call(c, "StartWorkflowExecution", marshal(q), 5*time.Second)
		})
	})
	add(caches, "ever new namespaces before a template of upstreams", func(t target) error {
		return t.each(4, t.Open, func(c *grpc.ClientConn, i int) {
			_, _ = t.call(c, "DescribeTaskQueue", marshal(&workflowservice.DescribeTaskQueueRequest{Namespace: fmt.Sprint("tenant-", i)}), 60*time.Millisecond)
		})
	})
	add(caches, "ever new workflow types, task queues and search attributes", func(t target) error {
		return t.each(4, t.Token, func(c *grpc.ClientConn, i int) {
			q := startOf(fmt.Sprint(i), []byte("1"))
			q.WorkflowType.Name, q.TaskQueue.Name = fmt.Sprint(i, filler(900)), fmt.Sprint(i, filler(900))
			q.SearchAttributes = &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{fmt.Sprint(i, filler(900)): jsonPayload(`"x"`)}}
			_, _ = t.call(c, "StartWorkflowExecution", marshal(q), 5*time.Second)
		})
	})
	add(caches, "polls of ever new workers and queues", func(t target) error {
		return t.each(4, t.Token, func(c *grpc.ClientConn, i int) {
			_, _ = t.call(c, "PollWorkflowTaskQueue", marshal(&workflowservice.PollWorkflowTaskQueueRequest{Namespace: badNamespace,
				Identity: fmt.Sprint(i), WorkerInstanceKey: fmt.Sprint(i, filler(900)), TaskQueue: &taskqueuepb.TaskQueue{Name: fmt.Sprint(i, filler(900))}}), 30*time.Millisecond)
		})
	})

	add(linear, "causes of a Nexus failure", withToken(2, "RespondNexusTaskFailed", func() []byte { return nexus(4000) }))
	add(linear, "causes of an operation's Nexus failure", withToken(2, "RespondNexusTaskCompleted", func() []byte { return nexus(1000) }))
	add(linear, "many empty search attributes", withToken(2, "StartWorkflowExecution", func() []byte {
		q := startOf("attributes", []byte("1"))
		q.SearchAttributes = &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{}}
		for i := range 20_000 {
			q.SearchAttributes.IndexedFields[fmt.Sprintf("%x", i)] = &commonpb.Payload{}
		}
		return marshal(q)
	}))
	add(linear, "many search attributes with a text each", withToken(2, "StartWorkflowExecution", func() []byte {
		q := startOf("attributes", []byte("1"))
		q.SearchAttributes = &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{}}
		for i := range 20_000 {
			q.SearchAttributes.IndexedFields[fmt.Sprintf("%x", i)] = jsonPayload(fmt.Sprintf(`"text %d"`, i))
		}
		return marshal(q)
	}))
	add(linear, "a search attribute of 2 MB", withToken(4, "StartWorkflowExecution", func() []byte {
		texts := make([]string, 150_000)
		for i := range texts {
			texts[i] = fmt.Sprint("eyJ", i, ".eyJ")
		}
		q := startOf("large", []byte("1"))
		text, _ := json.Marshal(texts)
		q.SearchAttributes = &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"Ward": jsonPayload(string(text))}}
		return marshal(q)
	}))
	add(linear, "input for a rule of catastrophic cost", func(t target) error {
		numbers := make([]int, 3000)
		for i := range numbers {
			numbers[i] = rand.IntN(1 << 30)
		}
		text, _ := json.Marshal(map[string]any{"numbers": numbers})
		q := startOf("costly", text)
		q.Namespace = "bad-costly"
		return t.repeat(4, t.Token, "StartWorkflowExecution", marshal(q))
	})
}

// each calls with ever new numbers from several callers at once.
func (t target) each(callers int, address string, call func(*grpc.ClientConn, int)) error {
	var wg sync.WaitGroup
	for k := range callers {
		wg.Go(func() {
			c := t.dial(address)
			defer c.Close()
			for i := k; !t.over(); i += callers {
				call(c, i)
			}
		})
	}
	wg.Wait()
	return nil
}

// anys sends protocol messages whose body is an Any that holds a message with an Any, and so on. Each bit of k chooses the type
// at one depth.
func anys(t target, depth, count int) error {
	c := t.dial(t.Token)
	defer c.Close()
	messages := fieldOf(&workflowservice.RespondWorkflowTaskCompletedRequest{}, "messages")
	for k := 0; k < count && !t.over(); k++ {
		var inner []byte
		for i := range depth {
			name, number := "/google.rpc.Status", protowire.Number(3)
			if i < 32 && k>>i&1 == 1 {
				name, number = "/temporal.api.protocol.v1.Message", 5
			}
			var body []byte
			if inner != nil {
				body = field(nil, number, inner)
			}
			inner = field(field(nil, 1, []byte(name)), 2, body)
		}
		_, _ = t.call(c, "RespondWorkflowTaskCompleted", field(decision(1), messages, field(nil, 5, inner)), 30*time.Second)
	}
	return nil
}

// nexus is the failure of a handler with so many causes.
func nexus(depth int) []byte {
	f := chain(depth, fieldOf(&nexuspb.Failure{}, "cause"), field(nil, 2, nil))
	in := field(nil, 1, []byte(badNamespace))
	in = field(field(in, 2, []byte("id")), 3, []byte("token"))
	return field(in, 4, field(field(nil, 1, []byte("INTERNAL")), 2, f))
}

// plant signals a workflow with payloads that compress well, so that many of them fit into one page of its history.
func plant(t target, c *grpc.ClientConn, id string) {
	data := make([]byte, 2_097_050)
	for i := 0; i < len(data); i += 260 {
		data[i] = byte(rand.IntN(256))
	}
	for i := 0; i < 260 && !t.over(); i++ {
		_, _ = t.call(c, "SignalWorkflowExecution", marshal(&workflowservice.SignalWorkflowExecutionRequest{Namespace: badNamespace,
			WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: id}, SignalName: "s",
			Input: &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("binary/plain")}, Data: data}}}}), 20*time.Second)
	}
}

func historyOf(id string) []byte {
	return marshal(&workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: badNamespace,
		Execution: &commonpb.WorkflowExecution{WorkflowId: id}, MaximumPageSize: 256})
}

// bomb reads the planted history with several callers at once.
func bomb(t target) error {
	c := t.dial(t.Token)
	defer c.Close()
	plant(t, c, "bomb")
	return t.repeat(3, t.Token, "GetWorkflowExecutionHistory", historyOf("bomb"))
}

// unreadBomb asks for the planted history and does not read it.
func unreadBomb(t target) error {
	c := t.dial(t.Token)
	defer c.Close()
	plant(t, c, "unread")
	return t.flood(3, t.Token, 0, func(r *raw) error {
		for range 3 {
			id, err := r.open(workflowService+"GetWorkflowExecutionHistory", t.Secret)
			if err != nil {
				return err
			}
			_ = r.data(id, true, message(historyOf("unread")))
		}
		t.sleep(10 * time.Second)
		return nil
	})
}
