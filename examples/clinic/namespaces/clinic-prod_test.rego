package temporal.namespaces["clinic-prod_test"]

import data.temporal.namespaces["clinic-prod"] as clinic

verdicts(i) := v if v := clinic.request with input as i

readable := {"action": "pass"}

phi := {"action": "seal", "key": "phi"}

jwt := {"action": "seal", "key": "jwt"}

test_lab_result_is_phi if phi in verdicts({
	"payload": {"kind": "result"},
	"activity": {"type": "FetchLabResults"},
})

test_scan_input_is_phi if phi in verdicts({
	"payload": {"kind": "input"},
	"activity": {"type": "BookScan"},
	"content": {"json": {"token": "none"}},
})

test_bed_is_readable if verdicts({
	"payload": {"kind": "result"},
	"activity": {"type": "AssignBed"},
}) == {readable}

test_failure_is_sealed if phi in verdicts({"payload": {"kind": "failure"}})

test_token_in_a_list_in_an_object if jwt in verdicts({
	"payload": {"kind": "input"},
	"content": {"json": {"user": {"tokens": ["none", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln"]}}},
})

test_bearer_token_in_a_signal if jwt in verdicts({
	"payload": {"kind": "signal"},
	"content": {"json": "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln"},
})

test_input_without_token if verdicts({
	"payload": {"kind": "input"},
	"content": {"json": {"ward": "B", "bed": 7}},
}) == {readable}
