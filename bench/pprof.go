package main

import (
	"net"
	"net/http"
	_ "net/http/pprof" // its handlers are in the default mux
	"os"
	"path/filepath"
	"runtime"
	"strconv"
)

// pprofDir names the folder in which a process listens for whoever wants its profiles, on a socket that its process id names.
const pprofDir = "BENCH_PPROF"

// This file is part of the bench, and of a proxy that `make bench-profile` builds: there it stands beside the product's own files
// for that build alone, so that what users get has no profiles to ask for.
func init() {
	dir := os.Getenv(pprofDir)
	if dir == "" {
		return
	}
	l, err := net.Listen("unix", filepath.Join(dir, strconv.Itoa(os.Getpid())))
	if err != nil {
		panic("profiles need a socket, whose path may have about 100 bytes (TMPDIR): " + err.Error())
	}
	// mutex: 1 of so many events where somebody waited for a lock is noted. block: one event for so many nanoseconds of waiting.
	http.HandleFunc("/rates", func(w http.ResponseWriter, r *http.Request) {
		mutex, err1 := strconv.Atoi(r.FormValue("mutex"))
		block, err2 := strconv.Atoi(r.FormValue("block"))
		if err1 != nil || err2 != nil {
			http.Error(w, "mutex and block have to be numbers", http.StatusBadRequest)
			return
		}
		runtime.SetMutexProfileFraction(mutex)
		runtime.SetBlockProfileRate(block)
	})
	go func() { _ = http.Serve(l, nil) }() // until the process ends
}
