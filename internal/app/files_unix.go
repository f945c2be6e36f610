//go:build unix

package app

import "syscall"

// maxFiles is how many files and connections the process may have open. The Go runtime has raised it as
// far as allowed.
func maxFiles() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(limit.Cur, 1<<30))
}
