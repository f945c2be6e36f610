package sdks

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// TestReadmeNamesTheSDKs: the README has the versions that the manifests pin.
func TestReadmeNamesTheSDKs(t *testing.T) {
	var versions []string
	for _, sdk := range []struct{ language, manifest, pin string }{
		{"Go", "e2e/go.mod", `go\.temporal\.io/sdk v(\S+)`},
		{"TypeScript", "e2e/sdks/typescript/package.json", `"@temporalio/worker": "([^"]+)"`},
		{"Python", "e2e/sdks/python/requirements.txt", `(?m)^temporalio==(\S+)`},
		{"Java", "e2e/sdks/java/pom.xml", `<artifactId>temporal-sdk</artifactId>\s*<version>([^<]+)<`},
	} {
		found := regexp.MustCompile(sdk.pin).FindStringSubmatch(read(t, sdk.manifest))
		if found == nil {
			t.Fatalf("%s pins no SDK", sdk.manifest)
		}
		versions = append(versions, sdk.language+" "+found[1])
	}
	if want := strings.Join(versions, ", "); !strings.Contains(read(t, "README.md"), want) {
		t.Errorf("README.md does not say %q", want)
	}
}

// TestLockFileNamesNoRegistry: npm writes where it got each package from, which holds for one network only.
func TestLockFileNamesNoRegistry(t *testing.T) {
	if strings.Contains(read(t, "e2e/sdks/typescript/package-lock.json"), `"resolved"`) {
		t.Error("package-lock.json names a registry; .npmrc says not to")
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
