package temporal_test

import data.temporal

test_failure if temporal.request == {{"action": "seal", "key": "floor"}} with input.payload.kind as "failure"

test_header if temporal.request == {{"action": "seal"}} with input.payload.kind as "header"

test_reason if count(temporal.request) == 1 with input as {"payload": {"kind": "reason"}, "content": {"json": "because of P-17"}}

test_input_is_left_to_the_namespaces if temporal.request == set() with input.payload.kind as "input"
