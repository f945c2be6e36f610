package temporal.namespaces.vault_test

import data.temporal.namespaces.vault

test_sealing_worker if vault.request == {{"action": "accept"}} with input.caller as {
	"kind": "mtls",
	"subject": "spiffe://example.com/vault-worker",
}

test_same_name_without_a_certificate if vault.request == set() with input.caller as {
	"kind": "token",
	"subject": "spiffe://example.com/vault-worker",
}
