package temporal_test

import data.temporal

test_any_payload if temporal.request == {{"action": "seal"}}

test_own_namespace_opens if temporal.response == {{"action": "open"}} with input as {"namespace": "a", "sealed": {"namespace": "a"}}

test_other_namespace_does_not if temporal.response == set() with input as {"namespace": "a", "sealed": {"namespace": "b"}}
