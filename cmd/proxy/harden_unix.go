//go:build unix

package main

import "golang.org/x/sys/unix"

// noCoreDumps sets the limits for the size of a core dump to 0, for this process and its children.
func noCoreDumps() error { return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}) }
