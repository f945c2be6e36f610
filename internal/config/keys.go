package config

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto/awskms"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyring"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/crypto/vault"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
)

type Key struct {
	Name       string   `yaml:"name"`
	Namespaces []string `yaml:"namespaces"`
	Active     string   `yaml:"active"`
	OpenOnly   []string `yaml:"open_only"`
}

type Grant struct {
	From string `yaml:"from"`
	To   string `yaml:"to"`
}

func (c *Config) checkKeys(d *document) {
	names := map[string]bool{}
	for i, k := range c.Keys {
		path := fmt.Sprintf("$.keys[%d]", i)
		if k.Name == "" || k.Active == "" {
			d.add(path, "wants both: name, and active, the URI of the key that seals")
			continue
		}
		if names[k.Name] {
			d.add(path+".name", "%q is the name of another key too: a key has one entry, with its earlier URIs under open_only", k.Name)
		}
		names[k.Name] = true
		if strings.HasPrefix(k.Name, foreign.KeyPrefix) || strings.HasPrefix(k.Name, "*") {
			d.add(path+".name", "may not start with %s or a *: what starts so is what policies read as the key of another tool's payload", foreign.KeyPrefix)
		}
		checkKeyURI(d, path+".active", k.Active)
		for j, uri := range k.OpenOnly {
			checkKeyURI(d, fmt.Sprintf("%s.open_only[%d]", path, j), uri)
		}
	}
}

const NoKeyURI = "is no key URI: awskms://<key id, ARN or alias>?region=<region>, vault://<host>/<mount>/<key>?token_file=<path>, or local:<file>"

func checkKeyURI(d *document, path, uri string) {
	if scheme, _, ok := strings.Cut(uri, ":"); !ok || scheme != localkey.Scheme && scheme != awskms.Scheme && scheme != vault.Scheme {
		d.add(path, NoKeyURI)
	}
}

func (c *Config) KeyConfigs() []keyring.KeyConfig {
	keys := make([]keyring.KeyConfig, len(c.Keys))
	for i, k := range c.Keys {
		keys[i] = keyring.KeyConfig{Name: k.Name, Namespaces: k.Namespaces, Active: k.Active, OpenOnly: k.OpenOnly}
	}
	return keys
}

func (c *Config) KeyGrants() []keyring.Grant {
	grants := make([]keyring.Grant, len(c.Grants))
	for i, g := range c.Grants {
		grants[i] = keyring.Grant{From: g.From, To: g.To}
	}
	return grants
}

// revokedDataKeys are the ids; check has told of those that are none.
func (c *Config) DataKeyIDs() [][32]byte {
	ids := make([][32]byte, len(c.RevokedDataKeys))
	for i, text := range c.RevokedDataKeys {
		if id, ok := dataKeyID(text); ok {
			ids[i] = id
		}
	}
	return ids
}

func dataKeyID(text string) (id [32]byte, ok bool) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(id) {
		return id, false
	}
	return [32]byte(raw), true
}
