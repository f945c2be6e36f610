// Package scan walks what a Temporal server holds for a namespace and counts the envelopes in it by the key
// that sealed them, since only that proves that a key is not needed any more. It reads headers alone: it
// opens nothing, changes nothing and needs no key (Running.Terminate ends what it found). Whatever it could not read
// has to be in its count of what was not read: a key that still seals something must never look unused. The survey walks the same way, and looks into the answers itself.
//
//   - scan.go: the steps of a scan, and calls that are repeated; walk.go: what the steps ask the server for
//   - count.go: envelopes in an answer; running.go: what runs and holds some; report.go: the counts; state.go: the file from which a scan resumes
package scan
