// Package loopback recognizes this machine, to which plain http is allowed: nobody else can read or change
// what goes there.
package loopback

import "net"

// Host reports whether a host, without a port, is this machine: localhost or a loopback address.
func Host(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
