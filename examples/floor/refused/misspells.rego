# Refused at load: input.payload.knd does not exist, so this rule would never hold.
package temporal.namespaces.misspells

request contains {"action": "seal"} if input.payload.knd == "input"
