// Package survey finds out where secrets and personal data stand in what Temporal holds: in histories, memos, schedules and
// heartbeats of a server, which package scan walks, or in saved histories. It reports places and counts, and what a policy
// does there. No value is in its tables, its state file or its reports, and neither is the name of a
// member that may be data.
//
//   - survey.go: what is looked at, and how much of it; units.go: which request brought a part of an answer
//   - content.go: one payload or text; table.go: what was found, by place; verdict.go: what policies do there
//   - files.go: saved histories; state.go: the file from which a survey goes on
//   - live.go: samples of a proxy's traffic; cpu_unix.go, cpu_other.go: the CPU that the process has used
//   - report.go: rows, sorted by risk; html.go: the report as one page; write.go: a policy from findings; leaves.go: what stays
//     readable beside sealed members
package survey
