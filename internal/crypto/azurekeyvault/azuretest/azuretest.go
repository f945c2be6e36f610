// Package azuretest is a stand-in for Azure Key Vault and Managed HSM in tests. It was written from the REST reference, and has what
// key providers call: a description of a key, and encrypt, decrypt, wrapkey, unwrapkey and sign by its versions.
package azuretest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // of RSA-OAEP
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync"
)

// Vault is a vault with keys. The zero value is ready; it serves HTTP.
type Vault struct {
	mu    sync.Mutex
	keys  map[string][]*Version
	fault *Fault
}

// Version is a version of a key. Two of the three keys are nil.
type Version struct {
	ID       string
	AES      cipher.AEAD
	RSA      *rsa.PrivateKey
	EC       *ecdsa.PrivateKey
	Disabled bool
}

// Fault is how the vault answers in place of what it would do.
type Fault struct {
	Status               int
	Code, Inner, Message string
	Op                   string            // of this operation alone: "get", "sign" ...; "" for all
	Header               map[string]string // of the answer
}

var errNotFound = &Fault{Status: http.StatusNotFound, Code: "KeyNotFound", Message: "A key with this name or version was not found in this key vault."}

func bad(text string) *Fault {
	return &Fault{Status: http.StatusBadRequest, Code: "BadParameter", Message: text}
}

// Fail makes the vault answer with a fault, or properly again for nil.
func (v *Vault) Fail(f *Fault) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fault = f
}

// Add makes a new version of a key, of the kind "AES", "RSA" or "EC", and returns it.
func (v *Vault) Add(name, kind string) *Version {
	id := make([]byte, 16)
	rand.Read(id)
	made := &Version{ID: hex.EncodeToString(id)}
	var err error
	switch kind {
	case "AES":
		secret := make([]byte, 32)
		rand.Read(secret)
		block, _ := aes.NewCipher(secret) // the length is right
		fips140.WithoutEnforcement(func() { made.AES, err = cipher.NewGCM(block) })
	case "RSA":
		made.RSA, err = rsa.GenerateKey(rand.Reader, 2048)
	default:
		made.EC, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		panic(err) // only without randomness
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.keys == nil {
		v.keys = make(map[string][]*Version)
	}
	v.keys[name] = append(v.keys[name], made)
	return made
}

// Remove deletes a key, and returns what brings it back.
func (v *Vault) Remove(name string) (undo func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	gone := v.keys[name]
	delete(v.keys, name)
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.keys[name] = gone
	}
}

// Disable disables all versions of a key, and returns what enables them.
func (v *Vault) Disable(name string) (undo func()) {
	set := func(disabled bool) {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, version := range v.keys[name] {
			version.Disabled = disabled
		}
	}
	set(true)
	return func() { set(false) }
}

// bytesValue is bytes in JSON, as base64url without padding.
type bytesValue []byte

// MarshalText encodes the bytes.
func (b bytesValue) MarshalText() ([]byte, error) {
	return []byte(base64.RawURLEncoding.EncodeToString(b)), nil
}

// UnmarshalText decodes the bytes.
func (b *bytesValue) UnmarshalText(text []byte) (err error) {
	*b, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(string(text), "="))
	return err
}

// operation is a request and an answer alike.
type operation struct {
	Alg   string     `json:"alg,omitempty"`
	Kid   string     `json:"kid,omitempty"`
	Value bytesValue `json:"value,omitempty"`
	IV    bytesValue `json:"iv,omitempty"`
	Tag   bytesValue `json:"tag,omitempty"`
	AAD   bytesValue `json:"aad,omitempty"`
}

// ServeHTTP answers GET /keys/<name>[/<version>] and POST /keys/<name>/<version>/<operation>.
func (v *Vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	op := "get"
	if len(parts) == 4 && r.Method == http.MethodPost {
		op = parts[3]
	}
	out, fault := v.answer(r, op, append(parts, "", ""))
	w.Header().Set("Content-Type", "application/json")
	if fault != nil {
		for name, value := range fault.Header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(fault.Status)
		out = map[string]any{"error": map[string]any{"code": fault.Code, "message": fault.Message,
			"innererror": map[string]string{"code": fault.Inner}}}
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (v *Vault) answer(r *http.Request, op string, parts []string) (out any, fault *Fault) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f := v.fault; f != nil && (f.Op == "" || f.Op == op) {
		return nil, f
	}
	version := v.find(parts[1], parts[2])
	if parts[0] != "keys" || version == nil {
		return nil, errNotFound
	}
	kid := fmt.Sprintf("https://%s/keys/%s/%s", r.Host, parts[1], version.ID)
	if op == "get" {
		return version.describe(kid), nil
	}
	var in operation
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return nil, bad("The request cannot be read.")
	}
	if version.Disabled {
		return nil, &Fault{Status: http.StatusForbidden, Code: "Forbidden", Inner: "KeyDisabled",
			Message: "Operation " + op + " is not allowed on a disabled key."}
	}
	done, fault := version.do(op+" "+in.Alg, in)
	done.Kid = kid
	return done, fault
}

func (v *Vault) find(name, id string) *Version {
	versions := v.keys[name]
	for _, version := range versions {
		if version.ID == id {
			return version
		}
	}
	if id == "" && len(versions) > 0 {
		return versions[len(versions)-1]
	}
	return nil
}

func (ver *Version) describe(kid string) any {
	key := map[string]any{"kid": kid}
	switch {
	case ver.RSA != nil:
		key["key_ops"] = []string{"wrapKey", "unwrapKey"}
		key["kty"], key["n"], key["e"] = "RSA", bytesValue(ver.RSA.N.Bytes()), bytesValue(big.NewInt(int64(ver.RSA.E)).Bytes())
	case ver.EC != nil:
		key["key_ops"] = []string{"sign", "verify"}
		point, _ := ver.EC.PublicKey.Bytes() // the curve is one of its own
		key["kty"], key["crv"], key["x"], key["y"] = "EC", "P-256", bytesValue(point[1:33]), bytesValue(point[33:])
	default:
		key["kty"], key["key_ops"] = "oct-HSM", []string{"encrypt", "decrypt"}
	}
	return map[string]any{"key": key, "attributes": map[string]any{"enabled": !ver.Disabled}}
}

func (ver *Version) do(what string, in operation) (out operation, fault *Fault) {
	failed := bad("The parameter is incorrect.")
	var err error
	switch {
	case what == "encrypt A256GCM" && ver.AES != nil:
		out.IV, out.AAD = make([]byte, ver.AES.NonceSize()), in.AAD
		rand.Read(out.IV)
		var sealed []byte
		fips140.WithoutEnforcement(func() { sealed = ver.AES.Seal(nil, out.IV, in.Value, in.AAD) }) // the vault draws the nonce itself
		out.Value, out.Tag = sealed[:len(in.Value)], sealed[len(in.Value):]
	case what == "decrypt A256GCM" && ver.AES != nil:
		if len(in.IV) != ver.AES.NonceSize() {
			return out, failed
		}
		out.Value, err = ver.AES.Open(nil, in.IV, append(in.Value, in.Tag...), in.AAD)
	case (what == "wrapkey RSA-OAEP-256" || what == "encrypt RSA-OAEP-256") && ver.RSA != nil:
		out.Value, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, &ver.RSA.PublicKey, in.Value, nil)
	case (what == "unwrapkey RSA-OAEP-256" || what == "decrypt RSA-OAEP-256") && ver.RSA != nil:
		out.Value, err = rsa.DecryptOAEP(sha256.New(), nil, ver.RSA, in.Value, nil)
	case what == "decrypt RSA-OAEP" && ver.RSA != nil:
		fips140.WithoutEnforcement(func() { out.Value, err = rsa.DecryptOAEP(sha1.New(), nil, ver.RSA, in.Value, nil) })
	case what == "sign ES256" && ver.EC != nil && len(in.Value) == sha256.Size:
		out.Value, err = Sign(ver.EC, in.Value)
	default:
		return out, bad("The algorithm or the key is of another kind than the operation requires.")
	}
	if err != nil {
		return out, failed
	}
	return out, nil
}

// Sign returns a signature of ES256: r and s, of 32 bytes each.
func Sign(key *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, key, digest)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}
