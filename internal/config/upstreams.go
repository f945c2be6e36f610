package config

import "strings"

// Upstream is a Temporal frontend.
type Upstream struct {
	// Namespaces whose calls go there, `*` for any run of characters; `[]` for calls that name no namespace.
	Namespaces []string `yaml:"namespaces" otherwise:"all"`
	// Host and port of the frontend. `{namespace}` stands for the namespace of the call, if that is made of
	// letters, digits, `-` and `_`, with dots only where a domain follows.
	Address string `yaml:"address" required:"true"`
	// TLS to the frontend; `{}` verifies it with the system's authorities.
	TLS *ClientTLS `yaml:"tls" otherwise:"plaintext"`
	// File with an API key, which is sent in place of the caller's `authorization`. Requires `tls`.
	APIKeyFile string `yaml:"api_key_file"`
	// Forward the token by which a listener identified the caller. Requires `tls`, off loopback.
	PassCredential bool `yaml:"pass_credential" default:"false"`
}

// ClientTLS is how the proxy and a frontend identify each other.
type ClientTLS struct {
	// PEM file with the proxy's certificate and its chain, for mTLS. It is read again when it changes.
	CertFile string `yaml:"cert_file"`
	// PEM file with the private key of that certificate. One that everybody can read is refused.
	KeyFile string `yaml:"key_file"`
	// PEM file with the authorities that sign the frontend's certificate.
	CAFile string `yaml:"ca_file" otherwise:"those of the system"`
	// Name that the frontend's certificate has to have.
	ServerName string `yaml:"server_name" otherwise:"the host of the address"`
}

func (u *Upstream) validate(d *document, path string) {
	scheme, _, hasScheme := strings.Cut(u.Address, "://")
	switch {
	case u.Address == "":
		d.add(path, "address is required: host:port of the Temporal frontend")
	case scheme == "http", scheme == "https":
		d.add(path+".address", "%q is a URL; write host:port, and tls: {} for TLS", u.Address)
	case !strings.Contains(u.Address, "${") && strings.ContainsAny(strings.ReplaceAll(u.Address, "{namespace}", ""), "{}"):
		d.add(path+".address", "%q has an unknown placeholder; there is {namespace} alone", u.Address)
	case !hasScheme:
		validateAddress(d, path+".address", u.Address)
	}
	if t := u.TLS; t != nil {
		validatePair(d, path+".tls", t.CertFile, t.KeyFile, false)
		validateReadable(d, path+".tls.ca_file", t.CAFile)
	}
	d.refuse(u.PassCredential && u.APIKeyFile != "", path+".pass_credential",
		"api_key_file would replace the credentials of callers; remove one of the two")
	d.refuse(u.PassCredential && u.TLS == nil && !IsLoopback(u.Address), path+".pass_credential",
		"callers' tokens would cross the network in clear text; add tls: {}")
	if u.APIKeyFile != "" {
		d.refuse(u.TLS == nil, path+".api_key_file", "an API key requires TLS; add tls: {}")
		validateSecret(d, path+".api_key_file", u.APIKeyFile)
	}
}
