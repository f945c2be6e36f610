# The customer's card and social security number are needed by nobody after the call, so they are not stored, not even sealed.
# Everything else is sealed.
package temporal

request contains {"action": "mask", "fields": ["/ssn", "/cards/*/number"]} if {
	input.payload.kind == "result"
	input.activity.type == "FetchCustomer"
}

# What agents type into a ticket has a card number at times.
request contains {"action": "mask", "fields": ["/card"], "missing": "pass"} if {
	input.payload.kind in {"input", "signal"}
}

response contains {"action": "open"} if input.sealed.namespace == input.namespace
