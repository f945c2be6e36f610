# A team that would rather have everything readable. None of these rules gets it past the
# floor; where the floor is silent, they hold.
package temporal.namespaces.rebel

# Let it pass.
request contains {"action": "pass"}

# Seal next to nothing of it.
request contains {"action": "seal", "key": "loose", "clear": ["/message"]} if input.payload.kind == "failure"

request contains {"action": "seal", "fields": ["/irrelevant"]} if input.payload.kind == "failure"

# Seal it, but under the key that more people may open.
request contains {"action": "seal", "key": "loose"} if input.payload.kind in {"failure", "header"}

# Compress it, so that its length reveals something.
request contains {"action": "seal", "compress": true} if input.payload.kind == "header"

# Say that it is sealed already.
request contains {"action": "accept"}

# Open it for everybody.
response contains {"action": "open"}
