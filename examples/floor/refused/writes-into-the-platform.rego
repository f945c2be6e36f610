# Refused at load: a namespace's file holds its own package and nothing else.
package temporal

request contains {"action": "pass"}
