package survey

import (
	"context"
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"google.golang.org/protobuf/proto"

	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/policy"
	"github.com/temporal-seal/temporal-seal/internal/rewrite"
	"github.com/temporal-seal/temporal-seal/internal/scan"
	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
)

// Options are what a survey needs.
type Options struct {
	Rewriter *rewrite.Rewriter // required: it knows the places of payloads
	Detector *detect.Detector  // required
	// InForce is the policy that decides now. Nil: nothing seals, so all is in clear.
	InForce *policy.Policy
	// Candidate is the policy to compare with. Nil: none.
	Candidate *policy.Policy
	// Samples is how many workflows of a type are read, and how many payloads of one kind and type are searched. 0: all.
	Samples int
}

// Survey searches what it is given, and counts by place.
type Survey struct {
	options Options
	table   *Table
	facts   map[callKind]factSets // which facts requests tell
	live    bool                  // searches what passes through a proxy, which is not stored yet
	run     string                // whose history is looked at
	// Activities of that run, by the id of the event that scheduled them.
	activities map[int64]activity
}

// New returns a survey that adds to a table.
func New(o Options, t *Table) (*Survey, error) {
	rows, err := rewrite.Facts()
	if err != nil {
		return nil, err
	}
	t.index()
	return &Survey{options: o, table: t, facts: tellFacts(rows), activities: map[int64]activity{}}, nil
}

// Want reports whether a workflow is to be read: not if enough of its type have been.
func (s *Survey) Want(namespace string, e *workflowpb.WorkflowExecutionInfo) bool {
	n := s.table.ofType(namespace, s.label(e.GetType().GetName()))
	if s.options.Samples > 0 && n.Read >= s.options.Samples {
		n.Skipped++
		return false
	}
	n.Read++
	return true
}

// Look searches an answer of the server.
func (s *Survey) Look(ctx context.Context, a *scan.Answer) {
	for _, u := range s.units(a) {
		if err := s.unit(ctx, &u); err != nil {
			s.table.unread(a.Namespace, err.Error())
		}
	}
}

// unit searches the payloads and the texts of one unit.
func (s *Survey) unit(ctx context.Context, u *unit) error {
	raw, err := proto.Marshal(u.message)
	if err != nil {
		return err
	}
	rpc := strings.TrimSuffix(string(u.message.ProtoReflect().Descriptor().Name()), "Response")
	m := s.options.Rewriter.Method("/temporal.api.workflowservice.v1.WorkflowService/" + rpc)
	if m == nil {
		return fmt.Errorf("%s is not known to this release", rpc)
	}
	err = s.options.Rewriter.Visit(m, raw, func(f rewrite.Found) { s.payload(ctx, u, f) })
	rewrite.Texts(u.message, func(t rewrite.Text) { s.text(ctx, u, t) })
	return err
}

// payload searches one payload.
func (s *Survey) payload(ctx context.Context, u *unit, f rewrite.Found) {
	stratum := s.stratum(u, f.Kind, f.Name)
	p, encoding := s.readable(u.namespace, stratum, f)
	if p == nil || s.options.Samples > 0 && stratum.Searched >= s.options.Samples {
		return
	}
	stratum.Searched++
	in := s.input(u, f.Kind, f.Name)
	in.Encoding, in.Type, in.Data = encoding, string(p.GetMetadata()["messageType"]), p.GetData()
	l := looker{detector: s.options.Detector, stratum: stratum, verdicts: s.verdicts(ctx, stratum, in)}
	l.data(encoding, p.GetData())
}

// readable counts a payload, and returns it with its encoding; nil if nobody can look into it.
func (s *Survey) readable(namespace string, stratum *Stratum, f rewrite.Found) (p *commonpb.Payload, encoding string) {
	stratum.Payloads++
	stratum.Bytes += len(f.Payload)
	p = new(commonpb.Payload)
	switch {
	case f.Marked || f.Err != nil:
		stratum.Sealed++
		return nil, ""
	case proto.Unmarshal(f.Payload, p) != nil:
		s.table.unread(namespace, "what stands in a payload's place is none")
		return nil, ""
	}
	encoding = string(p.GetMetadata()["encoding"])
	if encoding == "binary/encrypted" {
		stratum.Encoded++
		return nil, ""
	}
	return p, encoding
}

// text searches a text that is no payload: of a failure, or one that stays readable.
func (s *Survey) text(ctx context.Context, u *unit, t rewrite.Text) {
	if t.Value == "" || envelope.MarkedText([]byte(t.Value)) {
		return
	}
	if t.Kind != policy.KindFailure {
		s.staysReadable(u, t)
		return
	}
	stratum := s.stratum(u, policy.KindFailure, textName(t))
	stratum.Payloads++
	stratum.Bytes += len(t.Value)
	if s.options.Samples > 0 && stratum.Searched >= s.options.Samples {
		return
	}
	stratum.Searched++
	l := looker{detector: s.options.Detector, stratum: stratum, verdicts: s.verdicts(ctx, stratum, s.input(u, t.Kind, ""))}
	l.verdicts.whole()
	l.root().see(t.Value)
	l.text(l.root(), t.Value)
}

// textName is the name of the field that holds a text.
func textName(t rewrite.Text) string { return t.Site[strings.LastIndexByte(t.Site, '.')+1:] }

// staysReadable counts what is found in a text that cannot be sealed.
func (s *Survey) staysReadable(u *unit, t rewrite.Text) {
	findings := s.options.Detector.Text(t.Value)
	if f, byName := s.options.Detector.Name(t.Name); byName && t.Name != "" {
		findings = append(findings, f)
	}
	for _, f := range findings {
		if f.Certainty == detect.Possible {
			continue // ids are random
		}
		r := s.table.readable(Readable{Namespace: u.namespace, WorkflowType: s.label(u.workflowType), Kind: t.Kind, Site: t.Site,
			Name: s.label(t.Name), What: f.What, Certainty: f.Certainty})
		r.Count++
	}
}

// stratum returns the counts for payloads of a kind in a unit.
func (s *Survey) stratum(u *unit, kind, name string) *Stratum {
	return s.table.stratum(Place{Namespace: u.namespace, WorkflowType: s.label(u.workflowType),
		ActivityType: s.label(u.activityType), Kind: kind, Name: s.label(name)})
}

// Hidden stands for a name that may be data.
const Hidden = "{key}"

// maxLabel bounds the names of types, headers and so on that reports show, in bytes.
const maxLabel = 200

// label returns the name of a type, a header or an entry of a memo as reports show it: Hidden for one in which something is found.
func (s *Survey) label(name string) string {
	if len(name) > maxLabel {
		return Hidden
	}
	for _, f := range s.options.Detector.Text(name) {
		if f.Certainty != detect.Possible {
			return Hidden
		}
	}
	return name
}
