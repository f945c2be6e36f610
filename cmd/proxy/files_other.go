//go:build !unix

package main

// maxFiles is not known here.
func maxFiles() int { return 0 }
