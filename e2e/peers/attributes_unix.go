//go:build unix && !linux

package peers

import "syscall"

// childAttributes gives a child its own process group.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
