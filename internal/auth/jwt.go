package auth

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/lestrrat-go/jwx/v3/jws"
	"github.com/lestrrat-go/jwx/v3/jwt"

	"github.com/temporal-seal/temporal-seal/internal/policy"
)

// JWT describes the tokens that a listener accepts. Issuer, Audience, Header and Keys are required.
type JWT struct {
	Issuer, Audience string
	// Header carries the token.
	Header string
	// NamespacesClaim is the claim with the names of the namespaces that the caller reaches. "": Namespaces
	// counts.
	NamespacesClaim string
	Namespaces      []string
	// Algorithms are the allowed ones. Empty: all asymmetric ones.
	Algorithms []string
	Keys       *KeySet
}

// asymmetric are the algorithms that verify with a public key. Neither `none` is among them, nor the
// symmetric ones, for which a public key would serve as the secret.
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

const (
	clockSkew = 30 * time.Second
	// maxTokens bounds the cache of verified tokens: to verify one takes about 50 us.
	maxTokens = 8192
	// maxToken is the longest token, in bytes. The cache keeps what the claims of each say.
	maxToken = 16 << 10
	// largeToken is the length from which on a token is verified each time: only smaller ones are kept.
	largeToken = 4 << 10
)

// verified is what a token has proved, until when, and by which generation of keys.
type verified struct {
	id         *Identity
	until      time.Time
	generation uint64
}

// JWTs identifies callers by the signed token in a header.
func JWTs(listener string, config JWT) (Identify, error) {
	if len(config.Algorithms) == 0 {
		config.Algorithms = asymmetric
	}
	for _, a := range config.Algorithms {
		if !slices.Contains(asymmetric, a) {
			return nil, fmt.Errorf("%q is not an algorithm with public keys; use one of %s", a, strings.Join(asymmetric, ", "))
		}
	}
	seen, err := lru.New[[sha256.Size]byte, verified](maxTokens)
	if err != nil {
		return nil, err
	}
	return func(c Credentials) (*Identity, error) {
		token := bearer(c.Headers, config.Header)
		if token == "" {
			return nil, &Refusal{Unauthenticated, fmt.Sprintf("listener %q requires one token in the header %q: Bearer <JWT>", listener, config.Header)}
		}
		if len(token) > maxToken {
			return nil, &Refusal{Unauthenticated, fmt.Sprintf("listener %q does not accept this token: it is longer than %d bytes", listener, maxToken)}
		}
		hash := sha256.Sum256([]byte(token))
		if v, ok := seen.Get(hash); ok && time.Now().Before(v.until) && config.Keys.holds(v.generation) {
			return v.id, nil
		}
		v, err := config.verify(listener, token, c.Wait)
		if err != nil {
			return nil, err
		}
		if len(token) <= largeToken {
			seen.Add(hash, v)
		}
		return v.id, nil
	}, nil
}

// verify checks a token and returns what it proves. Without wait it does not fetch keys, and may return [ErrWait].
func (c *JWT) verify(listener, token string, wait bool) (verified, error) {
	refuse := func(why string) (verified, error) {
		return verified{}, &Refusal{Unauthenticated, fmt.Sprintf("listener %q does not accept this token: %s", listener, why)}
	}
	var head struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		// Critical names extensions without which the token must be refused (RFC 7515, section 4.1.11). None is known here.
		Critical json.RawMessage `json:"crit"`
	}
	switch err := readTokenPart(token, 0, &head); {
	case err != nil:
		return refuse(err.Error())
	case head.Critical != nil:
		return refuse("its header crit requires extensions that the proxy does not support")
	case !slices.Contains(c.Algorithms, head.Algorithm):
		return refuse(fmt.Sprintf("its algorithm is not allowed; sign it with one of %s", strings.Join(c.Algorithms, ", ")))
	}
	keys, err := c.Keys.with(head.KeyID, wait)
	if errors.Is(err, ErrWait) {
		return verified{}, err
	}
	if err != nil {
		return verified{}, &Refusal{Unavailable, fmt.Sprintf("listener %q cannot check tokens: %v", listener, err)}
	}
	parsed, err := jwt.Parse([]byte(token), jwt.WithKeySet(keys.set, jws.WithInferAlgorithmFromKey(true), jws.WithRequireKid(head.KeyID != "")), jwt.WithValidate(true),
		jwt.WithIssuer(c.Issuer), jwt.WithAudience(c.Audience), jwt.WithAcceptableSkew(clockSkew), jwt.WithRequiredClaim("exp"))
	if err != nil {
		return refuse(whyNot(err))
	}
	var claims map[string]any // with the types of encoding/json, as policies see them
	if err := readTokenPart(token, 1, &claims); err != nil {
		return refuse(err.Error())
	}
	subject, _ := parsed.Subject()
	expires, _ := parsed.Expiration()
	return verified{
		id:         &Identity{Caller: policy.NewCaller(policy.CallerJWT, subject, listener, claims), Namespaces: c.namespaces(claims)},
		until:      expires.Add(clockSkew),
		generation: keys.generation,
	}, nil
}

// whyNot returns what the owner of a refused token can change, and nothing of its content.
func whyNot(err error) string {
	switch {
	case errors.Is(err, jwt.TokenExpiredError()):
		return "it has expired"
	case errors.Is(err, jwt.TokenNotYetValidError()), errors.Is(err, jwt.InvalidIssuedAtError()):
		return "it is not valid yet; check the clocks"
	case errors.Is(err, jwt.InvalidIssuerError()):
		return "its claim iss is not the configured issuer"
	case errors.Is(err, jwt.InvalidAudienceError()):
		return "its claim aud does not contain the configured audience"
	case errors.Is(err, jwt.MissingRequiredClaimError()):
		return "it has no claim exp; the issuer must set an expiry"
	}
	return "its signature does not verify with the keys of the issuer"
}

// namespaces returns the names that the claim lists. A star in a claim grants nothing: only the config has
// patterns.
func (c *JWT) namespaces(claims map[string]any) []string {
	if c.NamespacesClaim == "" {
		return c.Namespaces
	}
	names := []string{}
	list, ok := claims[c.NamespacesClaim].([]any)
	if !ok {
		list = []any{claims[c.NamespacesClaim]}
	}
	for _, item := range list {
		if name, ok := item.(string); ok && name != "" && !strings.Contains(name, "*") {
			names = append(names, name)
		}
	}
	return names
}

// readTokenPart decodes the header (part 0) or the claims (part 1) of a token in the compact form of RFC
// 7515, section 7.1, and verifies nothing.
func readTokenPart(token string, part int, v any) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return errors.New("it is not a JWT")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[part])
	if err != nil || json.Unmarshal(text, v) != nil {
		return errors.New("it is not a JWT")
	}
	return nil
}
