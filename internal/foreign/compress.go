package foreign

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"

	"github.com/klauspost/compress/snappy"
)

const (
	// maxPayload is what one compressed payload may hold, and maxMessage what those of one message may hold together: an
	// SDK receives no message above 128 MiB, and few bytes of a bomb make many.
	maxPayload = 64 << 20
	maxMessage = 128 << 20
)

var errTooLarge = errors.New("it holds more than is expanded here; a small payload that holds much is mostly an attack")

// expand decompresses, up to limit bytes.
func expand(f Format, data []byte, limit int) ([]byte, error) {
	switch f {
	case Snappy:
		return expandSnappy(data, limit)
	case Gzip:
		r, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, errors.New("it is not the gzip stream that its encoding names")
		}
		return readAll(r, limit)
	default:
		r, err := zlib.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, errors.New("it is not the zlib stream that its encoding names")
		}
		return readAll(r, limit)
	}
}

// framedSnappy starts a stream of snappy blocks, which the samples for Python write; those for Go and Java write one block.
const framedSnappy = "\xff\x06\x00\x00sNaPpY"

func expandSnappy(data []byte, limit int) ([]byte, error) {
	if bytes.HasPrefix(data, []byte(framedSnappy)) {
		return readAll(io.NopCloser(snappy.NewReader(bytes.NewReader(data))), limit)
	}
	size, err := snappy.DecodedLen(data)
	if err != nil {
		return nil, errors.New("it is not the snappy block that its encoding names")
	}
	if size > limit {
		return nil, errTooLarge
	}
	// A block says beforehand what it holds, and one byte of it makes at most 64/3: what promises more is refused before
	// anything is allocated.
	if size > 64*len(data) {
		return nil, errors.New("it is a snappy block that promises more than it can hold")
	}
	out, err := snappy.Decode(nil, data)
	if err != nil {
		return nil, errors.New("it is a broken snappy block")
	}
	return out, nil
}

func readAll(r io.ReadCloser, limit int) ([]byte, error) {
	defer func() { _ = r.Close() }()
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(r, int64(limit)+1))
	switch {
	case err != nil:
		return nil, errors.New("it is a broken stream: it was cut off or changed")
	case n > int64(limit):
		return nil, errTooLarge
	}
	return out.Bytes(), nil
}
