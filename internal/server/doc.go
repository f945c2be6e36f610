// Package server is the gRPC server that Temporal's SDKs call in place of a Temporal frontend. It owns the steps of a call
// (pipeline.go), the limits of what callers can make the proxy hold, and the choice of status codes. What payloads become is
// decided by rewrite, the way to frontends belongs to upstream, and tasks keeps tasks that cannot be opened.
package server
