// Package rewrite finds the payloads in the bytes of a Temporal RPC, has the
// policy decide about each of them, and replaces each by its sealed or opened form.
// It must never forward a payload that the policy requires sealed, never give a worker
// ciphertext in the place of a value, and never change another byte than those of
// payloads and of the lengths around them; but for messages that are not in the regular form (below), and for the limits in an
// answer to DescribeNamespace (size.go). It connects to nothing: the keys belong to
// the keyring, the verdicts to the policy.
//
// A [Session] takes one RPC through three steps in each direction: find, decide, and
// seal or open. The plan, which is compiled once from the protobuf descriptors, holds
// which fields lead to a payload; the walk over the bytes finds them by it.
//
// How payloads are found: newPlan (plan.go) compiles a node for each message type that leads to a payload; compile.go
// decides for each of its fields by type and name (sites.go) what the walk does there. The walk (walk.go) goes over the
// bytes once and descends where a node says so; in a response, only where something may be sealed. Three things need more than a node: a message in a google.protobuf.Any,
// whose node is compiled when its type is met (anyNode); a page of history in a DataBlob (historyBlob); and messages that
// are themselves the data of a payload, for operations of the server's own (embedded.go).
//
// The words of this package:
//
//   - site: a field of a message type that may hold a payload or a text, written
//     "Memo.fields"; some are exempt, which means that they stay readable
//   - op: what the walk does with a field, such as opSkip, opPayload, opFailure
//   - slot: one payload, text or chain of failures in a message, about which the
//     policy decides
//   - box: a length-delimited field around slots; if they grow, its length is written anew
//   - scope: the facts of one message (workflow id, type, ...), which apply to all
//     payloads below it
//   - whole: of a response, that everything has to open, or the response fails
//   - regular form: the bytes of a message in which a field that counts once comes once
//
// Where to look:
//
//   - session.go: the Rewriter, its State, and the Session; report.go: counts, accounts, spans; errors.go: why not
//   - memory.go: what a message takes beside its bytes; cache.go: what is kept under names that callers choose
//   - sites.go, compile.go, plan.go: what the fields are, and the plan; join.go: fields of newer servers
//   - census.go: who reads each text; fields.txt has the class of every field
//   - walk.go: one pass over the bytes; message.go: what it found, and the edits to make
//   - decide.go, seal.go, open.go: the steps of requests and responses; size.go: limits of the server
//   - shadow.go: verdicts that are counted alone; sample.go: samples for the survey of live traffic
//   - subject.go: whose key seals a payload; mask.go: members that are masked before it; endpoint.go: the namespace behind a Nexus
//     endpoint
//   - failure.go, nexus.go, embedded.go, text.go: failures, and what payloads and texts hold within; external.go: references
//     to an SDK's own storage; unknown.go: fields that this build does not know
//   - tasks.go: tasks that workers got; token.go: the MAC on their tokens; facts.go: the table for policy authors
//   - codec.go: payloads without a message; visit.go: finding without opening
package rewrite
