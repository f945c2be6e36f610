# Refused at load: request is a set that all rules add to, so none can replace it.
package temporal.namespaces["replaces-the-set"]

request := {{"action": "pass"}}
