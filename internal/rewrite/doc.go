// Package rewrite finds the payloads in the bytes of a Temporal RPC, has the
// policy decide about each of them, and replaces each by its sealed or opened form.
//
// It works on the wire format. A plan that is compiled from the protobuf
// descriptors holds which fields lead to a payload; the walk finds them by it.
// Every byte that is neither part of a payload nor of the length of something
// around one is kept. A [Session] takes one RPC through three steps in each
// direction: find, decide, and seal or open. The keys belong to the keyring,
// the verdicts to the policy; this package connects to nothing.
package rewrite
