// Package keypeers starts key services on this machine, for tests and the demo: moto as AWS, OpenBao as Vault, stand-ins of Google's
// and Azure's services, and the plug-in of examples/key-plugin.
package keypeers
