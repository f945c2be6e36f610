package contract

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"google.golang.org/protobuf/proto"
)

const (
	passRule    = `request contains {"action": "pass"}`
	sealWithPHI = `request contains {"action": "seal", "key": "phi"}`
)

// keyList writes keys of the config by name and file.
func keyList(files ...string) string {
	var b strings.Builder
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".key")
		fmt.Fprintf(&b, "  - {name: %s, active: %q}\n", name, "local:"+file)
	}
	return b.String()
}

// shop is a proxy whose namespace "shop" has a module, and the files of two keys. The key "phi" lies in another folder
// than the config, so that it is no change of the config's folder when it arrives.
type shop struct {
	*rig
	platform, phi string
}

func startShop(t *testing.T, rules string, keys ...string) *shop {
	t.Helper()
	dir := t.TempDir()
	s := &shop{platform: filepath.Join(dir, "default.key"), phi: filepath.Join(dir, "phi.key")}
	for _, file := range []string{s.platform, s.phi} {
		if err := newKey(file); err != nil {
			t.Fatal(err)
		}
	}
	s.rig = start(t, s.with(rules, keys...))
	return s
}

// with is the setup with a module for shop and the named keys beside the default one.
func (s *shop) with(rules string, keys ...string) setup {
	return setup{policy: openAll, keys: keyList(append(keys, s.platform)...), namespaces: map[string]string{"shop": rules}}
}

// stored is what reaches the frontend for a payload.
func (r *rig) stored(t *testing.T, namespace string, clear *commonpb.Payload) (*commonpb.Payload, error) {
	t.Helper()
	stored, err := r.Seal(t.Context(), r.client, namespace, "", []*commonpb.Payload{clear})
	if err != nil {
		return nil, err
	}
	return stored[0], nil
}

// sealsWith waits until payloads of a namespace are sealed with a key, and the sources are what is in force.
func (r *rig) sealsWith(t *testing.T, limit time.Duration, namespace, key string) {
	t.Helper()
	clear := text("CANARY")
	eventually(t, limit, func() error {
		got, err := r.stored(t, namespace, clear)
		if err != nil {
			return err
		}
		if proto.Equal(got, clear) {
			return fmt.Errorf("a payload reaches the server in clear")
		}
		if !bytes.Contains(got.Data, []byte(key)) {
			return fmt.Errorf("the payload is not sealed with %s: %v", key, got)
		}
		return nil
	})
}

// inForce waits until /readyz and the gauges report that all sources are in force.
func (r *rig) inForce(t *testing.T) {
	t.Helper()
	eventually(t, 40*time.Second, func() error {
		_, page := r.admin(t, "/readyz")
		_, metrics := r.admin(t, "/metrics")
		for _, text := range []string{"in force", "refused", "next start"} {
			if strings.Contains(page, text) {
				return fmt.Errorf("/readyz: %s", page)
			}
		}
		for line := range strings.Lines(metrics) {
			if strings.HasPrefix(line, "temporal_seal_config_stale") || strings.HasPrefix(line, "temporal_seal_policy_stale") {
				if !strings.HasSuffix(line, " 0\n") {
					return fmt.Errorf("a gauge says that a source is not in force: %s", line)
				}
			}
		}
		return nil
	})
}

// stale waits until the gauge is 1 and /readyz says why.
func (r *rig) stale(t *testing.T, gauge string, why ...string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		code, page := r.admin(t, "/readyz")
		_, metrics := r.admin(t, "/metrics")
		if !strings.Contains(metrics, "\n"+gauge+" 1\n") {
			return fmt.Errorf("%s is not 1; /readyz: %s", gauge, page)
		}
		if code != 200 {
			return fmt.Errorf("/readyz answers %d: %s", code, page)
		}
		for _, text := range why {
			if !strings.Contains(page, text) {
				return fmt.Errorf("/readyz does not say %q: %s", text, page)
			}
		}
		return nil
	})
}

// A module that names a key and the key itself may arrive in any order.
func TestAModuleAndItsKeyArriveInAnyOrder(t *testing.T) {
	t.Parallel()
	const moduleStale = `temporal_seal_policy_stale{namespace="shop"}`
	t.Run("the key first", func(t *testing.T) {
		t.Parallel()
		s := startShop(t, passRule)
		s.reconfigure(t, s.with(passRule, s.phi))
		time.Sleep(time.Second)
		s.reconfigure(t, s.with(sealWithPHI, s.phi))
		s.sealsWith(t, 20*time.Second, "shop", "phi")
		s.inForce(t)
	})
	t.Run("the module first", func(t *testing.T) {
		t.Parallel()
		s := startShop(t, passRule)
		s.reconfigure(t, s.with(sealWithPHI))
		s.stale(t, moduleStale, "shop.rego", `key "phi" is not configured`)
		s.reconfigure(t, s.with(sealWithPHI, s.phi))
		s.sealsWith(t, 10*time.Second, "shop", "phi")
		s.inForce(t)
	})
	t.Run("both at once", func(t *testing.T) {
		t.Parallel()
		s := startShop(t, passRule)
		s.reconfigure(t, s.with(sealWithPHI, s.phi))
		s.sealsWith(t, 10*time.Second, "shop", "phi")
		s.inForce(t)
	})
	t.Run("two changes, each with the module first", func(t *testing.T) {
		t.Parallel()
		s := startShop(t, passRule)
		s.reconfigure(t, s.with(sealWithPHI))
		s.stale(t, moduleStale, `key "phi" is not configured`)
		card := filepath.Join(filepath.Dir(s.phi), "card.key")
		if err := newKey(card); err != nil {
			t.Fatal(err)
		}
		sealWithCard := strings.ReplaceAll(sealWithPHI, "phi", "card")
		s.reconfigure(t, s.with(sealWithCard, s.phi))
		s.stale(t, moduleStale, `key "card" is not configured`)
		s.reconfigure(t, s.with(sealWithCard, s.phi, card))
		s.sealsWith(t, 10*time.Second, "shop", "card")
		s.inForce(t)
	})
	for name, signal := range map[string]bool{"the key's file last, and SIGHUP": true, "the key's file last": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startShop(t, passRule)
			if err := os.Rename(s.phi, s.phi+".later"); err != nil {
				t.Fatal(err)
			}
			s.reconfigure(t, s.with(sealWithPHI, s.phi))
			s.stale(t, "temporal_seal_config_stale", s.phi)
			if err := os.Rename(s.phi+".later", s.phi); err != nil {
				t.Fatal(err)
			}
			limit := 50 * time.Second // without a signal it is tried again every 30 seconds
			if signal {
				limit = 10 * time.Second
				s.hangUp(t)
			}
			s.sealsWith(t, limit, "shop", "phi")
			s.inForce(t)
		})
	}
}

// hangUp sends the proxy SIGHUP.
func (r *rig) hangUp(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(r.proxy.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// A key that a module in force still names is kept although the config has lost it, and the rest of the config applies.
func TestAKeyThatAModuleNamesIsKept(t *testing.T) {
	t.Parallel()
	s := startShop(t, passRule)
	s.reconfigure(t, s.with(sealWithPHI, s.phi))
	s.sealsWith(t, 20*time.Second, "shop", "phi")
	clear := text("CANARY")
	before, err := s.stored(t, "shop", clear)
	if err != nil {
		t.Fatal(err)
	}
	without := s.with(sealWithPHI)
	without.extra = "grants: [{from: shop, to: taking}]\n"
	s.reconfigure(t, without)
	s.stale(t, "temporal_seal_config_stale", `"phi"`, "shop.rego")
	s.sealsWith(t, 20*time.Second, "shop", "phi")
	equal(t, "what was sealed before", s.open(t, "shop", before)[0], clear)
	s.opensTo(t, "taking", before, clear) // the grant of the same config
	// Other namespaces lose the key, as the config says.
	if got, err := s.stored(t, "other", clear); err != nil || proto.Equal(got, clear) {
		t.Errorf("another namespace's payload: %v, %v", got, err)
	}
	// Once the module does not name it, the key goes.
	without.namespaces = map[string]string{"shop": `request contains {"action": "seal"}`}
	s.reconfigure(t, without)
	s.sealsWith(t, 20*time.Second, "shop", "default")
	s.inForce(t)
	eventually(t, 20*time.Second, func() error {
		if got := s.open(t, "shop", before)[0]; proto.Equal(got, clear) {
			return fmt.Errorf("what the removed key sealed still opens")
		}
		return nil
	})
}

// A config that is refused changes nothing, and everything that reports about it says so, until it is mended.
func TestARefusedConfigChangesNothing(t *testing.T) {
	t.Parallel()
	s := startShop(t, sealByDefault)
	clear := text("CANARY")
	sealed := s.seal(t, "shop", clear)[0]
	before := fmt.Sprint(s.dataKeys(t))
	bad := s.with(sealByDefault, s.phi)
	bad.extra = "grants: [{from: shop, to: taking}]\nunheard_of: true\n"
	s.reconfigure(t, bad)
	s.stale(t, "temporal_seal_config_stale", "unheard_of", "contract.yaml")
	equal(t, "a payload that only the refused config grants", s.open(t, "taking", sealed)[0], sealed)
	equal(t, "in its own namespace", s.open(t, "shop", sealed)[0], clear)
	if now := fmt.Sprint(s.dataKeys(t)); now != before {
		t.Errorf("data keys %s, before %s", now, before)
	}
	// Another refused change has its own reason.
	bad.extra = "unheard_of_too: true\n"
	s.reconfigure(t, bad)
	s.stale(t, "temporal_seal_config_stale", "unheard_of_too")
	s.reconfigure(t, s.with(sealByDefault))
	s.inForce(t)
}

const sealByDefault = `request contains {"action": "seal"}`

// One namespace's module that does not load keeps that namespace's previous one, and hinders no other.
func TestAModuleThatDoesNotLoadHindersNoOther(t *testing.T) {
	t.Parallel()
	two := func(a, b string) setup { return setup{policy: openAll, namespaces: map[string]string{"a": a, "b": b}} }
	r := start(t, two(passRule, passRule))
	r.reconfigure(t, two("request contains {", `request contains {"action": "seal"}`))
	r.sealsWith(t, 20*time.Second, "b", "default")
	r.stale(t, `temporal_seal_policy_stale{namespace="a"}`, "a.rego")
	clear := text("plain")
	if got, err := r.stored(t, "a", clear); err != nil || !proto.Equal(got, clear) {
		t.Errorf("the module before it passes payloads, and this one became %v, %v", got, err)
	}
	r.reconfigure(t, two(`request contains {"action": "seal"}`, `request contains {"action": "seal"}`))
	r.sealsWith(t, 20*time.Second, "a", "default")
	r.inForce(t)
}

// Revoked data keys open nothing any more, whatever else is wrong with the config or the policy.
func TestRevokedDataKeysApplyWhateverElseFails(t *testing.T) {
	t.Parallel()
	s := startShop(t, passRule)
	clear := text("CANARY")
	sealed := s.seal(t, "revoked", clear)[0]
	ids := s.dataKeys(t)
	if len(ids) == 0 {
		t.Fatal("the admin listener's /keys names no data key")
	}
	bad := s.with("request contains {", filepath.Join(filepath.Dir(s.phi), "missing.key"))
	bad.extra = revoking(ids...)
	s.reconfigure(t, bad)
	s.opensTo(t, "revoked", sealed, sealed)
	s.stale(t, "temporal_seal_config_stale", "missing.key")
	s.stale(t, `temporal_seal_policy_stale{namespace="shop"}`, "shop.rego")
	for _, mistake := range []string{"unknown_fields: sometimes\n", "unheard_of: true\n"} {
		sealed = s.seal(t, "revoked", clear)[0]
		bad.extra = revoking(s.dataKeys(t)...) + mistake
		s.reconfigure(t, bad)
		s.opensTo(t, "revoked", sealed, sealed)
	}
}

// A new key that does not answer disables what needs it, and nothing else.
func TestANewKeyThatDoesNotAnswerDisablesWhatNeedsIt(t *testing.T) {
	t.Parallel()
	s := startShop(t, passRule)
	if err := os.Rename(s.phi, s.phi+".later"); err != nil {
		t.Fatal(err)
	}
	s.reconfigure(t, s.with(sealWithPHI, s.phi))
	s.stale(t, "temporal_seal_config_stale", s.phi)
	clear := text("CANARY")
	eventually(t, 20*time.Second, func() error {
		got, err := s.stored(t, "shop", clear)
		if err == nil {
			return fmt.Errorf("a payload whose key does not answer was forwarded: %v", got)
		}
		if !strings.Contains(err.Error(), "Unavailable") {
			return err
		}
		return nil
	})
	s.sealsWith(t, 10*time.Second, "other", "default")
	if err := os.Rename(s.phi+".later", s.phi); err != nil {
		t.Fatal(err)
	}
	s.sealsWith(t, 50*time.Second, "shop", "phi")
	s.inForce(t)
}
