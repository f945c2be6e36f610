# Search attributes are stored in clear, since the server indexes them. So a token there is
# refused rather than stored, and so is an attribute of a name that promises a secret.
package temporal

request contains {"action": "deny", "reason": "a search attribute must not hold a token"} if {
	input.payload.kind == "search_attribute"
	walk(input.content.json, [_, text])
	is_string(text)
	regex.match(`eyJ[A-Za-z0-9_-]+\.eyJ[A-Za-z0-9_-]+\.`, text)
}

request contains {"action": "deny", "reason": "search attributes are stored in clear: secrets have no place in them"} if {
	input.payload.kind == "search_attribute"
	regex.match(`(?i)(token|secret|password|ssn)`, input.payload.name)
}

response contains {"action": "open"} if input.sealed.namespace == input.namespace
