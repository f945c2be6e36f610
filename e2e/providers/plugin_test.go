package providers

import (
	"crypto/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/e2e/peers"
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
	python, err := harness.PythonPackages(t.Context(), os.Stderr, "key-plugin-1", "grpcio==1.85.1", "grpcio-tools==1.85.1", "cryptography")
	if err != nil {
		t.Fatal(err)
	}
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
	cmd := exec.Command(python, "faulty_plugin.py", "--keys", filepath.Dir(key), "--listen", "unix:"+socket, "--tokens", tokens)
	cmd.Env = append(os.Environ(), "EXAMPLE="+example, "FAULT="+fault, "PYTHONDONTWRITEBYTECODE=1")
	process, err := peers.Start("plug-in", cmd, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the plug-in does not listen: %s", process.Output())
		}
	}
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
