# Everything is sealed with the namespace's default key. `request` could as well be left
# out, since a payload without a verdict is sealed; the rule says it to the reader.
package temporal

request contains {"action": "seal"}

response contains {"action": "open"} if input.sealed.namespace == input.namespace
