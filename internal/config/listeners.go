package config

import (
	"fmt"
	"strings"
)

// Listener is an address on which callers reach the proxy.
type Listener struct {
	// Name by which policies know the listener, as `input.caller.listener`. Required where there are several
	// listeners.
	Name string `yaml:"name" otherwise:"default"`
	// Host and port to listen on.
	Address string `yaml:"address" required:"true"`
	// Certificate of the listener.
	TLS *ServerTLS `yaml:"tls" otherwise:"plaintext"`
	// How callers are identified, by exactly one kind, and which namespaces they reach.
	Callers *Callers `yaml:"callers" otherwise:"anonymous, on loopback only"`
}

// ServerTLS is the certificate that a listener shows.
type ServerTLS struct {
	// PEM file with the certificate and its chain. It is read again when it changes.
	CertFile string `yaml:"cert_file" required:"true"`
	// PEM file with the certificate's private key. One that everybody on the machine can read is refused.
	KeyFile string `yaml:"key_file" required:"true"`
}

func validateListeners(d *document, listeners []Listener) {
	names, addresses := map[string]bool{}, map[string]bool{}
	for i := range listeners {
		path := fmt.Sprintf("$.listeners[%d]", i)
		l := &listeners[i]
		if l.Name == "" {
			d.add(path, "name is required where there are several listeners; policies read it as input.caller.listener")
		} else if names[l.Name] {
			d.add(path+".name", "%q is the name of another listener too; choose another", l.Name)
		}
		d.refuse(addresses[l.Address] && !strings.HasSuffix(l.Address, ":0"), path+".address",
			"%s is the address of another listener too; choose another port", l.Address)
		names[l.Name], addresses[l.Address] = true, true
		l.validate(d, path)
	}
}

func (l *Listener) validate(d *document, path string) {
	if !validateAddress(d, path+".address", l.Address) {
		return
	}
	if l.TLS != nil {
		validatePair(d, path+".tls", l.TLS.CertFile, l.TLS.KeyFile, true)
	}
	if l.Callers != nil && l.Callers.kinds() != 1 {
		d.add(path+".callers", "set exactly one of anonymous, mtls, token and jwt")
		return
	}
	readable := l.TLS == nil && !IsLoopback(l.Address) // by anyone on the network
	switch {
	case l.IsAnonymous():
		d.refuse(l.AnonymousNamespaces() == nil && !IsLoopback(l.Address), path,
			"%s is reachable from other machines and would serve every namespace to anyone; add callers: {anonymous: {namespaces: [...]}} with the namespaces to serve, add another kind of callers, or listen on 127.0.0.1", l.Address)
	case l.Callers.MTLS != nil:
		l.Callers.MTLS.validate(d, path+".callers.mtls", l.TLS != nil)
	case l.Callers.Token != nil:
		l.Callers.Token.validate(d, path+".callers.token", readable)
	case l.Callers.JWT != nil:
		l.Callers.JWT.validate(d, path+".callers.jwt", readable)
	}
}

// IsAnonymous reports whether the listener takes callers for what they say they are.
func (l *Listener) IsAnonymous() bool { return l.Callers == nil || l.Callers.Anonymous != nil }

// AnonymousNamespaces are those that anonymous callers reach; nil: all.
func (l *Listener) AnonymousNamespaces() []string {
	if l.Callers == nil {
		return nil
	}
	return l.Callers.Anonymous.Namespaces
}
