package peers

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestStartWebUI serves the pages of one server from a second process, and reads a namespace through them.
func TestStartWebUI(t *testing.T) {
	server, err := StartTemporal(t.Context(), TemporalOptions{Namespaces: []string{"clinic-prod"}, Log: testLog{t}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	ui, err := StartWebUI(t.Context(), server.Address, 0, testLog{t})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ui.Stop() })
	resp, err := http.Get(ui.UIAddress + "/api/v1/namespaces/clinic-prod")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "clinic-prod") {
		t.Errorf("%s, %v: %.200s", resp.Status, err, body)
	}
}
