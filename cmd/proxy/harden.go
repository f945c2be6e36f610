package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// Keys and payloads are in this process's memory. What would carry them out is switched off for every
// command, before anything else runs.

// harden keeps memory from getting into core dumps, and other processes of the same user from reading it.
func harden() error {
	if err := errors.Join(noCoreDumps(), notDumpable()); err != nil {
		return fmt.Errorf("core dumps cannot be disabled, and they contain keys and payloads: %w", err)
	}
	return nil
}

// refuseDebugging keeps the Go runtime from printing HTTP/2 frames, which hold payloads, to stderr. It looks
// for the setting as net/http does: anywhere in the variable.
func refuseDebugging() error {
	const setting = "http2debug="
	for rest := os.Getenv("GODEBUG"); ; {
		_, after, found := strings.Cut(rest, setting)
		if !found {
			return nil
		}
		if value, _, _ := strings.Cut(after, ","); value != "0" {
			return errors.New("GODEBUG: http2debug would print payloads in clear: remove it from the environment")
		}
		rest = after
	}
}
