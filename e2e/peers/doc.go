// Package peers finds, builds, starts and stops the real programs that the end-to-end tests and the demo run against: a Temporal
// server and Jaeger. Each lives in a module of its own in a folder below this one, is built once, and is kept in the user's cache
// folder under a name that holds a hash of its sources, go.mod and go.sum.
//
// Everything it starts ends with the process that started it, however that one ends.
package peers
