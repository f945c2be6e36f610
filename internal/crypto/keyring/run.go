package keyring

import (
	"iter"
	"slices"

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
	recent   [8]recentKey                        // messages mostly hold envelopes of one data key or a few
	next     int
	last     opened
	use      *keyUse // of the latest envelope
	more     uint64  // envelopes with that use which were opened after the first of them, not counted yet
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

// opened is what the envelope that was opened last needed. Others that share its header have the same bytes there.
type opened struct {
	header    *envelope.Header
	namespace string // of the call
	set       *Set   // allowed it
	dk        *dataKey
}

// Ahead names the envelopes that are going to be opened in the run. As soon as the data key of one is not in memory, those
// of all of them are asked for, many at once.
func (r *Run) Ahead(envelopes iter.Seq[*envelope.Sealed]) { r.ahead = envelopes }

// known returns a data key that the run has used.
func (r *Run) known(s *envelope.Sealed) *dataKey {
	for i := range r.recent {
		if k := &r.recent[i]; k.id == s.Header.ID && k.dk != nil && k.dk.opens(s) {
			return k.dk
		}
	}
	return nil
}

func (r *Run) note(dk *dataKey) {
	if !slices.Contains(r.recent[:], recentKey{dk.id, dk}) {
		r.recent[r.next%len(r.recent)] = recentKey{dk.id, dk}
		r.next++
	}
}

// recentKey is a data key with its id, by which it is found: that of each key is far apart in memory.
type recentKey struct {
	id crypto.KeyID
	dk *dataKey
}

// Count adds the envelopes of a run to what their keys have opened; whoever opens several with one run calls it after the
// last. They are not counted one by one, since all calls write to the same counters, and cores would wait for each other.
func (r *Run) Count() {
	if r.more > 0 {
		r.use.opened.Add(r.more)
		r.more = 0
	}
}
