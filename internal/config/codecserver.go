package config

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/codecserver"
)

// CodecServer is the HTTP endpoint for the Web UI and the CLI.
type CodecServer struct {
	// Host and port to listen on.
	Address string `yaml:"address" default:"127.0.0.1:7335"`
	// Certificate of the codec server.
	TLS *ServerTLS `yaml:"tls" otherwise:"plaintext"`
	// Web pages that may call, as browsers name their origin: `https://ui.example.com`.
	AllowedOrigins []string `yaml:"allowed_origins" otherwise:"http://localhost:8233 and http://127.0.0.1:8233 on loopback, none elsewhere"`
	// How callers are identified, by exactly one kind, and which namespaces they reach. Required off
	// loopback, and then not `anonymous`.
	Callers *Callers `yaml:"callers" otherwise:"anonymous, on loopback only"`
}

// defaultOrigins are those of the Web UI that comes with `temporal server start-dev`.
var defaultOrigins = []string{"http://localhost:8233", "http://127.0.0.1:8233"}

func (cs *CodecServer) setDefaults() {
	if cs != nil && cs.AllowedOrigins == nil && IsLoopback(cs.Address) {
		cs.AllowedOrigins = defaultOrigins
	}
}

// Listener returns the codec server as one of the listeners, whose kinds of callers are the same.
func (cs *CodecServer) Listener() *Listener {
	return &Listener{Name: codecserver.Name, Address: cs.Address, TLS: cs.TLS, Callers: cs.Callers}
}

func (cs *CodecServer) validate(d *document) {
	if cs == nil {
		return
	}
	const path = "$.codec_server"
	for i, origin := range cs.AllowedOrigins {
		d.refuse(!isOrigin(origin), fmt.Sprintf("%s.allowed_origins[%d]", path, i),
			"is not an origin; write it as browsers do: https://ui.example.com, with the port unless it is the default one, without a path and without *")
	}
	l := cs.Listener()
	if l.IsAnonymous() && !IsLoopback(cs.Address) && validateAddress(d, path+".address", cs.Address) {
		d.add(path,
			"%s is reachable from other machines; restrict who may read with callers: {jwt: {...}}, token or mtls, or "+
				"listen on 127.0.0.1", cs.Address)
		return
	}
	l.validate(d, path)
}

// isOrigin reports whether a text is an origin as browsers send it: in lower case, and without the scheme's
// usual port.
func isOrigin(text string) bool {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || text != strings.ToLower(u.Scheme+"://"+u.Host) || strings.Contains(text, "*") {
		return false
	}
	return u.Scheme == "https" && u.Port() != "443" || u.Scheme == "http" && u.Port() != "80"
}
