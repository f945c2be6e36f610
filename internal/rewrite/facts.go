package rewrite

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// Facts returns, for each RPC and kind of payload in its requests, which facts a
// policy can rely on: a table for policy authors and for checks. It is derived from
// the plan.
func Facts() ([]policy.CallFacts, error) {
	p, err := newPlan(protoregistry.GlobalFiles)
	if err != nil {
		return nil, err
	}
	return p.facts(), nil
}

// RPCs lists the values that policies see in input.rpc: the methods of the rewritten services, and the names for payloads
// that come without a message.
func RPCs() []string {
	names := []string{RPCEncode, RPCDecode}
	for _, service := range rewritten {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
		if s, ok := d.(protoreflect.ServiceDescriptor); ok && err == nil {
			for i := range s.Methods().Len() {
				names = append(names, string(s.Methods().Get(i).Name()))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// facts returns the rows of the table, sorted and without duplicates.
func (p *plan) facts() []policy.CallFacts {
	var rows []policy.CallFacts
	for _, m := range p.methods {
		c := factCollector{method: m}
		for _, f := range m.request.fields {
			c.byTask = c.byTask || f.op == opToken
		}
		c.walk(m.request, 0)
		rows = append(rows, c.rows...)
	}
	slices.SortFunc(rows, func(a, b policy.CallFacts) int {
		return cmp.Or(cmp.Compare(a.RPC, b.RPC), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Known, b.Known), cmp.Compare(a.NotApplicable, b.NotApplicable))
	})
	return slices.Compact(rows)
}

// factCollector visits the plan of one request in the order in which the walk visits
// its bytes.
type factCollector struct {
	method *Method
	byTask bool
	open   []*node
	rows   []policy.CallFacts
}

// walk visits a node below messages that hold the known facts.
func (c *factCollector) walk(n *node, known policy.FactSet) {
	if slices.Contains(c.open, n) {
		return // a recursive type adds nothing
	}
	c.open = append(c.open, n)
	defer func() { c.open = c.open[:len(c.open)-1] }()
	for _, f := range n.fields {
		if n.scope && (f.op == opFact || f.op == opFactName) {
			known |= f.fact
		}
	}
	for i := range n.fields {
		f := &n.fields[i]
		switch f.op {
		case opPayload, opSearchAttribute, opText, opReadable, opFailure:
			c.add(f.kind, known, f.na)
		case opAny:
			// Requests carry the bodies of updates there. Their plan is compiled when the walk finds one.
			c.add(policy.KindUpdate, known, notApplicable(c.method.name, f.path, policy.KindUpdate))
		}
		if f.child != nil && f.op != opFailure {
			c.walk(f.child, known)
		}
	}
}

// add adds the row of one site.
func (c *factCollector) add(kind string, known, na policy.FactSet) {
	row := policy.CallFacts{RPC: c.method.name, Kind: kind, Known: known, NotApplicable: na &^ known}
	if c.byTask {
		row.ByTask = policy.AllFacts &^ known &^ row.NotApplicable
	}
	c.rows = append(c.rows, row)
}
