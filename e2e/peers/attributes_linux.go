package peers

import "syscall"

// childAttributes gives a child its own process group and lets the kernel kill it when its parent dies.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
