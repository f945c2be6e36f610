// Package upstream is the gRPC client that talks to Temporal frontends: it routes calls by namespace and
// keeps the connections to each address, with their credentials. It never looks into a payload, and never
// retries a call: whether one may be sent twice is for the SDK to decide.
//
// Its words: an upstream is an entry of the config; a target is one address of it; a pool has the connections
// to a target.
//
//	router.go       the upstream of a namespace, templated addresses
//	pool.go         connections, and the calls on them; settings.go: how many streams a frontend allows on each
//	credentials.go  TLS and API keys, read again when their files change
//	confirm.go      whether a namespace exists
//	count.go        how many workflows match a query, for check
//	probe.go        whether upstreams answer, at the start
//	reflection.go   what a newer server knows beyond this build
//	endpoints.go    the namespaces behind Nexus endpoints
package upstream
