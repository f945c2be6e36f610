// Package scan walks what a Temporal server holds for a namespace and counts the envelopes in it by the key
// that sealed them, since only that proves that a key is not needed any more. It reads headers alone: it
// opens nothing, changes nothing and needs no key.
package scan
