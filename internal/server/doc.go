// Package server is the gRPC server that Temporal's SDKs call in place of a Temporal frontend. It owns the
// steps of a call, the limits of what callers can make the proxy hold, and the choice of status codes. What
// payloads become is decided by rewrite, the way to frontends belongs to upstream, and tasks answers tasks
// that cannot be opened.
//
// It must never forward what rewrite has not sealed, read the request of a caller who has not proved an
// identity (but for a small health request), or put a payload, a key or a token into a log line, a span, a
// metric or an error.
//
// Its words: a place is what one call takes of the limits; an account counts what a connection, a caller or
// all of them take. A lease keeps a call's memory until gRPC has written what was made of it. A refusal is an
// error with a status and a text for the caller.
//
//	pipeline.go      the list of the steps, with the file of each; one call on its way through them
//	authenticate.go  the step of that name, most of it before there is a stream
//	identify.go, authorize.go, route.go, seal.go, forward.go, open.go, send.go: the step of that name; route.go has awaitKeys
//	                 too, by which polls are held, and open.go the writing of audit records
//	admission.go     the step admit: limits of calls and their shares; bytes.go: of bytes; limits.go: the values
//	read.go          the step read: a request from the wire, its size and its time
//	services.go      what is not rewritten: health, reflection, services that the config names
//	server.go        options, listeners, start and end; drain.go, intake.go: how callers move to other replicas at the end
//	connections.go   the connections of callers, their limit, and those that leave answers unread
//	errors.go        status codes, refusals and their lines in the log
//	toolarge.go      messages that only sealing made too large; unopened.go: sealed values that do not open, in counts and log
//	metrics.go       counters and histograms
//	trace.go         spans
package server
