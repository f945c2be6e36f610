//go:build !linux

package main

func notDumpable() error { return nil } // elsewhere the limit on core dumps is all there is
