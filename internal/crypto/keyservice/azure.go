//go:build !noazure

package keyservice

import "github.com/temporal-seal/temporal-seal/internal/crypto/azurekeyvault"

// The build tag noazure leaves Azure's client out.
func init() {
	services[azurekeyvault.Scheme] = service{azurekeyvault.Open, azurekeyvault.Check, azurekeyvault.OpenForeign, azurekeyvault.CheckForeign}
}
