// Package envelope is the format of sealed envelopes: it turns a serialized Temporal Payload (or a text) into an envelope
// that only holders of the key can open, and back, byte for byte. Package keyring owns the life of data keys; a key service
// wraps them (package crypto).
//
// It never decides what is sealed, for whom, or with which key name; it knows no gRPC, no Temporal types and no
// telemetry, and no byte of a payload or of a key ever reaches an error or a log line.
//
// # Forms
//
// What the server, the Web UI and other proxies see of an envelope is exactly one of these, each metadata entry once:
//
//	form 0  payload  Payload{metadata{"encoding": "binary/sealed.v1"}, data: envelope}
//	form 1  view     Payload{metadata{"encoding": "json/sealed.v1", "sealed.v1": envelope}, data: view}
//	form 2  text     "sealed.v1:" || base64url without padding(envelope)
//
// The plaintext of form 0 is the whole original Payload as serialized, its metadata included. A view is the original JSON
// document with "[sealed]" in the place of the selected values; the plaintext is a patch that holds those values and
// the rest of the original Payload. The plaintext of form 2 is a UTF-8 text, such as a failure message.
//
// # The marker
//
// A payload is marked if its encoding has the form */sealed.* or a metadata key begins with "sealed."; a text is marked if it
// begins with sealed.v<digits>:. What is not marked was never sealed here, and is passed on or sealed as it is. What is
// marked and is not exactly one of the forms cannot be opened, for good: it was damaged or made up (KindMalformed), or a
// newer release wrote it (KindNewer). A marked payload that opens cannot be forged without the data key. A payload that
// callers marked themselves is sealed once more as a whole, so that opening gives it back.
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
//	8       8           KEK reference: which key encryption key wrapped the data key
//	16      16          salt, random
//	32      32          data-key id
//	64      L1+L2+L3    key name, namespace, wrapped data key
//	H       12          nonce, random                        (H = 64+L1+L2+L3)
//	H+12    n           ciphertext
//	H+12+n  16          tag
//
//	data-key id = HKDF-Expand-SHA256(data key, "temporal-seal/v1/data-key-id", 32)
//	payload key = HKDF-Expand-SHA256(data key, "temporal-seal/v1/suite1/payload-key" || salt, 32)
//	AAD         = bytes [0, H), and for a view also SHA-256(view)
//
// The wrapped data key is whatever the key service returned for the 32 random bytes of the data key; the envelope thereby
// carries all that it takes to open it, apart from the key encryption key.
//
// The plaintext is compressed (zstd) only where the caller asks for it, and then padded: 0x80 and zeros up to a
// multiple of 32 bytes, if it is shorter than 256 bytes or a patch, so that true and false have the same length.
//
// The header is authenticated as a whole, and the view by its hash. The KEK reference only helps to find the key
// encryption key; nothing rests on it. Namespace and key name are also bound into the wrapped data key by the key service
// (crypto.KeyContext), so that an envelope that is moved to another namespace does not open there.
//
// # Files
//
//	header.go    the header's fields, limits and lengths; derivation of the data-key id and the payload key
//	cipher.go    AES-256-GCM under a payload key
//	writer.go    payload or text to envelope
//	view.go      payload to view and envelope, and the patch that undoes it
//	holes.go     which parts of a JSON document a policy's JSON pointers select
//	parse.go     from bytes to a parsed envelope: the marker and the forms
//	open.go      from a parsed envelope to the original
//	compress.go  zstd, with limits on what is decompressed
package envelope
