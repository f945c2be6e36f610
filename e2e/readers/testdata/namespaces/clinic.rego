# Support staff see that there is a health record, and nothing of it. Auditors get everything as it is stored. Contractors
# have no business with health records.
package temporal.namespaces.clinic

response contains {"action": "redact"} if {
	"support" in groups
	input.sealed.key == "phi"
}

response contains {"action": "keep"} if "auditors" in groups

response contains {"action": "deny", "reason": "contractors have no business with health records"} if {
	"contractors" in groups
	input.sealed.key == "phi"
}

default groups := []

groups := input.caller.claims.groups
