package foreign

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/snappy"
)

const (
	// maxPayload is what one compressed payload may hold, and maxMessage what those of one message may hold
	// together: an SDK receives no message above 128 MiB, and few bytes of a bomb make many.
	maxPayload = 64 << 20
	maxMessage = 128 << 20
)

var errTooLarge = errors.New("it expands to more than the limit, as an attack would")

// framedSnappy starts a stream of snappy blocks, which the samples for Python write; those for Go and Java
// write one block.
const framedSnappy = "\xff\x06\x00\x00sNaPpY"

// expand decompresses, up to the limit of the run.
func expand(f Format, data []byte, run *Run) ([]byte, error) {
	limit := run.limit()
	var stream io.Reader
	var err error
	in := bytes.NewReader(data)
	switch {
	case f == Gzip:
		stream, err = gzip.NewReader(in)
	case f == Zlib:
		stream, err = zlib.NewReader(in)
	case bytes.HasPrefix(data, []byte(framedSnappy)):
		stream = snappy.NewReader(in)
	default:
		return expandBlock(data, limit, run.grow)
	}
	if err != nil {
		return nil, fmt.Errorf("it is not the %s stream that its encoding names", f)
	}
	var out bytes.Buffer
	counted := &asking{Reader: stream, grow: run.grow}
	n, err := io.Copy(&out, io.LimitReader(counted, int64(limit)+1))
	switch {
	case counted.refused != nil:
		return nil, counted.refused
	case err != nil:
		return nil, errors.New("it is a broken stream: it was cut off or changed")
	case n > int64(limit):
		return nil, errTooLarge
	}
	return out.Bytes(), nil
}

// asking asks for each piece of a stream whether it may be kept. The buffer behind it doubles.
type asking struct {
	io.Reader
	grow    func(n int) error
	refused error
}

// Read reads from the stream.
func (a *asking) Read(b []byte) (n int, err error) {
	n, err = a.Reader.Read(b)
	if a.grow != nil && n > 0 {
		if a.refused = a.grow(2 * n); a.refused != nil {
			return 0, a.refused
		}
	}
	return n, err
}

// expandBlock decompresses a block of snappy. It says beforehand what it holds, and one byte of it makes at
// most 64/3: what promises more is refused before anything is allocated.
func expandBlock(data []byte, limit int, grow func(n int) error) ([]byte, error) {
	size, err := snappy.DecodedLen(data)
	switch {
	case err != nil:
		return nil, errors.New("it is not the snappy block that its encoding names")
	case size > limit:
		return nil, errTooLarge
	case size > 64*len(data):
		return nil, errors.New("it is a snappy block that promises more than it can hold")
	}
	if grow != nil {
		if err := grow(size); err != nil {
			return nil, err
		}
	}
	out, err := snappy.Decode(nil, data)
	if err != nil {
		return nil, errors.New("it is a broken snappy block")
	}
	return out, nil
}
