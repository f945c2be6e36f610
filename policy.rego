# METADATA
# title: The policy that ships with the proxy
# description: >-
#   It holds for every namespace. Where no rule speaks, a payload is sealed with the
#   namespace's default key and a sealed payload is not handed out. A namespace may add
#   rules of its own in package temporal.namespaces["<name>"]; the strictest verdict of
#   both wins (deny, seal, accept, pass; deny, redact, keep, open), so what stands here
#   cannot be undone there.
package temporal

# Headers in which credentials travel. They are sealed even where a namespace lets headers pass.
credential_headers := {
	"authorization",
	"authorization-extras",
	"cookie",
	"proxy-authorization",
	"set-cookie",
	"x-api-key",
	"x-auth-token",
	"x-forwarded-access-token",
}

request contains {"action": "seal"} if {
	input.payload.kind == "header"
	lower(input.payload.name) in credential_headers
}

# The server indexes search attributes, so they are stored in clear. A token has no place there.
request contains {"action": "deny", "reason": "a search attribute holds a token, and search attributes are stored in clear"} if {
	input.payload.kind == "search_attribute"
	some text in strings(input.content.json)
	has_token(text)
}

# The headers of Nexus operations are stored in clear, in the caller's history. A credential has no place there.
request contains {"action": "deny", "reason": "a header of a Nexus operation holds a credential, and these headers are stored in clear"} if {
	nexus_header
	lower(input.payload.name) in credential_headers
}

request contains {"action": "deny", "reason": "a header of a Nexus operation holds a token, and these headers are stored in clear"} if {
	nexus_header
	has_token(input.content.json)
}

nexus_header if {
	input.payload.kind == "text"
	endswith(input.payload.path, "nexus_header")
}

# Whoever was let into a namespace reads what was sealed in it.
response contains {"action": "open"} if input.sealed.namespace == input.namespace

# The `grants` of the proxy's config let a namespace read what was sealed in another one.
response contains {"action": "open"} if input.sealed.granted

# data.temporal.is_token(x): x is a string that is a JSON Web Token, or one behind a word like Bearer.
is_token(x) if temporal.is_token(x)

# data.temporal.has_token(x): x is a string that holds a JSON Web Token somewhere, as a URL or a header line does.
has_token(x) if temporal.has_token(x)

# data.temporal.strings(doc): every string in a JSON document, however deep.
strings(doc) := {text |
	walk(doc, [_, text])
	is_string(text)
}

# data.temporal.token_pointers(doc): where in a JSON document tokens stand, as JSON pointers.
token_pointers(doc) := {pointer(path) |
	walk(doc, [path, value])
	is_token(value)
}

# data.temporal.pointer(path): the JSON pointer (RFC 6901) of a path that walk gave.
pointer(path) := concat("", [sprintf("/%s", [escaped]) |
	some name in path
	escaped := replace(replace(sprintf("%v", [name]), "~", "~0"), "/", "~1")
])
