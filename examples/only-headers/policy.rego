# Context propagators put tokens and user names into headers. Nothing else is secret here.
package temporal

request contains {"action": "pass"} if input.payload.kind != "header"

request contains {"action": "seal"} if input.payload.kind == "header"

response contains {"action": "open"} if input.sealed.namespace == input.namespace
