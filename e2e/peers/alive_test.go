package peers

import (
	"errors"
	"syscall"
)

// alive tells whether a process with this id exists.
func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
