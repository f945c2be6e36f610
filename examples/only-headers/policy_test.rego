package temporal_test

import data.temporal

test_header_is_sealed if temporal.request == {{"action": "seal"}} with input.payload as {"kind": "header", "name": "user"}

test_memo_passes if temporal.request == {{"action": "pass"}} with input.payload as {"kind": "memo", "name": "user"}
