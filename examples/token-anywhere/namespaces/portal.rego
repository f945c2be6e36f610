# A token is sealed wherever it stands in a JSON payload, and nothing but the token: the
# rest of the document stays readable in the Web UI.
package temporal.namespaces.portal

import data.temporal

# Kinds in which this application hands tokens along. The others are never looked into.
token_kinds := {"input", "signal", "update", "memo"}

request contains {"action": "pass"}

request contains {"action": "seal", "key": "tokens", "fields": pointers} if {
	input.payload.kind in token_kinds
	pointers := temporal.token_pointers(input.content.json)
	count(pointers) > 0
}
