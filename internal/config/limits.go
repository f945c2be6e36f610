package config

import (
	"time"

	"github.com/temporal-seal/temporal-seal/internal/server"
)

// Limits bound what callers can make the proxy hold at once. What is left out follows from the memory that
// there is.
type Limits struct {
	// Connections of callers.
	Connections int `yaml:"connections" unit:"connections" otherwise:"memory / 256 KiB, and at most 3/4 of the open files"`
	// Calls under way at the same time, other than long polls.
	Calls int `yaml:"calls" unit:"calls" otherwise:"memory / 512 KiB"`
	// Calls that wait at the server: polls for tasks, and calls that wait for the end of a workflow or an
	// update. Streams of other services count here too.
	LongPolls int `yaml:"long_polls" unit:"calls" otherwise:"memory / 72 KiB"`
	// Messages in memory, each counted once. At least 16777216.
	Bytes int `yaml:"bytes" unit:"bytes" otherwise:"memory / 16, and at least 16 MiB"`
	// Size of one request, as it arrives and decompressed. Temporal frontends take 4 MiB by default. At least
	// 4194304.
	RequestBytes int `yaml:"request_bytes" unit:"bytes" default:"8388608"`
	// Age at which callers' connections are replaced, so that callers spread over new replicas. At least 6m.
	ConnectionAge time.Duration `yaml:"connection_age" default:"30m"`
}

func (l *Limits) validate(d *document) {
	d.refuse(l.Bytes != 0 && l.Bytes < server.MinBytes, "$.limits.bytes",
		"must be at least %d, to hold the largest messages of Temporal", server.MinBytes)
	d.refuse(l.RequestBytes < server.MinRequestBytes, "$.limits.request_bytes",
		"must be at least %d, to hold the largest requests of Temporal", server.MinRequestBytes)
	d.refuse(l.ConnectionAge < server.MinConnectionAge, "$.limits.connection_age",
		"must be at least %s, since polls take a minute and callers have to connect anew after it", server.MinConnectionAge)
}
