package temporal.namespaces.claims_test

import data.temporal.namespaces.claims

reads(caller, key) := v if v := claims.response with input as {"caller": caller, "sealed": {"key": key}}

person(groups) := {"kind": "jwt", "claims": {"groups": groups}}

test_worker if reads({"kind": "mtls", "claims": {}}, "phi") == set()

test_doctor if reads(person(["doctors"]), "phi") == set()

test_support if reads(person(["support"]), "phi") == {{"action": "redact"}}

test_support_reads_the_rest if reads(person(["support"]), "default") == set()

test_auditor if {"action": "keep"} in reads(person(["auditors"]), "default")

test_auditor_before_phi if reads(person(["auditors"]), "phi") == {{"action": "keep"}}

test_token_without_groups if reads({"kind": "jwt", "claims": {}}, "phi") == {{"action": "redact"}}
