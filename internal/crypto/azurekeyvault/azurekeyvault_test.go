package azurekeyvault

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/azurekeyvault/azuretest"
)

const host = "seal.vault.azure.net"

var clinic = crypto.KeyContext{Namespace: "clinic", Key: "phi"}

// start returns a vault with the AES key aes, the RSA key rsa and the EC key vouch, and what a URI needs to reach it.
func start(t *testing.T) (v *azuretest.Vault, endpoint string) {
	t.Helper()
	v = new(azuretest.Vault)
	v.Add("aes", "AES")
	v.Add("rsa", "RSA")
	v.Add("vouch", "EC")
	s := httptest.NewServer(v)
	t.Cleanup(s.Close)
	return v, "endpoint=" + s.URL
}

func aesURI(endpoint string) string { return "azurekeyvault://" + host + "/keys/aes?" + endpoint }
func rsaURI(endpoint string) string {
	return "azurekeyvault://" + host + "/keys/rsa?signing_key=vouch&" + endpoint
}

func open(t *testing.T, uri string) *Provider {
	t.Helper()
	p, err := Open(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	return p.(*Provider)
}

func TestDataKeys(t *testing.T) {
	v, endpoint := start(t)
	for _, c := range []struct{ name, kind, uri string }{{"aes", "AES", aesURI(endpoint)}, {"rsa", "RSA", rsaURI(endpoint)}} {
		p := open(t, c.uri)
		if want := crypto.NewKEKRef("azurekeyvault", host+"/keys/"+c.name); p.Ref() != want || p.URI() != c.uri {
			t.Errorf("%s: reference %s, want %s", c.name, p.Ref(), want)
		}
		if again := open(t, c.uri); again.client != p.client {
			t.Errorf("%s: the same key opened again has a client of its own", c.name)
		}
		plain, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
		if err != nil || len(plain) != 32 || bytes.Contains(wrapped, plain) {
			t.Fatal(len(plain), err)
		}
		opens := func(what string) {
			t.Helper()
			if got, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, %s: unwrapped to another key, error %v", c.name, what, err)
			}
		}
		opens("at once")
		v.Add(c.name, c.kind)
		v.Add("vouch", "EC")
		opens("after a rotation")
		_, next, err := p.GenerateDataKey(t.Context(), clinic)
		if w, ok := parseWrapped(next); err != nil || !ok || strings.Contains(string(wrapped), w.version) {
			t.Errorf("%s: a data key after a rotation is not wrapped by the new version, error %v", c.name, err)
		}
		for _, kc := range []crypto.KeyContext{{Namespace: "billing", Key: "phi"}, {Namespace: "clinic", Key: "default"}} {
			if _, err := p.UnwrapDataKey(t.Context(), wrapped, kc); crypto.KindOf(err) != crypto.KindRejected {
				t.Errorf("%s in %v: %v", c.name, kc, err)
			}
		}
		for i := range wrapped {
			changed := bytes.Clone(wrapped)
			changed[i] ^= 1
			if _, err := p.UnwrapDataKey(t.Context(), changed, clinic); crypto.KindOf(err) != crypto.KindRejected {
				t.Fatalf("%s with another byte %d: %v", c.name, i, err)
			}
		}
	}
}

// TestForged: whoever has the public key, and no permission to sign, makes no data key that opens.
func TestForged(t *testing.T) {
	v, endpoint := start(t)
	wrapping, vouching := v.Add("rsa", "RSA"), v.Add("vouch", "EC")
	p := open(t, rsaURI(endpoint))
	plain := bytes.Repeat([]byte{7}, 32)
	ciphertext, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, &wrapping.RSA.PublicKey, plain, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := wrappedKey{kind: bySigned, version: wrapping.ID, first: []byte(vouching.ID), second: ciphertext}
	sign := func(by *azuretest.Version) []byte {
		signature, err := azuretest.Sign(by.EC, p.digest(w, clinic))
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	w.last = sign(vouching)
	if got, err := p.UnwrapDataKey(t.Context(), w.bytes(), clinic); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("the test's own form of a wrapped key does not open: %v", err)
	}
	_, honest, err := p.GenerateDataKey(t.Context(), clinic)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := parseWrapped(honest)
	for name, signature := range map[string][]byte{
		"none": nil, "zeros": make([]byte, 64), "of another key": sign(new(azuretest.Vault).Add("own", "EC")), "of another data key": other.last,
	} {
		w.last = signature
		if _, err := p.UnwrapDataKey(t.Context(), w.bytes(), clinic); crypto.KindOf(err) != crypto.KindRejected {
			t.Errorf("a signature %s: %v", name, err)
		}
	}
	// Without a signature at all, as an AES key has it.
	w.kind, w.first, w.second, w.last = byAES, make([]byte, 12), make([]byte, 16), ciphertext
	if _, err := p.UnwrapDataKey(t.Context(), w.bytes(), clinic); crypto.KindOf(err) != crypto.KindRejected {
		t.Errorf("in the other form: %v", err)
	}
}

// TestFailures is the table of what each answer means.
func TestFailures(t *testing.T) {
	v, endpoint := start(t)
	forbidden := func(inner string) *azuretest.Fault {
		return &azuretest.Fault{Status: 403, Code: "Forbidden", Inner: inner, Message: "not now"}
	}
	cases := map[string]struct {
		fault        *azuretest.Fault
		seal, unwrap crypto.Kind
	}{
		"no permission":    {forbidden("ForbiddenByRbac"), crypto.KindDenied, crypto.KindDenied},
		"no access policy": {forbidden("AccessDenied"), crypto.KindDenied, crypto.KindDenied},
		"a disabled key":   {forbidden("KeyDisabled"), crypto.KindDenied, crypto.KindRevoked},
		"a firewall":       {forbidden("ForbiddenByFirewall"), crypto.KindUnavailable, crypto.KindUnavailable},
		"a private vault":  {forbidden("ForbiddenByConnection"), crypto.KindUnavailable, crypto.KindUnavailable},
		"an expired token": {&azuretest.Fault{Status: 401, Code: "Unauthorized", Inner: "TokenExpired"}, crypto.KindUnavailable, crypto.KindUnavailable},
		"throttled": {&azuretest.Fault{Status: 429, Code: "Throttled", Header: map[string]string{"Retry-After": "30"}},
			crypto.KindUnavailable, crypto.KindUnavailable},
		"an outage":       {&azuretest.Fault{Status: 503, Code: "ServiceUnavailable"}, crypto.KindUnavailable, crypto.KindUnavailable},
		"a conflict":      {&azuretest.Fault{Status: 409, Code: "Conflict", Inner: "ObjectIsBeingDeleted"}, crypto.KindUnavailable, crypto.KindUnavailable},
		"a proxy's 403":   {&azuretest.Fault{Status: 403, Message: "blocked"}, crypto.KindUnavailable, crypto.KindUnavailable},
		"a bad parameter": {&azuretest.Fault{Status: 400, Code: "BadParameter"}, crypto.KindNotConfigured, crypto.KindRejected},
		"no such key":     {&azuretest.Fault{Status: 404, Code: "KeyNotFound"}, crypto.KindRevoked, crypto.KindRevoked},
	}
	for _, uri := range []string{aesURI(endpoint), rsaURI(endpoint)} {
		p := open(t, uri)
		_, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range slices.Sorted(maps.Keys(cases)) {
			c := cases[name]
			v.Fail(c.fault)
			begin := time.Now()
			_, _, sealErr := p.GenerateDataKey(t.Context(), clinic)
			_, unwrapErr := p.UnwrapDataKey(t.Context(), wrapped, clinic)
			v.Fail(nil)
			if crypto.KindOf(sealErr) != c.seal || crypto.KindOf(unwrapErr) != c.unwrap {
				t.Errorf("%s: %v and %v, want kinds %v and %v", name, sealErr, unwrapErr, c.seal, c.unwrap)
			}
			if !strings.Contains(fmt.Sprint(unwrapErr), uri) || strings.Contains(fmt.Sprint(unwrapErr), "\n") {
				t.Errorf("%s: the error does not name the key in one line: %v", name, unwrapErr)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("%s took %v", name, took)
			}
		}
		if _, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); err != nil {
			t.Errorf("it does not recover: %v", err)
		}
	}
}

// TestTakenAway: a version that is disabled and a key that is deleted do not look like one that somebody made up.
func TestTakenAway(t *testing.T) {
	v, endpoint := start(t)
	p := open(t, rsaURI(endpoint))
	_, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, seal, unwrap crypto.Kind) {
		t.Helper()
		clear(p.signers) // as after a minute
		_, _, sealErr := p.GenerateDataKey(t.Context(), clinic)
		_, unwrapErr := p.UnwrapDataKey(t.Context(), wrapped, clinic)
		if crypto.KindOf(sealErr) != seal || crypto.KindOf(unwrapErr) != unwrap {
			t.Errorf("%s: %v and %v, want kinds %v and %v", what, sealErr, unwrapErr, seal, unwrap)
		}
	}
	undo := v.Disable("rsa")
	check("the key is disabled", crypto.KindDenied, crypto.KindRevoked)
	undo()
	undo = v.Remove("rsa")
	check("the key is deleted", crypto.KindRevoked, crypto.KindRevoked)
	undo()
	undo = v.Disable("vouch")
	check("the signing key is disabled", crypto.KindDenied, crypto.KindRevoked)
	undo()
	undo = v.Remove("vouch")
	check("the signing key is deleted", crypto.KindRevoked, crypto.KindRevoked)
	undo()
	v.Fail(&azuretest.Fault{Status: 403, Code: "Forbidden", Inner: "ForbiddenByRbac", Op: "sign"})
	check("no permission to sign", crypto.KindDenied, crypto.KindUnknown)
	v.Fail(nil)
	w, _ := parseWrapped(wrapped)
	w.version = strings.Repeat("0", 32)
	if _, err := open(t, aesURI(endpoint)).UnwrapDataKey(t.Context(),
		wrappedKey{byAES, w.version, make([]byte, 12), make([]byte, 16), make([]byte, 32)}.bytes(), clinic); crypto.KindOf(err) != crypto.KindRejected {
		t.Errorf("a version that somebody made up: %v", err)
	}
}

// TestOneVersionDisabled: where it is an older one, others go on, and what it wrapped or signed does not open and says why. Where it is
// the newest one, the key was taken away.
func TestOneVersionDisabled(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		uri        func(endpoint string) string
	}{{"aes", "AES", aesURI}, {"rsa", "RSA", rsaURI}, {"vouch", "EC", rsaURI}} {
		v, endpoint := start(t)
		old := v.Add(c.name, c.kind)
		p := open(t, c.uri(endpoint))
		_, before, err := p.GenerateDataKey(t.Context(), clinic)
		if err != nil {
			t.Fatal(err)
		}
		newest := v.Add(c.name, c.kind)
		_, after, err := p.GenerateDataKey(t.Context(), clinic)
		if err != nil {
			t.Fatal(err)
		}
		try := func(what string, wrapped []byte, want crypto.Kind) {
			t.Helper()
			clear(p.signers) // as after a minute
			p.seen = crypto.Newest{}
			_, err := p.UnwrapDataKey(t.Context(), wrapped, clinic)
			if crypto.KindOf(err) != want || err != nil && !strings.Contains(strings.ToLower(err.Error()), "disabled") {
				t.Errorf("%s, %s: %v, want kind %v", c.name, what, err, want)
			}
		}
		old.Disabled = true
		try("wrapped by the disabled version", before, crypto.KindDenied)
		try("wrapped by the newest", after, crypto.KindUnknown)
		if _, _, err := p.GenerateDataKey(t.Context(), clinic); err != nil {
			t.Errorf("%s: the newest version wraps no more: %v", c.name, err)
		}
		old.Disabled, newest.Disabled = false, true
		if p = open(t, c.uri(endpoint)); crypto.KindOf(p.CheckWrap(t.Context())) != crypto.KindDenied {
			t.Errorf("%s: the newest version is disabled: %v", c.name, p.CheckWrap(t.Context()))
		}
		if _, _, err := p.GenerateDataKey(t.Context(), clinic); crypto.KindOf(err) != crypto.KindDenied {
			t.Errorf("%s: a disabled version wraps: %v", c.name, err)
		}
		// The same for each version: a key that serves or not by the version that is asked would be revoked and in use in turns.
		try("wrapped by the enabled version", before, crypto.KindRevoked)
		try("wrapped by the newest, which is disabled", after, crypto.KindRevoked)
		newest.Disabled = false
		try("wrapped by the earlier version again", before, crypto.KindUnknown)
		try("wrapped by the newest again", after, crypto.KindUnknown)
	}
}

// TestUnsure: an error about a version alone says nothing about the key while the vault does not describe its newest one.
func TestUnsure(t *testing.T) {
	v, endpoint := start(t)
	p := open(t, aesURI(endpoint))
	for _, missing := range []bool{true, false} {
		for want, fault := range map[crypto.Kind]*azuretest.Fault{
			crypto.KindUnavailable: {Status: 503, Code: "ServiceUnavailable"},
			crypto.KindRevoked:     {Status: 404, Code: "KeyNotFound"},
		} {
			v.Fail(fault)
			if kind := p.ofVersion(t.Context(), "aes", missing); kind != want {
				t.Errorf("missing %v, answer %d: %v", missing, fault.Status, kind)
			}
		}
		v.Fail(&azuretest.Fault{Status: 403, Code: "Forbidden", Inner: "ForbiddenByRbac"})
		want := crypto.KindDenied
		if missing {
			want = crypto.KindUnavailable
		}
		if kind := p.ofVersion(t.Context(), "aes", missing); kind != want {
			t.Errorf("missing %v, no permission to look: %v", missing, kind)
		}
	}
}

func TestOpenIsCareful(t *testing.T) {
	_, endpoint := start(t)
	for uri, want := range map[string]string{
		"keys/nobody?":                 "404 KeyNotFound",
		"keys/rsa?signing_key=nobody&": "key nobody: 404",
	} {
		_, err := Open(t.Context(), "azurekeyvault://"+host+"/"+uri+endpoint)
		if crypto.KindOf(err) != crypto.KindRevoked || !strings.Contains(err.Error(), want) { // one tenant's deleted key stops nobody else
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
	}
	for uri, want := range map[string]string{
		"keys/rsa?":                   "add ?signing_key=",
		"keys/aes?signing_key=vouch&": "leave it out",
		"keys/vouch?":                 "of type EC",
		"keys/rsa?signing_key=aes&":   "not an EC key",
	} {
		_, err := Open(t.Context(), "azurekeyvault://"+host+"/"+uri+endpoint)
		if crypto.KindOf(err) != crypto.KindNotConfigured || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", uri, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := Open(ctx, "azurekeyvault://"+host+"/keys/aes?endpoint=http://127.0.0.1:1"); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("nobody there: %v", err)
	}
}

// TestDamaged: an answer that is not the service's seals and opens nothing.
func TestDamaged(t *testing.T) {
	v, endpoint := start(t)
	for uri, ops := range map[string]struct{ seal, open []string }{
		aesURI(endpoint): {[]string{"get", "encrypt"}, []string{"decrypt"}},
		rsaURI(endpoint): {[]string{"get", "sign"}, []string{"unwrapkey"}},
	} {
		p := open(t, uri)
		_, wrapped, err := p.GenerateDataKey(t.Context(), clinic)
		if err != nil {
			t.Fatal(err)
		}
		for _, op := range ops.seal {
			v.Fail(&azuretest.Fault{Status: 200, Op: op})
			if _, _, err := p.GenerateDataKey(t.Context(), clinic); crypto.KindOf(err) != crypto.KindNotConfigured {
				t.Errorf("an empty answer to %s: %v", op, err)
			}
		}
		for _, op := range ops.open {
			v.Fail(&azuretest.Fault{Status: 200, Op: op})
			if _, err := p.UnwrapDataKey(t.Context(), wrapped, clinic); crypto.KindOf(err) != crypto.KindRejected {
				t.Errorf("an empty answer to %s: %v", op, err)
			}
		}
		v.Fail(nil)
	}
}

func TestParseWrapped(t *testing.T) {
	good := wrappedKey{byAES, strings.Repeat("a", 32), make([]byte, 12), make([]byte, 16), make([]byte, 32)}
	if got, ok := parseWrapped(good.bytes()); !ok || got.version != good.version || len(got.last) != 32 {
		t.Errorf("it is not read as it was written: %+v", got)
	}
	for i := range good.bytes() {
		if _, ok := parseWrapped(good.bytes()[:i]); ok {
			t.Errorf("the first %d bytes pass", i)
		}
	}
	for name, w := range map[string]wrappedKey{
		"another kind":    {3, good.version, good.first, good.second, good.last},
		"a path":          {byAES, "../secrets/x", good.first, good.second, good.last},
		"a signer's path": {bySigned, good.version, []byte("../x"), good.second, good.last},
		"a short tag":     {byAES, good.version, good.first, make([]byte, 4), good.last},
	} {
		if _, ok := parseWrapped(w.bytes()); ok {
			t.Errorf("%s passes", name)
		}
	}
}

func TestURIs(t *testing.T) {
	for uri, want := range map[string]location{
		"azurekeyvault://Seal.vault.azure.net/keys/phi":                                 {host: host, key: "phi"},
		"azurekeyvault://seal.managedhsm.azure.net/keys/phi":                            {host: "seal.managedhsm.azure.net", key: "phi"},
		"azurekeyvault://" + host + "/keys/phi?signing_key=vouch":                       {host: host, key: "phi", signingKey: "vouch"},
		"azurekeyvault://" + host + "/keys/phi?endpoint=http://[::1]:80/&signing_key=v": {host: host, key: "phi", signingKey: "v", endpoint: "http://[::1]:80/"},
	} {
		if got, err := parseURI(uri); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", uri, got, err, want)
		}
	}
	upper, lower := location{host: host, key: "Phi"}, location{host: host, key: "phi"}
	if upper.id() != lower.id() {
		t.Errorf("one key, written in two ways: %s and %s", upper.id(), lower.id())
	}
	for uri, want := range map[string]string{
		"azurekeyvault://vault/keys/k":                                    "does not name a key",
		"azurekeyvault://" + host + "/secrets/k":                          "does not name a key",
		"azurekeyvault://u:p@" + host + "/keys/k":                         "does not name a key",
		"azurekeyvault://" + host + "/keys/k/0123":                        "names a version",
		"azurekeyvault://" + host + "/keys/a_b":                           "letters, digits and -",
		"azurekeyvault://" + host + "/keys/k?signing_key=":                "signing_key is the name",
		"azurekeyvault://" + host + "/keys/k?signing_key=k":               "another key",
		"azurekeyvault://" + host + "/keys/k?signing_key=K":               "another key",
		"azurekeyvault://" + host + "/keys/k?signing_key=a&signing_key=b": "more than once",
		"azurekeyvault://" + host + "/keys/k?zone=x":                      "unknown parameter",
		"azurekeyvault://" + host + "/keys/k?%zz":                         "cannot be read",
		"azurekeyvault://" + host + "/keys/k?endpoint=https://elsewhere":  "for tests",
		"azurekeyvault://" + host + "/keys/k?endpoint=http://elsewhere":   "for tests",
	} {
		if err := Check(uri); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", uri, err, want)
		}
	}
}

// TestTokens: credentials that give no token say nothing about the key, and go to no stand-in.
func TestTokens(t *testing.T) {
	t.Setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
	for _, name := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"} {
		t.Setenv(name, "")
	}
	loc, err := parseURI("azurekeyvault://nobody.invalid/keys/k")
	if err != nil {
		t.Fatal(err)
	}
	first, err := clientFor(loc)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := clientFor(loc); err != nil || first != second {
		t.Errorf("two clients for one vault, error %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := Open(ctx, "azurekeyvault://nobody.invalid/keys/k"); crypto.KindOf(err) != crypto.KindUnavailable {
		t.Errorf("no token and no vault: %v", err)
	}
}
