package config

import (
	"os"
	"path/filepath"
	"time"
)

// Audit is where records of what was opened go: to a file or to a collector.
type Audit struct {
	// File to which records are appended, one JSON document a line; or `/dev/stdout`. Either this or `otlp`
	// is required.
	File string `yaml:"file"`
	// Send records as OpenTelemetry logs, to the collector that the `OTEL_*` variables name.
	OTLP bool `yaml:"otlp" default:"false"`
	// Let no answer leave before its record is kept: calls fail while records cannot be kept.
	Required bool `yaml:"required" default:"false"`
	// How long an answer waits for its record, where `required` is set: 5s at most.
	Wait time.Duration `yaml:"wait" otherwise:"1s"`
}

// maxAuditWait is the longest that a call may wait for its record. SDKs give GetSystemInfo 5 s, and others
// 10.
const maxAuditWait = 5 * time.Second

func (a *Audit) validate(d *document) {
	if a == nil {
		return
	}
	d.refuse((a.File == "") == !a.OTLP, "$.audit",
		"set exactly one of file (a path or /dev/stdout) and otlp: true (the collector that the OTEL_* variables name)")
	d.refuse(a.Wait > 0 && !a.Required, "$.audit.wait",
		"applies to required: true alone; add that, or remove wait")
	d.refuse(a.Wait > maxAuditWait, "$.audit.wait",
		"must be at most %v, since a call waits that long for its record", maxAuditWait)
	if a.File == "" {
		return
	}
	if info, err := os.Stat(filepath.Dir(a.File)); err != nil || !info.IsDir() {
		d.add("$.audit.file", "%s is not a directory; create it", filepath.Dir(a.File))
	}
}
