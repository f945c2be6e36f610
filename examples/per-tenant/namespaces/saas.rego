# Each tenant has a key of its own. A workflow belongs to the tenant that stands before
# the first slash of its id; what belongs to none is sealed with the default key.
package temporal.namespaces.saas

request contains {"action": "seal", "key": sprintf("tenant/%s", [tenant])} if {
	[tenant, _] := split(input.workflow.id, "/")
	tenant != ""
}
