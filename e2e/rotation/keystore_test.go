package rotation

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// TestKeyStoreIsRecovered: a key store that is lost is made again from what the server holds, moves to another database, and
// lets a key encryption key go.
func TestKeyStoreIsRecovered(t *testing.T) {
	startServer(t, "stored", "unused")
	dir := t.TempDir()
	newStore := func(name string) string {
		url := "sqlite:" + filepath.Join(dir, name+".db")
		id, stderr, code := run(t, dir, "keystore", "init", url)
		if code != 0 {
			t.Fatal(stderr)
		}
		return fmt.Sprintf("key_store: {url: %q, id: %q}\n", url, strings.TrimSpace(id))
	}
	key := newKeyFile(t, "before")
	p, err := harness.StartProxy(t.Context(), harness.ProxyOptions{Upstream: upstream, Dir: dir, Keys: keys(key), Extra: newStore("first")})
	if err != nil {
		t.Fatal(err)
	}
	before := configOf(t, p)
	referring := strings.Replace(before, "    active: ", "    envelope: reference\n    active: ", 1)
	rewriteConfig(t, p, referring)
	taken(t, p, 1)
	c := connect(t, p.Address)
	const workflows = 20
	for i := range workflows {
		store(t, c, "stored", fmt.Sprint("w", i))
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	command := func(config string, want int, says string, args ...string) {
		t.Helper()
		file := filepath.Join(dir, "command.yaml")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		stdout, stderr, code := run(t, dir, append(args, "--config", file)...)
		if code != want || !strings.Contains(stdout, says) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s%s", strings.Join(args, " "), code, want, says, stdout, stderr)
		}
	}
	scan := []string{"keys", "scan", "--rate", "2000", "--key", "local:" + filepath.Join(dir, "none.key")}
	command(referring, 0, "1 row checked, 0 unusable", "keystore", "check")
	command(referring, 0, "0 lost; 0 places unread", "keystore", "recover", "--rate", "2000")
	if _, stderr, code := run(t, dir, "keys", "new", "none.key"); code != 0 {
		t.Fatal(stderr)
	}
	eventually(t, "the scan sees all workflows", func() error {
		stdout, stderr, code := run(t, dir, append(scan, "--config", filepath.Join(dir, "command.yaml"), "--output", "json")...)
		if code != 0 || !strings.Contains(stderr, fmt.Sprintf("%d sealed, 0 unread", workflows)) {
			return fmt.Errorf("exit code %d\n%s%s", code, stdout, stderr)
		}
		return nil
	})
	// The store is lost: an empty one is in its place.
	first := before[strings.Index(before, "key_store:"):]
	first = first[:strings.Index(first, "\n")+1]
	empty := strings.Replace(referring, first, newStore("second"), 1)
	command(empty, 4, "could not be read", scan...)
	command(empty, 0, "1 data key by reference, 1 without a row: 1 restored, 0 lost; 0 places unread", "keystore", "recover", "--rate", "2000")
	command(empty, 0, "1 row checked, 0 unusable", "keystore", "check")
	command(empty, 0, "may be retired", scan...)
	// A key that no envelope needs is still in use while the store has rows that it alone has wrapped, and no longer once they are rewrapped.
	unused := []string{"keys", "scan", "--rate", "2000", "--namespace", "unused", "--key", key}
	command(empty, 3, "1 key in the key store, wrapped by no other key of the config: IN USE", unused...)
	next := newKeyFile(t, "next")
	rotated := strings.Replace(empty, "    active: ", "    open_only: ["+key+"]\n    active: "+next+" # ", 1)
	command(rotated, 0, "1 wrapped anew, 0 failed", "keystore", "rewrap")
	command(rotated, 0, "may be retired", unused...)
}
