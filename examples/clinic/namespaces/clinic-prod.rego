# The clinic's worker was written years ago and does not know about encryption. Most of what
# it sends is about beds and appointments and stays readable. Sealed are: whatever the
# lab's activities get and give, whatever carries a user's token, and the texts of errors.
package temporal.namespaces["clinic-prod"]

import data.temporal

# Activities that handle protected health information (PHI).
phi_activities := {"FetchLabResults", "BookScan"}

# Kinds in which this application hands a user's token along.
token_kinds := {"input", "signal", "update"}

request contains {"action": "pass"}

request contains {"action": "seal", "key": "phi"} if input.activity.type in phi_activities

# Error texts quote what the code had in its hands, so nobody can tell what is in them.
request contains {"action": "seal", "key": "phi"} if input.payload.kind == "failure"

# The guard stands first: only payloads of these kinds are looked into.
request contains {"action": "seal", "key": "jwt"} if {
	input.payload.kind in token_kinds
	some text in temporal.strings(input.content.json)
	temporal.is_token(text)
}
