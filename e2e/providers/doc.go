// Package providers holds one suite of cases that every key service passes, and makes the table of docs/keys.md from it.
//
// A new key service is a file with a provider, and a line in TestProviders.
//
//	suite_test.go      the cases
//	providers_test.go  the providers in turn, the last line, the table
//	relay_test.go      a relay that is slow, or silent
//	<name>_test.go     one key service: how it is started, and how its faults are brought about
package providers
