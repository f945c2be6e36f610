package blackbox_test

import (
	"bytes"
	"os"
	"testing"

	commonpb "go.temporal.io/api/common/v1"

	"github.com/temporal-seal/temporal-seal/e2e/blackbox"
	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

func TestMain(m *testing.M) {
	code := m.Run()
	harness.RemoveProxy()
	os.Exit(code)
}

func TestSealAndOpen(t *testing.T) {
	script, err := blackbox.StartScript()
	if err != nil {
		t.Fatal(err)
	}
	defer script.Stop()
	proxy, err := harness.StartProxy(t.Context(), harness.ProxyOptions{Dir: t.TempDir(), Upstream: script.Address})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Stop()
	client, err := blackbox.Dial(proxy.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	clear := []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"CANARY-1"`)}}
	sealed, err := script.Seal(t.Context(), client, "clinic", "", clear)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(blackbox.Marshal(sealed[0]), []byte("CANARY")) {
		t.Error("the forwarded payload holds its clear text")
	}
	opened, err := script.Open(t.Context(), client, "clinic", "", sealed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(blackbox.Marshal(opened[0]), blackbox.Marshal(clear[0])) {
		t.Errorf("opened %v, sealed %v", opened[0], clear[0])
	}
}
