package config

type Listener struct {
	Name    string     `yaml:"name"`
	Address string     `yaml:"address"`
	TLS     *ServerTLS `yaml:"tls"`
	Callers *Callers   `yaml:"callers"`
}

type ServerTLS struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

func (l *Listener) check(d *document, path string) {
	if !checkAddress(d, path+".address", l.Address) {
		return
	}
	if l.TLS != nil {
		checkPair(d, path+".tls", l.TLS.CertFile, l.TLS.KeyFile, true)
	}
	kinds := 0
	if l.Callers != nil {
		for _, given := range []bool{l.Callers.Anonymous != nil, l.Callers.MTLS != nil, l.Callers.Token != nil, l.Callers.JWT != nil} {
			if given {
				kinds++
			}
		}
		if kinds != 1 {
			d.add(path+".callers", "wants exactly one of anonymous, mtls, token, jwt")
			return
		}
	}
	switch {
	case l.IsAnonymous():
		if l.AnonymousNamespaces() == nil && !IsLoopback(l.Address) {
			d.add(path, "%s is reachable from other machines and would serve anyone every namespace: add callers: {anonymous: {namespaces: [...]}} with those it is for, or another kind of callers, or listen on 127.0.0.1", l.Address)
		}
	case l.Callers.MTLS != nil:
		l.checkMTLS(d, path)
	case l.Callers.Token != nil:
		l.checkTokens(d, path)
	case l.Callers.JWT != nil:
		l.checkJWT(d, path)
	}
}

// anonymous tells if the listener takes callers for what they say they are.
func (l *Listener) IsAnonymous() bool { return l.Callers == nil || l.Callers.Anonymous != nil }

func (l *Listener) AnonymousNamespaces() []string {
	if l.Callers == nil {
		return nil
	}
	return l.Callers.Anonymous.Namespaces
}
