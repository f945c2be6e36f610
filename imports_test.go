package temporalseal

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/temporal-seal/temporal-seal/"

// TestImports holds the arrows between the packages: each may import what
// stands below it, and what comes from outside has one home.
func TestImports(t *testing.T) {
	below := map[string][]string{ // what a package may import of the product's own, with all below it; = means without
		"internal/crypto":               {},
		"internal/crypto/envelope":      {"=internal/crypto"},
		"internal/crypto/keyhealth":     {"=internal/crypto"},
		"internal/crypto/keyring":       {"=internal/crypto", "internal/crypto/envelope", "internal/crypto/keyhealth"},
		"internal/crypto/awsclient":     {"=internal/crypto"},
		"internal/crypto/awskms":        {"=internal/crypto", "internal/crypto/awsclient"},
		"internal/crypto/azurekeyvault": {"=internal/crypto"},
		"internal/crypto/gcpkms":        {"=internal/crypto"},
		"internal/crypto/localkey":      {"=internal/crypto"},
		"internal/crypto/keystore":      {"=internal/crypto", "internal/crypto/awsclient"},
		"internal/crypto/plugin":        {"=internal/crypto", "internal/crypto/plugin/pluginpb"},
		"internal/crypto/vault":         {"=internal/crypto"},
		"internal/crypto/keyservice":    {"=internal/crypto", "internal/crypto/awskms", "internal/crypto/azurekeyvault", "internal/crypto/gcpkms", "internal/crypto/localkey", "internal/crypto/plugin", "internal/crypto/vault"},
		"internal/foreign":              {"=internal/crypto"},
		"internal/policy":               {},
		"internal/rewrite":              {"internal/policy", "internal/crypto", "internal/foreign"},
		"internal/scan":                 {"internal/rewrite", "internal/crypto"},
		"internal/survey":               {"internal/survey", "internal/scan", "internal/rewrite", "internal/policy", "internal/crypto"},
		"internal/survey/detect":        {"=internal/policy"},
		"internal/config":               {"internal/crypto", "internal/foreign", "internal/server", "internal/codecserver"},
		"internal/history":              {"internal/crypto", "internal/foreign", "internal/rewrite"},
		"internal/audit":                {"=internal/rewrite", "=internal/policy"},
		"internal/auth":                 {"internal/policy"},
		"internal/upstream":             {},
		"internal/tasks":                {"internal/audit", "internal/rewrite", "internal/policy", "internal/crypto"},
		"internal/traffic":              {"=internal/rewrite"},
		"internal/statuspage":           {"internal/traffic", "=internal/survey", "=internal/rewrite", "internal/policy"},
		"internal/server":               {"internal/tasks", "internal/traffic", "internal/upstream", "internal/audit", "internal/auth", "internal/rewrite", "internal/policy", "internal/crypto"},
		"internal/app":                  {"", "internal"},
		"internal/check":                {"", "internal"},
		"internal/codecserver":          {"internal/audit", "internal/auth", "internal/rewrite", "internal/policy", "internal/crypto"},
	}
	homes := map[string]struct {
		only []string
		why  string
	}{
		"github.com/aws/":                {[]string{"internal/crypto/awsclient", "internal/crypto/awskms", "internal/crypto/keystore"}, "a key service is one package's concern, and so is a key store"},
		"github.com/Azure/":              {[]string{"internal/crypto/azurekeyvault"}, "a key service is one package's concern"},
		"cloud.google.com/":              {[]string{"internal/crypto/gcpkms"}, "a key service is one file's concern"},
		"google.golang.org/api":          {[]string{"internal/crypto/gcpkms"}, "the same"},
		"github.com/jackc/pgx/":          {[]string{"internal/crypto/keystore"}, "a key store is one package's concern, and Go programs with the codec need none"},
		"modernc.org/sqlite":             {[]string{"internal/crypto/keystore"}, "the same"},
		"github.com/open-policy-agent/":  {[]string{"internal/policy"}, "nobody else may depend on how policies are evaluated"},
		"google.golang.org/grpc":         {[]string{"internal/server", "internal/tasks", "internal/upstream", "internal/scan", "internal/x/frame", "internal/crypto/gcpkms", "internal/crypto/plugin", "cmd/proxy"}, "the rewriter works on bytes, whoever carries them"},
		"go.opentelemetry.io/":           {[]string{"internal/rewrite", "internal/server", "internal/upstream", "internal/codecserver", "internal/audit", "internal/app"}, "keys and verdicts are traced by their callers"},
		"go.temporal.io/api":             {[]string{"internal/history", "internal/rewrite", "internal/scan", "internal/survey", "internal/server", "internal/tasks", "internal/upstream", "internal/codecserver"}, "crypto and policy know no message"},
		"go.temporal.io/sdk":             {nil, "the product needs no SDK"},
		"go.temporal.io/server":          {nil, "the product needs no server"},
		"github.com/lestrrat-go/jwx/":    {[]string{"internal/auth"}, "who a token stands for has one answer at every API"},
		"github.com/klauspost/compress/": {[]string{"internal/crypto", "internal/foreign"}, "only an envelope is compressed"},
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, "./cmd/...", "./internal/...").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		names := strings.Fields(line)
		from := strings.TrimPrefix(names[0], module)
		for _, to := range names[1:] {
			if own, ok := strings.CutPrefix(to, module); ok {
				allowed, ruled := below[from]
				ruled = ruled || strings.HasPrefix(from, "internal/x/")
				if ruled && !contains(append(allowed, "internal/x"), own) { // internal/x stands below everything
					t.Errorf("%s imports %s, which does not stand below it", from, own)
				}
				continue
			}
			for prefix, home := range homes {
				if strings.HasPrefix(to, prefix) && !contains(home.only, from) {
					t.Errorf("%s imports %s: %s", from, to, home.why)
				}
			}
		}
	}
}

func contains(list []string, name string) bool {
	for _, l := range list {
		if l == "="+name || l == name || strings.HasPrefix(name, l+"/") {
			return true
		}
	}
	return false
}
