# These workers seal for themselves, with the product's own format, before anything leaves
# their process. What they sealed is taken as it is; all else is sealed here.
package temporal.namespaces.vault

sealing_workers := {"spiffe://example.com/vault-worker"}

request contains {"action": "accept"} if {
	input.caller.kind == "mtls"
	input.caller.subject in sealing_workers
}
