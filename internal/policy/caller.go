package policy

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// volatileClaims differ between the tokens of one caller. Rules do not see them, since a verdict that
// depended on them could not be cached. A token's times are checked before a policy is evaluated.
var volatileClaims = []string{"exp", "iat", "nbf", "jti"}

// Caller is the identity behind a call. [NewCaller] makes it once per connection or token, and it never
// changes.
type Caller struct {
	Kind     string // mtls, jwt, token or anonymous
	Subject  string
	Listener string
	Claims   map[string]any // without the claims that change from token to token

	once      sync.Once
	err       error
	allClaims [sha256.Size]byte
	claims    map[string][sha256.Size]byte // per top-level claim
}

// NewCaller describes a caller. claims are copied and lose exp, iat, nbf and jti.
func NewCaller(kind, subject, listener string, claims map[string]any) *Caller {
	kept := maps.Clone(claims)
	if kept == nil {
		kept = map[string]any{}
	}
	for _, name := range volatileClaims {
		delete(kept, name)
	}
	return &Caller{Kind: kind, Subject: subject, Listener: listener, Claims: kept}
}

// String names the caller in log lines: its kind, and its subject if it has one.
func (c *Caller) String() string {
	if c.Subject == "" {
		return c.Kind
	}
	return c.Kind + ":" + c.Subject
}

// anonymous is the caller of a call without an identity.
var anonymous = NewCaller(CallerAnonymous, "", "", nil)

// prepare hashes the claims, once. The cache's keys hold the hashes, since claims can be large and are the
// same for every payload of a connection.
func (c *Caller) prepare() error {
	c.once.Do(func() {
		c.claims = make(map[string][sha256.Size]byte, len(c.Claims))
		for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
			c.claims[name], c.err = hash(c.Claims[name])
			if c.err != nil {
				c.err = fmt.Errorf("claim %q of the caller is not a JSON value: %w", name, c.err)
				return
			}
		}
		c.allClaims, c.err = hash(c.Claims)
	})
	return c.err
}

// hash returns a hash of a JSON value. encoding/json sorts the names within, so that equal values have one
// hash.
func hash(value any) ([sha256.Size]byte, error) {
	text, err := json.Marshal(value)
	return sha256.Sum256(text), err
}

// authenticated reports whether the caller has proved who it is.
func (c *Caller) authenticated() bool {
	return c.Kind == CallerMTLS || c.Kind == CallerJWT || c.Kind == CallerToken
}
