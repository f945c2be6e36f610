package scan

import (
	"cmp"
	"encoding/hex"
	"maps"
	"slices"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// Report is what a scan has found so far, by namespace.
type Report struct {
	Namespaces map[string]*Namespace `json:"namespaces"`
}

// Namespace counts what one namespace holds.
type Namespace struct {
	Walked  map[string]int `json:"walked"`            // workflows, schedules and so on
	Sealed  []*Envelopes   `json:"sealed"`            // by key
	Clear   map[string]int `json:"clear,omitempty"`   // payloads that are not sealed, by kind
	Foreign map[string]int `json:"foreign,omitempty"` // sealed by other tools, by their encoding
	Unread  int            `json:"unread"`            // what could not be read
	Reasons []string       `json:"reasons,omitempty"` // the causes of the first of them
	Done    bool           `json:"done"`
}

// Envelopes are those of one key in one namespace. A payload that the server holds in two places counts
// twice.
type Envelopes struct {
	Key       string         `json:"key"`        // its name in the config
	SealedFor string         `json:"sealed_for"` // the namespace that the envelopes name, with its realm
	KEK       string         `json:"kek"`        // reference of the key encryption key
	Count     int            `json:"count"`
	DataKeys  map[string]int `json:"data_keys"`         // by id, as revoked_data_keys takes it
	Example   string         `json:"example,omitempty"` // where one stands
}

const maxReasons = 20

func newNamespace() *Namespace {
	return &Namespace{Walked: map[string]int{}, Clear: map[string]int{}, Foreign: map[string]int{}}
}

func (n *Namespace) unread(reason string) {
	n.Unread++
	if len(n.Reasons) < maxReasons {
		n.Reasons = append(n.Reasons, reason)
	}
}

func (n *Namespace) sealed(h *envelope.Header, where string) {
	kek := h.KEK.String()
	i := slices.IndexFunc(n.Sealed, func(e *Envelopes) bool { return e.Key == h.Key && e.SealedFor == h.Namespace && e.KEK == kek })
	if i < 0 {
		i = len(n.Sealed)
		n.Sealed = append(n.Sealed, &Envelopes{Key: string([]byte(h.Key)), SealedFor: string([]byte(h.Namespace)), KEK: kek,
			DataKeys: map[string]int{}, Example: where})
	}
	n.Sealed[i].Count++
	n.Sealed[i].DataKeys[hex.EncodeToString(h.DataKeyID[:])]++
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
