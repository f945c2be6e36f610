package attacks

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// The attacker of these tests reads all that the server holds, and waits for an application to put a secret where nothing is
// sealed: into a search attribute, a header, a note, or a document that the policy expects to look otherwise.

// textRules are added to the shipped policy.
const textRules = `
request contains {"action": "redact"} if input.payload.kind in {"reason", "text"}

request contains {"action": "seal", "fields": ["/name", "/visits/*/reason"]} if input.payload.kind == "input"
`

// carelessness is what an application does with a secret, and how one reads the place afterwards.
type carelessness struct {
	write func(p *party, id, secret string) error
	read  func(p *party, id string)
	// denied: the proxy refuses it. Otherwise the secret is left out, or sealed.
	denied bool
	// token: the secret is a JWT.
	token bool
}

var careless = map[string]carelessness{
	"a token in a search attribute":           {write: attributeAtStart(""), read: history, denied: true, token: true},
	"a URL with a token in one":               {write: attributeAtStart("https://example.com/?access_token="), read: history, denied: true, token: true},
	"a token in one that a workflow upserts":  {write: upsertedAttribute, read: history, denied: true, token: true},
	"a credential in a Nexus header":          {write: nexusHeader("authorization", "Bearer "), read: nexusOperation, denied: true},
	"a token in another Nexus header":         {write: nexusHeader("x-on-behalf-of", "as "), read: nexusOperation, denied: true, token: true},
	"context in a Nexus header":               {write: nexusHeader("x-patient", ""), read: nexusOperation},
	"a note on a schedule":                    {write: scheduleNote, read: schedule},
	"a note when a schedule is paused":        {write: pauseNote, read: schedule},
	"a field under another name":              {write: document(`{"Name":"%s","visits":[{"reason":"x"}]}`), read: history},
	"a field under another name in a list":    {write: document(`{"name":"x","visits":[{"cause":"%s"}]}`), read: history},
	"an object where there was a list":        {write: document(`{"name":"x","visits":{"monday":{"reason":"%s"}}}`), read: history},
	"a document within a text":                {write: document(`"{\"name\":\"%s\"}"`), read: history},
	"a field beside one under the right name": {write: document(`{"name":"x","patient":{"name":"%s"}}`), read: history},
}

func attributeAtStart(before string) func(*party, string, string) error {
	return func(p *party, id, secret string) error {
		return p.start(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			q.SearchAttributes = &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"Region": value(before + secret)}}
		})
	}
}

func upsertedAttribute(p *party, id, secret string) error {
	if err := p.start(id, nil); err != nil {
		return err
	}
	return p.refusedTask(id, &commandpb.Command{CommandType: enumspb.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
		Attributes: &commandpb.Command_UpsertWorkflowSearchAttributesCommandAttributes{
			UpsertWorkflowSearchAttributesCommandAttributes: &commandpb.UpsertWorkflowSearchAttributesCommandAttributes{
				SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{"Region": value(secret)}}}}})
}

func nexusHeader(name, before string) func(*party, string, string) error {
	return func(p *party, id, secret string) (err error) {
		for range 300 { // a new endpoint is known after a moment
			_, err = p.StartNexusOperationExecution(p.ctx, &workflowservice.StartNexusOperationExecutionRequest{Namespace: p.namespace,
				OperationId: id, RequestId: id, Endpoint: "to-" + p.namespace, Service: "s", Operation: "o", ScheduleToCloseTimeout: durationpb.New(time.Minute),
				NexusHeader: map[string]string{name: before + secret}})
			if status.Code(err) != codes.NotFound {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		return err
	}
}

func paused(note string) *schedulepb.Schedule {
	return &schedulepb.Schedule{Spec: &schedulepb.ScheduleSpec{Interval: []*schedulepb.IntervalSpec{{Interval: durationpb.New(24 * time.Hour)}}},
		State: &schedulepb.ScheduleState{Paused: true, Notes: note},
		Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{
			WorkflowId: "noted", WorkflowType: &commonpb.WorkflowType{Name: "Any"}, TaskQueue: &taskqueuepb.TaskQueue{Name: "noted"}}}}}
}

func scheduleNote(p *party, id, secret string) error {
	_, err := p.CreateSchedule(p.ctx, &workflowservice.CreateScheduleRequest{Namespace: p.namespace, ScheduleId: id, RequestId: id, Schedule: paused("because of " + secret)})
	return err
}

func pauseNote(p *party, id, secret string) error {
	if _, err := p.CreateSchedule(p.ctx, &workflowservice.CreateScheduleRequest{Namespace: p.namespace, ScheduleId: id, RequestId: id, Schedule: paused("")}); err != nil {
		return err
	}
	_, err := p.PatchSchedule(p.ctx, &workflowservice.PatchScheduleRequest{Namespace: p.namespace, ScheduleId: id, RequestId: id + "-patch",
		Patch: &schedulepb.SchedulePatch{Pause: "because of " + secret}})
	return err
}

func document(form string) func(*party, string, string) error {
	return func(p *party, id, secret string) error {
		return p.start(id, func(q *workflowservice.StartWorkflowExecutionRequest) {
			in := value(nil)
			in.Data = fmt.Appendf(nil, form, secret)
			q.Input = list(in)
		})
	}
}

// What is not there is an error, which is noted as an answer.
func history(p *party, id string) {
	_, _ = p.GetWorkflowExecutionHistory(p.ctx, &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: p.namespace, Execution: execution(id)})
	_, _ = p.DescribeWorkflowExecution(p.ctx, &workflowservice.DescribeWorkflowExecutionRequest{Namespace: p.namespace, Execution: execution(id)})
}

func nexusOperation(p *party, id string) {
	_, _ = p.DescribeNexusOperationExecution(p.ctx, &workflowservice.DescribeNexusOperationExecutionRequest{Namespace: p.namespace, OperationId: id})
}

func schedule(p *party, id string) {
	_, _ = p.DescribeSchedule(p.ctx, &workflowservice.DescribeScheduleRequest{Namespace: p.namespace, ScheduleId: id})
}

// shipped is a bench on the same server with a proxy of its own, under the shipped policy and the rules about texts.
func (b *bench) shipped(t *testing.T) *bench {
	t.Helper()
	policy, err := os.ReadFile(filepath.Join(harness.Root(), "policy.rego"))
	if err != nil {
		t.Fatal(err)
	}
	other := &bench{T: t, server: b.server, dir: t.TempDir(), canaries: harness.NewCanaries(), secrets: map[string]string{}}
	other.proxy, err = harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: other.dir, Upstream: b.server.Address, Policy: string(policy) + textRules})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = other.proxy.Stop() })
	return other
}

// until reads a place until the reader receives a text, and reports whether that came.
func (p *party) until(read func(*party, string), id string, texts ...string) bool {
	for range 150 {
		read(p, id)
		for _, text := range texts {
			if bytes.Contains(p.told(), []byte(text)) {
				return true
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

// TestAttacksOnTexts reads at the server what a careless application wrote through the proxy. What is written past the proxy is
// found there, or the attack would prove nothing.
func TestAttacksOnTexts(t *testing.T) {
	all := newBench(t, nil)
	all.endpoint(t, victims)
	b := all.shipped(t)
	for name, c := range careless {
		t.Run(name, func(t *testing.T) {
			id := strings.NewReplacer(" ", "-").Replace(name)
			before := ""
			if c.token {
				before = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ."
			}
			direct := b.as(t, "", victims)
			known := "known" + strings.ReplaceAll(name, " ", "")
			if err := c.write(direct, id+"-past-the-proxy", before+known); err != nil {
				t.Fatalf("past the proxy: %v", err)
			}
			if !direct.until(c.read, id+"-past-the-proxy", known) {
				t.Fatal("what was written past the proxy is not found at the server: this attack proves nothing")
			}
			secret := b.text(name)
			err := c.write(b.as(t, "worker", victims), id, before+secret)
			reader, outcome := b.as(t, "", victims), "sealed or redacted"
			switch {
			case c.denied:
				if outcome = refusal(err); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "temporal-seal") {
					t.Errorf("it is not refused: %v", err)
				}
				c.read(reader, id)
			case err != nil:
				t.Errorf("the attack could not be carried out: %v", err)
			case !reader.until(c.read, id, "[redacted]", "/sealed.v1", secret):
				t.Error("what was written does not reach the server: this attack proves nothing")
			}
			if _, err := reader.ListSchedules(reader.ctx, &workflowservice.ListSchedulesRequest{Namespace: victims}); err != nil {
				t.Error(err)
			}
			reader.name = "reader"
			b.record(t, "careless: "+name, reader, outcome)
		})
	}
	t.Run("a guess next to a secret", func(t *testing.T) { guessing(t, b) })
}

// guessing has the victim's worker put a secret and a text of the attacker's into one failure. The attacker sees how long the
// sealed failure is, and would learn from a shorter one that the guess repeats the secret.
func guessing(t *testing.T, b *bench) {
	w, reader := b.as(t, "worker", victims), b.as(t, "", victims)
	secret := b.text("a secret beside a guess")
	size := func(id, guess string) int {
		must[any](t, "start")(nil, w.start(id, nil))
		must[any](t, "fail")(nil, w.complete(w.task(id), fail(applicationFailure("token="+secret+" was refused for token="+guess))))
		events := reader.events(id)
		last := proto.CloneOf(events[len(events)-1])
		event := &historypb.HistoryEvent{Attributes: last.Attributes}
		return proto.Size(event)
	}
	letters := "abcdefghijklmnopqrstuvwxyz0123456789"
	sizes := map[int]int{}
	right := size("guess-right", secret)
	for i := range 12 {
		wrong := []byte(secret)
		for j := i; j < len(wrong); j++ { // right up to a letter
			wrong[j] = letters[(strings.IndexByte(letters, wrong[j])+1+j)%len(letters)]
		}
		sizes[size(fmt.Sprint("guess-", i), string(wrong))]++
	}
	outcome := "right and wrong guesses are of one length"
	apart := len(sizes) > 1 || sizes[right] == 0
	if apart {
		t.Errorf("the right guess has %d bytes, wrong ones %v", right, sizes)
		outcome = "guesses can be told apart"
	}
	reader.name = "reader"
	b.record(t, "a guess next to a secret, by its length", reader, outcome)
	if apart {
		summary.Lock()
		summary.succeeded++
		summary.Unlock()
	}
}
