// Package harness starts what an end-to-end test needs (the built proxy, a Temporal server, an OTLP receiver)
// and searches everything that the server stored, answered or logged for secrets that must not be there.
package harness

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
)

// A canary is a random text that a scenario uses as user data. Nothing else produces it, so wherever its bytes
// turn up, that user data turned up.
const (
	canaryLen = 32
	halfLen   = canaryLen / 2
	alphabet  = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
	windowLen = 8 // bytes that find a candidate pattern; every pattern is longer
)

// Canaries hands out canaries and finds them again.
type Canaries struct {
	mu    sync.Mutex
	sites []string
	index map[uint64][]pattern
	bloom [1 << 16]uint64
}

type pattern struct {
	text   string
	canary int
	form   string
}

// NewCanaries makes an empty registry.
func NewCanaries() *Canaries {
	return &Canaries{index: map[uint64][]pattern{}}
}

// New makes a canary for a site, the name by which a report calls it.
func (c *Canaries) New(site string) string {
	text := randomText(canaryLen)
	c.Add(site, text)
	return text
}

// Add registers a text of the caller's own, such as a token, as a canary. It must be at least eight bytes long and so rare that
// nothing else holds it.
func (c *Canaries) Add(site, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.sites)
	c.sites = append(c.sites, site)
	// Pieces of it are searched for on their own: a database page may end within a canary, but then one piece is
	// whole on one side of the cut.
	for len(text) >= 2*halfLen {
		c.addForms(n, text[:halfLen])
		text = text[halfLen:]
	}
	c.addForms(n, text)
}

// addForms registers the forms in which a text may turn up.
func (c *Canaries) addForms(canary int, text string) {
	c.add(pattern{text, canary, "clear text"})
	c.add(pattern{hex.EncodeToString([]byte(text)), canary, "hex"})
	c.add(pattern{strings.ToUpper(hex.EncodeToString([]byte(text))), canary, "hex"})
	for shift := range 3 {
		c.add(pattern{base64Core(text, shift), canary, "base64"})
	}
}

// base64Core is what stands in every base64 text, standard or URL-safe, of data that holds s at an offset of
// shift modulo 3: the characters at both ends depend on the neighbours and are left out. A canary's letters and
// digits never make the two characters in which those alphabets differ.
func base64Core(s string, shift int) string {
	encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("\x00", shift) + s))
	first := (shift*8 + 5) / 6
	last := (shift + len(s)) * 8 / 6
	return encoded[first:last]
}

func (c *Canaries) add(p pattern) {
	w := binary.LittleEndian.Uint64([]byte(p.text[:windowLen]))
	c.index[w] = append(c.index[w], p)
	h := bloomSlot(w)
	c.bloom[h>>6] |= 1 << (h & 63)
}

func bloomSlot(w uint64) uint64 { return w * 0x9E3779B97F4A7C15 >> 42 }

// Len is the number of canaries handed out.
func (c *Canaries) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sites)
}

// Finding is a canary that was found.
type Finding struct {
	Canary      int
	Site, Where string
	Form        string
}

func (f Finding) String() string {
	return fmt.Sprintf("canary %q found in %s as %s", f.Site, f.Where, f.Form)
}

// search reports each canary that data holds, in any of its forms.
func (c *Canaries) search(data []byte, where string, report func(Finding)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(data) < windowLen {
		return
	}
	w := binary.LittleEndian.Uint64(data)
	for i := 0; ; i++ {
		if h := bloomSlot(w); c.bloom[h>>6]&(1<<(h&63)) != 0 {
			for _, p := range c.index[w] {
				if len(data)-i >= len(p.text) && string(data[i:i+len(p.text)]) == p.text {
					report(Finding{p.canary, c.sites[p.canary], where, p.form})
				}
			}
		}
		if i+windowLen >= len(data) {
			return
		}
		w = w>>8 | uint64(data[i+windowLen])<<56
	}
}

func randomText(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails: crypto/rand aborts the program instead
	for i, b := range raw {
		raw[i] = alphabet[int(b)%len(alphabet)]
	}
	return string(raw)
}
