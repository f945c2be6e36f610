package temporal_test

import data.temporal

attribute(name, value) := v if {
	v := temporal.request with input as {
		"payload": {"kind": "search_attribute", "name": name},
		"content": {"json": value},
	}
}

test_token_in_a_sentence if count(attribute("Note", "see eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln")) == 1

test_token_in_a_list if count(attribute("Notes", ["a", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2ln"])) == 1

test_name if count(attribute("UserToken", "x")) == 1

test_harmless if attribute("Ward", "B") == set()
