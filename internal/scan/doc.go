// Package scan walks what a Temporal server holds for a namespace and counts the envelopes in it by the key
// that sealed them, since only that proves that a key is not needed any more. It reads headers alone: it
// opens nothing, changes nothing and needs no key. It must never report a namespace as done while
// something in it could not be read without counting that as unread.
//
//   - scan.go: the steps of a scan, and calls that are repeated; walk.go: what the steps ask the server for
//   - count.go: envelopes in an answer; report.go: the counts; state.go: the file from which a scan resumes
package scan
