// Package envelope is the format of sealed envelopes: it turns a serialized Temporal Payload (or a text) into an envelope
// that only holders of the key can open, and back, byte for byte. Package keyring owns the life of data keys; a key service
// wraps them (package crypto). Which payloads and texts bear a marker, and so hold an envelope, is in parse.go.
//
// It never decides what is sealed, for whom, or with which key name; it knows no gRPC, no Temporal types and no
// telemetry, and no byte of a payload or of a key ever reaches an error or a log line.
//
// # Envelope, version 1
//
// All integers are big-endian.
//
//	offset  size        field
//	0       1           version = 1
//	1       1           suite = 1: AES-256-GCM, HKDF-SHA256
//	2       1           flags: bit 0 zstd, bit 1 padded, bits 2-3 form (0 payload, 1 view, 2 text), bits 4-7 zero
//	3       1           L1, length of the key name, 1..128
//	4       2           L2, length of the namespace, 1..1000
//	6       2           L3, length of the wrapped data key, 0..1024
//	8       8           KEK reference
//	16      16          salt
//	32      32          data-key id
//	64      L1+L2+L3    key name, namespace, wrapped key
//	H       12          nonce                                (H = 64+L1+L2+L3)
//	H+12    n           ciphertext
//	H+12+n  16          tag
//
//	data-key id = HKDF-Expand-SHA256(data key, "temporal-seal/v1/data-key-id", 32)
//	payload key = HKDF-Expand-SHA256(data key, "temporal-seal/v1/suite1/payload-key" || salt, 32)
//	AAD         = bytes [0, H), and for a view also SHA-256(view)
//
// The header is authenticated as a whole. The KEK reference only helps to find the key encryption key; nothing rests
// on it. Namespace and key name are also bound into the wrapped data key by the KMS encryption context.
package envelope
