package config

import (
	"strings"
)

type Upstream struct {
	Namespaces []string   `yaml:"namespaces"`
	Address    string     `yaml:"address"`
	TLS        *ClientTLS `yaml:"tls"`
	APIKeyFile string     `yaml:"api_key_file"`
	// PassCredential forwards the token that callers show to a listener; without it a token ends here.
	PassCredential bool `yaml:"pass_credential"`
}

type ClientTLS struct {
	CertFile   string `yaml:"cert_file"`
	KeyFile    string `yaml:"key_file"`
	CAFile     string `yaml:"ca_file"`
	ServerName string `yaml:"server_name"`
}

func (u *Upstream) check(d *document, path string) {
	if u.Address == "" {
		d.add(path, "wants address: the Temporal frontend's host:port")
	} else if !strings.Contains(u.Address, "://") {
		checkAddress(d, path+".address", u.Address)
	}
	if t := u.TLS; t != nil {
		checkPair(d, path+".tls", t.CertFile, t.KeyFile, false)
		checkReadable(d, path+".tls.ca_file", t.CAFile)
	}
	if u.PassCredential && u.APIKeyFile != "" {
		d.add(path+".pass_credential", "an API key takes the place of what callers send: remove one of them")
	}
	if u.PassCredential && u.TLS == nil && !IsLoopback(u.Address) {
		d.add(path+".pass_credential", "callers' tokens would cross the network readable: add tls: {}")
	}
	if u.APIKeyFile != "" {
		if u.TLS == nil {
			d.add(path+".api_key_file", "an API key is never sent without TLS: add tls: {}")
		}
		checkReadable(d, path+".api_key_file", u.APIKeyFile)
	}
}
