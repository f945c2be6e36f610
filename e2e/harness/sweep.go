package harness

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Sweep collects what canaries were found in, over any number of places.
type Sweep struct {
	canaries *Canaries

	mu    sync.Mutex
	found map[int][]Finding
	bytes int64
}

// NewSweep makes a sweep for the canaries of a registry, those it will hand out later too.
func NewSweep(c *Canaries) *Sweep {
	return &Sweep{canaries: c, found: map[int][]Finding{}}
}

// Bytes searches data, and whatever in it looks like a compressed stream.
func (s *Sweep) Bytes(where string, data []byte) {
	s.canaries.search(data, where, s.report)
	s.mu.Lock()
	s.bytes += int64(len(data))
	s.mu.Unlock()
	for _, plain := range decompress(data) {
		s.canaries.search(plain, where+", compressed", s.report)
	}
}

func (s *Sweep) report(f Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.found[f.Canary], f) {
		s.found[f.Canary] = append(s.found[f.Canary], f)
	}
}

// Files searches every file below dir as bytes: all pages of a database, free ones too, its write-ahead log and
// shared memory. A file that goes away meanwhile, as a database's journal does, is left out.
func (s *Sweep) Files(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if path != dir && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("sweep: %w", err)
		}
		s.Bytes("file "+d.Name(), data)
		return nil
	})
}

// Found lists the findings, and the sites of canaries that were found nowhere.
func (s *Sweep) Found() (found []Finding, absent []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := range s.canaries.Len() {
		if f := s.found[n]; len(f) > 0 {
			found = append(found, f...)
		} else {
			absent = append(absent, s.canaries.sites[n])
		}
	}
	return found, absent
}

// Count is the number of canaries found, and of bytes searched.
func (s *Sweep) Count() (canaries int, searched int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.found), s.bytes
}

// Report describes findings for a person: one line a canary, with all the places it was found in.
func (s *Sweep) Report() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for _, findings := range s.found {
		var places []string
		for _, f := range findings {
			places = append(places, f.Where+" ("+f.Form+")")
		}
		slices.Sort(places)
		lines = append(lines, findings[0].Site+": "+strings.Join(slices.Compact(places), "; "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

const decompressLimit = 8 << 20

// decompress unpacks what begins like a zstd, gzip or zlib stream anywhere in data. Streams that turn out to be
// none end at once; what was unpacked until then counts.
func decompress(data []byte) [][]byte {
	var out [][]byte
	keep := func(r io.Reader) {
		plain, _ := io.ReadAll(io.LimitReader(r, decompressLimit)) // an error ends the stream: what came before it is searched
		if len(plain) >= windowLen {
			out = append(out, plain)
		}
	}
	each(data, []byte{0x28, 0xB5, 0x2F, 0xFD}, func(rest []byte) {
		if r, err := zstd.NewReader(bytes.NewReader(rest), zstd.WithDecoderConcurrency(1)); err == nil {
			keep(r)
			r.Close()
		}
	})
	each(data, []byte{0x1F, 0x8B, 0x08}, func(rest []byte) {
		if r, err := gzip.NewReader(bytes.NewReader(rest)); err == nil {
			keep(r)
		}
	})
	for _, level := range []byte{0x01, 0x5E, 0x9C, 0xDA} {
		each(data, []byte{0x78, level}, func(rest []byte) {
			if r, err := zlib.NewReader(bytes.NewReader(rest)); err == nil {
				keep(r)
			}
		})
	}
	return out
}

func each(data, start []byte, do func(rest []byte)) {
	for {
		i := bytes.Index(data, start)
		if i < 0 {
			return
		}
		do(data[i:])
		data = data[i+1:]
	}
}
