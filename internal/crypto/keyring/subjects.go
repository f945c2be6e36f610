package keyring

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

const (
	// pollInterval is the pause between questions for new erasures.
	pollInterval = 5 * time.Second
	// defaultMaxLag is how long keys of subjects serve after the last answer, unless the configuration says otherwise.
	defaultMaxLag = 5 * time.Minute

	maxSubjects = 8192 // sealers of subjects
	// maxNoted is how many erasures are noted one by one for keys that are being unwrapped meanwhile.
	maxNoted = 1 << 14

	// maxSubjectSeals is how many envelopes this process seals under one generation of a subject's key. Others use the same key.
	maxSubjectSeals = 1 << 22
	// subjectLife is how long a generation of a subject's key seals.
	subjectLife = 90 * 24 * time.Hour
)

// subjects holds the keys of subjects, and sees to it that an erased one is out of use. Its keys serve only while the key store
// answers what was erased.
type subjects struct {
	core    *core
	store   crypto.SubjectStore // nil: there is none
	opening *opening
	maxLag  time.Duration
	replica string // "" for a command, which no erasure waits for

	polled  atomic.Pointer[time.Time] // when the last good poll began; nil: none yet
	halted  atomic.Pointer[crypto.Error]
	polls   singleflight.Group
	polling sync.Mutex // held during a poll

	mu    sync.Mutex // guards the rest; it is held while a key is added or erased ones are dropped
	known bool       // last is known
	last  crypto.Erasure
	noted map[subjectID]int64 // erasures since floor
	floor int64

	parents parents
	sealers *lru.Cache[subjectID, *Sealer]
	sealing *flights[subjectID, *Sealer]
	unwraps *flights[crypto.KeyID, *dataKey]
	lost    lostRows
}

// lostRows are the subjects for which no key is made, since the row of their key is missing.
type lostRows struct {
	checked atomic.Int64 // when the rows of sealers were last looked at, in Unix nanoseconds
	mu      sync.Mutex
	keys    map[subjectID]crypto.KeyID
}

func (l *lostRows) add(id subjectID, key crypto.KeyID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys[id] = key
}

// still returns an error while the key store lacks the row of a subject's key that it had. A new key in its place would take the
// place of the row when that comes back from a backup.
func (l *lostRows) still(id subjectID, rows []crypto.SubjectRow, kc crypto.KeyContext) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost, ok := l.keys[id]
	if !ok {
		return nil
	}
	if slices.ContainsFunc(rows, func(r crypto.SubjectRow) bool { return r.ID == lost }) {
		delete(l.keys, id)
		return nil
	}
	return kc.Errorf(crypto.KindUnavailable, "seal", "the key store has lost the row of the subject's key %s...; restore it from a backup, "+
		"or restart the proxy to go on with a new key", lost.String()[:8])
}

// subjectID names a subject in the key store.
type subjectID struct {
	index crypto.KeyID
	tag   crypto.SubjectTag
}

// subjectKey is what a data key of a subject has beside others.
type subjectKey struct {
	of    *subjects
	row   crypto.SubjectRow
	until time.Time // it seals
}

func (s *subjectKey) id() subjectID { return subjectID{s.row.Index, s.row.Tag} }

func newSubjects(c *core, o *opening) *subjects {
	s := &subjects{core: c, opening: o, maxLag: c.opt.ErasureMaxLag, noted: make(map[subjectID]int64), lost: lostRows{keys: make(map[subjectID]crypto.KeyID)},
		sealers: newLRU[subjectID, *Sealer](maxSubjects),
		sealing: newFlights[subjectID, *Sealer](c, pollInterval),
		unwraps: newFlights[crypto.KeyID, *dataKey](c, refusalLife),
	}
	s.store = crypto.SubjectsOf(c.opt.Store)
	s.parents = newParents(c, o, s.store)
	if s.maxLag == 0 {
		s.maxLag = defaultMaxLag
	}
	if c.opt.Replica {
		id := make([]byte, 8)
		rand.Read(id)
		s.replica = hex.EncodeToString(id)
	}
	return s
}

// inForce reports whether keys of subjects may serve: the key store has answered lately what was erased. Both clocks have to say so:
// the monotonic one stands still while the machine sleeps, and the other one may be set.
func (s *subjects) inForce() bool {
	polled := s.polled.Load()
	if polled == nil || s.halted.Load() != nil {
		return false
	}
	now := time.Now()
	wall := now.Round(0).Sub(polled.Round(0))
	return now.Sub(*polled) <= s.maxLag && wall <= s.maxLag && wall >= -pollInterval
}

// ensure asks the key store what was erased, unless it has answered lately.
func (s *subjects) ensure(ctx context.Context, op string) error {
	if err := s.configured(op); err != nil || s.inForce() {
		return err
	}
	select {
	case polled := <-s.polls.DoChan("", func() (any, error) { return nil, s.poll() }): // one for all that wait
		return polled.Err
	case <-ctx.Done():
		return crypto.Errorf(crypto.KindUnavailable, op, "the key store did not answer in time what was erased: %w", ctx.Err())
	}
}

// configured returns an error if there is no key store for keys of subjects.
func (s *subjects) configured(op string) error {
	if s.store == nil {
		return crypto.Errorf(crypto.KindNotConfigured, op, "keys of subjects are in a key store, and none is configured here: add key_store")
	}
	return nil
}

// poll asks for new erasures, drops the keys of erased subjects, and confirms that to the key store. If the store lacks an erasure,
// it still writes the number that it has seen to the store, so that every other process finds out too.
func (s *subjects) poll() error {
	ctx, cancel := context.WithTimeout(s.core.base, callTimeout)
	defer cancel()
	s.polling.Lock()
	defer s.polling.Unlock()
	began := time.Now()
	stale, err := s.newErasures(ctx)
	if err != nil {
		return classified("keystore.erasures", crypto.KeyContext{}, err)
	}
	if stale != nil {
		s.halt(stale)
	}
	if s.replica != "" {
		if err := s.store.Seen(ctx, crypto.ReplicaRow{ID: s.replica, Seq: s.lastSeq(), MaxLag: s.maxLag}); err != nil {
			return classified("keystore.seen", crypto.KeyContext{}, err)
		}
	}
	if stale != nil {
		return stale
	}
	if s.halted.Swap(nil) != nil {
		s.core.opt.Log.Warn("the key store lacks no erasure any more; keys of subjects are in use again")
	}
	s.polled.Store(&began)
	return nil
}

// newErasures processes the erasures since the last poll. stale is why the key store is older than somebody knows.
func (s *subjects) newErasures(ctx context.Context) (stale *crypto.Error, err error) {
	for more := true; more; {
		from := max(s.lastSeq(), 1)
		if !s.known {
			from = -1
		}
		erasures, err := s.store.Erasures(ctx, from)
		if err != nil {
			return nil, err
		}
		if stale := s.process(erasures); stale != nil {
			return stale, nil
		}
		more = from > 0 && len(erasures) > 1 && s.lastSeq() > from
	}
	counts, err := s.store.ErasureCounts(ctx)
	if err != nil || counts.Whole() {
		return nil, err
	}
	return crypto.Errorf(crypto.KindUnavailable, "keystore.erasures",
		"the key store lacks erasures: it has %d of %d, and a replica has seen number %d, so it was restored from a backup that is older, or in part; "+
			"keys of subjects are out of use until `temporal-seal subjects reapply-erasures` has entered what is missing",
		counts.Entries, max(counts.Counter, counts.Last), counts.Seen).AtOnce(), nil
}

func (s *subjects) lastSeq() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last.Seq
}

// process drops the keys of subjects that were erased since the last poll. The first erasure has to be the last one that is known:
// otherwise the store was restored from a backup that is older, and would give back keys that were destroyed.
func (s *subjects) process(erasures []crypto.Erasure) *crypto.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.last; last.Seq > 0 {
		if len(erasures) == 0 || erasures[0].Seq != last.Seq || erasures[0].Index != last.Index || erasures[0].Tag != last.Tag {
			return crypto.Errorf(crypto.KindUnavailable, "keystore.erasures",
				"the key store lacks the erasure %d, which this process has seen: it was restored from a backup that is older; "+
					"keys of subjects are out of use until `temporal-seal subjects reapply-erasures` has entered what is missing", last.Seq).AtOnce()
		}
		erasures = erasures[1:]
	}
	first := !s.known
	s.known = true
	if len(erasures) == 0 {
		return nil
	}
	s.last = erasures[len(erasures)-1]
	if first {
		s.floor = s.last.Seq // nothing was read before
		return nil
	}
	if len(s.noted)+len(erasures) > maxNoted {
		clear(s.noted)
		s.floor = s.last.Seq
	}
	of := make(map[subjectID]bool, len(erasures))
	for _, e := range erasures {
		id := subjectID{e.Index, e.Tag}
		of[id], s.noted[id] = true, e.Seq
		if sealer, ok := s.sealers.Peek(id); ok {
			sealer.dk.drop()
			s.sealers.Remove(id)
		}
		s.sealing.refusals.Remove(id)
	}
	s.opening.keys.drop(func(dk *dataKey) bool { return dk.subject != nil && of[dk.subject.id()] })
	return nil
}

// halt takes the keys of subjects out of use, and says so once. Those in memory are dropped: erasures that are entered again get their old
// numbers, which may be lower than what this process has processed.
func (s *subjects) halt(err *crypto.Error) {
	if s.halted.Swap(err) == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, sealer := range s.sealers.Values() {
			sealer.dk.drop()
		}
		s.sealers.Purge()
		s.opening.keys.drop(func(dk *dataKey) bool { return dk.subject != nil })
		s.core.opt.Log.Error("KEYS OF SUBJECTS ARE OUT OF USE: the key store is older than this process", "error", err)
	}
}

// add remembers the key of a subject, unless the subject was erased after its row was read.
func (s *subjects) add(dk *dataKey) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stillValid(&dk.subject.row, "unwrap the key of a subject"); err != nil {
		dk.drop()
		return err
	}
	s.opening.keys.add(dk)
	return nil
}

// stillValid returns an error if an erasure came after a row was read, which may be that of its subject. The caller holds s.mu.
func (s *subjects) stillValid(row *crypto.SubjectRow, op string) error {
	if row.Seen < s.floor || s.noted[subjectID{row.Index, row.Tag}] > row.Seen || s.halted.Load() != nil {
		return row.Context.Errorf(crypto.KindUnavailable, op, "subjects were erased meanwhile; try again").AtOnce()
	}
	return nil
}

// tend polls, and looks now and then whether the rows of the keys that seal are there.
func (s *subjects) tend() {
	t := time.NewTicker(pollInterval)
	defer t.Stop()
	failing := false
	for {
		err := s.poll()
		if err != nil && !failing && s.core.base.Err() == nil && s.halted.Load() == nil {
			s.core.opt.Log.Warn("the key store does not answer what was erased; keys of subjects stop serving when it does not for erasure_max_lag",
				"erasure_max_lag", s.maxLag, "error", err)
		}
		if failing = err != nil; !failing {
			s.tendRows(time.Now())
		}
		select {
		case <-s.core.base.Done():
			return
		case <-t.C:
		}
	}
}

// leave has the key store forget this process, which uses no keys of subjects any more.
func (s *subjects) leave() {
	if s.store == nil || s.replica == "" || s.polled.Load() == nil || s.halted.Load() != nil { // what a halted one knows, others have to know
		return
	}
	s.polled.Store(nil)
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_ = s.store.Gone(ctx, s.replica) // otherwise erasures wait until it has been silent for long enough
}

// tendRows looks whether the rows are there of the keys that have sealed. A key whose row is lost seals no more: what it seals
// could be opened by this process alone. Nothing is sealed for its subject until the row is back.
func (s *subjects) tendRows(now time.Time) {
	if now.UnixNano()-s.lost.checked.Load() < int64(rowsInterval) {
		return
	}
	s.lost.checked.Store(now.UnixNano())
	sealers := s.sealers.Values()
	ids := make([]crypto.KeyID, len(sealers))
	for i, sealer := range sealers {
		ids[i] = sealer.dk.id
	}
	ctx, cancel := context.WithTimeout(s.core.base, maxWait)
	defer cancel()
	rows, err := s.store.SubjectKeys(ctx, ids)
	if err != nil {
		return
	}
	there := make(map[crypto.KeyID]bool, len(rows))
	for i := range rows {
		there[rows[i].ID] = true
	}
	for _, sealer := range sealers {
		if dk := sealer.dk; !there[dk.id] {
			dk.drop()
			s.sealers.Remove(dk.subject.id())
			s.lost.add(dk.subject.id(), dk.id)
			s.core.opt.Log.Error("the key store has lost the row of a subject's key; nothing is sealed for the subject, and what the key sealed does "+
				"not open, until the row is back", "data_key", dk.id.String(), "key", dk.context.Key, "namespace", dk.context.Namespace)
		}
	}
}

// drop forgets the wrap keys and sealers that match by their key encryption key or their id.
func (s *subjects) drop(match func(*dataKey) bool) {
	for _, id := range s.sealers.Keys() {
		if sealer, ok := s.sealers.Peek(id); ok && match(sealer.dk) {
			sealer.dk.drop()
			s.sealers.Remove(id)
		}
	}
	s.parents.drop(match)
}

// Subjects are the keys of subjects of a keyring.
type Subjects struct{ keys *Keyring }

// Subjects returns the keys of subjects.
func (k *Keyring) Subjects() Subjects { return Subjects{k} }

// Stopped returns why keys of subjects are out of use; nil if they may serve, or if there is no key store for them.
func (s Subjects) Stopped() error {
	of := s.keys.subjects
	switch halted := of.halted.Load(); {
	case of.store == nil || of.replica == "":
		return nil
	case halted != nil:
		return halted
	case !of.inForce():
		return crypto.Errorf(crypto.KindUnavailable, "keystore.erasures",
			"the key store has not answered what was erased for %v; keys of subjects are out of use until it does", of.maxLag)
	}
	return nil
}

// Ready makes sure that keys of subjects may serve, before a task is asked for whose result needs one.
func (s Subjects) Ready(ctx context.Context) error { return s.keys.subjects.ensure(ctx, "seal") }

// Lost returns how many subjects nothing is sealed for, since the key store has lost the rows of their keys.
func (s Subjects) Lost() int {
	of := &s.keys.subjects.lost
	of.mu.Lock()
	defer of.mu.Unlock()
	return len(of.keys)
}

// LastErasure returns the number of the last erasure that is in force here.
func (s Subjects) LastErasure() int64 { return s.keys.subjects.lastSeq() }

// NewKeys returns how many keys of subjects were made here, and how many were refused since their namespace makes them too fast.
func (s Subjects) NewKeys() (made, refused int64) {
	of := &s.keys.subjects.parents
	return of.made.Load(), of.refused.Load()
}
