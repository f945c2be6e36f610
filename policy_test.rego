package temporal_test

import data.temporal

requested(i) := v if v := temporal.request with input as i

token := "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln"

test_credential_header_is_sealed if requested({"payload": {"kind": "header", "name": "Authorization"}}) == {{"action": "seal"}}

test_no_rule_for_other_headers if requested({"payload": {"kind": "header", "name": "traceparent"}}) == set()

test_no_rule_for_a_memo_of_that_name if requested({"payload": {"kind": "memo", "name": "authorization"}}) == set()

attribute(value) := actions if {
	verdicts := requested({"payload": {"kind": "search_attribute", "name": "Owner"}, "content": {"json": value}})
	actions := {v.action | some v in verdicts}
}

test_token_in_search_attribute_is_denied if attribute(token) == {"deny"}

test_token_among_keywords_is_denied if attribute(["a", token]) == {"deny"}

test_token_within_a_search_attribute_is_denied if attribute(concat("", ["https://a.example/?token=", token])) == {"deny"}

nexus(name, value) := actions if {
	path := "commands.schedule_nexus_operation_command_attributes.nexus_header"
	verdicts := requested({"payload": {"kind": "text", "name": name, "path": path}, "content": {"json": value}})
	actions := {v.action | some v in verdicts}
}

test_credential_in_a_nexus_header_is_denied if nexus("Authorization", "secret") == {"deny"}

test_token_in_a_nexus_header_is_denied if nexus("x-forwarded", concat(" ", ["Bearer", token])) == {"deny"}

test_other_nexus_headers_have_no_verdict if nexus("traceparent", "00-ab-cd-01") == set()

test_other_texts_have_no_verdict if requested({"payload": {"kind": "text", "path": "description"}, "content": {"json": "x"}}) == set()

test_plain_search_attribute_has_no_verdict if attribute("ward-b") == set()

opened(i) := v if v := temporal.response with input as i

test_own_namespace_opens if opened({"namespace": "a", "sealed": {"namespace": "a"}}) == {{"action": "open"}}

test_foreign_namespace_has_no_verdict if opened({"namespace": "a", "sealed": {"namespace": "b"}}) == set()

test_a_grant_opens if {
	opened({"namespace": "a", "sealed": {"namespace": "b", "granted": true}}) == {{"action": "open"}}
	opened({"namespace": "a", "sealed": {"namespace": "b", "granted": false}}) == set()
}

test_tokens if {
	temporal.is_token(token)
	temporal.is_token(concat(" ", ["Bearer", token]))
	not temporal.is_token("eyJhbGciOiJIUzI1NiJ9")
	not temporal.is_token({"token": token})
	temporal.has_token(concat("", ["token=", token, "&x=1"]))
	not temporal.has_token("a.b.c")
}

test_strings_of_a_deep_document if temporal.strings({"a": [{"b": "x"}, 1], "c": "y"}) == {"x", "y"}

test_a_string_is_its_own_document if temporal.strings("x") == {"x"}

test_token_pointers if temporal.token_pointers({"a/b": [1, {"~": token}], "c": token, "d": "x"}) == {"/a~1b/1/~0", "/c"}

test_pointer_to_a_document_that_is_a_token if temporal.token_pointers(token) == {""}
