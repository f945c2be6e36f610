package localkey

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

var (
	now = time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	kc  = crypto.KeyContext{Namespace: "clinic-prod", Key: "phi"}
)

func newFile(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "seal.key")
	if err := Create(path, now); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) crypto.Provider {
	t.Helper()
	p, err := Open(t.Context(), "local:"+path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWrapAndUnwrap(t *testing.T) {
	path := newFile(t)
	p := open(t, path)
	plain, wrapped, err := p.GenerateDataKey(t.Context(), kc)
	if err != nil || len(plain) != 32 || len(wrapped) != 60 {
		t.Fatalf("plain %d, wrapped %d bytes, error %v; want 32, 60, none", len(plain), len(wrapped), err)
	}
	got, err := open(t, path).UnwrapDataKey(t.Context(), wrapped, kc)
	if err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("unwrapped differs, error %v", err)
	}
}

func TestUnwrapRefusesOtherContextsKeysAndBytes(t *testing.T) {
	p := open(t, newFile(t))
	_, wrapped, err := p.GenerateDataKey(t.Context(), kc)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(name string, p crypto.Provider, wrapped []byte, kc crypto.KeyContext) {
		t.Helper()
		if plain, err := p.UnwrapDataKey(t.Context(), wrapped, kc); crypto.KindOf(err) != crypto.KindRejected || plain != nil {
			t.Errorf("%s: error %v, want kind rejected and no key", name, err)
		}
	}
	refused("other namespace", p, wrapped, crypto.KeyContext{Namespace: "clinic-dev", Key: "phi"})
	refused("other key name", p, wrapped, crypto.KeyContext{Namespace: "clinic-prod", Key: "default"})
	refused("names moved across", p, wrapped, crypto.KeyContext{Namespace: "phi", Key: "clinic-prod"})
	refused("other file", open(t, newFile(t)), wrapped, kc)
	for i := range wrapped {
		changed := bytes.Clone(wrapped)
		changed[i] ^= 1
		refused("changed byte", p, changed, kc)
		refused("cut off", p, wrapped[:i], kc)
	}
}

func TestRotateKeepsTheReferenceAndOldKeys(t *testing.T) {
	path := newFile(t)
	before := open(t, path)
	_, old, err := before.GenerateDataKey(t.Context(), kc)
	if err != nil {
		t.Fatal(err)
	}
	if err := Rotate(path, now); err != nil {
		t.Fatal(err)
	}
	after := open(t, path)
	if after.Ref() != before.Ref() {
		t.Error("rotation changed the reference: envelopes would no longer find the file")
	}
	if _, err := after.UnwrapDataKey(t.Context(), old, kc); err != nil {
		t.Errorf("what the earlier key wrapped: %v", err)
	}
	_, fresh, err := after.GenerateDataKey(t.Context(), kc)
	if err != nil {
		t.Fatal(err)
	}
	aad := kc.AssociatedData(label)
	if _, err := after.(*Provider).loaded()[0].Open(nil, nil, fresh, aad); err == nil {
		t.Error("the earlier key unwraps what came after the rotation: it still wraps")
	}
	if _, err := before.UnwrapDataKey(t.Context(), fresh, kc); err != nil {
		t.Errorf("a proxy that was running during the rotation: %v", err)
	}
	_, next, err := before.GenerateDataKey(t.Context(), kc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := after.(*Provider).loaded()[1].Open(nil, nil, next, aad); err != nil {
		t.Error("a proxy that was running during the rotation still wraps with the earlier key")
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v after rotation, error %v; want 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 0 {
		t.Errorf("rotation left %v behind", left)
	}
}

// TestFileGoneOrReplaced: what was read once goes on, and a file with another id is not taken for a rotation.
func TestFileGoneOrReplaced(t *testing.T) {
	path := newFile(t)
	p := open(t, path)
	_, wrapped, err := p.GenerateDataKey(t.Context(), kc)
	if err != nil {
		t.Fatal(err)
	}
	works := func(name string) {
		t.Helper()
		if _, err := p.UnwrapDataKey(t.Context(), wrapped, kc); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_, fresh, err := p.GenerateDataKey(t.Context(), kc)
		if err != nil {
			t.Fatal(err)
		}
		keys := p.(*Provider).loaded()
		if _, err := keys[0].Open(nil, nil, fresh, kc.AssociatedData(label)); err != nil || len(keys) != 1 {
			t.Errorf("%s: the keys are others now", name)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	works("gone")
	if err := Create(path, now); err != nil {
		t.Fatal(err)
	}
	other := open(t, path)
	works("replaced")
	if _, err := other.UnwrapDataKey(t.Context(), wrapped, kc); err == nil {
		t.Error("another file unwraps it")
	}
	if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	works("overwritten")
}

func TestRotateOneAtATime(t *testing.T) {
	path := newFile(t)
	if err := os.WriteFile(path+".lock", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	if err := Rotate(path, now); err == nil || !strings.Contains(err.Error(), "another rotation") {
		t.Errorf("error %v, want that another rotation is under way", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file changed")
	}
}

func TestCreateNeverOverwrites(t *testing.T) {
	path := newFile(t)
	before, _ := os.ReadFile(path)
	if err := Create(path, now); err == nil || !strings.Contains(err.Error(), "left as it is") {
		t.Errorf("error %v, want a refusal", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file changed")
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
}

func TestOpenRefuses(t *testing.T) {
	good := newFile(t)
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Fields(string(content))[len(strings.Fields(string(content)))-1]
	edit := func(from, to string) []byte { return bytes.Replace(content, []byte(from), []byte(to), 1) }
	for name, c := range map[string]struct {
		content []byte
		mode    os.FileMode
		want    string
	}{
		"writable by all": {content, 0o602, "chmod 600"},
		"readable by all": {content, 0o604, "chmod 600"},
		"empty":           {nil, 0o600, "missing"},
		"a later version": {edit("file 1", "file 2"), 0o600, "version 1"},
		"no keys":         {content[:bytes.Index(content, []byte("key k1"))], 0o600, "missing"},
		"a short key":     {edit(secret, secret[:40]), 0o600, "line 4"},
		"an unknown line": {append(bytes.Clone(content), "wrap k1\n"...), 0o600, "line 5"},
		"two ids":         {append(bytes.Clone(content), "id 00\n"...), 0o600, "line 5"},
		"a huge file":     {make([]byte, maxSize+1), 0o600, "not a key file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "seal.key")
			if err := os.WriteFile(path, c.content, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), "local:"+path)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want one with %q", err, c.want)
			}
			if strings.Contains(err.Error(), secret[:40]) {
				t.Errorf("the error holds key bytes")
			}
		})
	}
	_, err = Open(t.Context(), "local:"+filepath.Join(t.TempDir(), "none.key"))
	if err == nil || !strings.Contains(err.Error(), "temporal-seal keys new") {
		t.Errorf("missing file: error %v, want advice to run temporal-seal keys new", err)
	}
	if _, err := Open(t.Context(), "local:"); err == nil {
		t.Error("a URI without a file was taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("temporal-seal-key-file 1\nid 000102030405060708090a0b0c0d0e0f\nkey k1 2026-11-22T18:00:00Z AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"))
	f.Add([]byte(warning + magic + "\nid\nkey"))
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := parse(content)
		if err != nil {
			return
		}
		again, err := parse(file.encode())
		if err != nil || again.id != file.id || len(again.keys) != len(file.keys) {
			t.Errorf("does not survive encode and parse: %v", err)
		}
	})
}

// frozenFile and frozenWrapped were written by version 1. Every later version has to read them.
const (
	frozenFile = "# a comment\ntemporal-seal-key-file 1\nid 000102030405060708090a0b0c0d0e0f\n" +
		"key k1 2026-11-22T18:00:00Z AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n" +
		"key k2 2026-11-23T18:00:00Z ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=\n"
	frozenRef     = "5b3ccaddd016b2f6"
	frozenWrapped = "50e936331c5044bae1bf6daa83ffb2d62beba203b627ce1737d23126af6c3c558ce2040fe6d28befc988eac4e56b033d74618623e3693f4cf2a0a45d"
	frozenPlain   = "7f29f1b95e6d7e7b0ddebfe099f26eb000c42deeb4b1920b96a09d4e27b9c764"
)

func TestFrozenKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seal.key")
	if err := os.WriteFile(path, []byte(frozenFile), 0o600); err != nil {
		t.Fatal(err)
	}
	p := open(t, path)
	if got := p.Ref().String(); got != frozenRef {
		t.Errorf("reference %s, want %s", got, frozenRef)
	}
	wrapped, err := hex.DecodeString(frozenWrapped)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := p.UnwrapDataKey(t.Context(), wrapped, kc)
	if got := hex.EncodeToString(plain); err != nil || got != frozenPlain {
		t.Errorf("%s, error %v; want %s", got, err, frozenPlain)
	}
}
