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

var errTooLarge = errors.New("it holds more than is expanded here; a small payload that holds much is mostly an attack")

// framedSnappy starts a stream of snappy blocks, which the samples for Python write; those for Go and Java
// write one block.
const framedSnappy = "\xff\x06\x00\x00sNaPpY"

// expand decompresses, up to limit bytes.
func expand(f Format, data []byte, limit int) ([]byte, error) {
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
		return expandBlock(data, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("it is not the %s stream that its encoding names", f)
	}
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(stream, int64(limit)+1))
	switch {
	case err != nil:
		return nil, errors.New("it is a broken stream: it was cut off or changed")
	case n > int64(limit):
		return nil, errTooLarge
	}
	return out.Bytes(), nil
}

// expandBlock decompresses a block of snappy. It says beforehand what it holds, and one byte of it makes at
// most 64/3: what promises more is refused before anything is allocated.
func expandBlock(data []byte, limit int) ([]byte, error) {
	size, err := snappy.DecodedLen(data)
	switch {
	case err != nil:
		return nil, errors.New("it is not the snappy block that its encoding names")
	case size > limit:
		return nil, errTooLarge
	case size > 64*len(data):
		return nil, errors.New("it is a snappy block that promises more than it can hold")
	}
	out, err := snappy.Decode(nil, data)
	if err != nil {
		return nil, errors.New("it is a broken snappy block")
	}
	return out, nil
}
