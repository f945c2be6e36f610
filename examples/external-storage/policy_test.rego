package temporal_test

import data.temporal

reference(caller) := v if {
	v := temporal.request with input as {
		"caller": caller,
		"payload": {"kind": "input", "external": true},
	}
}

test_reference if count(reference({"kind": "token", "subject": "orders"})) == 1

test_reference_of_an_encrypting_worker if reference({"kind": "mtls", "subject": "archive-worker"}) == set()

test_anything_else if temporal.request == set() with input as {"payload": {"kind": "input", "external": false}}
