// Package policy decides what happens to each payload. It loads the Rego of the platform and of the
// namespaces, evaluates it, unites the verdicts of its rules and caches the outcome.
//
// It owns everything about OPA. It never sees a key, a gRPC type or a protobuf message, and none of its
// errors may hold what a rule computed from a payload: see [Error].
//
// # Words
//
//   - module: one Rego file. Package temporal is the platform's; each namespace may have one of its own.
//   - unit: the modules that decide in a namespace, compiled together: the platform's, and the namespace's own.
//   - query: what a unit answers in one direction: the sets `request` or `response` of its packages, its parts.
//   - proposal: the verdict of one rule. unite makes the [Verdict] of all proposals: the strictest action wins.
//   - member: one value in `input`, like payload.kind. A [MemberSet] holds the members that rules can read.
//   - fact: a member about the workflow or activity. In a request it is known, not applicable, or unknown.
//   - apart: a payload that comes without its message, as to the codec server ([Policy.DecideApart]).
//   - policy cache: verdicts by all members that the rules can read. A verdict that depended on the payload's
//     content is not kept.
//   - stale: of a module, that its newest source does not load, so that the one before stays in force.
//
// # What happens when
//
//	                                 request                          response
//	no rule holds                    seal with the default key,       deny
//	                                 pass (search attribute, reason,
//	                                 text)
//	several rules hold               the strictest: deny, drop        the strictest: deny, redact,
//	                                 (search attributes only),        keep, open
//	                                 redact (reasons and texts only),
//	                                 mask (then sealed too), seal,
//	                                 accept, pass
//	a rule fails                     error, no verdict                error, no verdict
//	a rule names a key that is not   error, no verdict                does not apply
//	configured
//	a rule reads an unknown fact,    pass becomes seal, parts of a    it is undefined for the rule
//	or content that is not readable  document become the whole;
//	                                 deny, if that rule masks
//	the payload is apart             strictest verdict of all kinds   strictest verdict of all kinds;
//	                                                                  over something unknown, open
//	                                                                  becomes keep
//	accept, caller not identified    seal                             does not apply
//
// A call whose decision is an error is not forwarded; it gets Unavailable (package server). In a response deny
// leaves the payload sealed, and a task or a history that holds it is not handed out.
//
// # Where a new action goes
//
// Here: types.go (Action, actionNames), unite.go (how strict it is, for which kinds, with which members), apart.go, policy.go
// (forCaller) and explain.go. In package rewrite: decide.go (stricter, apply), seal.go and shadow.go for requests, open.go
// (inPlace, openToArena) and failure.go for responses, report.go (outcomes: every action has one). Then survey/verdict.go,
// statuspage/page.go, docs/policy.md, docs/readers.md, and a test with a named fault in e2e/contract.
//
// What rules can read (the table in input.go): namespace, rpc; caller.kind, .subject, .listener, .claims; workflow.id,
// .type, .task_queue; activity.id, .type; payload.kind, .name, .path, .encoding, .type, .external; in requests content.json
// and .size, in responses sealed.namespace, .key and .granted. Where they come from: rewrite/decide.go.
//
// # How a source comes into force
//
// [Load] and [Engine.Prepare] parse the sources, check who may write what, compile each unit alone, analyze
// which members its rules can read, and try it out on made-up payloads. What passes is a [Policy], which never
// changes. An [Engine] holds the policy in force: [Engine.Read] reads the sources, Prepare makes the next
// policy and replaces modules that do not load by those in force, and [Engine.Commit] swaps it in.
//
// # Files
//
//	types.go     Direction, Action, Input, Verdict, Options; subject.go: the place of a payload's subject
//	policy.go    Policy and Decide: the path of one decision
//	call.go      what the decisions of one call share
//	query.go     evaluation of the rules by OPA, with its limits
//	input.go     the members of `input`, and the document that rules see
//	content.go   input.content.json: the payload's data as OPA's values
//	unite.go     parsing of proposals, their union, key names
//	mask.go      which payloads rules may mask, and what they mask of them
//	apart.go     decisions about payloads without a message
//	cache.go     the policy cache and its keys
//	caller.go    callers and their claims; names.go: the values that are known beforehand, for checks
//	token.go     the built-in function that knows JSON Web Tokens by their grammar
//	source.go    files, parsing, and what each module may hold and refer to
//	bundle.go    sources that are fetched as an OPA bundle
//	load.go      from sources to a Policy
//	reads.go     analysis: what rules can read of `input`
//	dryrun.go    trial of each unit before it is used
//	selftest.go  check that OPA reports what rules reach, before any policy serves
//	engine.go    the policy in force and the next one; trial.go: a candidate beside it
//	locate.go    evaluation of single rules, to find the one that failed
//	explain.go   how a decision came about, for a person
//	check.go     the check command's report; cases.go, regotest.go and lint.go are its parts
//	errors.go    Error
package policy
