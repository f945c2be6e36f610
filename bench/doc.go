// Command bench measures what a call through the product costs.
//
// Without a subcommand it compares the product with what else could stand between a client and a Temporal frontend, in one
// run on one machine: nothing, a plain gRPC relay, nginx, and a proxy made of go.temporal.io/api/proxy's generated visitor.
// Everything runs in a process of its own on loopback: a frontend that answers from memory, each of the proxies, and the
// load, which is a closed loop of a given number of callers. For each work the variants take turns, several rounds each,
// and the medians count. CPU is that of the proxy's process (its CPU clock), memory its resident set at the end of a turn.
//
// The subcommand compare runs two builds of the product side by side, and fails unless the new one is no slower.
//
// The subcommand scale measures how costs grow with what an installation has more and more of, and fails where one grows too
// fast. The subcommand profile shows where the product's time goes beside the relay's, and what calls wait for.
//
// No format of the product is known here: what is sealed, the product sealed itself.
package main
