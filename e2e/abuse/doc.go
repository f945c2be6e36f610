// Package abuse attacks a built proxy with requests that cost it more than they cost their sender, while well-behaved callers
// use it. The proxy runs under an enforced memory limit, so a shape that takes too much ends it.
//
// Each shape is a function in one of the files shapes_*.go. It runs in a process of its own with the lowest priority: on a
// real site the attacker's CPU time is not the proxy's. Shapes get loopback addresses only and end by themselves.
package abuse
