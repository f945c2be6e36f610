package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
)

// Record is what one call had opened, or tried to. It becomes one line of JSON. No field has room for the
// content of a payload.
type Record struct {
	Time      time.Time `json:"time"`
	Caller    Caller    `json:"caller"`
	Namespace string    `json:"namespace,omitempty"`
	// RPC is a method's name, or "codec-server/decode".
	RPC      string            `json:"rpc"`
	Workflow Workflow          `json:"workflow,omitzero"`
	Payloads []rewrite.Handled `json:"payloads"`
	// Code is the status of the answer. With any other than OK, the caller got nothing of what was opened.
	Code   string `json:"code"`
	Policy string `json:"policy"`
	Trace  string `json:"trace_id,omitempty"`
}

// Caller is who called, and through which listener.
type Caller struct {
	Kind     string `json:"kind"`
	Subject  string `json:"subject,omitempty"`
	Listener string `json:"listener,omitempty"`
}

// Workflow is the one that a call is about. Lists are about many, and have none.
type Workflow struct {
	ID   string `json:"id,omitempty"`
	Run  string `json:"run,omitempty"`
	Type string `json:"type,omitempty"`
}

// Of returns the record of what a session has opened for a caller in the call of ctx. RPC and Code are
// left to set.
func Of(ctx context.Context, session *rewrite.Session, caller *policy.Caller) Record {
	r := Record{
		Time:      time.Now(),
		Caller:    Caller{caller.Kind, caller.Subject, caller.Listener},
		Namespace: session.Namespace(),
		Workflow:  Workflow{session.WorkflowID(), session.WorkflowRun(), session.WorkflowType()},
		Payloads:  session.Account(),
		Policy:    session.Revision(),
	}
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		r.Trace = span.TraceID().String()
	}
	return r
}

// maxText bounds each text of a record in bytes. Callers choose some: ids, subjects, names in envelopes.
const maxText = 1024

// line is a record on its way to the sink.
type line struct {
	text bytes.Buffer
	json *json.Encoder
	// copied is the shortened copy that is encoded, so that no caller's record escapes to the heap.
	copied Record

	state   chan struct{} // holds a token until the fate of the line is decided
	written chan error    // the outcome, for the call that waits for it
}

// newLine returns a line for the pool, with its own buffer and encoder.
func newLine() *line {
	l := &line{state: make(chan struct{}, 1), written: make(chan error, 1)}
	l.json = json.NewEncoder(&l.text)
	l.json.SetEscapeHTML(false)
	return l
}

// encode writes the record as JSON, with a line feed at the end.
func (l *line) encode(r *Record) error {
	payloads := l.copied.Payloads[:0]
	l.copied = *r
	c := &l.copied
	for _, text := range []*string{&c.Caller.Kind, &c.Caller.Subject, &c.Caller.Listener, &c.Namespace, &c.RPC,
		&c.Workflow.ID, &c.Workflow.Run, &c.Workflow.Type, &c.Code, &c.Policy, &c.Trace} {
		*text = clip(*text)
	}
	for _, p := range r.Payloads {
		p.Kind, p.Namespace, p.Key = clip(p.Kind), clip(p.Namespace), clip(p.Key)
		payloads = append(payloads, p)
	}
	c.Payloads = payloads
	l.text.Reset()
	err := l.json.Encode(c)
	clear(payloads) // the texts may alias a call's buffers
	*c = Record{Payloads: payloads[:0]}
	return err
}

// clip shortens a text to maxText bytes at the border of a character, and shows that something is missing.
func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	end := maxText
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
