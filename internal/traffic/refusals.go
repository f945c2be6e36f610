package traffic

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// maxRefusals bounds the refusals that are kept. The one that was seen least recently goes.
const maxRefusals = 50

// Refusal is a kind of call that the proxy has refused. It has no text of an error, since a rule may write into one what it
// has read.
type Refusal struct {
	Namespace string    `json:"namespace"`
	Method    string    `json:"method"`
	Code      string    `json:"code"`
	Reason    string    `json:"reason"`
	Count     uint64    `json:"count"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
}

// Refusals keeps the last refusals. It is safe for concurrent use.
type Refusals struct {
	mu   sync.Mutex
	list []Refusal // the last one first
}

// Add notes a refusal at a time.
func (r *Refusals) Add(namespace, method, code, reason string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	one := Refusal{Namespace: strings.Clone(cut(namespace)), Method: method, Code: code, Reason: reason, First: at}
	i := slices.IndexFunc(r.list, func(o Refusal) bool {
		return o.Namespace == one.Namespace && o.Method == one.Method && o.Code == code && o.Reason == reason
	})
	if i >= 0 {
		one = r.list[i]
		r.list = slices.Delete(r.list, i, i+1)
	} else if len(r.list) >= maxRefusals {
		r.list = r.list[:maxRefusals-1]
	}
	one.Count, one.Last = one.Count+1, at
	r.list = slices.Insert(r.list, 0, one)
}

// List returns the refusals, the last one first.
func (r *Refusals) List() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Refusal{}, r.list...)
}
