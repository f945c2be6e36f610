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
//	1       1           flags: bits 0-1 form (0 payload, 1 view, 2 text), bit 2 zstd, bit 3 padded, bit 4 reference,
//	                    bit 5 subject (only with bit 4), bits 6-7 zero
//	2       16          key id
//
//	Only in a self-contained envelope, where bit 4 is zero:
//	18      8           KEK reference: which key encryption key wrapped the data key
//	26      1           L1, length of the key name, 1..128
//	27      2           L2, length of the namespace, 1..1000
//	29      2           L3, length of the wrapped data key, 1..1024
//	31      L1+L2+L3    key name, namespace, wrapped data key
//
//	H       12          nonce, random                        (H = 18 by reference, or else 31+L1+L2+L3)
//	H+12    n           ciphertext: AES-256-GCM under the sealing key
//	H+12+n  16          tag
//
//	context     = kind || u8 L1 || key name || u16 L2 || namespace || subject tag
//	              kind: u8, 0 data, 1 subject, 2 wrap, 3 index; the tag has 32 bytes and is there for kind 1 alone
//	key id      = HKDF-Expand-SHA256(data key, "temporal-seal/v1/id"   || 0 || context, 16)
//	sealing key = HKDF-Expand-SHA256(data key, "temporal-seal/v1/seal" || 0 || context, 32)
//	AAD         = bytes [0, H), and for a view also SHA-256(view)
//
// Further labels than id and seal are in mac.go (mac) and in subject.go (wrap and tag for keys that are derived, wrapped for AAD).
//
// The wrapped data key is whatever the key service returned for the 32 random bytes of the data key. A self-contained
// envelope thereby carries all that it takes to open it, apart from the key encryption key; its context is of kind 0 and
// comes from its header. An envelope by reference has no more than the key id: wrapped key and context are looked up.
//
// Each data key is derived from once, not per payload. It seals 2^31 envelopes at most: NIST SP 800-38D allows 2^32 with
// random nonces.
//
// The plaintext is compressed (zstd) only where the caller asks for it, and then padded: 0x80 and zeros up to a
// multiple of 32 bytes, if it is shorter than 256 bytes or a patch, so that true and false have the same length. Readers
// accept any number of zeros.
//
// The header is authenticated as a whole, and the view by its hash. The KEK reference only helps to find the key
// encryption key; nothing rests on it. Namespace and key name are bound by the key id, and also by the key service
// (crypto.KeyContext), so that an envelope that is moved to another namespace does not open there.
//
// # Files
//
//	header.go    the header: its fields, limits and lengths; AppendHeader writes it, ParseHeader reads it
//	derive.go    the key id and the sealing key of a data key; subject.go: the same of subjects, and their wrapping
//	mac.go       MACs under a key of a data key
//	cipher.go    AES-256-GCM, and the nonces of a call
//	writer.go    payload or text to envelope
//	view.go      payload to view and envelope, and the patch that undoes it
//	holes.go     which parts of a JSON document a policy's JSON pointers select
//	mask.go      documents with such parts replaced for ever
//	parse.go     from bytes to a parsed envelope: the marker and the forms; markers.go: where markers are in a message
//	open.go      from a parsed envelope to the original
//	compress.go  zstd, with limits on what is decompressed
package envelope
