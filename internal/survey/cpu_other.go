//go:build !unix

package survey

import "time"

var began = time.Now()

// processCPU stands for the CPU time that the process has used, which is not known here: it is the time that one busy core would
// have used.
func processCPU() time.Duration { return time.Since(began) }
