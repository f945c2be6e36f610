// Package operator shows that what operators change is what happens: the built binary, a real Temporal server and the KMS
// stub, in the states of an ordinary day. `make test-operator` prints a line for each sentence of sentences_test.go with
// the scenarios that show it, and fails where a scenario fails or a sentence has none.
//
// To add a scenario, write a test in the file of its subject:
//
//	func TestDrain(t *testing.T) {
//		t.Parallel()
//		scenario(t, "10.4", "SIGTERM turns /readyz at once", func(s *site) {
//			p := s.serve(`
//	listeners: [{address: "127.0.0.1:0"}]
//	upstreams: [{address: "${temporal}"}]
//	admin: 127.0.0.1:0
//	keys: [{name: default, active: "${key}"}]
//	`)
//			p.signal(syscall.SIGTERM)
//			s.eventually(func() error { ... p.get("/readyz") ... })
//		})
//	}
//
// Scenarios run beside each other, each with a folder, a KMS stub (s.kms, with a key behind alias/default) and proxies of its
// own; the Temporal server is shared, so workflow ids and task queues come from s.name. A scenario that takes more than about ten
// seconds is registered with longScenario, and is left out with SHORT=1. ONLY=10 runs the scenarios of one point, ONLY=10.4
// those of one sentence.
//
// What texts (configs, policies, arguments of commands) may hold, see site.expand:
//
//	${temporal}  host:port of the Temporal server, with the namespaces of the variable namespaces
//	${frontend}  host:port of the scenario's scripted frontend, started when it is first named (s.script)
//	${key}       the URI of the key behind alias/default of the scenario's KMS stub
//	${kms}       the query that points at the stub, for further keys: awskms://alias/other?${kms}
//	${dir}       the scenario's folder
//
// kit_test.go has the rest: start proxies (serve, launch), run commands (run), call through a proxy (client, raw), and read
// logs, metrics, /readyz and what a command printed.
package operator
