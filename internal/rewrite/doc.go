// Package rewrite finds the payloads in the bytes of a Temporal RPC, has each
// of them decided, and puts what was sealed or opened in their place.
//
// It works on the wire format: a plan compiled from the protobuf descriptors
// says which fields lead to a payload, and every byte that is not a payload,
// or the length of something around one, is kept as it came. It never
// connects to anything and never holds a key; crypto does that, and policy
// decides.
package rewrite
