// Package keyservice lists the key services that the proxy can use, by the scheme of a key's URI.
//
// Where does a new key service go?
//
//  1. internal/crypto/<name>/<name>.go: Scheme, Open and a Provider, best also a Wrapper, which `keystore rewrap` needs
//     (internal/crypto/provider.go says what they have to do). Sort the service's errors into the kinds of
//     internal/crypto/errors.go; awskms/errors.go is an example.
//  2. internal/crypto/keyservice/keyservice.go, this file: a line in services, and the URI in NoKeyURI and, for keys of other
//     tools, NoForeignURI. With a large client, a file of its own with a build tag, as azure.go; demo/servers.go knows the tags.
//     internal/crypto/keyring/service.go: serviceOf, if the URI says where the service is in a parameter of another name than
//     region, endpoint and address.
//  3. imports_test.go: the package, a line here, and the home of the client library; codec/codec.go if Go programs may use it
//     without the proxy.
//  4. What users read: the --key flags (cmd/proxy/serve.go, init.go), the comments of `active` and of `kms` in
//     internal/config (then `make config-docs`), docs/keys.md, docs/design.md, the lists of packages in
//     internal/crypto/provider.go; then `make snapshots ACCEPT=...`, with an example of a URI in e2e/snapshots/config_test.go.
//     The texts of NoKeyURI and NoForeignURI stand in cmd/proxy/testdata/script/config.txtar and in
//     e2e/mistakes/testdata/mistakes.txt too.
//  5. Tests: a line in e2e/providers, the suite that every key service passes, and a starter in e2e/keypeers, with which
//     `make demo KEY=<name>` runs too (Makefile, README.md). `make coverage RECORD=1`, and a fault in testdata/faults for each of
//     its own safety rules.
package keyservice

import (
	"context"
	"errors"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/crypto/awskms"
	"github.com/temporal-seal/temporal-seal/internal/crypto/localkey"
	"github.com/temporal-seal/temporal-seal/internal/crypto/plugin"
	"github.com/temporal-seal/temporal-seal/internal/crypto/vault"
)

// service is a key service.
type service struct {
	open  func(ctx context.Context, uri string) (crypto.Provider, error) // makes a client, and may look the key up
	check func(uri string) error                                         // returns what is wrong with the URI itself

	// The same for a key with which other tools encrypted data keys. Both are nil where no tool is known that does.
	openForeign  func(ctx context.Context, uri string) (crypto.Decrypter, error)
	checkForeign func(uri string) error
}

var services = map[string]service{ // azure.go and gcp.go add theirs
	awskms.Scheme:   {awskms.Open, awskms.Check, awskms.OpenForeign, awskms.Check},
	localkey.Scheme: {open: localkey.Open, check: localkey.Check},
	plugin.Scheme:   {plugin.Open, plugin.Check, plugin.OpenForeign, plugin.Check},
	vault.Scheme:    {open: vault.Open, check: vault.Check},
}

// NoKeyURI says what a key URI looks like.
const NoKeyURI = "is not a key URI; write awskms://<key id, ARN or alias>?region=<region>, gcpkms://projects/<project>/locations/<location>/keyRings/<ring>/cryptoKeys/<key>, azurekeyvault://<vault>.vault.azure.net/keys/<name>, " +
	"vault://<host>/<mount>/<key>?token_file=<path>, plugin://<name>/<key>?address=<address>, or local:<file>"

// Known reports whether a URI has the scheme of a key service.
func Known(uri string) bool {
	scheme, _, found := strings.Cut(uri, ":")
	_, known := services[scheme]
	return found && known
}

// Check returns what is wrong with a key URI, as far as the URI itself shows.
func Check(uri string) error {
	if !Known(uri) {
		return errors.New(NoKeyURI)
	}
	scheme, _, _ := strings.Cut(uri, ":")
	return services[scheme].check(uri)
}

// Open returns the key that a URI names, by its scheme. A URI of another scheme fails with NoKeyURI.
func Open(ctx context.Context, uri string) (crypto.Provider, error) {
	if !Known(uri) {
		return nil, errors.New(NoKeyURI)
	}
	scheme, _, _ := strings.Cut(uri, ":")
	return services[scheme].open(ctx, uri)
}

// NoForeignURI says what the URI of a key of another tool looks like.
const NoForeignURI = "is not the key of another tool; write the awskms://, gcpkms:// or azurekeyvault:// URI that the tool has, " +
	"or plugin://<name>/<key>?address=<address>"

// CheckForeign returns what is wrong with the URI of a key with which another tool encrypted data keys.
func CheckForeign(uri string) error {
	scheme, _, found := strings.Cut(uri, ":")
	if s := services[scheme]; found && s.checkForeign != nil {
		return s.checkForeign(uri)
	}
	return errors.New(NoForeignURI)
}

// OpenForeign opens a key with which another tool encrypted data keys.
func OpenForeign(ctx context.Context, uri string) (crypto.Decrypter, error) {
	scheme, _, found := strings.Cut(uri, ":")
	if s := services[scheme]; found && s.openForeign != nil {
		return s.openForeign(ctx, uri)
	}
	return nil, crypto.Internalf(crypto.KindNotConfigured, "open key", "%s", NoForeignURI)
}
