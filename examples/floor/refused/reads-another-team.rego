# Refused at load: a team's rules lean on their own package and the platform's helpers.
package temporal.namespaces["reads-another-team"]

request contains verdict if some verdict in data.temporal.namespaces.rebel.request
