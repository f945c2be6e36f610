//go:build !unix

package main

func noCoreDumps() error { return nil } // no limits to set
