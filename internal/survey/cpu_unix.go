//go:build unix

package survey

import (
	"syscall"
	"time"
)

// processCPU is the CPU time that the process has used.
func processCPU() time.Duration {
	var used syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &used) != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
