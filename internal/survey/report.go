package survey

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/scan"
	"github.com/temporal-seal/temporal-seal/internal/survey/detect"
)

// Report is what a survey found, for people and for programs.
type Report struct {
	Made    time.Time `json:"made"`
	Sources []Source  `json:"sources"`
	// Rows are sorted by risk: what the policy in force would leave in clear, and what is surely found, comes first.
	Rows []Row `json:"rows"`
	// Readable are findings in fields that cannot be sealed.
	Readable []*Readable `json:"cannot_be_sealed"`
	// Policy and Candidate report whether such policies were asked.
	Policy    bool    `json:"policy_asked"`
	Candidate bool    `json:"candidate_asked"`
	Summary   Summary `json:"summary"`
	// Leaves are the places of which the candidate seals some members and leaves others readable.
	Leaves []Leaves `json:"candidate_leaves_readable,omitempty"`
}

// Source is what was searched of one namespace.
type Source struct {
	Namespace string         `json:"namespace"`
	Walked    map[string]int `json:"walked,omitempty"`
	// Types are the workflows by type.
	Types  []*TypeCount `json:"workflow_types,omitempty"`
	Unread *Unread      `json:"unread,omitempty"`
	Done   bool         `json:"done"`
}

// Summary counts over all rows.
type Summary struct {
	Payloads int `json:"payloads"`
	Searched int `json:"searched"`
	Sealed   int `json:"sealed"`
	Encoded  int `json:"encoded_by_others"`
	// Places with findings, and those where findings were read in clear. A survey of live traffic reads nothing that is stored.
	Places int `json:"places"`
	Stored int `json:"places_stored_in_clear"`
	// Places where the policy in force, and the candidate, would leave findings in clear. Nil: that policy was not asked.
	InClear        *int `json:"places_policy_leaves_in_clear,omitempty"`
	CandidateClear *int `json:"places_candidate_leaves_in_clear,omitempty"`
	Readable       int  `json:"findings_that_cannot_be_sealed"`
}

// Row is one JSON pointer at one place.
type Row struct {
	At        Place          `json:"at"`
	Pointer   string         `json:"pointer"`
	Count     int            `json:"count"`
	Bytes     int            `json:"bytes"`
	Payloads  int            `json:"payloads"` // at the place, with all pointers
	Searched  int            `json:"searched"`
	JSON      float64        `json:"share_of_json"`
	Shape     string         `json:"shape"`
	Findings  []RowFinding   `json:"findings,omitempty"`
	InForce   map[string]int `json:"in_force,omitempty"`
	Candidate map[string]int `json:"candidate,omitempty"`
}

// RowFinding is one thing that was found at a row's place. Low and High are the bounds of its share among all values there,
// with a confidence of 95 % (Wilson's interval).
type RowFinding struct {
	What      string           `json:"what"`
	Certainty detect.Certainty `json:"certainty"`
	InName    bool             `json:"in_name,omitempty"`
	Count     int              `json:"count"`
	Low       float64          `json:"share_low"`
	High      float64          `json:"share_high"`
	// Stored is a fact: so many were read in clear. It is 0 in a survey of live traffic.
	Stored int `json:"stored_in_clear,omitempty"`
	// Clear and CandidateClear are verdicts: so many the policy in force, or the candidate, would leave in clear. Nil: it was not asked.
	Clear          *int `json:"policy_leaves_in_clear,omitempty"`
	CandidateClear *int `json:"candidate_leaves_in_clear,omitempty"`
}

// Left counts what the policy in force leaves in clear. Without a policy that is everything.
func (f *RowFinding) Left() int {
	if f.Clear == nil {
		return f.Count
	}
	return *f.Clear
}

// Report returns the table's report. walked is what a scan read, by namespace; nil for saved histories.
func (s *Survey) Report(walked map[string]*scan.Namespace, now time.Time) *Report {
	r := &Report{Made: now.UTC(), Policy: s.options.InForce != nil || s.live, Candidate: s.options.Candidate != nil,
		Sources: s.table.sources(walked), Rows: []Row{}, Readable: append([]*Readable{}, s.table.Readable...)}
	for _, stratum := range s.table.Strata {
		r.Summary.Payloads += stratum.Payloads
		r.Summary.Searched += stratum.Searched
		r.Summary.Sealed += stratum.Sealed
		r.Summary.Encoded += stratum.Encoded
		r.Rows = appendRows(r.Rows, stratum, stratum.Root, "")
		if left, some := stratum.leaves(); some && r.Candidate {
			r.Leaves = append(r.Leaves, left)
		}
	}
	r.places(s.live)
	for _, text := range r.Readable {
		r.Summary.Readable += text.Count
	}
	slices.SortFunc(r.Rows, func(a, b Row) int { return a.compare(&b) })
	slices.SortFunc(r.Leaves, func(a, b Leaves) int { return a.At.compare(&b.At) })
	slices.SortFunc(r.Readable, func(a, b *Readable) int {
		return cmp.Or(cmp.Compare(b.Certainty.Rank(), a.Certainty.Rank()), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Site, b.Site), cmp.Compare(a.What, b.What))
	})
	return r
}

// places counts the places with findings, and removes verdicts of policies that were not asked. What passes through a proxy is not
// stored yet.
func (r *Report) places(live bool) {
	n := &r.Summary
	n.InClear, n.CandidateClear = asked(r.Policy, 0), asked(r.Candidate, 0)
	for _, row := range r.Rows {
		if len(row.Findings) == 0 {
			continue
		}
		n.Places++
		inForce, candidate := false, false
		for i := range row.Findings {
			f := &row.Findings[i]
			inForce, candidate = inForce || *f.Clear > 0, candidate || *f.CandidateClear > 0
			if !live {
				f.Stored = f.Count // what is sealed was not searched
			}
			f.Clear, f.CandidateClear = asked(r.Policy, *f.Clear), asked(r.Candidate, *f.CandidateClear)
		}
		if r.Policy && inForce {
			*n.InClear++
		}
		if r.Candidate && candidate {
			*n.CandidateClear++
		}
	}
	if !live {
		n.Stored = n.Places
	}
}

// asked returns a policy's number, and nil if that policy was not asked.
func asked(policy bool, n int) *int {
	if !policy {
		return nil
	}
	return &n
}

// sources returns what was searched, by namespace.
func (t *Table) sources(walked map[string]*scan.Namespace) []Source {
	all := map[string]*Source{}
	of := func(namespace string) *Source {
		if all[namespace] == nil {
			all[namespace] = &Source{Namespace: namespace, Unread: &Unread{Reasons: []string{}}, Done: true}
		}
		return all[namespace]
	}
	for _, n := range t.Types {
		of(n.Namespace).Types = append(of(n.Namespace).Types, n)
	}
	for namespace, u := range t.Unread {
		of(namespace).Unread = &Unread{u.Count, slices.Clone(u.Reasons)}
	}
	for namespace, n := range walked {
		s := of(namespace)
		s.Walked, s.Done = n.Walked, n.Done
		s.Unread.Count += n.Unread
		s.Unread.Reasons = append(s.Unread.Reasons, n.Reasons...)
	}
	list := []Source{}
	for _, namespace := range slices.Sorted(maps.Keys(all)) {
		list = append(list, *all[namespace])
	}
	return list
}

// appendRows adds a row for each node, from the root on.
func appendRows(rows []Row, s *Stratum, n *Node, pointer string) []Row {
	if n.Count > 0 || len(n.Findings) > 0 || s.Root == n {
		row := Row{At: s.At, Pointer: pointer, Count: n.Count, Bytes: n.Bytes, Payloads: s.Payloads, Searched: s.Searched, Shape: n.Shape.String(),
			InForce: s.InForce, Candidate: s.Candidate}
		if s.Searched > 0 {
			row.JSON = float64(s.JSON) / float64(s.Searched)
		}
		for _, f := range n.Findings {
			low, high := wilson(f.Count, max(n.Count, f.Count))
			row.Findings = append(row.Findings, RowFinding{What: f.What, Certainty: f.Certainty, InName: f.InName, Count: f.Count, Low: low, High: high,
				Clear: asked(true, f.Clear), CandidateClear: asked(true, f.CandidateClear)})
		}
		slices.SortFunc(row.Findings, func(a, b RowFinding) int {
			return cmp.Or(cmp.Compare(b.Certainty.Rank(), a.Certainty.Rank()), cmp.Compare(a.What, b.What))
		})
		rows = append(rows, row)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Members)) {
		rows = appendRows(rows, s, n.Members[name], pointer+"/"+escape(name))
	}
	if n.Any != nil {
		rows = appendRows(rows, s, n.Any, pointer+"/"+Hidden)
	}
	if n.Elements != nil {
		rows = appendRows(rows, s, n.Elements, pointer+"/*")
	}
	return rows
}

// escape writes a name as a step of a JSON pointer (RFC 6901).
func escape(name string) string {
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// wilson returns the bounds of a share of k of n, with a confidence of 95 %.
func wilson(k, n int) (low, high float64) {
	if n == 0 {
		return 0, 1
	}
	const z = 1.96
	share, size := float64(k)/float64(n), float64(n)
	middle := share + z*z/(2*size)
	spread := z * math.Sqrt(share*(1-share)/size+z*z/(4*size*size))
	scale := 1 + z*z/size
	return math.Round(1e4*max(0, (middle-spread)/scale)) / 1e4, math.Round(1e4*min(1, (middle+spread)/scale)) / 1e4
}

// compare sorts rows by risk: what the policy leaves in clear before what it seals, then by how sure the surest finding is, then by their number.
func (r *Row) compare(o *Row) int {
	risk := func(r *Row) (rank, count int) {
		for _, f := range r.Findings {
			rank = max(rank, f.Certainty.Rank())
			count += f.Left()
		}
		if count > 0 {
			rank += 10
		}
		return rank, count
	}
	rank, count := risk(r)
	otherRank, otherCount := risk(o)
	return cmp.Or(cmp.Compare(otherRank, rank), cmp.Compare(otherCount, count), r.At.compare(&o.At), cmp.Compare(r.Pointer, o.Pointer))
}

// compare sorts places by their names.
func (p *Place) compare(o *Place) int {
	return cmp.Or(cmp.Compare(p.Namespace, o.Namespace), cmp.Compare(p.WorkflowType, o.WorkflowType),
		cmp.Compare(p.ActivityType, o.ActivityType), cmp.Compare(p.Kind, o.Kind), cmp.Compare(p.Name, o.Name))
}

// String describes a place in a few words.
func (p Place) String() string {
	text := p.Kind
	if p.Name != "" {
		text += " " + p.Name
	}
	switch {
	case p.ActivityType != "":
		return fmt.Sprintf("%s/%s/%s %s", p.Namespace, cmp.Or(p.WorkflowType, "-"), p.ActivityType, text)
	case p.WorkflowType != "":
		return fmt.Sprintf("%s/%s %s", p.Namespace, p.WorkflowType, text)
	}
	return p.Namespace + " " + text
}

// String describes a shape by types, lengths and classes of characters.
func (s Shape) String() string {
	var types []string
	for i, name := range []string{"text", "number", "object", "array", "true, false or null"} {
		if s.Types&(1<<i) != 0 {
			types = append(types, name)
		}
	}
	text := strings.Join(types, " or ")
	if s.Types&isText == 0 {
		return text
	}
	var classes []string
	for i, name := range []string{"letters", "digits", "spaces", "others"} {
		if s.Classes&(1<<i) != 0 {
			classes = append(classes, name)
		}
	}
	return fmt.Sprintf("%s, %d to %d bytes, %s", text, s.Shortest, s.Longest, strings.Join(classes, " "))
}
