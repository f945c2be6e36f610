package survey

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxLeaves bounds the pointers that a report or a policy lists of one place.
const maxLeaves = 40

// Leaves are the members of one place that stay readable beside sealed ones, as far as they were seen. A name of a member that may
// be data is Hidden, and no value is here.
type Leaves struct {
	At       Place    `json:"at"`
	Pointers []string `json:"pointers"`
	More     int      `json:"more,omitempty"` // beyond those listed
}

// List writes the pointers for people.
func (l Leaves) List() string {
	shown := slices.Clone(l.Pointers)
	for i := range shown {
		shown[i] = cmp.Or(shown[i], "(whole)")
	}
	text := strings.Join(shown, ", ")
	if l.More > 0 {
		text += fmt.Sprintf(" and %d more", l.More)
	}
	return text
}

func (l *Leaves) add(pointer string) {
	if len(l.Pointers) == maxLeaves {
		l.More++
		return
	}
	l.Pointers = append(l.Pointers, pointer)
}

// besides lists the places of values below a node that no pointer of fields leads to.
func (l *Leaves) besides(n *Node, pointer string, fields []string) {
	n.each(pointer, func(n *Node, at string) (below bool) {
		if slices.Contains(fields, at) {
			return false
		}
		if n.Shape.Types&(isText|isNumber|isOther) != 0 {
			l.add(at)
		}
		return true
	})
}

// leaves lists the places of values that the candidate leaves readable beside what it seals.
func (s *Stratum) leaves() (l Leaves, some bool) {
	l.At = s.At
	s.Root.each("", func(n *Node, at string) (below bool) {
		if n.Left > 0 {
			l.add(at)
		}
		return true
	})
	return l, len(l.Pointers) > 0
}

// each calls f for a node and those below it, with their pointers, unless f says that those below are left out.
func (n *Node) each(pointer string, f func(n *Node, pointer string) (below bool)) {
	if !f(n, pointer) {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(n.Members)) {
		n.Members[name].each(pointer+"/"+escape(name), f)
	}
	if n.Any != nil {
		n.Any.each(pointer+"/"+Hidden, f)
	}
	if n.Elements != nil {
		n.Elements.each(pointer+"/*", f)
	}
}

// left counts a value that the candidate leaves readable while it seals other parts of the same document.
func (l *looker) left(n *Node, v any) {
	switch v.(type) {
	case map[string]any, []any:
		return // their members and elements count
	}
	if c := &l.verdicts.candidate; len(c.fields)+len(c.clear)+len(c.masked) > 0 && !c.covers(l.path) {
		n.Left++
	}
}
