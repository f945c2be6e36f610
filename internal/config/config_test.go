package config_test

import (
	"testing"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/config"
)

// TestDefault: without file and flags the proxy serves this machine.
func TestDefault(t *testing.T) {
	c, err := new(config.Flags).Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Listeners) != 1 || c.Listeners[0] != (config.Listener{Name: "default", Address: "127.0.0.1:7333"}) {
		t.Errorf("listeners: %+v", c.Listeners)
	}
	if len(c.Upstreams) != 1 || c.Upstreams[0].Address != "127.0.0.1:7233" {
		t.Errorf("upstreams: %+v", c.Upstreams)
	}
	if len(c.Keys) != 1 || c.Keys[0].Name != "default" || c.Keys[0].Active != "local:./temporal-seal.key" {
		t.Errorf("keys: %+v", c.Keys)
	}
	if c.Admin != "127.0.0.1:7334" || c.UnknownFields != "lenient" || c.DataKeyLife != 24*time.Hour ||
		c.Drain != (config.Drain{Time: 25 * time.Second}) || c.Limits != (config.Limits{RequestBytes: 8 << 20, ConnectionAge: 30 * time.Minute}) {
		t.Errorf("%+v", c)
	}
	if !c.Local() || c.CodecServer != nil || c.Audit != nil {
		t.Errorf("%+v", c)
	}
}
