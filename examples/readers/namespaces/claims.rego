# Workers get everything. Of the people who read histories, doctors see PHI, support
# staff see that something is there, and auditors get it as it is stored.
package temporal.namespaces.claims

request contains {"action": "seal", "key": "phi"} if input.payload.kind in {"input", "result"}

response contains {"action": "redact"} if {
	input.sealed.key == "phi"
	reader
	not "doctors" in groups
	not "auditors" in groups # redact is stricter than keep and would win
}

response contains {"action": "keep"} if "auditors" in groups

# People come with a token, workers with a certificate.
reader if input.caller.kind == "jwt"

# Without the default, `not "doctors" in groups` would not hold for a token that has no
# groups: what is undefined is neither in them nor not in them.
default groups := []

groups := input.caller.claims.groups
