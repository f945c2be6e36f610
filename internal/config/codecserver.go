package config

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/codecserver"
)

// CodecServer is the door of the Web UI and the command line. Without it there is none.
type CodecServer struct {
	Address        string     `yaml:"address"`
	TLS            *ServerTLS `yaml:"tls"`
	AllowedOrigins []string   `yaml:"allowed_origins"`
	Callers        *Callers   `yaml:"callers"`
}

const defaultCodecServer = "127.0.0.1:7335"

// defaultOrigins are those of the Web UI that comes with `temporal server start-dev`.
var defaultOrigins = []string{"http://localhost:8233", "http://127.0.0.1:8233"}

func (cs *CodecServer) setDefaults() {
	if cs == nil {
		return
	}
	if cs.Address == "" {
		cs.Address = defaultCodecServer
	}
	if cs.AllowedOrigins == nil && IsLoopback(cs.Address) {
		cs.AllowedOrigins = defaultOrigins
	}
	cs.Callers.setDefaults()
}

// listener is the codec server as one of the listeners, whose kinds of callers are the same.
func (cs *CodecServer) Listener() *Listener {
	return &Listener{Name: codecserver.Name, Address: cs.Address, TLS: cs.TLS, Callers: cs.Callers}
}

func (cs *CodecServer) check(d *document) {
	if cs == nil {
		return
	}
	const path = "$.codec_server"
	for i, origin := range cs.AllowedOrigins {
		if !isOrigin(origin) {
			d.add(fmt.Sprintf("%s.allowed_origins[%d]", path, i), "is no origin as browsers write it: https://ui.example.com, with the port if it is not the usual one, without a path, and without *")
		}
	}
	l := cs.Listener()
	if l.IsAnonymous() && !IsLoopback(cs.Address) && checkAddress(d, path+".address", cs.Address) {
		d.add(path, "%s is reachable from other machines: say who may read, with callers: {jwt: {...}}, token or mtls, or listen on 127.0.0.1", cs.Address)
		return
	}
	l.check(d, path)
}

func isOrigin(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && text == u.Scheme+"://"+u.Host &&
		text == strings.ToLower(text) && !strings.Contains(text, "*") && !isUsualPort(u)
}

// isUsualPort tells of a port that browsers leave out, so that no page would ever match.
func isUsualPort(u *url.URL) bool {
	return u.Port() == "443" && u.Scheme == "https" || u.Port() == "80" && u.Scheme == "http"
}
