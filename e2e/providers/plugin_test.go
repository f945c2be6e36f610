package providers

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/keypeers"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

var (
	plugInAgainst = "[a server in Python](../examples/key-plugin/server.py), with code that grpcio 1.85 generates from the same definition"

	plugIn = provider{
		name:    "a plug-in, `EncryptionService`",
		start:   func(t *testing.T) *peer { return startPlugin(t, "EncryptionService") },
		binds:   "the id of the data key, which the proxy compares: Decrypt gets no namespace",
		forging: "the plug-in, which has to authenticate; a changed wrapped key is tried at each start",
		outage:  "status codes",
		rotates: "as the plug-in does it",
		needs:   "a token, where the plug-in requires one",
		against: plugInAgainst,
	}
	plugInWithContext = provider{
		name:    "a plug-in, `KeyService`",
		start:   func(t *testing.T) *peer { return startPlugin(t, "KeyService") },
		binds:   "the plug-in; another context is tried at each start",
		forging: plugIn.forging,
		outage:  "status codes",
		rotates: plugIn.rotates,
		needs:   plugIn.needs,
		against: plugInAgainst,
	}
)

func startPlugin(t *testing.T, service string) *peer {
	example, err := filepath.Abs("../../examples/key-plugin")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "plugin") // the path of a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	key, fault, tokens, token := filepath.Join(dir, "keys", "default"), filepath.Join(dir, "fault"), filepath.Join(dir, "tokens"), filepath.Join(dir, "token")
	if err := os.Mkdir(filepath.Dir(key), 0o700); err != nil {
		t.Fatal(err)
	}
	newKey := make([]byte, 32)
	rand.Read(newKey)
	write(t, key, newKey)
	write(t, tokens, []byte("first\nsecond\n"))
	write(t, token, []byte("first\n"))
	socket := filepath.Join(dir, "socket")
	process, err := keypeers.StartPlugin(t.Context(), os.Stderr, "faulty_plugin.py", socket, []string{"EXAMPLE=" + example, "FAULT=" + fault},
		"--keys", filepath.Dir(key), "--tokens", tokens)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	relay := newRelay(t, "unix", socket)
	set := func(path, content string) func(*testing.T) func() {
		return func(t *testing.T) func() {
			before, _ := os.ReadFile(path)
			write(t, path, []byte(content))
			return func() { write(t, path, before) }
		}
	}
	return &peer{
		uri: "plugin://main/default?service=" + service + "&token_file=" + token + "&address=unix:" + relay.address, key: "default", relay: relay,
		forge: func(t *testing.T, plain []byte, kc crypto.KeyContext) []byte {
			return ownKey(t).Seal(nil, nil, plain, append(lengthPrefixed(kc.Namespace), lengthPrefixed(kc.Key)...))
		},
		disable:  set(key, ""),
		deny:     set(fault, "PERMISSION_DENIED"),
		throttle: set(fault, "RESOURCE_EXHAUSTED"),
		expire:   set(tokens, "second\n"),
		rotate: func(t *testing.T) {
			keys, err := os.ReadFile(key)
			if err != nil {
				t.Fatal(err)
			}
			next := make([]byte, 32)
			rand.Read(next)
			write(t, key, append(keys, next...))
		},
	}
}
