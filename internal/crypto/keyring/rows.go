package keyring

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
)

const (
	// missTrust is how long a row that the key store did not have is not asked for again.
	missTrust = time.Second
	// missLimit is after how long a row that is still not there counts as lost. Until then it may come from a writer that the
	// database has not caught up with, or from a backup that is being restored.
	missLimit = 10 * time.Minute
	// maxLookups is how many rows the key store is asked for by one message.
	maxLookups = 1024
	// maxAgain is how many calls at a time ask for rows that were missing before.
	maxAgain = 2
	// pingInterval is the pause between questions whether the key store answers.
	pingInterval = 10 * time.Second
	// rowsInterval is the pause between checks that the rows of the keys that seal are there.
	rowsInterval = time.Minute
)

// missing is a row that the key store did not have.
type missing struct{ first, last time.Time }

// Resolve looks up the names in envelopes by reference, which have none: with one question to the key store for all whose
// data keys are not in memory. It fills in their headers. An envelope whose row is not found keeps empty names; opening it
// tells why.
func (k *Keyring) Resolve(ctx context.Context, envelopes iter.Seq[*envelope.Sealed], run *Run) {
	if unknown := k.opening.fillAll(envelopes); len(unknown) > 0 {
		run.failed = k.opening.fillFromStore(ctx, unknown, run)
	}
}

// fillAll fills the headers of envelopes by reference whose data keys are in memory, and returns the others.
func (o *opening) fillAll(envelopes iter.Seq[*envelope.Sealed]) (unknown []*envelope.Header) {
	o.keys.mu.RLock()
	defer o.keys.mu.RUnlock()
	for s := range envelopes {
		if h := s.Header; h.Reference() && h.Namespace == "" && !fillFromKey(h, o.keys.locked(h.ID)) {
			unknown = append(unknown, h)
		}
	}
	return unknown
}

// Resolved returns why an envelope by reference has no names after Resolve.
func (k *Keyring) Resolved(ctx context.Context, s *envelope.Sealed, run *Run) error {
	return k.opening.resolveOne(ctx, s, run)
}

// resolveOne is Resolve for an envelope that is opened, and returns why it has no names. What Resolve has looked up in the run is
// not asked for again: a message may name any number of rows that do not exist.
func (o *opening) resolveOne(ctx context.Context, s *envelope.Sealed, run *Run) error {
	h := s.Header
	if !h.Reference() || h.Namespace != "" || o.fillFromMemory(h) {
		return nil
	}
	if dk := o.keys.get(h.ID); dk != nil && h.Subject() != (dk.subject != nil) {
		return h.Tampered("its flags say of another kind of key than its key id names")
	}
	if h.Subject() && run.stopped != nil {
		return run.stopped
	}
	if run.failed != nil {
		return run.failed
	}
	if _, done := run.lookups[h.ID]; !done && !o.missedLately(h.ID) {
		if err := o.fillFromStore(ctx, []*envelope.Header{h}, run); err != nil {
			run.failed = err
			return err
		}
	}
	if fillFromRun(h, run) {
		return nil
	}
	if h.Subject() && run.stopped != nil {
		return run.stopped
	}
	m, known := o.missing.Get(h.ID)
	asked, done := run.lookups[h.ID]
	switch {
	case done && !asked:
		return crypto.Errorf(crypto.KindUnavailable, "open",
			"its row was not looked up: one message refers to more than %d data keys that are not in memory, or other calls ask for rows "+
				"that were missing before; try again", maxLookups)
	case !known || time.Since(m.first) < missLimit:
		return crypto.Errorf(crypto.KindUnavailable, "open", "the key store has no row for its key id %s... yet", h.ID.String()[:8])
	}
	if h.Subject() {
		return crypto.Errorf(crypto.KindRowMissing, "open",
			"the key store has had no row of a subject for its key id %s... for %v: the row was lost, or is in another store; restore it from a backup",
			h.ID.String()[:8], missLimit)
	}
	return crypto.Errorf(crypto.KindRowMissing, "open",
		"the key store has had no row for its key id %s... for %v: the row was lost, or is in another store; see `temporal-seal keystore recover`",
		h.ID.String()[:8], missLimit)
}

// fillFromMemory fills a header by its data key, if that is in memory.
func (o *opening) fillFromMemory(h *envelope.Header) bool { return fillFromKey(h, o.keys.get(h.ID)) }

// fillFromKey fills a header by its data key; nil: it is not in memory.
func fillFromKey(h *envelope.Header, dk *dataKey) bool {
	if dk == nil || !dk.usable() || dk.carried || h.Subject() != (dk.subject != nil) {
		return false
	}
	h.Namespace, h.Key, h.KEK, h.Wrapped, h.Life, h.Found = dk.context.Namespace, dk.context.Key, dk.kek.Ref(), dk.wrapped, dk.life.Load().Left(), dk
	if dk.subject != nil {
		h.SubjectRow = &dk.subject.row
	}
	return true
}

func fill(h *envelope.Header, row crypto.KeyRow) {
	h.Namespace, h.Key, h.KEK, h.Wrapped, h.Life = row.Context.Namespace, row.Context.Key, row.KEK, row.Wrapped, row.Life
}

// fillFromRun fills a header by the rows that were looked up in a run.
func fillFromRun(h *envelope.Header, run *Run) bool {
	if row := run.subjects[h.ID]; row != nil && h.Subject() {
		h.Namespace, h.Key, h.SubjectRow = row.Context.Namespace, row.Context.Key, row
		return true
	}
	if rows := run.rows[h.ID]; len(rows) > 0 && !h.Subject() {
		fill(h, rows[0])
		return true
	}
	return false
}

// fillFromStore fills headers by their rows. Rows that were missing before are asked for after the others, and by few calls at a
// time: whoever makes up ids takes neither the time nor the connections that rows need which are there.
func (o *opening) fillFromStore(ctx context.Context, headers []*envelope.Header, run *Run) error {
	store := o.core.opt.Store
	if store == nil {
		return crypto.Errorf(crypto.KindNotConfigured, "open", "it was sealed by reference to a key store, and none is configured here")
	}
	ctx, cancel := context.WithTimeout(ctx, min(callTimeout, o.core.patience(ctx)))
	defer cancel()
	fresh, missed := o.lookups(headers, run)
	if err := o.lookUp(ctx, fresh, run); err != nil {
		return err
	}
	if len(missed) > 0 {
		select {
		case o.again <- struct{}{}:
			err := o.lookUp(ctx, missed, run)
			<-o.again
			if err != nil {
				return err
			}
		default:
			for _, id := range missed {
				run.lookups[id] = false
			}
		}
	}
	for _, h := range headers {
		fillFromRun(h, run)
	}
	return nil
}

// lookups returns the ids that the store is asked for, those apart that it did not have before, and notes in the run what was looked up
// and what is too much for one message.
func (o *opening) lookups(headers []*envelope.Header, run *Run) (fresh, missed []crypto.KeyID) {
	if run.lookups == nil {
		run.lookups = make(map[crypto.KeyID]bool)
	}
	left := max(maxLookups-len(run.lookups), 0)
	for _, h := range headers {
		if _, done := run.lookups[h.ID]; done {
			continue
		}
		run.lookups[h.ID] = true
		if h.Subject() {
			if run.subjects == nil {
				run.subjects = make(map[crypto.KeyID]*crypto.SubjectRow)
			}
			run.subjects[h.ID] = nil // until it is found
		}
		if !o.missing.Contains(h.ID) {
			fresh = append(fresh, h.ID)
		} else if !o.missedLately(h.ID) {
			missed = append(missed, h.ID)
		}
	}
	n := min(len(fresh), left)
	m := min(len(missed), left-n)
	for _, id := range slices.Concat(fresh[n:], missed[m:]) {
		run.lookups[id] = false
	}
	return fresh[:n], missed[:m]
}

// missedLately reports whether the key store did not have a row just now.
func (o *opening) missedLately(id crypto.KeyID) bool {
	m, known := o.missing.Get(id)
	return known && time.Since(m.last) < missTrust
}

// lookUp puts the rows of some ids into the run, and notes which are missing. If keys of subjects are out of use, other envelopes of the
// same message open all the same.
func (o *opening) lookUp(ctx context.Context, ids []crypto.KeyID, run *Run) error {
	if len(ids) == 0 {
		return nil
	}
	var subjects, others []crypto.KeyID
	for _, id := range ids {
		if _, of := run.subjects[id]; of {
			subjects = append(subjects, id)
		} else {
			others = append(others, id)
		}
	}
	found, err := o.subjects.rows(ctx, subjects)
	if err != nil {
		run.stopped, ids = err, others
	}
	for id, row := range found {
		run.subjects[id] = row
	}
	var rows []crypto.KeyRow
	if len(others) > 0 {
		if rows, err = o.core.opt.Store.Get(ctx, others); err != nil {
			return classified("keystore.get", crypto.KeyContext{}, err)
		}
	}
	if run.rows == nil {
		run.rows = make(map[crypto.KeyID][]crypto.KeyRow, len(rows))
	}
	for _, row := range rows {
		if valid(&row) {
			run.rows[row.ID] = append(run.rows[row.ID], row)
		}
	}
	now := time.Now()
	for _, id := range ids {
		if of := run.rows[id]; len(of) > 0 {
			o.prefer(of)
			o.missing.Remove(id)
			continue
		}
		if found[id] != nil {
			o.missing.Remove(id)
			continue
		}
		m, known := o.missing.Get(id)
		if m.last = now; !known {
			m.first = now
		}
		o.missing.Add(id, m)
	}
	return nil
}

// prefer sorts the rows of a data key: that of the active key encryption key first, then those of keys that are open, and those
// of keys last that do not answer.
func (o *opening) prefer(rows []crypto.KeyRow) {
	if len(rows) < 2 {
		return
	}
	active := ""
	if m, ok := o.core.set.Load().findSealed(rows[0].Context.Namespace, rows[0].Context.Key); ok {
		active = m.active()
	}
	open := o.core.keys.all()
	rank := func(row crypto.KeyRow) int {
		rank := 2
		for _, key := range open {
			switch {
			case key.Ref() != row.KEK:
			case !key.Reachable():
				rank = max(rank, 3)
			case key.URI() == active:
				return 0
			default:
				rank = min(rank, 1)
			}
		}
		return rank
	}
	slices.SortStableFunc(rows, func(a, b crypto.KeyRow) int { return rank(a) - rank(b) })
}

// valid reports whether a row could be in an envelope's header.
func valid(row *crypto.KeyRow) bool {
	ns, key, wrapped := len(row.Context.Namespace), len(row.Context.Key), len(row.Wrapped)
	return ns >= 1 && ns <= envelope.MaxNamespace && key >= 1 && key <= envelope.MaxKeyName &&
		(wrapped >= 1 || row.Life.Expired()) && wrapped <= envelope.MaxWrapped
}

// store makes sure that the key store has the row of a data key that is going to seal by reference.
func (p *sealing) store(ctx context.Context, dk *dataKey) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	row := dk.row()
	err := p.core.opt.Store.Put(ctx, row)
	switch kind := crypto.KindOf(err); {
	case err == nil:
		dk.life.Store(row.Life)
		dk.stored.Store(true)
	case kind == crypto.KindExpired: // or destroyed: what it seals from now on opens nowhere
		dk.stored.Store(false)
		dk.drop()
	case kind == crypto.KindTampered, kind == crypto.KindNotConfigured: // it is another row, or another store
		dk.stored.Store(false)
	case dk.stored.Load(): // a store that takes no rows may have lost this one
		rows, failed := p.core.opt.Store.Get(ctx, []crypto.KeyID{dk.id})
		if failed == nil && len(rows) == 0 {
			dk.stored.Store(false)
		}
	}
	return err
}

// tendRows checks, once a minute and after changes, that the rows of the keys that seal by reference are in the key store, and inserts
// those that are missing. A row that could not be written when its key was made is written now; until then the key's
// envelopes are self-contained.
func (p *sealing) tendRows(now time.Time) {
	if p.core.opt.Store == nil || now.UnixNano()-p.rowsAt.Load() < int64(rowsInterval) {
		return
	}
	p.rowsAt.Store(now.UnixNano())
	set := p.core.set.Load()
	var due []*slot
	for _, sl := range p.core.slots.all() {
		s := sl.usable()
		m, ok := set.find(sl.namespace, sl.key)
		switch {
		case s == nil || !ok || !p.core.slots.exists(sl.namespace):
		case m.entry.Reference || s.dk.life.Load() != nil || !s.dk.agreed.Load():
			due = append(due, sl)
		default:
			s.dk.stored.Store(false)
		}
	}
	if len(due) == 0 || !p.checking.CompareAndSwap(false, true) {
		return
	}
	p.core.work.Go(func() {
		defer p.checking.Store(false)
		for _, sl := range due {
			if !p.tendRow(sl) {
				return // the store is out of reach for the others too
			}
		}
	})
}

// tendRow makes sure of the row of one slot's key, and reports whether the key store may answer for others.
func (p *sealing) tendRow(sl *slot) bool {
	s := sl.usable()
	m, ok := p.core.set.Load().find(sl.namespace, sl.key)
	if s == nil || !ok {
		return true
	}
	before := s.dk.stored.Load()
	err := p.agreesLater(p.core.base, m.entry, sl, s.dk)
	switch {
	case err == nil && (m.entry.Reference || s.dk.life.Load() != nil):
		err = p.store(p.core.base, s.dk)
	case err == nil || !m.entry.Reference && crypto.KindOf(err) == crypto.KindUnavailable:
		s.dk.stored.Store(false)
		return err == nil
	}
	if err == nil {
		return true
	}
	if crypto.KindOf(err) == crypto.KindExpired {
		p.core.opt.Log.Warn("the life of a data key ended in the key store while it sealed; the next payload gets another one",
			"key", sl.key, "namespace", sl.namespace, "error", err)
		return true
	}
	text := "the key store does not take the row of a data key; payloads carry their keys until it does, unless the row is there already"
	_, differ := p.core.slots.conflicts.Load(sl.slotKey)
	switch {
	case s.dk.life.Load() != nil:
		text = "the key store does not take the row of a data key that expires; if its row is lost, what it has sealed opens nowhere"
	case differ:
		text = "a data key is out of use that does not expire, since others of its name in the key store do"
	}
	p.core.opt.Log.Error(text,
		"key", sl.key, "namespace", sl.namespace, "error", err)
	return before != s.dk.stored.Load() || crypto.KindOf(err) != crypto.KindUnavailable
}
