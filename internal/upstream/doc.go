// Package upstream is the gRPC client that talks to Temporal frontends: it routes calls by namespace and
// keeps the connections to each address, with their credentials. It never looks into a payload.
package upstream
