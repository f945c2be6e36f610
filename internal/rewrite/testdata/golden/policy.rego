# The rules under which the messages beside this file are sealed and opened. What no rule names is sealed whole.
package temporal

# A header that tracing needs passes.
request contains {"action": "pass"} if {
	input.payload.kind == "header"
	input.payload.name == "trace-parent"
}

# A memo of this name has a key of its own, and readers get it only sealed.
request contains {"action": "seal", "key": "phi"} if input.payload.name == "diagnosis"

response contains {"action": "keep"} if input.sealed.key == "phi"

# Of an input with a token only the token is sealed, and the rest can be read in the Web UI.
request contains {"action": "seal", "fields": ["/token"]} if {
	input.payload.kind == "input"
	input.content.json.token
}

response contains {"action": "open"} if input.sealed.key != "phi"
