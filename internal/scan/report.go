package scan

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// Report is what a scan has found so far, by namespace.
type Report struct {
	Namespaces map[string]*Namespace `json:"namespaces"`
}

// Namespace counts what one namespace holds.
type Namespace struct {
	// Workflows, schedules and so on.
	Walked map[string]int `json:"walked"`
	// By key.
	Sealed []*Envelopes `json:"sealed"`
	// Payloads that are not sealed, by kind.
	Clear map[string]int `json:"clear,omitempty"`
	// Sealed by other tools, by their encoding.
	Foreign map[string]int `json:"foreign,omitempty"`
	// Envelopes that open nowhere any more, since their subjects were erased.
	Erased int `json:"erased,omitempty"`
	// The same, since the life of their keys is over.
	Expired int `json:"expired,omitempty"`
	// What could not be read.
	Unread int `json:"unread"`
	// The causes of the first of them.
	Reasons []string `json:"reasons,omitempty"`
	Done    bool     `json:"done"`
}

// Envelopes are those of one key in one namespace. A payload that the server holds in two places counts
// twice.
type Envelopes struct {
	// Its name in the config.
	Key string `json:"key"`
	// The namespace that the envelopes name, with its realm.
	SealedFor string `json:"sealed_for"`
	// Reference of the key encryption key.
	KEK   string `json:"kek"`
	Count int    `json:"count"`
	// Those that carry their data key, which no key store can destroy.
	SelfContained int `json:"self_contained,omitempty"`
	// By id, as revoked_data_keys takes it.
	DataKeys map[string]int `json:"data_keys"`
	// Where one stands.
	Example string `json:"example,omitempty"`
}

// maxReasons bounds the report: one field that this release does not know makes every workflow unread.
const maxReasons = 20

// newNamespace returns a count of nothing, with all maps made.
func newNamespace() *Namespace {
	return &Namespace{Walked: map[string]int{}, Clear: map[string]int{}, Foreign: map[string]int{}}
}

// unread counts something that could not be read, and keeps the reason unless there are many already.
func (n *Namespace) unread(reason string) {
	n.Unread++
	if len(n.Reasons) < maxReasons {
		n.Reasons = append(n.Reasons, reason)
	}
}

// sealed counts one envelope under its key. The texts are copied: those of the header are part of the
// server's answer, which would stay in memory as a whole.
func (n *Namespace) sealed(h *envelope.Header, where string) {
	kek := h.KEK.String()
	i := slices.IndexFunc(n.Sealed, func(e *Envelopes) bool {
		return e.Key == h.Key && e.SealedFor == h.Namespace && e.KEK == kek
	})
	if i < 0 {
		i = len(n.Sealed)
		n.Sealed = append(n.Sealed, &Envelopes{Key: strings.Clone(h.Key), SealedFor: strings.Clone(h.Namespace),
			KEK: kek, DataKeys: map[string]int{}, Example: where})
	}
	n.Sealed[i].Count++
	if len(h.Wrapped) > 0 {
		n.Sealed[i].SelfContained++
	}
	n.Sealed[i].DataKeys[h.ID.String()]++
}

// Under counts the envelopes under a key encryption key, over all namespaces.
func (r *Report) Under(kek crypto.KEKRef) (count int, example string) {
	for _, name := range slices.Sorted(maps.Keys(r.Namespaces)) {
		for _, e := range r.Namespaces[name].Sealed {
			if e.KEK == kek.String() {
				count += e.Count
				example = cmp.Or(example, e.Example+" in namespace "+name)
			}
		}
	}
	return count, example
}

// Unread counts what could not be read, over all namespaces. A namespace that is not done counts as one more.
func (r *Report) Unread() (n int) {
	for _, ns := range r.Namespaces {
		n += ns.Unread
		if !ns.Done {
			n++
		}
	}
	return n
}
