// Package proxy is the gRPC server that Temporal's SDKs talk to and the gRPC client that talks to the Temporal
// frontend. It owns the walk of one call: who calls, which namespace, what to rewrite, where to forward, which status
// code to answer. It never parses a message itself and never sees a key: rewrite finds and replaces the bytes.
package server
