package crypto

// Selection says which members of a JSON document are sealed: Fields names them, Clear names those that are not.
// Both hold JSON pointers (RFC 6901) in which `*` stands for every element of an array. One of the two is empty.
type Selection struct{ Fields, Clear []string }

// AppendView appends a carrier of form 1.
func (s *Sealer) AppendView(dst, payload []byte, sel Selection) ([]byte, error) {
	return s.AppendPayload(dst, payload, false)
}
