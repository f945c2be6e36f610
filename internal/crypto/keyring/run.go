package keyring

import (
	"iter"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

// Run is a run of envelopes that are opened one after the other, as those of one message are. The zero value is ready; it
// is not safe for concurrent use.
type Run struct {
	ahead    iter.Seq[*envelope.Sealed]
	asked    map[headerID]answer                 // data keys that were not in memory
	failed   error                               // of the key store
	stopped  error                               // of its part with keys of subjects
	rows     map[crypto.KeyID][]crypto.KeyRow    // of data keys that were not in memory, in the order in which they are tried
	subjects map[crypto.KeyID]*crypto.SubjectRow // the same of keys of subjects; nil: not found
	lookups  map[crypto.KeyID]bool               // whether the key store was asked; it is not for those that are too many for one message
	refused  int32                               // of these, by key services
	recent   [4]opened                           // messages mostly hold envelopes of one data key or a few, as many as [envelope.Reader] remembers
	next     int
	last     int          // of recent, the one that was found last
	readable readableFrom // of the latest envelope that was none of recent
	use      *keyUse      // of the latest envelope
	more     uint64       // envelopes with that use which were opened after the first of them, not counted yet
}

// Nested returns the run of a message that another one holds. What one message may ask the key store and the key services for
// holds for both together.
func (r *Run) Nested() Run {
	if r.asked == nil {
		r.asked = make(map[headerID]answer)
	}
	if r.rows == nil {
		r.rows = make(map[crypto.KeyID][]crypto.KeyRow)
	}
	if r.lookups == nil {
		r.lookups = make(map[crypto.KeyID]bool)
	}
	if r.subjects == nil {
		r.subjects = make(map[crypto.KeyID]*crypto.SubjectRow)
	}
	return Run{asked: r.asked, rows: r.rows, subjects: r.subjects, lookups: r.lookups, refused: r.refused, failed: r.failed, stopped: r.stopped}
}

// EndNested takes over what a nested run has used up.
func (r *Run) EndNested(of *Run) {
	r.refused, r.failed, r.stopped = of.refused, of.failed, of.stopped
}

// opened is what an envelope of the run needed. Others that share its header have the same bytes there.
type opened struct {
	id        crypto.KeyID // of dk, whose own is far away in memory
	header    *envelope.Header
	namespace string // of the call
	set       *Set   // allowed it
	dk        *dataKey
}

// readableFrom says that a set lets a call in one namespace open what was sealed in another one, or in the same.
type readableFrom struct {
	set              *Set
	sealedIn, called string
}

// Ahead names the envelopes that are going to be opened in the run. As soon as the data key of one is not in memory, those
// of all of them are asked for, many at once.
func (r *Run) Ahead(envelopes iter.Seq[*envelope.Sealed]) { r.ahead = envelopes }

// same returns the data key of an envelope that shares its header with one that the run has opened.
func (r *Run) same(h *envelope.Header, set *Set, namespace string) *dataKey {
	for i := range r.recent {
		at := uint(r.last+i) % uint(len(r.recent))
		if k := &r.recent[at]; k.header == h && k.set == set && k.namespace == namespace {
			if r.last = int(at); k.dk.usable() {
				return k.dk
			}
			return nil
		}
	}
	return nil
}

// known returns a data key that the run has used.
func (r *Run) known(s *envelope.Sealed) *dataKey {
	for i := range r.recent {
		if k := &r.recent[i]; k.id == s.Header.ID && k.dk != nil && k.dk.opens(s) {
			return k.dk
		}
	}
	return nil
}

func (r *Run) note(h *envelope.Header, set *Set, namespace string, dk *dataKey) {
	r.last = r.next % len(r.recent)
	r.recent[r.last] = opened{dk.id, h, namespace, set, dk}
	r.next++
}

// Count adds the envelopes of a run to what their keys have opened; whoever opens several with one run calls it after the
// last. They are not counted one by one, since all calls write to the same counters, and cores would wait for each other.
func (r *Run) Count() {
	if r.more > 0 {
		r.use.opened.Add(r.more)
		r.more = 0
	}
}
