package config

import (
	"os"
	"path/filepath"
	"time"
)

// Audit says where records of what was opened go: to a file or to a collector.
type Audit struct {
	File     string        `yaml:"file"`
	OTLP     bool          `yaml:"otlp"`
	Required bool          `yaml:"required"`
	Wait     time.Duration `yaml:"wait"`
}

// auditWaits is the longest that a call may wait for its record. SDKs give GetSystemInfo 5 s, and others 10.
const auditWaits = 5 * time.Second

func (a *Audit) check(d *document) {
	if a == nil {
		return
	}
	if (a.File == "") == !a.OTLP {
		d.add("$.audit", "wants one of file, a path or /dev/stdout, and otlp: true, to the collector that the OTEL_* variables name")
	}
	if a.Wait > 0 && !a.Required {
		d.add("$.audit.wait", "is for required: true; records that are not required never hold up a call")
	}
	if a.Wait > auditWaits {
		d.add("$.audit.wait", "is %v at most: a call waits that long for its record", auditWaits)
	}
	if a.File == "" {
		return
	}
	if info, err := os.Stat(filepath.Dir(a.File)); err != nil || !info.IsDir() {
		d.add("$.audit.file", "%s is no folder: make it first", filepath.Dir(a.File))
	}
}
