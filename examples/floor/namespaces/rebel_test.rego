package temporal.namespaces.rebel_test

import data.temporal.namespaces.rebel

test_this_team_alone_would_let_headers_pass if {"action": "pass"} in rebel.request with input.payload.kind as "header"
