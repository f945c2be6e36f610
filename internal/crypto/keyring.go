package crypto

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// KeyConfig is one entry of `keys` in the configuration.
type KeyConfig struct {
	// Name is what policies say. It may hold one `*`; what the star stands for is {1} in the URIs.
	Name string
	// Namespaces that may use the key, with `*` for any run of characters. Empty: all.
	Namespaces []string
	// Active is the URI of the key encryption key that new data keys are made with.
	Active string
	// OpenOnly are URIs of earlier ones, which still open what they sealed.
	OpenOnly []string
}

// Grant lets what was sealed in From be opened for a call in To.
type Grant struct{ From, To string }

// KeyringOptions configures a Keyring. Zero durations and counts mean the default.
type KeyringOptions struct {
	// Keys in order of rank: the most sensitive first.
	Keys []KeyConfig
	// Open gives the provider for a URI.
	Open func(ctx context.Context, uri string) (Provider, error)
	// Grants between namespaces; without any an envelope opens only in the namespace that it was sealed in.
	Grants []Grant
	// Realm, where set, is bound into envelopes before the namespace, so that two clusters' `default` differ.
	Realm string
	// RevokedDataKeys are ids of data keys that leaked: nothing is opened with them any more.
	RevokedDataKeys [][32]byte
	// Trace, where set, is called around each call to a key service.
	Trace func(ctx context.Context, op string, kc KeyContext) (context.Context, func(err error))
	Log   *slog.Logger
	Now   func() time.Time

	// DataKeyLife is the age at which a data key stops being used for sealing (24 h). It is renewed before that.
	DataKeyLife time.Duration
	// Grace is how long keys in memory go on serving while the key service does not answer (6 h).
	Grace time.Duration
	// ProbeInterval is how often a key encryption key is asked whether it still answers (60 s), ProbeRetry how soon
	// after an error (10 s).
	ProbeInterval, ProbeRetry time.Duration
	// CallTimeout limits one call to a key service (2 s), MaxWait how long a payload waits for a key if its call has no
	// deadline (10 s).
	CallTimeout, MaxWait time.Duration
}

// Selection says which members of a JSON document are sealed: Fields names them, Clear names those that are not.
// Both hold JSON pointers (RFC 6901) in which `*` stands for every element of an array. One of the two is empty.
type Selection struct{ Fields, Clear []string }

type dataKey struct {
	secret [dataKeySize]byte
	id     [idSize]byte
}

type slotKey struct{ namespace, key string }

// Keyring holds the data keys: one for sealing per (key name, namespace), and those of opened envelopes.
type Keyring struct {
	opt   KeyringOptions
	mu    sync.Mutex
	slots map[slotKey]*Sealer
	keys  map[string]*dataKey
	kek   map[string]Provider
}

// NewKeyring opens the configured keys and checks that they answer. It reports every key that does not.
func NewKeyring(ctx context.Context, opt KeyringOptions) (*Keyring, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	k := &Keyring{opt: opt, slots: map[slotKey]*Sealer{}, keys: map[string]*dataKey{}, kek: map[string]Provider{}}
	var errs []error
	for _, c := range opt.Keys {
		for _, uri := range append([]string{c.Active}, c.OpenOnly...) {
			if strings.Contains(uri, "{1}") {
				continue
			}
			p, err := opt.Open(ctx, uri)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			k.kek[uri] = p
		}
	}
	return k, errors.Join(errs...)
}

// Rank is the place in the configuration of the entry that serves key in namespace; false: none does.
func (k *Keyring) Rank(namespace, key string) (int, bool) {
	for i, c := range k.opt.Keys {
		if c.Name == key {
			return i, true
		}
	}
	return 0, false
}

// DefaultKey is the entry "default" if it serves the namespace, else the first one that does and has no wildcard.
func (k *Keyring) DefaultKey(namespace string) (string, bool) {
	if _, ok := k.Rank(namespace, "default"); ok {
		return "default", true
	}
	return "", false
}

// Sealer gives the working sealer of a namespace and key. hit tells whether it was there already.
func (k *Keyring) Sealer(ctx context.Context, namespace, key string) (s *Sealer, hit bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.slots[slotKey{namespace, key}]; s != nil {
		return s, true, nil
	}
	i, ok := k.Rank(namespace, key)
	if !ok {
		return nil, false, fail(KindNotConfigured, "seal", "no such key").in(key, namespace)
	}
	p := k.kek[k.opt.Keys[i].Active]
	kc := KeyContext{k.bound(namespace), strings.Clone(key)}
	plain, wrapped, err := p.GenerateDataKey(ctx, kc)
	if err != nil {
		return nil, false, err
	}
	dk := &dataKey{secret: [32]byte(plain)}
	dk.id, _ = deriveDataKeyID(plain)
	s = &Sealer{dk: dk, now: k.opt.Now, header: Header{Version: version1, Suite: suite1, Key: kc.Key, Namespace: kc.Namespace,
		KEK: p.Ref(), DataKeyID: dk.id, Wrapped: wrapped}}
	k.slots[slotKey{strings.Clone(namespace), kc.Key}] = s
	k.keys[string(wrapped)] = dk
	return s, false, nil
}

// Ready makes sure that the namespace's default key can seal and open.
func (k *Keyring) Ready(ctx context.Context, namespace string) error {
	key, ok := k.DefaultKey(namespace)
	if !ok {
		return fail(KindNotConfigured, "seal", "no key serves it").in("", namespace)
	}
	_, _, err := k.Sealer(ctx, namespace, key)
	return err
}

// Confirm tells that the upstream answered successfully for a namespace, so that it exists.
func (k *Keyring) Confirm(namespace string) {}

// Close stops what runs in the background and clears the keys.
func (k *Keyring) Close() {}

func (k *Keyring) bound(namespace string) string {
	if k.opt.Realm == "" {
		return strings.Clone(namespace)
	}
	return k.opt.Realm + "/" + namespace
}

func (k *Keyring) granted(bound, namespace string) bool { return bound == k.bound(namespace) }

func (k *Keyring) dataKeyFor(ctx context.Context, h *Header) (*dataKey, bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if dk := k.keys[string(h.Wrapped)]; dk != nil {
		return dk, true, nil
	}
	for _, p := range k.kek {
		if p.Ref() == h.KEK {
			plain, err := p.UnwrapDataKey(ctx, h.Wrapped, KeyContext{h.Namespace, h.Key})
			if err != nil {
				return nil, false, err
			}
			dk := &dataKey{secret: [32]byte(plain)}
			dk.id, _ = deriveDataKeyID(plain)
			k.keys[string(h.Wrapped)] = dk
			return dk, false, nil
		}
	}
	return nil, false, fail(KindNotConfigured, "open", "no such KMS key").in(h.Key, h.Namespace)
}
