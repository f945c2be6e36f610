// Package keyring owns the life of data keys: it has them made and unwrapped by key services, keeps them in memory,
// renews them, and drops them when their key is revoked, leaves the configuration, or belongs to a subject that was erased.
// It hands out Sealers and opens envelopes.
//
// It must never seal with a data key that its service has not proved to unwrap, never open in a namespace that is
// neither the envelope's own nor granted, and never let what a stranger can send (made-up namespaces, planted wrapped
// keys) push out or block the keys of others.
//
// Its words:
//
//	data key            32 random bytes that seal payloads of one namespace under one key name
//	key encryption key  a key in a key service that wraps data keys; an entry of `keys` names it by a URI
//	set                 the entries, grants and revoked data keys of one configuration; one set is in force
//	slot                the place of the data key that seals now for one (namespace, key name)
//	confirmed           of a namespace: known to exist. Slots of other namespaces share a small cache that evicts
//	flight              one call to a key service that several callers wait for
//	refusal             a permanent error that is the answer for a while, without another call
//	run                 the envelopes of one message, which mostly share a data key
//
// Files:
//
//	keyring.go   Keyring, its options, Prepare and Commit of a changed configuration, the tick of every second
//	set.go       which entry serves which key name; grants
//	sealing.go   when a data key is made, and when the one in memory serves: slots are filled, renewed, retired
//	slots.go     the table of slots
//	ready.go     whether a poll may ask for a task: the keys of its answer are at hand
//	sealer.go    sealing with one data key
//	open.go      opening: grants, data keys, many at once if they are not in memory; run.go: what the envelopes of one message share
//	cache.go     the data keys that opening remembers
//	expiry.go    keys whose life is over are destroyed; life.go: whether the key store agrees that a name's keys expire, or do not
//	datakeys.go  a data key in memory
//	keks.go      the key encryption keys that are open
//	service.go   calls to key services, limited
//	flights.go   calls that are shared and tried again
//	uses.go      counts per key encryption key
//	names.go     a set by names alone, for checks; macs.go: MACs under data keys
//
// With a key store:
//
//	rows.go         envelopes by reference: the rows of their keys are looked up, and inserted again if they are lost
//	storehealth.go  whether the key store answers
//	subjects.go     how an erasure reaches this process: it polls the key store every 5 s, drops the keys, and stops if
//	                erasures are missing there
//	subjectkeys.go  keys of subjects: sealing and opening with them; parents.go: the wrap and index keys above them
//	erasure.go      what operators do with subjects: find, erase, wait for replicas, enter erasures again
//	tending.go      what operators do with all rows: verify, rewrap, restore
package keyring
