# Of the people who reach this namespace only payroll's own may read.
package temporal.namespaces.payroll

response contains {"action": "deny", "reason": "for payroll staff"} if {
	input.caller.kind == "jwt"
	not "payroll" in groups
	not "auditors" in groups
}

response contains {"action": "keep"} if "auditors" in groups

default groups := []

groups := input.caller.claims.groups
