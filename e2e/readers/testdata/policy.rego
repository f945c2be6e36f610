# Records are sealed with the key phi, all else with the default key. A value opens in the namespace that it was sealed in.
package temporal

request contains {"action": "seal", "key": "phi"} if input.workflow.type == "Record"

response contains {"action": "open"} if input.sealed.namespace == input.namespace
