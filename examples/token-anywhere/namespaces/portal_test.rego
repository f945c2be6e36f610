package temporal.namespaces.portal_test

import data.temporal.namespaces.portal

token := "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln"

sent(doc) := v if v := portal.request with input as {"payload": {"kind": "input"}, "content": {"json": doc}}

test_two_tokens if {"action": "seal", "key": "tokens", "fields": {"/user/token", "/on_behalf/0"}} in sent({
	"user": {"name": "ann", "token": token},
	"on_behalf": [token],
})

test_no_token if sent({"user": {"name": "ann"}}) == {{"action": "pass"}}

test_the_token_alone if {"action": "seal", "key": "tokens", "fields": {""}} in sent(token)
