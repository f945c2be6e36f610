package keyring

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/envelope"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyhealth"
	"github.com/temporal-seal/temporal-seal/internal/x/backoff"
)

// When a data key is made, and when the one in memory serves. Each process makes its own, one for each namespace and key
// name (a slot):
//
//   - The working data key of the slot serves as long as it is usable (sealer.go): its key encryption key may be used
//     (keyhealth), it was not dropped, has sealed fewer than maxSeals envelopes, and, if it expires, has its row and its
//     time. Nothing is asked for that.
//   - Without a usable one a call waits for a fresh one, at most maxWait (sealer, fill, renew). All calls that need the same
//     slot wait for one flight (do in flights.go), which is one try at a time at the key service; a permanent error is their
//     answer for a while (refusals there).
//   - Before it runs out, tend has its successor made in the background, if its namespace is known to exist: at 72 to 98 % of
//     DataKeyLife or of its entry's life (renewAt), after renewSeals envelopes, or when the configuration names another key
//     encryption key (obey). A slot has one renewal at a time (renewing), and the old data key serves until that succeeds.
//   - It is taken out when nothing used it for DataKeyLife, at keyhealth.Grace beyond DataKeyLife, when its entry leaves the
//     configuration or gets another life, when it or its key encryption key is revoked, and, of those used least recently,
//     when all slots take more memory than maxSlots (slots.go).
//   - How many calls a key service gets at once: service.go. Namespaces that are only claimed get few: mayCall in keyring.go.
//
// Opening has a cache of its own (cache.go) and flights of its own, by wrapped data key: dataKey and ask in open.go. A data
// key that was made here is in it too.

// sealing hands out the working data keys, and renews and retires them.
type sealing struct {
	core    *core
	flights *flights[slotKey, *Sealer]
	made    func(*dataKey) // is called with each new data key

	rowsAt   atomic.Int64 // when rows were last checked, in Unix nanoseconds
	checking atomic.Bool  // a check of rows is under way
}

// Sealer returns the working sealer of a namespace and key name, as the configuration allows. hit reports whether it was
// there already; then nothing is allocated. Without one it waits for the key service, as long as ctx and maxWait allow.
func (k *Keyring) Sealer(ctx context.Context, namespace, key string) (s *Sealer, hit bool, err error) {
	sl, err := k.sealing.slot(namespace, key)
	if err != nil {
		return nil, false, err
	}
	k.core.touch(&sl.used)
	return k.sealing.sealer(ctx, sl)
}

// sealer returns a slot's working sealer, and waits for it as long as ctx and maxWait allow.
func (p *sealing) sealer(ctx context.Context, sl *slot) (s *Sealer, hit bool, err error) {
	if s := sl.usable(); s != nil {
		p.core.use(s.dk)
		return s, true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, min(p.core.patience(ctx), maxWait))
	defer cancel()
	s, err = p.flights.do(ctx, sl.slotKey, func(ctx context.Context) (*Sealer, error) { return p.fill(ctx, sl) })
	return s, false, err
}

// slot returns the slot of a namespace and key name that the configuration allows.
func (p *sealing) slot(namespace, key string) (*slot, error) {
	if sl := p.core.slots.find(namespace, key); sl != nil {
		return sl, nil
	}
	set := p.core.set.Load()
	if _, ok := set.find(namespace, key); !ok {
		return nil, crypto.Errorf(crypto.KindNotConfigured, "seal",
			"no entry of `keys` in the configuration has this name and serves this namespace").In(strings.Clone(key), strings.Clone(namespace))
	}
	if n := len(set.bound(namespace)); n < 1 || n > envelope.MaxNamespace || len(key) > envelope.MaxKeyName {
		return nil, crypto.Errorf(crypto.KindMalformed, "seal",
			"a namespace of %d bytes and a key name of %d can't be bound into an envelope", n, len(key))
	}
	return p.core.slots.add(namespace, key, p.core.coarse.Load()), nil
}

// fill makes a data key for a slot that has none to use.
func (p *sealing) fill(ctx context.Context, sl *slot) (*Sealer, error) {
	if s := sl.usable(); s != nil {
		return s, nil
	}
	if err := p.flights.refused(sl.slotKey); err != nil {
		return nil, err
	}
	if err := p.core.mayCall("seal", sl.namespace, 2); err != nil {
		return nil, err.In(sl.key, sl.namespace)
	}
	s, err := p.renew(ctx, sl)
	if err == nil {
		p.core.use(s.dk)
	}
	return s, err
}

// renew puts a fresh data key into a slot. If it can't be had, what is in the slot stays, unless it was revoked.
func (p *sealing) renew(ctx context.Context, sl *slot) (*Sealer, error) {
	set := p.core.set.Load()
	m, ok := set.find(sl.namespace, sl.key)
	if !ok {
		return nil, crypto.Errorf(crypto.KindNotConfigured, "seal",
			"the key is no longer in the configuration for this namespace").In(sl.key, sl.namespace)
	}
	key, err := p.core.keys.open(ctx, m.active())
	if err != nil {
		return nil, p.refuse(sl, crypto.About(err, sl.key, sl.namespace))
	}
	kc := crypto.KeyContext{Namespace: set.bound(sl.namespace), Key: sl.key}
	agreed, unsure := p.agrees(ctx, m.entry, sl, kc)
	if agreed && unsure != nil {
		return nil, p.refuse(sl, unsure)
	}
	dk, err := p.core.service.generate(ctx, key, kc)
	if err != nil {
		return nil, p.refuse(sl, p.explain(ctx, sl, key, kc, err))
	}
	dk.use = p.core.uses.of(m.entry, key)
	dk.agreed.Store(agreed)
	working := p.core.opt.DataKeyLife
	if m.entry.Life > 0 {
		working = min(working, m.entry.Life)
		dk.life.Store(&crypto.KeyLife{Read: time.Now(), SealFor: working, OpenFor: working + m.entry.Life})
	}
	s := newSealer(dk)
	s.life = m.entry.Life
	if m.entry.Reference && p.core.opt.Store != nil && p.core.slots.exists(sl.namespace) {
		err := unsure
		if agreed {
			err = p.store(ctx, dk)
		}
		switch {
		case err == nil:
		case dk.life.Load() != nil:
			dk.drop()
			return nil, p.refuse(sl, kc.Internalf(crypto.KindUnavailable, "seal", "the key store does not take the row of a key that expires: %w", err))
		default:
			p.core.opt.Log.Error("the key store does not take the row of a new data key; its payloads carry it until the store does",
				"key", sl.key, "namespace", sl.namespace, "error", err)
		}
	}
	p.made(dk)
	now := time.Now()
	renewAt := now.Add(backoff.Jitter(working*17/20, 0.15))
	sl.mu.Lock()
	defer sl.mu.Unlock()
	sl.made = now
	if changed := p.core.set.Load(); changed != set {
		// A change that was under way has not seen this key.
		m, ok := changed.find(sl.namespace, sl.key)
		if !ok || !m.has(key.URI()) || m.entry.Life != s.life {
			dk.drop()
			return nil, crypto.Errorf(crypto.KindUnavailable, "seal",
				"the configuration of keys changed while a data key was made; try again").In(sl.key, sl.namespace)
		}
		renewAt = now
	}
	sl.put(s, renewAt)
	return s, nil
}

// explain finds out what it means that no fresh data key was to be had.
func (p *sealing) explain(ctx context.Context, sl *slot, key *keyhealth.Key, kc crypto.KeyContext, err error) error {
	switch crypto.KindOf(err) {
	case crypto.KindRevoked:
		return key.Revoke(kc, err)
	case crypto.KindDenied:
	default:
		return err
	}
	if !key.Known(kc) {
		return key.Revoked(kc, err)
	}
	// Is it the access as a whole, or only to fresh keys?
	if probed := key.Probe(ctx, kc); probed != nil {
		return probed
	}
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.denied.IsZero() {
		sl.denied = time.Now()
	}
	if keyhealth.Passing(sl.denied) {
		return crypto.Unavailable("kms.generate_data_key", kc, err)
	}
	sl.current.Store(nil)
	return key.Revoked(kc, err)
}

// refuse notes that no data key could be had, so that each payload does not ask the key service again.
func (p *sealing) refuse(sl *slot, err error) error {
	now := time.Now()
	sl.mu.Lock()
	defer sl.mu.Unlock()
	sl.retryAt = now.Add(backoff.Jitter(keyhealth.ProbeRetry, 0.1))
	if sl.failing.IsZero() {
		sl.failing = now
	}
	return p.flights.refuse(sl.slotKey, err)
}

// tend renews and retires working keys. It runs every second.
func (p *sealing) tend(now time.Time) {
	p.tendRows(now)
	for _, sl := range p.core.slots.all() {
		if p.core.slots.exists(sl.namespace) {
			p.tendSlot(sl, now)
		}
	}
}

func (p *sealing) tendSlot(sl *slot, now time.Time) {
	life := p.core.opt.DataKeyLife
	unused := now.Sub(time.Unix(0, sl.lastUse()))
	sl.mu.Lock()
	defer sl.mu.Unlock()
	s := sl.current.Load()
	age := now.Sub(sl.made)
	switch {
	case s == nil:
		if unused > life {
			p.core.slots.remove(sl)
		}
	case age > life+keyhealth.Grace, age > life && unused > life:
		sl.current.Store(nil)
		p.core.slots.remove(sl)
	case unused <= life && sl.due(s, now) && !now.Before(sl.retryAt) && s.dk.usable():
		p.renewEarly(sl)
	}
}

// renewEarly renews a key in the background. The caller holds the slot's lock. While the key's service does not answer,
// probes find out when it does again.
func (p *sealing) renewEarly(sl *slot) {
	if sl.renewing {
		return
	}
	sl.renewing = true
	p.core.work.Go(func() {
		var err error
		if p.reachable(sl) {
			_, err = p.renew(p.core.base, sl)
		}
		sl.mu.Lock()
		defer sl.mu.Unlock()
		sl.renewing = false
		if err != nil && !sl.warned {
			sl.warned = true
			p.core.opt.Log.Warn("a data key is due for renewal; the working one goes on", "key", sl.key, "namespace", sl.namespace, "error", err)
		}
	})
}

// reachable reports whether the latest probe of the key encryption key that a slot is to be renewed with got an answer.
func (p *sealing) reachable(sl *slot) bool {
	m, ok := p.core.set.Load().find(sl.namespace, sl.key)
	if !ok {
		return true
	}
	key := p.core.keys.get(m.active())
	return key == nil || key.Reachable()
}

// drop takes out the working keys that match.
func (p *sealing) drop(match func(*dataKey) bool) {
	for _, sl := range p.core.slots.all() {
		sl.drop(match)
	}
}

// obey adapts the slots to a set that is in force now.
func (p *sealing) obey(set *Set) {
	p.rowsAt.Store(0)              // an entry may say another form of envelopes
	p.core.slots.conflicts.Clear() // until the next data key is made
	for _, sl := range p.core.slots.all() {
		if !p.core.slots.exists(sl.namespace) {
			sl.mu.Lock()
			sl.current.Store(nil) // few and cheap to make anew
			sl.mu.Unlock()
			continue
		}
		m, ok := set.find(sl.namespace, sl.key)
		if !ok {
			p.core.slots.remove(sl)
			continue
		}
		active := p.core.keys.get(m.active())
		sl.mu.Lock()
		switch s := sl.current.Load(); {
		case s == nil:
			sl.retryAt = time.Time{}
		case s.life != m.entry.Life: // its payloads would outlive what the configuration says now, or end before
			sl.current.Store(nil)
			sl.retryAt = time.Time{}
		case s.dk.kek != active:
			sl.renewAt, sl.retryAt = time.Now(), time.Time{}
		}
		sl.mu.Unlock()
	}
}

// WorkingKeys lists the data keys that seal now.
func (k *Keyring) WorkingKeys() (all []WorkingKey) {
	for _, sl := range k.core.slots.all() {
		sl.mu.Lock()
		if s := sl.usable(); s != nil {
			all = append(all, WorkingKey{sl.namespace, sl.key, s.dk.kek.Ref(), s.dk.id, sl.made})
		}
		sl.mu.Unlock()
	}
	return all
}
