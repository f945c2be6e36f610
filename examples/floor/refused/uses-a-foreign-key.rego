# Refused at load: the key is not configured for this namespace.
package temporal.namespaces["uses-a-foreign-key"]

request contains {"action": "seal", "key": "phi"} if input.payload.kind == "input"
