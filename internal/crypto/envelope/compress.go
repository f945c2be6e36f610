package envelope

import (
	"errors"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	maxPlaintext = 128 << 20
	maxRatio     = 200
	maxWindow    = 8 << 20
	writerWindow = 1 << 20
)

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	// Compression is asked for where a payload would not fit otherwise: base64 of something random has no repetition to
	// find, but a quarter of it is air. A small window keeps the first use, and each further encoder, cheap.
	e, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithWindowSize(writerWindow), zstd.WithEncoderConcurrency(2),
		zstd.WithAllLitEntropyCompression(true), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic("zstd encoder with constant options: " + err.Error())
	}
	return e
})

var zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxPlaintext), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(4))
	if err != nil {
		panic("zstd decoder with constant options: " + err.Error())
	}
	return d
})

// compressBody compresses where that makes the body shorter and where every opener will take the result.
func compressBody(body []byte) ([]byte, bool) {
	if len(body) > maxPlaintext {
		return nil, false
	}
	packed := zstdEncoder().EncodeAll(body, make([]byte, 0, len(body)/2+64))
	return packed, len(packed) < len(body) && opens(packed, len(body), len(packed))
}

// compressTo compresses a body that is padded to the size of more than limit bytes afterwards.
func compressTo(body []byte, limit int) ([]byte, bool) {
	if len(body) > maxPlaintext || limit <= 0 {
		return nil, false
	}
	packed := zstdEncoder().EncodeAll(body, make([]byte, 0, min(len(body), limit)+64))
	return packed, len(packed) <= limit && opens(packed, len(body), limit)
}

// opens reports whether every opener takes a frame for a body of a length, in an envelope of a size. The encoder leaves the
// content size out of short frames, and those would not open.
func opens(frame []byte, body, envelope int) bool {
	size, err := checkFrame(frame, envelope)
	return err == nil && size == body
}

var errFrame = errors.New("the compressed part is not one zstd frame of an allowed size")

// appendDecompressed appends what a frame holds, from an envelope of a size. The frame is checked against its limits, and
// grow is asked, before anything is allocated. grow may be nil.
func appendDecompressed(dst, frame []byte, envelope int, grow func(n int) error) ([]byte, error) {
	size, err := checkFrame(frame, envelope)
	if err == nil && grow != nil {
		err = grow(size)
	}
	if err != nil {
		return dst, err
	}
	start := len(dst)
	dst = slices.Grow(dst, size)
	out, err := zstdDecoder().DecodeAll(frame, dst[:start])
	if err != nil || len(out)-start != size {
		clear(dst[start:cap(dst)])
		return dst[:start], errFrame
	}
	return out, nil
}

// checkFrame returns the size of the content of a frame that fills b, if it is within the limits: an envelope opens to at
// most maxRatio times its size.
func checkFrame(b []byte, envelope int) (int, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil || h.Skippable || !h.HasFCS || h.DictionaryID != 0 {
		return 0, errFrame
	}
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	if h.FrameContentSize > min(maxPlaintext, uint64(maxRatio*envelope)) || window > maxWindow {
		return 0, errFrame
	}
	rest := b[h.HeaderSize:]
	for last := false; !last; {
		if len(rest) < 3 {
			return 0, errFrame
		}
		block := uint32(rest[0]) | uint32(rest[1])<<8 | uint32(rest[2])<<16
		size := int(block >> 3)
		if block>>1&3 == 1 { // a run: one byte, repeated
			size = 1
		}
		if len(rest) < 3+size {
			return 0, errFrame
		}
		last, rest = block&1 == 1, rest[3+size:]
	}
	if h.HasCheckSum && len(rest) == 4 {
		rest = nil
	}
	if len(rest) != 0 {
		return 0, errFrame
	}
	return int(h.FrameContentSize), nil
}
