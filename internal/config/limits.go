package config

import (
	"time"

	"github.com/temporal-seal/temporal-seal/internal/server"
)

// Limits is what callers may make the proxy hold. What is left out follows from the memory that there is.
type Limits struct {
	Connections   int           `yaml:"connections"`
	Calls         int           `yaml:"calls"`
	Polls         int           `yaml:"polls"`
	Bytes         int           `yaml:"bytes"`
	ConnectionAge time.Duration `yaml:"connection_age"`
}

func (l *Limits) check(d *document) {
	if l.Bytes != 0 && l.Bytes < server.MinBytes {
		d.add("$.limits.bytes", "is too small for the messages that Temporal takes: at least %d", server.MinBytes)
	}
	if l.ConnectionAge != 0 && l.ConnectionAge < server.MinConnectionAge {
		d.add("$.limits.connection_age", "is too short: polls take a minute, and each end costs callers a new connection; at least %s", server.MinConnectionAge)
	}
}
