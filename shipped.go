// Package temporalseal holds the policy that the proxy ships with.
package temporalseal

import _ "embed"

// ShippedPolicy is policy.rego, used where the configuration names no policy file.
//
//go:embed policy.rego
var ShippedPolicy []byte
