package envelope

import (
	"crypto/hmac"
	"crypto/sha256"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
)

// MACSize is the length of the message authentication code (HMAC-SHA256) in a MAC.
const MACSize = sha256.Size

// A MAC proves that a proxy has seen a message before. It is the header of a self-contained envelope, which names the data
// key, and behind it the MAC of the message. It holds no secret, and is no envelope: the MAC's key is derived for this alone.

// DeriveMACKey derives the key of the MACs in MACs from a data key.
func DeriveMACKey(dataKey []byte, c *Context) ([]byte, error) { return expand(dataKey, "mac", c) }

// AppendMAC appends the MAC of a message.
func AppendMAC(dst []byte, h *Header, macKey, message []byte) []byte {
	return appendMAC(AppendHeader(dst, h), macKey, message)
}

// ParseMAC reads a MAC. The result is Sealed only as far as it chooses a data key: its header.
func ParseMAC(mac []byte) (s Sealed, err error) {
	s = Sealed{Form: FormPayload, Header: new(Header), envelope: mac}
	if err = s.parseHeader(); err != nil {
		return s, err
	}
	if h := s.Header; h.Flags != 0 || len(mac) != h.Size()+MACSize {
		return s, crypto.Errorf(crypto.KindMalformed, "read a MAC", "%d bytes, flags %#02x: it was cut off, or is not a MAC", len(mac), h.Flags)
	}
	return s, nil
}

// VerifyMAC reports whether a MAC that was parsed is that of a message.
func (s *Sealed) VerifyMAC(macKey, message []byte) bool {
	return hmac.Equal(s.envelope[s.Header.Size():], appendMAC(nil, macKey, message))
}

func appendMAC(dst, key, message []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(message)
	return mac.Sum(dst)
}
