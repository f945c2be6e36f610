# Workers whose SDK has external storage switched on put large values into a bucket themselves, and send the proxy a
# reference. The proxy encrypts nothing in that bucket. Where encryption is the proxy's alone, such a reference means that
# its value is stored in clear, so it is refused, but for the workers whose own codec encrypts what they store.
package temporal

encrypting_workers := {"archive-worker"}

encrypts if {
	input.caller.kind == "mtls"
	input.caller.subject in encrypting_workers
}

request contains {"action": "deny", "reason": "values in external storage are not encrypted: switch off the worker's external storage"} if {
	input.payload.external
	not encrypts
}

response contains {"action": "open"} if input.sealed.namespace == input.namespace
