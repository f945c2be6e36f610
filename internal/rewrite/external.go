package rewrite

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/temporal-seal/temporal-seal/internal/x/wire"
)

// SDKs can put large values into a storage of their own, such as S3, before anything reaches the proxy. What passes here is a
// reference: a Payload of the type temporal.api.sdk.v1.ExternalStorageReference, and in its field external_payloads the size of
// each value. The server counts those, so they stay readable on a sealed reference. Nothing else of that field does: a message
// there could hold anything.

// appendExternal appends the field external_payloads of a payload as it stays readable: of each entry the size.
func appendExternal(dst, payload []byte) []byte {
	const externalPayloads, sizeBytes = 3, 1
	for r := wire.Read(payload); r.Next(); {
		if r.Number() != externalPayloads || !r.Bytes() {
			continue
		}
		size := uint64(0)
		for entry := wire.Read(r.Value()); entry.Next(); {
			if entry.Number() == sizeBytes && entry.Type() == protowire.VarintType {
				size, _ = protowire.ConsumeVarint(entry.Value())
			}
		}
		dst = protowire.AppendTag(dst, externalPayloads, protowire.BytesType)
		if size == 0 {
			dst = append(dst, 0)
			continue
		}
		dst = protowire.AppendVarint(dst, uint64(1+protowire.SizeVarint(size)))
		dst = protowire.AppendTag(dst, sizeBytes, protowire.VarintType)
		dst = protowire.AppendVarint(dst, size)
	}
	return dst
}
