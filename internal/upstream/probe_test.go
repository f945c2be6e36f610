package upstream

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestProbeNamesTheUpstreamThatIsDown(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	err := Probe(ctx, []Config{{Address: "127.0.0.1:1"}})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
	f := &frontend{}
	startFrontend(t, f)
	if err := Probe(testContext(t), []Config{{Address: f.address}, {Namespaces: []string{"*"}, Address: "{namespace}:1"}}); err != nil {
		t.Errorf("an upstream that answers: %v", err)
	}
}
