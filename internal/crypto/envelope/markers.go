package envelope

import "bytes"

// Markers finds the places of a message where a payload may be sealed. The search is many times faster than reading the
// message, and most messages hold little that is sealed. The zero value finds none; see FindMarkers.
type Markers struct {
	message []byte
	from    int // the search began here
	next    int // the first marker from there on; the end of the message if there is none
}

// FindMarkers searches the bytes of a message. Whatever Marked reports in it holds a marker.
func FindMarkers(message []byte) Markers {
	return Markers{message: message, next: nextMarker(message, 0)}
}

// Within reports whether a marker begins in message[from:to]. It is fastest if it is asked from the start to the end.
func (m *Markers) Within(from, to int) bool {
	if from > m.next || from < m.from {
		m.from, m.next = from, nextMarker(m.message, from)
	}
	return m.next < to
}

// nextMarker returns the offset of the first marker from a place on; the length of b if there is none.
func nextMarker(b []byte, from int) int {
	dot := len(markerStart) - 1 // it is the rarest of these bytes in text and JSON
	for at := from + dot; at < len(b); at++ {
		i := bytes.IndexByte(b[at:], markerStart[dot])
		if i < 0 {
			break
		}
		if at += i; bytes.Equal(b[at-dot:at], markerStart[:dot]) {
			return at - dot
		}
	}
	return len(b)
}
