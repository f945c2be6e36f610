package auth

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

// KeySet holds an issuer's public keys, from a URL or a file. It fetches them again in the background, and at
// once for an unknown key id, so that the issuer may rotate them.
type KeySet struct {
	read func() ([]byte, error)
	age  time.Duration // after which they are fetched again
	log  *slog.Logger

	current atomic.Pointer[keySet]

	mu    sync.Mutex   // one fetch at a time
	tried atomic.Int64 // when the last fetch ended, in Unix nanoseconds
}

type keySet struct {
	set        jwk.Set
	text       []byte
	generation uint64 // changes with the keys
	fetched    time.Time
}

const (
	keySetAge   = 5 * time.Minute
	keySetRetry = 10 * time.Second
	maxKeySet   = 1 << 20
)

// KeySetFromURL fetches keys over HTTP. Until a fetch has succeeded, the Refusal of tokens is of kind
// Unavailable.
func KeySetFromURL(log *slog.Logger, url string) *KeySet {
	client := &http.Client{Timeout: 5 * time.Second}
	return &KeySet{log: log, age: keySetAge, read: func() ([]byte, error) { return get(context.Background(), client, url) }}
}

// get fetches the text of a key set.
func get(ctx context.Context, client *http.Client, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, answer.Status)
	}
	return io.ReadAll(io.LimitReader(answer.Body, maxKeySet))
}

// FetchKeys fetches an issuer's keys once, and returns why they cannot serve.
func FetchKeys(ctx context.Context, url string) error {
	text, err := get(ctx, new(http.Client), url)
	if err == nil {
		if _, _, err = parseKeys(text); err != nil {
			err = fmt.Errorf("%s: %w; is this the URL of the issuer's keys?", url, err)
		}
	}
	return err
}

// KeySetFromFile reads keys from a file, which is watched.
func KeySetFromFile(log *slog.Logger, file string) (*KeySet, error) {
	w, err := filewatch.NewValue(log, func(contents [][]byte) ([]byte, error) {
		_, _, err := parseKeys(contents[0])
		return contents[0], err
	}, file)
	if err != nil {
		return nil, err
	}
	return &KeySet{log: log, age: filewatch.Recheck, read: func() ([]byte, error) { return w.Get(), nil }}, nil
}

// Fetch fetches the keys unless they are there, and returns why they are still not.
func (k *KeySet) Fetch() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current.Load() != nil {
		return nil
	}
	defer func() { k.tried.Store(time.Now().UnixNano()) }()
	return k.fetch()
}

// parseKeys reads a JSON Web Key Set (RFC 7517). Keys that this build does not understand are left out, as section 5 asks, and
// ignored describes them. A set without any other is an error: it would refuse every token.
func parseKeys(text []byte) (set jwk.Set, ignored []string, err error) {
	var list struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, nil, errors.New("it is not a JSON Web Key Set: a JSON object with a list `keys` is required")
	}
	if list.Keys == nil {
		return nil, nil, errors.New("it is not a JSON Web Key Set: the list `keys` is missing")
	}
	set = jwk.NewSet()
	for i, raw := range list.Keys {
		key, err := jwk.ParseKey(raw)
		if err == nil {
			err = set.AddKey(key)
		}
		if err != nil {
			var of struct{ KTY, KID string }
			_ = json.Unmarshal(raw, &of) // what cannot be read is left out of the text
			ignored = append(ignored, fmt.Sprintf("keys[%d] (kty %.20q, kid %.80q)", i, of.KTY, of.KID))
		}
	}
	if set.Len() == 0 {
		return nil, nil, fmt.Errorf("the JSON Web Key Set contains no usable key; ignored: %s", cmp.Or(strings.Join(ignored, ", "), "none"))
	}
	return set, ignored, nil
}

// holds reports whether keys of this generation are still those of the issuer: a key that was withdrawn must
// not verify cached tokens.
func (k *KeySet) holds(generation uint64) bool {
	now := k.current.Load()
	return now != nil && now.generation == generation && time.Since(now.fetched) < k.age
}

// with returns the keys. Old ones serve while they are fetched again, but a key id that they lack waits for
// the fetch; where it must not wait, the error is [ErrWait].
func (k *KeySet) with(keyID string, wait bool) (*keySet, error) {
	now := k.current.Load()
	switch {
	case now == nil || !now.has(keyID):
		if wait {
			k.refresh()
		} else if k.due() {
			return nil, ErrWait
		}
	case time.Since(now.fetched) >= k.age && k.due() && k.mu.TryLock():
		go func() {
			defer k.mu.Unlock()
			k.refreshLocked()
		}()
	}
	if now = k.current.Load(); now == nil {
		return nil, errors.New("the keys of their issuer could not be fetched yet; see the proxy's log")
	}
	return now, nil
}

// has reports whether the set has a key of this id. Without an id every key may have signed the token.
func (k *keySet) has(keyID string) bool {
	if keyID == "" {
		return true
	}
	_, ok := k.set.LookupKeyID(keyID)
	return ok
}

// refresh fetches the keys, at most once in a few seconds: any sender can make up key ids.
func (k *KeySet) refresh() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refreshLocked()
}

// refreshLocked is refresh for a caller that holds the lock.
func (k *KeySet) refreshLocked() {
	if !k.due() {
		return
	}
	if err := k.fetch(); err != nil {
		k.log.Warn("the keys of the tokens' issuer cannot be fetched; going on with those at hand", "error", err)
	}
	k.tried.Store(time.Now().UnixNano()) // at the end: those who wait for this fetch have its result
}

// due reports whether the last fetch, if there was one, is long enough ago for another.
func (k *KeySet) due() bool {
	return time.Since(time.Unix(0, k.tried.Load())) >= min(keySetRetry, k.age)
}

// fetch reads the keys and puts them in force. Their generation changes only if their text does.
func (k *KeySet) fetch() error {
	text, err := k.read()
	if err != nil {
		return err
	}
	set, ignored, err := parseKeys(text)
	if err != nil {
		return err
	}
	next := &keySet{set: set, text: text, fetched: time.Now()}
	if before := k.current.Load(); before != nil {
		next.generation = before.generation
		if !bytes.Equal(before.text, text) {
			next.generation++
		}
	}
	if before := k.current.Load(); len(ignored) > 0 && (before == nil || before.generation != next.generation) {
		k.log.Warn("keys of a key set are ignored: their type is not known here, or they are not valid", "keys", strings.Join(ignored, ", "))
	}
	k.current.Store(next)
	return nil
}
