package main

import "net"

// prefer returns the usual port if nobody listens on it, else the other one.
func prefer(usual, other int) int {
	l, err := net.Listen("tcp", address(usual))
	if err != nil {
		return other
	}
	l.Close()
	return usual
}

// uiPort is the usual port of a web page, or 0 for a free one.
func uiPort(wanted bool, usual int) int {
	if !wanted {
		return 0
	}
	return prefer(usual, 0)
}
