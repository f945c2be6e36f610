// Command bench compares this proxy with what else could stand between a client and a Temporal frontend, in one run on
// one machine: nothing, a plain gRPC relay, nginx, and a proxy made of go.temporal.io/api/proxy's generated visitor.
//
// Everything runs in a process of its own on loopback: a frontend that answers from memory, each of the proxies, and the
// load, which is a closed loop of a given number of callers. For every kind of work the variants take turns, several
// rounds each, and the medians count; a machine that is busy elsewhere changes all of them. CPU is that of the proxy's
// process (its CPU clock), memory its resident set at the end of the work.
package main
