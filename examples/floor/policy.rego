# What holds in every namespace, whatever its team writes: failures are sealed whole, with
# the key named first; headers are sealed; nobody but the namespace itself gets to read.
package temporal

request contains {"action": "seal", "key": "floor"} if input.payload.kind == "failure"

request contains {"action": "seal"} if input.payload.kind == "header"

request contains {"action": "deny", "reason": "reasons are stored in clear and must not name a patient"} if {
	input.payload.kind == "reason"
	regex.match(`P-[0-9]+`, input.content.json)
}

response contains {"action": "open"} if input.sealed.namespace == input.namespace

response contains {"action": "redact"} if {
	input.sealed.key == "floor"
	input.caller.kind == "anonymous"
}
