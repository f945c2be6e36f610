package rewrite

import "bytes"

// marker is what every sealed payload contains in clear: in its encoding, or in the name of the metadata entry that holds its
// envelope. See envelope.Marked.
const marker = "sealed."

// markers finds the places of a message where something may be sealed, from its start to its end. The search is many times
// faster than a walk, and most of a response holds nothing sealed.
type markers struct {
	all  bool // everything has to be read
	from int  // the search began here
	next int  // the first marker from there on; the end of the message if there is none
}

// findMarkers returns where to descend in a response. That is everywhere if it may hold the input of an operation that the
// server runs itself, whose envelopes may be in base64.
func findMarkers(response []byte) markers {
	if bytes.Contains(response, []byte(systemEndpoint)) {
		return markers{all: true}
	}
	return markers{next: nextMarker(response, 0)}
}

// within reports whether a marker begins in response[from:to]. It is fastest if it is asked from the start to the end.
func (m *markers) within(response []byte, from, to int) bool {
	if from > m.next || from < m.from {
		m.from, m.next = from, nextMarker(response, from)
	}
	return m.next < to
}

// nextMarker returns the offset of the first marker from a place on; the length of b if there is none.
func nextMarker(b []byte, from int) int {
	const dot = len(marker) - 1 // it is the rarest of these bytes in text and JSON
	for at := from + dot; at < len(b); at++ {
		i := bytes.IndexByte(b[at:], marker[dot])
		if i < 0 {
			break
		}
		if at += i; string(b[at-dot:at]) == marker[:dot] {
			return at - dot
		}
	}
	return len(b)
}
