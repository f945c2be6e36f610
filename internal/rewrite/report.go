package rewrite

import (
	"context"
	"errors"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Stats counts what happened to the payloads of one message.
type Stats struct {
	Payloads int // payloads sealed or opened
	Bytes    int // size of these before sealing or opening
	Passed   int // requests: left unchanged
	Kept     int // responses: left sealed, as the policy says
	Shadow   int // requests in shadow mode: left unchanged, though the policy does not let them pass
	// NotFound and NotAnArray are payloads that were sealed whole, though rules name fields of them: a field leads to
	// nothing, or names elements of something that is no array.
	NotFound, NotAnArray int
	External             int // requests: references to values in external storage of SDKs, whatever became of them
	Unattributed         int // requests: sealed with the key of no subject, where rules name subjects

	Unopened int      // answers: could not be opened and stay sealed
	Later    int      // of these, by a cause that may pass by itself
	Keys     []string // the keys used, each once
	CacheHit bool     // every data key was at hand
	Outcomes Outcomes // what became of each kind of payload
}

// reset empties the counts and keeps the memory for the names of keys and the outcomes.
func (s *Stats) reset() { *s = Stats{Keys: s.Keys[:0], CacheHit: true, Outcomes: s.Outcomes[:0]} }

// used counts a payload of a size that was sealed or opened with a key. hit reports whether the data key
// was cached.
func (s *Stats) used(key string, size int, hit bool) {
	s.Payloads++
	s.Bytes += size
	s.CacheHit = s.CacheHit && hit
	if slices.Contains(s.Keys, key) {
		return
	}
	s.Keys = again(s.Keys)
	if k := &s.Keys[len(s.Keys)-1]; *k != key {
		*k = strings.Clone(key)
	}
}

// unmatched counts a payload that was sealed whole, if there is a reason for that.
func (s *Stats) unmatched(why envelope.Mismatch) {
	switch why {
	case envelope.NotFound:
		s.NotFound++
	case envelope.NotAnArray:
		s.NotAnArray++
	}
}

// again returns a list with one more element: that which an earlier session left in its memory, whose names serve
// again, or an empty one.
func again[T any](list []T) []T {
	if len(list) < cap(list) {
		return list[:len(list)+1]
	}
	return append(list, *new(T))
}

// add adds the counts of a nested message.
func (s *Stats) add(o *Stats) {
	for _, key := range o.Keys {
		s.used(key, 0, o.CacheHit)
		s.Payloads--
	}
	s.Payloads += o.Payloads
	s.Bytes += o.Bytes
	s.Passed += o.Passed
	s.Kept += o.Kept
	s.Shadow += o.Shadow
	s.NotFound += o.NotFound
	s.NotAnArray += o.NotAnArray
	s.External += o.External
	s.Unattributed += o.Unattributed
	s.Unopened += o.Unopened
	s.Later += o.Later
	s.Outcomes.addAll(o.Outcomes)
}

// Unopened counts the sealed values of a response that did not open for one reason. Values that the policy denies count too,
// with the reason "denied".
type Unopened struct {
	Reason string // one of Reasons
	Count  int
	Err    error // why the first of them did not open
}

// noteUnopened counts n sealed values that do not open.
func (o *opener) noteUnopened(err error, n int) {
	reason := Reason(err)
	for i := range o.unopened {
		if u := &o.unopened[i]; u.Reason == reason {
			u.Count += n
			return
		}
	}
	o.unopened = append(o.unopened, Unopened{reason, n, err})
}

// Unopened returns the sealed values of the response that did not open, by reason. It is valid until Done.
func (s *Session) Unopened() []Unopened {
	if s.opener == nil {
		return nil
	}
	return s.opener.unopened
}

// LogFields returns what each log line about the session's call says of it, as far as it is known: namespace, method,
// caller, listener, workflow_id and trace_id. The texts are those of callers, so they are cut.
func (s *Session) LogFields(ctx context.Context) []any {
	fields := []any{"method", s.Method()}
	add := func(name, value string) {
		if value != "" {
			fields = append(fields, name, cutText(value))
		}
	}
	add("namespace", s.call.namespace)
	if c := s.call.caller; c != nil {
		add("caller", c.String())
		add("listener", c.Listener)
	}
	add("workflow_id", s.WorkflowID())
	if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
		add("trace_id", span.TraceID().String())
	}
	return fields
}

// maxLogged bounds a text of a caller in a log line, in bytes.
const maxLogged = 1 << 10

func cutText(text string) string {
	if len(text) <= maxLogged {
		return text
	}
	return strings.ToValidUTF8(text[:maxLogged], "") + "..."
}

// Outcome is what happened to a payload.
type Outcome string

// Outcomes of sealed payloads in responses, as audit records name them.
const (
	Opened   Outcome = "opened"
	Redacted Outcome = "redacted"
	Erased   Outcome = "erased"  // its subject was, and the caller gets a placeholder
	Expired  Outcome = "expired" // the life of its key is over, and the caller gets a placeholder
	Kept     Outcome = "kept"
	Denied   Outcome = "denied" // of a request too: it is refused
	Failed   Outcome = "failed" // the policy allows opening, but the envelope or its key does not
)

// Outcomes of payloads in requests, beside Redacted and Denied.
const (
	Sealed       Outcome = "sealed"
	Masked       Outcome = "masked"        // members of it are, and then it was sealed
	Passed       Outcome = "passed"        // in clear, as the policy says
	PassedShadow Outcome = "passed_shadow" // in clear, though the policy does not let it pass
	Dropped      Outcome = "dropped"       // replaced by an empty value
)

// AllOutcomes lists the outcomes, those of requests first.
var AllOutcomes = [...]Outcome{Sealed, Masked, Passed, PassedShadow, Dropped, Denied, Opened, Redacted, Kept, Erased, Expired, Failed}

// Counted is how many payloads of one kind had one outcome.
type Counted struct {
	Kind    string
	Outcome Outcome
	N       int
}

// Outcomes counts the payloads of a message by kind and outcome. Kinds are a closed list, so it is short.
type Outcomes []Counted

// add counts n payloads.
func (o *Outcomes) add(kind string, outcome Outcome, n int) {
	for i := range *o {
		if c := &(*o)[i]; c.Kind == kind && c.Outcome == outcome {
			c.N += n
			return
		}
	}
	*o = append(*o, Counted{kind, outcome, n})
}

// addAll adds the counts of a nested message.
func (o *Outcomes) addAll(other Outcomes) {
	for _, c := range other {
		o.add(c.Kind, c.Outcome, c.N)
	}
}

// Withhold removes what did not happen, since the message as a whole failed.
func (o *Outcomes) Withhold() {
	*o = slices.DeleteFunc(*o, func(c Counted) bool { return c.Outcome != Denied && c.Outcome != Failed })
}

// actionOutcomes are those of payloads in requests, by the verdict.
var actionOutcomes = [...]Outcome{policy.Seal: Sealed, policy.Pass: Passed, policy.Redact: Redacted, policy.Drop: Dropped, policy.Mask: Masked}

// decided counts a payload of a request by the action that the policy has chosen.
func (o *Outcomes) decided(kind string, action policy.Action, shadowed bool) {
	if shadowed {
		o.add(kind, PassedShadow, 1)
	} else {
		o.add(kind, actionOutcomes[action], 1)
	}
}

// refused counts a payload for which a request is refused. What was decided about others does not happen.
func (o *Outcomes) refused(kind string, err error) {
	o.Withhold()
	if refused, ok := errors.AsType[*Error](err); ok && refused.Kind == KindDenied {
		o.add(kind, Denied, 1)
	}
}

// Handled counts the payloads of one kind in a response that were sealed with one key and had the same
// outcome. Namespace and Key are those in the envelopes. The JSON is that of audit records.
type Handled struct {
	Kind      string  `json:"kind"`
	Namespace string  `json:"sealed_in"`
	Key       string  `json:"key"`
	Outcome   Outcome `json:"verdict"`
	Count     int     `json:"count"`
	// Missing is what the caller's namespace lacks to open another one's payloads: "grant" or "rule".
	Missing string `json:"missing,omitempty"`
}

// What may be missing.
const (
	missingGrant = "grant" // of the config
	missingRule  = "rule"  // of the policy
)

// maxHandled bounds the entries of an account, since a response may hold planted envelopes with any names.
// Further payloads are counted under the kind "other", by outcome.
const maxHandled = 64

// account counts what happened to the sealed payloads of a response.
type account []Handled

// enter adds to the entry for the same kind, key and outcome, or makes one.
func (a *account) enter(h Handled) {
	for i := range *a {
		if e := &(*a)[i]; e.Kind == h.Kind && e.Outcome == h.Outcome && e.Key == h.Key && e.Namespace == h.Namespace &&
			e.Missing == h.Missing {
			e.Count += h.Count
			return
		}
	}
	if len(*a) >= maxHandled && h.Kind != "other" {
		a.enter(Handled{Kind: "other", Outcome: h.Outcome, Count: h.Count})
		return
	}
	*a = again(*a)
	e := &(*a)[len(*a)-1]
	if e.Key != h.Key || e.Namespace != h.Namespace { // the names alias the response
		e.Namespace, e.Key = strings.Clone(h.Namespace), strings.Clone(h.Key)
	}
	e.Kind, e.Outcome, e.Count, e.Missing = h.Kind, h.Outcome, h.Count, h.Missing
}

// withhold removes the payloads that the caller does not get, since the response as a whole failed.
func (a *account) withhold() {
	*a = slices.DeleteFunc(*a, func(h Handled) bool { return h.Outcome != Denied && h.Outcome != Failed })
}

// enter counts one payload, and enters it into the account, if accounts are kept.
func (o *opener) enter(kind string, h *envelope.Header, outcome Outcome) {
	o.enterMissing(kind, h, outcome, "")
}

// enterMissing is enter for a payload of another namespace, with what is missing to open it.
func (o *opener) enterMissing(kind string, h *envelope.Header, outcome Outcome, missing string) {
	o.stats.Outcomes.add(kind, outcome, 1)
	if o.call.rewriter.accounts {
		o.account.enter(Handled{kind, h.Namespace, h.Key, outcome, 1, missing})
	}
}

// enterItem enters a payload about which the policy has decided. err is why it did not open, if it did not.
func (o *opener) enterItem(it *openItem, err error) {
	outcome := outcomes[it.action]
	if gone, is := it.destroyed(); is {
		outcome = outcomeOf(gone)
	}
	if err != nil {
		outcome = Failed
		if crypto.KindOf(err) == crypto.KindForeign {
			it.missing = missingGrant
		}
	}
	o.enterMissing(it.slot.f.kind, it.sealed.Header, outcome, it.missing)
}

// outcomeOf is the outcome of a payload whose key was destroyed.
func outcomeOf(gone envelope.Destroyed) Outcome {
	if gone.Expired {
		return Expired
	}
	return Erased
}

// outcomes are those of payloads that open, by the verdict.
var outcomes = [...]Outcome{policy.Open: Opened, policy.Redact: Redacted, policy.Keep: Kept, policy.Deny: Denied}

// tracerName is the instrumentation scope of this package's spans.
const tracerName = "github.com/temporal-seal/temporal-seal/internal/rewrite"

// startSpan starts a child of the call's span; nil if that is not recorded. There is
// one span for the decisions about a message and one for its payloads, never one per
// payload: a span costs more than sealing one.
func (c *call) startSpan(ctx context.Context, name string) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, nil
	}
	ctx, s := parent.TracerProvider().Tracer(tracerName).Start(ctx, name)
	s.SetAttributes(attribute.String("temporal.namespace", c.namespace), attribute.String("rpc.method", c.method.full[1:]))
	return ctx, s
}

// endSpan ends the span of a message's decisions.
func (d *decider) endSpan(s trace.Span, err error) {
	if s == nil {
		return
	}
	s.SetAttributes(
		attribute.Int("policy.payloads", len(d.message.walk.slots)),
		attribute.String("policy.revision", d.call.policy.Revision()))
	finish(s, err)
}

// endSpan ends the span in which payloads were sealed or opened.
func endSpan(s trace.Span, err error, stats *Stats) {
	if s == nil {
		return
	}
	s.SetAttributes(
		attribute.StringSlice("seal.key", stats.Keys),
		attribute.Int("seal.payloads", stats.Payloads),
		attribute.Int("seal.bytes", stats.Bytes),
		attribute.Bool("seal.cache_hit", stats.CacheHit),
	)
	if stats.Unopened > 0 {
		s.SetAttributes(attribute.Int("seal.unopened", stats.Unopened))
	}
	finish(s, err)
}

// finish records the reason of an error only. Its text may quote what a rule says about
// a caller, and belongs in the log.
func finish(s trace.Span, err error) {
	if err != nil {
		s.SetStatus(codes.Error, Reason(err))
	}
	s.End()
}
