package config

import (
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keystore"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
)

// Key is a name that policies use, and the key encryption keys behind it.
type Key struct {
	// Name that policies use. It may hold one `*`; what the star stands for is `{1}` in the URIs. Where a rule
	// names no key, the default key seals. The default key of a namespace is the entry named `default` that
	// serves it, or else the first entry that serves it and has no `*` in its name.
	Name string `yaml:"name" required:"true"`
	// Namespaces that may use the key, `*` for any run of characters.
	Namespaces []string `yaml:"namespaces" otherwise:"all"`
	// URI of the key encryption key that seals: `awskms://...`, `gcpkms://...`, `azurekeyvault://...`, `vault://...`,
	// `plugin://...` or `local:...`. `{namespace}` in it stands for the namespace (for its `sealed_as`, if it has one), if that is 1 to 64 letters, digits, `-`, `_` and `.`, and does not
	// start with `.`.
	Active string `yaml:"active" required:"true"`
	// URIs of earlier key encryption keys, which still open what they sealed.
	OpenOnly []string `yaml:"open_only" otherwise:"none"`
	// What envelopes have of their data key: `self-contained` ones carry it, and those by `reference` name its row in the
	// key store in 16 bytes.
	Envelope string `yaml:"envelope" default:"self-contained" enum:"self-contained,reference"`
	// Whether payloads may be sealed with the key of no subject. With `required` they are refused, unless a rule names
	// their subject.
	Subjects string `yaml:"subjects" default:"optional" enum:"optional,required"`
	// How long payloads can be opened after they were sealed, 1h to 3650d, after which their data keys are destroyed in the key
	// store: they stay for up to `data_key_life` longer, at most twice as long. It needs `envelope: reference`, a key store,
	// and a name under which nothing was sealed before that does not expire. Keys of subjects have no life.
	// Set it in the config of every replica. In a namespace whose default key has one, task tokens have no
	// MAC: only the replica that handed a task out knows its facts when the worker answers.
	Life time.Duration `yaml:"life" otherwise:"for good"`
	// Gives up the life that data keys of this name have had: new ones do not expire, and those that exist do at their end. Without it, nothing
	// is sealed under a name without `life` of which the key store has data keys that expire. The name cannot get a life again.
	Endless bool `yaml:"endless" default:"false"`
}

// KeyStore is a database with wrapped data keys.
type KeyStore struct {
	// `sqlite:<file>`, for one proxy on one machine, `postgres://<user>@<host>/<database>?sslmode=verify-full`, or
	// `dynamodb://<table>?region=<region>`.
	URL string `yaml:"url" required:"true"`
	// The id that `temporal-seal keystore init` printed, 32 hex digits.
	ID string `yaml:"id" required:"true"`
	// How long keys of subjects serve after the store last answered what was erased, at least 1m: an erasure is in force on
	// every replica after that, also on one that cannot reach the store.
	ErasureMaxLag time.Duration `yaml:"erasure_max_lag" default:"5m"`
}

func (s *KeyStore) validate(d *document) {
	if s == nil {
		return
	}
	d.refuse(!keystore.Known(s.URL), "$.key_store.url", keystore.NoStoreURI)
	d.refuse(!keystore.IsID(s.ID), "$.key_store.id", "is not the id of a key store; write the 32 hex digits that `temporal-seal keystore init` prints")
	d.refuse(s.ErasureMaxLag != 0 && (s.ErasureMaxLag < time.Minute || s.ErasureMaxLag > 24*time.Hour), "$.key_store.erasure_max_lag",
		"is 1m to 24h, not %s; 5m is the default", s.ErasureMaxLag)
}

// Grant lets a namespace open what another one sealed. The policy that ships reads it; a platform policy of your own needs a
// rule with the condition `input.sealed.granted`.
type Grant struct {
	// Namespace that sealed, with `*` for any run of characters; of another realm: `<realm>/<namespace>`.
	From string `yaml:"from" required:"true"`
	// Namespace that may open, with `*` for any run of characters.
	To string `yaml:"to" required:"true"`
}

// Namespace is one whose envelopes have another name, such as the one that it had before it was renamed or moved to
// another server.
type Namespace struct {
	// Name that callers use and that the server knows.
	Name string `yaml:"name" required:"true"`
	// Name to which its envelopes are bound. Namespaces with one such name open each other's payloads.
	SealedAs string `yaml:"sealed_as" required:"true"`
}

func validateNamespaces(d *document, list []Namespace) {
	names := map[string]bool{}
	for i, n := range list {
		path := fmt.Sprintf("$.namespaces[%d]", i)
		d.refuse(n.Name == "" || n.SealedAs == "", path,
			"name (which callers use) and sealed_as (which envelopes contain) are required")
		d.refuse(names[n.Name], path+".name", "%q has another entry above; keep one of them", n.Name)
		names[n.Name] = true
		d.refuse(strings.ContainsAny(n.Name, "*") || strings.ContainsAny(n.SealedAs, "*"), path,
			"must name one namespace; patterns with * are not allowed here")
		d.refuse(strings.Contains(n.SealedAs, "/"), path+".sealed_as",
			"must not contain a /, which separates realm and namespace in envelopes")
	}
}

// SealedAs returns the names that envelopes of namespaces have, where these are not their own.
func (c *Config) SealedAs() map[string]string {
	names := make(map[string]string, len(c.Namespaces))
	for _, n := range c.Namespaces {
		names[n.Name] = n.SealedAs
	}
	return names
}

// subjectsRequired refuses payloads without a subject.
const subjectsRequired = "required"

// NoSubjects returns why there can be no keys of subjects, and what to do; "" if there can.
func (s *KeyStore) NoSubjects() string {
	if s == nil {
		return "keys of subjects need a key store: configure key_store"
	}
	return ""
}

// envelopeReference is the form of envelopes that need a key store.
const envelopeReference = "reference"

func validateKeys(d *document, list []Key, store *KeyStore) {
	names := map[string]bool{}
	for i, k := range list {
		path := fmt.Sprintf("$.keys[%d]", i)
		if k.Name == "" || k.Active == "" {
			d.add(path, "name and active (the URI of the key that seals) are required")
			continue
		}
		d.refuse(names[k.Name], path+".name",
			"%q is the name of another key too; write one entry, with its earlier URIs under open_only", k.Name)
		names[k.Name] = true
		d.refuse(strings.HasPrefix(k.Name, foreign.KeyPrefix) || strings.HasPrefix(k.Name, "*"), path+".name",
			"must not start with %s or *; policies use such names for payloads of other tools", foreign.KeyPrefix)
		d.refuse(k.Envelope != "self-contained" && k.Envelope != envelopeReference, path+".envelope",
			"must be self-contained or reference, not %q", k.Envelope)
		d.refuse(k.Envelope == envelopeReference && store == nil, path+".envelope",
			"envelopes by reference require a key store; configure key_store")
		d.refuse(k.Subjects != "optional" && k.Subjects != subjectsRequired, path+".subjects", "is optional or required, not %q", k.Subjects)
		if k.Subjects == subjectsRequired && store.NoSubjects() != "" {
			d.add(path+".subjects", "%s", store.NoSubjects())
		}
		validateLife(d, path, &list[i], store)
		validateKeyURI(d, path+".active", k.Active)
		for j, uri := range k.OpenOnly {
			validateKeyURI(d, fmt.Sprintf("%s.open_only[%d]", path, j), uri)
		}
	}
}

// Bounds of the life of a key.
const (
	minLife = time.Hour
	maxLife = 3650 * 24 * time.Hour
)

// validateLife checks that what a key with a life seals can be destroyed: nothing but the row of a key store has its data keys.
func validateLife(d *document, path string, k *Key, store *KeyStore) {
	if k.Life == 0 {
		return
	}
	d.refuse(k.Endless, path+".endless", "it gives the life up; remove life, or endless")
	path += ".life"
	d.refuse(k.Life < minLife || k.Life > maxLife, path, "must be from 1h to 3650d, not %s", k.Life)
	d.refuse(store == nil && k.Envelope != envelopeReference, path, "keys that expire are in a key store; configure key_store")
	d.refuse(k.Envelope != envelopeReference, path, "self-contained envelopes carry their data key, which nobody can destroy; set envelope: reference")
	d.refuse(k.Subjects == subjectsRequired, path, "keys of subjects have no life; remove life, or subjects: required")
}

// validateKeyURI checks a URI as it is when something stands for its placeholders.
func validateKeyURI(d *document, path, uri string) {
	if !keyservice.Known(uri) {
		d.add(path, keyservice.NoKeyURI)
		return
	}
	if strings.Contains(uri, "${") {
		d.add(path, "contains a variable, which the proxy does not replace; write the URI, or render the file first")
		return
	}
	filled := strings.NewReplacer("{namespace}", "x", "{1}", "x").Replace(uri)
	if i := strings.IndexAny(filled, "{}"); i >= 0 {
		d.add(path, "has an unknown placeholder; there are {namespace} and {1}, the text that * in the name matches")
		return
	}
	if err := keyservice.Check(filled); err != nil {
		d.add(path, "%s", err)
	}
}

// KeyConfigs are the keys as the keyring takes them.
func (c *Config) KeyConfigs() []keyring.KeyConfig {
	keys := make([]keyring.KeyConfig, len(c.Keys))
	for i, k := range c.Keys {
		keys[i] = keyring.KeyConfig{Name: k.Name, Namespaces: k.Namespaces, Active: k.Active, OpenOnly: k.OpenOnly,
			Reference: k.Envelope == envelopeReference, Life: k.Life, Endless: k.Endless, SubjectRequired: k.Subjects == subjectsRequired}
	}
	return keys
}

// KeyGrants are the grants as the keyring takes them.
func (c *Config) KeyGrants() []keyring.Grant {
	grants := make([]keyring.Grant, len(c.Grants))
	for i, g := range c.Grants {
		grants[i] = keyring.Grant(g)
	}
	return grants
}

// DataKeyIDs returns the ids of RevokedDataKeys. Of a config that was refused, those that are no ids are zero.
func (c *Config) DataKeyIDs() []crypto.KeyID {
	ids := make([]crypto.KeyID, len(c.RevokedDataKeys))
	for i, text := range c.RevokedDataKeys {
		ids[i], _ = dataKeyID(text)
	}
	return ids
}

func dataKeyID(text string) (id crypto.KeyID, ok bool) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, false
	}
	return crypto.KeyID(raw), true
}
