package providers

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

var openBao = provider{
	name:    "HashiCorp Vault, OpenBao",
	start:   startOpenBao,
	binds:   "the service, as associated data; tried at each start",
	forging: "the key in the service",
	outage:  "status codes, and two questions: about the token, and whether the key is there",
	rotates: "opens, down to `min_decryption_version`",
	needs:   "`update` on `encrypt` and `decrypt`, `read` on `keys`",
	against: "OpenBao 2.7.2",
}

const baoPermissions = `
path "transit/encrypt/seal" { capabilities = ["update"] }
path "transit/decrypt/seal" { capabilities = ["update"] }
path "transit/keys/seal" { capabilities = ["read"] }
`

func startOpenBao(t *testing.T) *peer {
	dir := t.TempDir()
	bao, err := harness.StartOpenBao(t.Context(), dir, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bao.Stop() })
	must := func(t *testing.T, method, path string, in, out any) {
		t.Helper()
		if err := bao.Call(t.Context(), method, path, in, out); err != nil {
			t.Fatal(err)
		}
	}
	token := filepath.Join(dir, "token")
	allow := func(t *testing.T, policy string) {
		must(t, http.MethodPut, "sys/policies/acl/proxy", map[string]any{"policy": policy}, nil)
	}
	newToken := func(t *testing.T) {
		var made struct {
			Auth struct {
				Token string `json:"client_token"`
			} `json:"auth"`
		}
		must(t, http.MethodPost, "auth/token/create", map[string]any{"policies": []string{"proxy"}}, &made)
		write(t, token, []byte(made.Auth.Token))
	}
	must(t, http.MethodPost, "sys/mounts/transit", map[string]any{"type": "transit"}, nil)
	must(t, http.MethodPost, "transit/keys/seal", map[string]any{"exportable": true, "allow_plaintext_backup": true}, nil)
	allow(t, baoPermissions)
	newToken(t)
	relay := newRelay(t, "tcp", bao.Host)
	return &peer{
		uri:   fmt.Sprintf("vault://%s/transit/seal?name=main&ca_file=%s&token_file=%s", relay.address, bao.Authority, token),
		key:   "seal",
		relay: relay,
		forge: func(t *testing.T, plain []byte, kc crypto.KeyContext) []byte {
			own := ownKey(t).Seal(nil, nil, plain, kc.AssociatedData("temporal-seal/v1/vault\x00"))
			return []byte("vault:v1:" + base64.StdEncoding.EncodeToString(own))
		},
		disable: func(t *testing.T) func() {
			var kept struct {
				Data struct {
					Backup string `json:"backup"`
				} `json:"data"`
			}
			must(t, http.MethodGet, "transit/backup/seal", nil, &kept)
			must(t, http.MethodPost, "transit/keys/seal/config", map[string]any{"deletion_allowed": true}, nil)
			must(t, http.MethodDelete, "transit/keys/seal", nil, nil)
			return func() { must(t, http.MethodPost, "transit/restore/seal", kept.Data, nil) }
		},
		deny: func(t *testing.T) func() {
			allow(t, strings.ReplaceAll(baoPermissions, "update", "deny"))
			return func() { allow(t, baoPermissions) }
		},
		throttle: func(t *testing.T) func() {
			must(t, http.MethodPost, "sys/quotas/rate-limit/transit", map[string]any{"path": "transit/", "rate": 1, "interval": "10m"}, nil)
			for range 5 {
				_ = bao.Call(t.Context(), http.MethodGet, "transit/keys/seal", nil, nil)
			}
			return func() { must(t, http.MethodDelete, "sys/quotas/rate-limit/transit", nil, nil) }
		},
		expire: func(t *testing.T) func() {
			now, err := os.ReadFile(token)
			if err != nil {
				t.Fatal(err)
			}
			must(t, http.MethodPost, "auth/token/revoke", map[string]any{"token": string(now)}, nil)
			return func() { newToken(t) }
		},
		rotate: func(t *testing.T) { must(t, http.MethodPost, "transit/keys/seal/rotate", nil, nil) },
	}
}
