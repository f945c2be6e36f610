package attacks

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// The attacker of these tests reads all that the server holds and may open all of it, since the policy opens everything for everybody.
// What the rules mask is in neither, however the document is written and wherever it is put.

const maskRules = `package temporal

request contains {"action": "mask", "fields": ["/patient", "/visits/*/reason"]} if {
	input.payload.kind in {"input", "result", "signal", "query", "update", "memo"}
	not contains(input.payload.path, "accepted_request")
	not contains(input.payload.path, "upserted_memo")
}

response contains {"action": "open"}
`

// hiding is a way to write a document so that its masked member might be taken for something else.
type hiding struct {
	form     string // of the document, with the secret in the place of %s
	encoding string // "": json/plain
	more     []byte // further fields of the payload, in protobuf
	denied   bool   // the proxy refuses it; otherwise it masks the secret
	digits   bool   // the secret is a number
}

const visits = `"visits":[{"reason":"x"}]`

var hidings = map[string]hiding{
	"the member as it should be":           {form: `{"patient":"%s",` + visits + `}`},
	"the member twice":                     {form: `{"patient":"x","patient":"%s",` + visits + `}`, denied: true},
	"the member twice, the first masked":   {form: `{"patient":"***","visits":[{"reason":"***"}],"patient":"%s"}`, denied: true},
	"its name escaped":                     {form: `{"\u0070atient":"%s",` + visits + `}`},
	"its name twice, once escaped":         {form: `{"patient":"x","p\u0061tient":"%s",` + visits + `}`, denied: true},
	"a name within twice, once escaped":    {form: `{"patient":"x","visits":[{"reason":"x","r\u0065ason":"%s"}]}`, denied: true},
	"its name in another case":             {form: `{"Patient":"%s",` + visits + `}`, denied: true},
	"its name with a zero byte":            {form: `{"patient\u0000":"%s",` + visits + `}`, denied: true},
	"an object for the array":              {form: `{"patient":"x","visits":{"0":{"reason":"%s"}}}`, denied: true},
	"an array in the array":                {form: `{"patient":"x","visits":[[{"reason":"%s"}]]}`, denied: true},
	"a text in the array":                  {form: `{"patient":"x","visits":["%s"]}`, denied: true},
	"no element in the array":              {form: `{"patient":"%s","visits":[]}`, denied: true},
	"the document in an array":             {form: `[{"patient":"%s",` + visits + `}]`, denied: true},
	"the document in a text":               {form: `"{\"patient\":\"%s\"}"`, denied: true},
	"an object for the text":               {form: `{"patient":{"***":["%s"]},` + visits + `}`},
	"the secret as the name of a member":   {form: `{"patient":{"%s":null},` + visits + `}`},
	"40 levels within the member":          {form: `{"patient":` + nested(40) + `,` + visits + `}`},
	"500 levels within the member":         {form: `{"patient":` + nested(500) + `,` + visits + `}`, denied: true},
	"500 levels before the member":         {form: `{"a":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `,"patient":"%s",` + visits + `}`, denied: true},
	"a long number":                        {form: `{"patient":%s,` + visits + `}`, digits: true},
	"a number beyond every float":          {form: `{"patient":-%s.5e+99999,` + visits + `}`, digits: true},
	"a number that is none":                {form: `{"patient":0%s,` + visits + `}`, digits: true, denied: true},
	"no UTF-8 in the member":               {form: "{\"patient\":\"%s\xff\"," + visits + `}`, denied: true},
	"no UTF-8 beside it":                   {form: "{\"patient\":\"%s\",\"a\":\"\xc0\x80\"," + visits + `}`, denied: true},
	"half a surrogate pair":                {form: `{"patient":"%s\ud800",` + visits + `}`, denied: true},
	"a byte order mark":                    {form: "\ufeff" + `{"patient":"%s",` + visits + `}`, denied: true},
	"white space all over":                 {form: "\n\t{ \"patient\"\r\n :\t\"%s\" , " + visits + " }\n\n"},
	"a comma too many":                     {form: `{"patient":"%s",` + visits + `,}`, denied: true},
	"a comment":                            {form: `{"patient":"x",` + visits + `/* %s */}`, denied: true},
	"a second document":                    {form: `{"patient":"x",` + visits + `}{"patient":"%s"}`, denied: true},
	"an escape that JSON does not know":    {form: `{"patient":"\x%s",` + visits + `}`, denied: true},
	"the encoding json/protobuf":           {form: `{"patient":"%s",` + visits + `}`, encoding: "json/protobuf"},
	"the encoding binary/plain":            {form: `{"patient":"%s",` + visits + `}`, encoding: "binary/plain", denied: true},
	"the encoding binary/protobuf":         {form: `{"patient":"%s",` + visits + `}`, encoding: "binary/protobuf", denied: true},
	"the encoding binary/null, with bytes": {form: `{"patient":"%s",` + visits + `}`, encoding: "binary/null", denied: true},
	"an encoding in capitals":              {form: `{"patient":"%s",` + visits + `}`, encoding: "JSON/PLAIN", denied: true},
	"an encoding of its own":               {form: `{"patient":"%s",` + visits + `}`, encoding: "my-encoding", denied: true},
	"an encoding that says sealed":         {form: `{"patient":"%s",` + visits + `}`, encoding: "json/sealed.v1", denied: true},
	"a second encoding in the payload":     {form: `{"patient":"%s",` + visits + `}`, more: entry("encoding", "binary/plain"), denied: true},
	"a second document in the payload":     {form: `{"patient":"x","a":"%s",` + visits + `}`, more: data(`{"patient":"x",` + visits + `}`), denied: true},
}

// nested is a value with the secret below so many arrays.
func nested(levels int) string {
	return strings.Repeat("[", levels) + `"%s"` + strings.Repeat("]", levels)
}

// entry is a further entry of a payload's metadata, and data further data, as they stand in protobuf.
func entry(name, value string) []byte {
	e := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
	e = protowire.AppendString(protowire.AppendTag(e, 2, protowire.BytesType), value)
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), e)
}

func data(text string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), text)
}

// payload is the document with a secret in it.
func (h hiding) payload(secret string) *commonpb.Payload {
	p := value(nil)
	p.Data = fmt.Appendf(nil, h.form, secret)
	if h.encoding != "" {
		p.Metadata["encoding"] = []byte(h.encoding)
	}
	p.ProtoReflect().SetUnknown(h.more)
	return p
}

// position is a place for a document, and how one reads it afterwards.
type position struct {
	write func(p *party, id string, document *commonpb.Payload) error
	read  func(p *party, id string)
}

// positions are those that a guard on the path might miss, since a caller has called something what the guard looks for.
var positions = map[string]position{
	"a workflow's input": {startWith(nil), history},
	"of a workflow that is called like a path": {startWith(func(q *workflowservice.StartWorkflowExecutionRequest) {
		q.WorkflowType = &commonpb.WorkflowType{Name: "commands.upserted_memo.accepted_request"}
	}), history},
	"the memo of a workflow":                   {memoOf("chart"), history},
	"a memo with the name upserted_memo":       {memoOf("upserted_memo"), history},
	"a memo with the name of a path":           {memoOf("messages.body.accepted_request.input.args"), history},
	"a signal":                                 {signalOf("any"), history},
	"a signal with the name accepted_request":  {signalOf("accepted_request"), history},
	"a signal with a start":                    {signalWithStart, history},
	"an update":                                {updateOf("any"), history},
	"an update with the name accepted_request": {updateOf("accepted_request"), history},
	"an activity's input": {func(p *party, id string, d *commonpb.Payload) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		return p.complete(p.task(id), activity(id, d))
	}, history},
	"a workflow's result": {func(p *party, id string, d *commonpb.Payload) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		return p.complete(p.task(id), finish(d))
	}, history},
	"an input of a schedule": {scheduled(func(s *schedulepb.Schedule, d *commonpb.Payload) {
		s.GetAction().GetStartWorkflow().Input = list(d)
	}), schedule},
	"a memo of a schedule's workflows": {scheduled(func(s *schedulepb.Schedule, d *commonpb.Payload) {
		s.GetAction().GetStartWorkflow().Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{"upserted_memo": d}}
	}), schedule},
}

func startWith(change func(*workflowservice.StartWorkflowExecutionRequest)) func(*party, string, *commonpb.Payload) error {
	return func(p *party, id string, d *commonpb.Payload) error {
		return p.start(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			q.Input = list(d)
			if change != nil {
				change(q)
			}
		})
	}
}

func memoOf(name string) func(*party, string, *commonpb.Payload) error {
	return func(p *party, id string, d *commonpb.Payload) error {
		return p.start(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			q.Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{name: d}}
		})
	}
}

func signalOf(name string) func(*party, string, *commonpb.Payload) error {
	return func(p *party, id string, d *commonpb.Payload) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		_, err := p.SignalWorkflowExecution(p.ctx, &workflowservice.SignalWorkflowExecutionRequest{Namespace: p.namespace,
			WorkflowExecution: execution(id), SignalName: name, Input: list(d)})
		return err
	}
}

func signalWithStart(p *party, id string, d *commonpb.Payload) error {
	q := p.startRequest(id, nil)
	_, err := p.SignalWithStartWorkflowExecution(p.ctx, &workflowservice.SignalWithStartWorkflowExecutionRequest{Namespace: p.namespace, WorkflowId: id,
		WorkflowType: q.WorkflowType, TaskQueue: q.TaskQueue, RequestId: id, Input: list(d), SignalName: "any", SignalInput: list(d)})
	return err
}

func updateOf(name string) func(*party, string, *commonpb.Payload) error {
	return func(p *party, id string, d *commonpb.Payload) error {
		if err := p.start(id, nil); err != nil {
			return err
		}
		if err := p.complete(p.task(id)); err != nil {
			return err
		}
		q := updateRequest(p.namespace, id, name, list(d))
		q.Request.Input.Name = name
		updated := make(chan error, 1)
		go func() {
			_, err := p.UpdateWorkflowExecution(p.ctx, q)
			updated <- err
		}()
		if err := p.answerUpdate(id, name, hiding{form: `{"patient":"%s",` + visits + `}`}.payload("an outcome")); err != nil {
			return err
		}
		return <-updated
	}
}

func scheduled(put func(*schedulepb.Schedule, *commonpb.Payload)) func(*party, string, *commonpb.Payload) error {
	return func(p *party, id string, d *commonpb.Payload) error {
		s := paused("")
		put(s, d)
		_, err := p.CreateSchedule(p.ctx, &workflowservice.CreateScheduleRequest{Namespace: p.namespace, ScheduleId: id, RequestId: id, Schedule: s})
		return err
	}
}

// masking is a bench on the same server with a proxy of its own that masks, and its codec server.
func (b *bench) masking(t *testing.T) (other *bench, codec string) {
	t.Helper()
	other = &bench{T: t, server: b.server, dir: t.TempDir(), canaries: harness.NewCanaries(), secrets: map[string]string{}}
	var err error
	other.proxy, err = harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: other.dir, Upstream: b.server.Address, Policy: maskRules,
		Extra: "codec_server: {address: \"127.0.0.1:0\"}\n"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.proxy.Stop() })
	for _, line := range other.proxy.Log.Lines() {
		if line["msg"] == "serving" {
			codec = fmt.Sprint(line["codec_server"])
		}
	}
	return other, codec
}

// TestAttacksOnMasks writes documents through a proxy that masks, and reads them with every right. What is written past the proxy is found,
// or the attack would prove nothing.
func TestAttacksOnMasks(t *testing.T) {
	all := newBench(t, nil)
	b, codec := all.masking(t)
	for name, h := range hidings {
		t.Run(name, func(t *testing.T) { b.hides(t, name, positions["a workflow's input"], h) })
	}
	plain := hidings["the member as it should be"]
	for name, at := range positions {
		t.Run(name, func(t *testing.T) { b.hides(t, name, at, plain) })
	}
	t.Run("a payload that was sealed elsewhere", func(t *testing.T) { b.pastesUnderMask(t, plain) })
	t.Run("the codec server", func(t *testing.T) { b.encodesUnderMask(t, codec, plain) })
}

// masked makes a secret, of digits alone where it has to be a number.
func (b *bench) masked(name string, digits bool) string {
	if !digits {
		return b.text(name)
	}
	number := []byte(b.text(name + ", its letters"))
	for i, c := range number {
		number[i] = '1' + c%9
	}
	b.canaries.Add(name, string(number))
	return string(number)
}

// hides writes a document at a position.
func (b *bench) hides(t *testing.T, name string, at position, h hiding) {
	id := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, name)
	direct := b.as(t, "", victims)
	known := harness.NewCanaries().New("past the proxy")
	if h.digits {
		known = "12345678987654321234567898765432"
	}
	if err := at.write(direct, id+"-past-the-proxy", h.payload(known)); err != nil {
		t.Fatalf("past the proxy: %v", err)
	}
	if !direct.until(at.read, id+"-past-the-proxy", known) && len(h.more) == 0 {
		t.Fatal("what was written past the proxy is not found at the server: this attack proves nothing")
	}
	worker, reader := b.as(t, "worker", victims), b.as(t, "", victims)
	err := at.write(worker, id, h.payload(b.masked(name, h.digits)))
	outcome := "masked"
	switch {
	case h.denied:
		if outcome = refusal(err); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "temporal-seal") {
			t.Errorf("it is not refused: %v", err)
		}
		at.read(reader, id)
	case err != nil:
		t.Errorf("the attack could not be carried out: %v", err)
	case !reader.until(at.read, id, "/sealed.v1"):
		t.Error("what was written does not reach the server sealed: this attack proves nothing")
	}
	at.read(worker, id)
	if told := worker.told(); !h.denied && !bytes.Contains(told, []byte(`"***"`)) && !bytes.Contains(told, []byte(`"patient":{}`)) &&
		!bytes.Contains(told, []byte(`"patient":[]`)) && !bytes.Contains(told, []byte(`"patient":0`)) {
		t.Error("whoever may read it does not get it masked")
	}
	reader.take(worker)
	b.record(t, "mask: "+name, reader, outcome)
}

// take adds what another party was answered.
func (p *party) take(other *party) {
	p.name = "reader"
	p.answers = append(p.answers, other.told())
}

// pastesUnderMask puts what the proxy sealed with the value in it, since headers are not masked, where it has to be masked.
func (b *bench) pastesUnderMask(t *testing.T, h hiding) {
	worker, reader := b.as(t, "worker", victims), b.as(t, "", victims)
	must[any](t, "start")(nil, worker.start("with-a-header", func(q *workflowservice.StartWorkflowExecutionRequest) {
		q.Header = &commonpb.Header{Fields: map[string]*commonpb.Payload{"chart": h.payload(b.text("a payload that was sealed elsewhere"))}}
	}))
	sealed := reader.events("with-a-header")[0].GetWorkflowExecutionStartedEventAttributes().GetHeader().GetFields()["chart"]
	if !strings.Contains(string(sealed.GetMetadata()["encoding"]), "sealed.v1") {
		t.Fatalf("this is no loot: %v", sealed)
	}
	err := worker.start("with-what-was-sealed", func(q *workflowservice.StartWorkflowExecutionRequest) { q.Input = list(sealed) })
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("it is not refused: %v", err)
	}
	history(worker, "with-what-was-sealed")
	reader.take(worker)
	b.record(t, "mask: a payload that was sealed elsewhere", reader, refusal(err))
}

// encodesUnderMask has the codec server, which does not know the path that the rule's guard reads, encode a document.
func (b *bench) encodesUnderMask(t *testing.T, codec string, h hiding) {
	reader := b.as(t, "", victims)
	text, err := protojson.Marshal(list(h.payload(b.text("a document for the codec server"))))
	if err != nil {
		t.Fatal(err)
	}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+codec+"/encode", bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Content-Type", "application/json")
	q.Header.Set("X-Namespace", victims)
	client := &http.Client{Timeout: 30 * time.Second}
	a, err := client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	answer, err := io.ReadAll(a.Body)
	if err != nil || a.StatusCode != http.StatusForbidden {
		t.Errorf("the codec server answers %d, error %v: %s", a.StatusCode, err, answer)
	}
	reader.name, reader.answers = "reader", append(reader.answers, answer)
	b.record(t, "mask: a document for the codec server", reader, "refused: "+a.Status)
}
