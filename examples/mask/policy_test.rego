package temporal_test

import data.temporal

test_customer if {
	verdicts := temporal.request with input as {"payload": {"kind": "result"}, "activity": {"type": "FetchCustomer"}}
	verdicts == {{"action": "mask", "fields": ["/ssn", "/cards/*/number"]}}
}

test_other_results if temporal.request == set() with input as {"payload": {"kind": "result"}, "activity": {"type": "Ship"}}

test_ticket if {
	verdicts := temporal.request with input as {"payload": {"kind": "signal"}}
	verdicts == {{"action": "mask", "fields": ["/card"], "missing": "pass"}}
}

test_side_effects if temporal.request == set() with input as {"payload": {"kind": "marker"}}
