//go:build !nogcp

package keyservice

import "github.com/temporal-seal/temporal-seal/internal/crypto/gcpkms"

// The build tag nogcp leaves Google's client out.
func init() {
	services[gcpkms.Scheme] = service{gcpkms.Open, gcpkms.Check, gcpkms.OpenForeign, gcpkms.Check}
}
