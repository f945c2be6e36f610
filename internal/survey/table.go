package survey

import (
	"slices"

	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
)

// Bounds of a table. What exceeds them is counted under Hidden.
const (
	maxStrata   = 20_000
	maxNodes    = 2_000 // of one stratum
	maxMembers  = 50    // names on one level: more of them are data
	maxDepth    = 32
	maxReadable = 5_000
	maxReasons  = 20
)

// bounds are those of a table that depend on where it is kept.
type bounds struct {
	strata int
	nodes  int // of one stratum
}

// Table is what a survey has found so far, by place.
type Table struct {
	Strata   []*Stratum   `json:"strata,omitempty"`
	Readable []*Readable  `json:"cannot_be_sealed,omitempty"`
	Types    []*TypeCount `json:"types,omitempty"`
	// Unread has what could not be read, by namespace.
	Unread map[string]*Unread `json:"unread,omitempty"`

	bounds bounds
	strata map[Place]*Stratum
	names  map[Place]int // how many names each place without a name has
	texts  map[Readable]*Readable
	types  map[[2]string]*TypeCount
}

// Place is where payloads stand.
type Place struct {
	Namespace    string `json:"namespace"`
	WorkflowType string `json:"workflow_type,omitempty"`
	ActivityType string `json:"activity_type,omitempty"`
	Kind         string `json:"kind"`
	Name         string `json:"name,omitempty"` // of a header, or of an entry of a memo
}

// Stratum counts the payloads of one place.
type Stratum struct {
	At       Place `json:"at"`
	Payloads int   `json:"payloads"`
	Bytes    int   `json:"bytes"`
	JSON     int   `json:"json"`     // of those searched
	Searched int   `json:"searched"` // the others are sealed, encoded, or more than enough
	Sealed   int   `json:"sealed,omitempty"`
	Encoded  int   `json:"encoded,omitempty"` // by another codec: nobody can look into them
	// The verdicts of both policies, by their text.
	InForce   map[string]int `json:"in_force,omitempty"`
	Candidate map[string]int `json:"candidate,omitempty"`
	Root      *Node          `json:"root"`
	Nodes     int            `json:"nodes"` // below Root

	room int // for nodes
}

// Node counts the values at one JSON pointer.
type Node struct {
	Count    int              `json:"count"`
	Bytes    int              `json:"bytes"`
	Objects  int              `json:"objects,omitempty"` // of the values: those whose members have nodes of their own
	Shape    Shape            `json:"shape"`
	Left     int              `json:"candidate_left,omitempty"` // of the values: those that the candidate leaves beside what it seals
	Findings []*Found         `json:"findings,omitempty"`
	Members  map[string]*Node `json:"members,omitempty"`
	Elements *Node            `json:"elements,omitempty"` // of arrays
	Any      *Node            `json:"any,omitempty"`      // members whose names are data
}

// Found counts one thing that was found at a place.
type Found struct {
	What      string           `json:"what"`
	Certainty detect.Certainty `json:"certainty"`
	InName    bool             `json:"in_name,omitempty"` // the member's name holds it, not the value
	Count     int              `json:"count"`
	// Of these, what the policy in force and the candidate would leave in clear. Reports have other names; a state file keeps these.
	Clear          int `json:"in_clear"`
	CandidateClear int `json:"candidate_in_clear"`
}

// Readable counts one thing that was found in a field that cannot be sealed.
type Readable struct {
	Namespace    string           `json:"namespace"`
	WorkflowType string           `json:"workflow_type,omitempty"`
	Kind         string           `json:"kind,omitempty"` // "": no policy decides about the field
	Site         string           `json:"field"`
	Name         string           `json:"name,omitempty"`
	What         string           `json:"what"`
	Certainty    detect.Certainty `json:"certainty"`
	Count        int              `json:"count"`
}

// TypeCount counts the workflows of a type.
type TypeCount struct {
	Namespace string `json:"namespace"`
	Type      string `json:"workflow_type"`
	Read      int    `json:"read"`
	Skipped   int    `json:"skipped,omitempty"` // since enough had been read
}

// Unread is what could not be read, and why: the first reasons.
type Unread struct {
	Count   int      `json:"count"`
	Reasons []string `json:"reasons"`
}

// index makes the maps of a table, which its file does not have.
func (t *Table) index() {
	t.strata, t.names, t.texts, t.types = map[Place]*Stratum{}, map[Place]int{}, map[Readable]*Readable{}, map[[2]string]*TypeCount{}
	if t.bounds.strata == 0 {
		t.bounds = bounds{maxStrata, maxNodes}
	}
	for _, s := range t.Strata {
		s.room = t.bounds.nodes
		t.strata[s.At] = s
		t.names[s.At.nameless()]++
	}
	for _, r := range t.Readable {
		t.texts[r.key()] = r
	}
	for _, n := range t.Types {
		t.types[[2]string{n.Namespace, n.Type}] = n
	}
	if t.Unread == nil {
		t.Unread = map[string]*Unread{}
	}
}

// key is r without its count.
func (r Readable) key() Readable {
	r.Count = 0
	return r
}

// stratum returns the counts of a place.
func (t *Table) stratum(at Place) *Stratum {
	s := t.strata[at]
	if s == nil && t.names[at.nameless()] >= maxMembers {
		at.Name = Hidden
		s = t.strata[at]
	}
	if s == nil && len(t.Strata) >= t.bounds.strata {
		at = Place{Namespace: at.Namespace, WorkflowType: Hidden, ActivityType: Hidden, Kind: at.Kind, Name: Hidden}
		s = t.strata[at]
	}
	if s == nil {
		s = &Stratum{At: at, InForce: map[string]int{}, Candidate: map[string]int{}, Root: new(Node), room: t.bounds.nodes}
		t.strata[at] = s
		t.names[at.nameless()]++
		t.Strata = append(t.Strata, s)
	}
	return s
}

// nameless is a place for all names.
func (p Place) nameless() Place {
	p.Name = ""
	return p
}

// readable returns the count of a finding in a field that cannot be sealed.
func (t *Table) readable(r Readable) *Readable {
	found := t.texts[r]
	if found == nil && len(t.Readable) >= maxReadable {
		r.WorkflowType, r.Name = Hidden, Hidden
		found = t.texts[r]
	}
	if found == nil {
		found = &r
		t.texts[r] = found
		t.Readable = append(t.Readable, found)
	}
	return found
}

// ofType returns the count of a workflow type.
func (t *Table) ofType(namespace, kind string) *TypeCount {
	key := [2]string{namespace, kind}
	n := t.types[key]
	if n == nil && len(t.Types) >= maxStrata {
		key[1] = Hidden
		n = t.types[key]
	}
	if n == nil {
		n = &TypeCount{Namespace: key[0], Type: key[1]}
		t.types[key] = n
		t.Types = append(t.Types, n)
	}
	return n
}

// unread counts something that could not be read.
func (t *Table) unread(namespace, reason string) {
	u := t.Unread[namespace]
	if u == nil {
		u = new(Unread)
		t.Unread[namespace] = u
	}
	u.Count++
	if len(u.Reasons) < maxReasons && !slices.Contains(u.Reasons, reason) {
		u.Reasons = append(u.Reasons, reason)
	}
}

// found returns the count of a finding at a node.
func (n *Node) found(f detect.Finding, inName bool) *Found {
	for _, old := range n.Findings {
		if old.What == f.What && old.Certainty == f.Certainty && old.InName == inName {
			return old
		}
	}
	n.Findings = append(n.Findings, &Found{What: f.What, Certainty: f.Certainty, InName: inName})
	return n.Findings[len(n.Findings)-1]
}

// member returns the node of a member of an object with so many of them. One whose name is data, or that would be one of too many,
// shares a node with others; without room for a node, it is counted at the object's own.
func (s *Stratum) member(of *Node, name string, data bool, members int) *Node {
	n := of.Members[name]
	switch {
	case members > maxMembers:
		s.fold(of)
	case data:
	case n != nil:
		return n
	case len(of.Members) >= maxMembers:
		s.fold(of)
	case of.Any == nil && s.Nodes < s.room:
		if of.Members == nil {
			of.Members = map[string]*Node{}
		}
		n = new(Node)
		of.Members[name] = n
		s.Nodes++
		return n
	case of.varies():
		s.fold(of)
	}
	return s.below(of, &of.Any)
}

// elements returns the node of an array's elements; the array's own if there is no room.
func (s *Stratum) elements(of *Node) *Node { return s.below(of, &of.Elements) }

// below returns a node right below another one, and makes it if there is room; the other one itself if there is none.
func (s *Stratum) below(of *Node, at **Node) *Node {
	if *at == nil {
		if s.Nodes >= s.room {
			return of
		}
		*at = new(Node)
		s.Nodes++
	}
	return *at
}

// fold counts all members of a node of the stratum under one, which makes room.
func (s *Stratum) fold(of *Node) {
	if len(of.Members) > 0 {
		of.fold()
		s.Nodes = s.Root.size() - 1
	}
}

// size counts a node and those below it.
func (n *Node) size() int {
	if n == nil {
		return 0
	}
	all := 1 + n.Elements.size() + n.Any.size()
	for _, m := range n.Members {
		all += m.size()
	}
	return all
}

// fewMembers is how many members that are often missing an object may have before their names count as data.
const fewMembers = 5

// varies reports whether most members of a node's objects are missing in most of them, as members are whose names are data.
func (n *Node) varies() bool {
	seldom := 0
	for _, m := range n.Members {
		if 2*m.Count < n.Objects {
			seldom++
		}
	}
	return seldom > fewMembers && 2*seldom > len(n.Members)
}

// fold counts all members of a node under one.
func (n *Node) fold() {
	if n.Any == nil {
		n.Any = new(Node)
	}
	members := n.Members
	n.Members = nil
	for _, m := range members {
		n.Any.merge(m)
	}
}

// merge adds the counts of another node, and of all below it.
func (n *Node) merge(o *Node) {
	n.Count += o.Count
	n.Bytes += o.Bytes
	n.Objects += o.Objects
	n.Left += o.Left
	n.Shape.merge(&o.Shape)
	for _, f := range o.Findings {
		into := n.found(detect.Finding{What: f.What, Certainty: f.Certainty}, f.InName)
		into.Count += f.Count
		into.Clear += f.Clear
		into.CandidateClear += f.CandidateClear
	}
	for name, m := range o.Members {
		if n.Members == nil {
			n.Members = map[string]*Node{}
		}
		if n.Members[name] == nil {
			n.Members[name] = new(Node)
		}
		n.Members[name].merge(m)
	}
	if len(n.Members) > maxMembers {
		n.fold()
	}
	for _, sub := range []struct {
		into **Node
		from *Node
	}{{&n.Elements, o.Elements}, {&n.Any, o.Any}} {
		if sub.from != nil {
			if *sub.into == nil {
				*sub.into = new(Node)
			}
			(*sub.into).merge(sub.from)
		}
	}
}
