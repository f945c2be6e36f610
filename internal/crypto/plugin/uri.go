package plugin

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

// location is a parsed URI.
type location struct {
	name, key            string
	address              string // unix:<path> or <host>:<port>
	tokenFile, authority string // files
	withContext          bool   // KeyService
	plain                bool   // without TLS
}

// Check returns what is wrong with a URI, without asking the plug-in.
func Check(uri string) error {
	_, err := parseURI(uri)
	return err
}

func parseURI(uri string) (loc location, err error) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != Scheme || u.Host == "" || u.User != nil || u.Fragment != "" {
		// The URI may hold a password: it is not quoted.
		return loc, errors.New("this is no key of a plug-in: write plugin://<name>/<key>?address=unix:<socket>, with no user and password")
	}
	wrong := func(format string, args ...any) (location, error) {
		return location{}, fmt.Errorf("%s: "+format, append([]any{uri}, args...)...)
	}
	loc = location{name: u.Host, key: strings.Trim(u.Path, "/")}
	if loc.key == "" {
		return wrong("names no key: write plugin://<name>/<key>?address=<address>")
	}
	params, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return wrong("what follows the ? can't be read; write it as name=value, with & between")
	}
	for name, values := range params {
		if len(values) != 1 || values[0] == "" {
			return wrong("parameter %q needs one value", name)
		}
		if err := loc.set(name, values[0]); err != nil {
			return wrong("%w", err)
		}
	}
	if err := loc.checkAddress(); err != nil {
		return wrong("%w", err)
	}
	return loc, nil
}

func (l *location) set(name, value string) error {
	switch name {
	case "address":
		l.address = value
	case "token_file":
		l.tokenFile = value
	case "ca_file":
		l.authority = value
	case "service":
		l.withContext = value == "KeyService"
		if !l.withContext && value != "EncryptionService" {
			return fmt.Errorf("service is EncryptionService or KeyService, not %q", value)
		}
	case "tls":
		l.plain = true
		if value != "off" {
			return errors.New("tls can only be off")
		}
	default:
		return fmt.Errorf("unknown parameter %q; address, service, token_file, ca_file and tls are known", name)
	}
	return nil
}

// checkAddress refuses plain text off this host: data keys and the token would cross the network in clear.
func (l *location) checkAddress() error {
	if path, ok := strings.CutPrefix(l.address, "unix:"); ok {
		switch {
		case !strings.HasPrefix(path, "/"):
			return errors.New("address: a socket has an absolute path, as unix:/run/keys.sock")
		case l.plain || l.authority != "":
			return errors.New("tls and ca_file have no meaning for a socket of this host; leave them out")
		}
		l.plain = true
		return nil
	}
	host, port, err := net.SplitHostPort(l.address)
	switch {
	case err != nil || host == "" || port == "":
		return errors.New("address is required: unix:<path of a socket> or <host>:<port>")
	case l.plain && l.authority != "":
		return errors.New("tls=off and ca_file contradict each other; leave one out")
	case l.plain && !loopback.Host(host):
		return errors.New("plain text would show data keys and the token to the network; tls=off is for this host only")
	}
	return nil
}
