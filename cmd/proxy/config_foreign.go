package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/temporal-seal/temporal-seal/internal/crypto/awskms"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
)

// foreignConfig is a format of another tool, read in some namespaces.
type foreignConfig struct {
	Name       string             `yaml:"name"`
	Namespaces []string           `yaml:"namespaces"`
	Format     string             `yaml:"format"`
	Keys       []foreignKeyConfig `yaml:"keys"`
	KMS        string             `yaml:"kms"`
	SealedAs   string             `yaml:"sealed_as"`
}

// foreignKeyConfig is one key of a codec, in a file.
type foreignKeyConfig struct {
	ID       string `yaml:"id"`
	File     string `yaml:"file"`
	Encoding string `yaml:"encoding"`
}

const foreignFormats = "samples, temporal-sa, temporal-proxy, zlib, snappy or gzip"

func (c *config) checkForeign(d *document) {
	keyed := map[string]bool{} // which names are taken by an entry with keys
	for i := range c.Foreign {
		path := fmt.Sprintf("$.foreign[%d]", i)
		f := &c.Foreign[i]
		format := foreign.Format(f.Format)
		if !format.Known() {
			d.add(path+".format", "wants one of %s, not %q", foreignFormats, f.Format)
			continue
		}
		if len(f.Namespaces) == 0 {
			d.add(path, "wants namespaces: those in which payloads of this format are opened")
		}
		if name := f.name(); keyed[name] && (format.Keyed() || format.Wrapped()) {
			d.add(path+".name", "another entry is called %q too: policies tell them apart by name", name)
		} else {
			keyed[name] = true
		}
		if (len(f.Keys) > 0) != format.Keyed() {
			d.add(path+".keys", "belong to the format samples: keys: [{id: <as in the payloads>, file: <path>}]")
		}
		if (f.KMS != "") != format.Wrapped() {
			d.add(path+".kms", "belongs to the formats temporal-sa and temporal-proxy: the KMS key that wrapped their data keys, awskms://...")
		} else if format.Wrapped() && !strings.HasPrefix(f.KMS, awskms.Scheme+"://") {
			d.add(path+".kms", "is no KMS key: awskms://<key id, ARN or alias>?region=<region>")
		}
		if f.SealedAs != "" && format != foreign.TemporalSA {
			d.add(path+".sealed_as", "belongs to the format temporal-sa, which binds a namespace; the others bind none")
		}
		f.checkKeys(d, path)
	}
}

func (f *foreignConfig) name() string {
	if f.Name != "" {
		return f.Name
	}
	return f.Format
}

func (f *foreignConfig) checkKeys(d *document, path string) {
	ids := map[string]bool{}
	for i, k := range f.Keys {
		at := fmt.Sprintf("%s.keys[%d]", path, i)
		if ids[k.ID] {
			d.add(at+".id", "%q is the id of another key too", k.ID)
		}
		ids[k.ID] = true
		if k.File == "" {
			d.add(at, "wants file: the path of the file that holds the key")
			continue
		}
		if _, err := k.read(); err != nil {
			d.add(at+".file", "%v", err)
		}
	}
}

// read gives the key. Samples take the bytes of a text as they are, so an editor's newline at the end does not count.
func (k *foreignKeyConfig) read() ([]byte, error) {
	raw, err := os.ReadFile(k.File)
	if err != nil {
		return nil, err
	}
	defer clear(raw)
	text := strings.TrimRight(string(raw), "\r\n")
	var key []byte
	switch k.Encoding {
	case "":
		if key = []byte(text); len(raw) == 16 || len(raw) == 24 || len(raw) == 32 {
			key = append([]byte(nil), raw...)
		}
	case "base64":
		key, err = base64.StdEncoding.DecodeString(text)
	case "hex":
		key, err = hex.DecodeString(text)
	default:
		return nil, fmt.Errorf("encoding is base64 or hex, or left out for a file that holds the key's own bytes; not %q", k.Encoding)
	}
	if err != nil {
		return nil, fmt.Errorf("%s does not hold %s", k.File, k.Encoding) // the decoder's error would quote the key
	}
	if n := len(key); n != 16 && n != 24 && n != 32 {
		return nil, fmt.Errorf("%s holds %d bytes; an AES key has 16, 24 or 32 (say encoding: base64 or hex where the file holds a text)", k.File, n)
	}
	return key, nil
}

// foreignReader reads the keys, and asks the KMS keys for an answer. It is nil if nothing foreign is configured.
func (c *config) foreignReader(ctx context.Context, timeout time.Duration) (*foreign.Reader, error) {
	if len(c.Foreign) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var errs []error
	sources := make([]foreign.Source, 0, len(c.Foreign))
	for i := range c.Foreign {
		s, err := c.Foreign[i].source(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("foreign[%d]: %w", i, err))
		}
		sources = append(sources, s)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return foreign.New(sources)
}

func (f *foreignConfig) source(ctx context.Context) (foreign.Source, error) {
	s := foreign.Source{Name: f.name(), Namespaces: f.Namespaces, Format: foreign.Format(f.Format), SealedAs: f.SealedAs}
	if f.KMS != "" {
		key, err := awskms.OpenKey(ctx, f.KMS)
		if err != nil {
			return s, fmt.Errorf("kms: %w", err)
		}
		s.Unwrap = key.Decrypt
	}
	for i := range f.Keys {
		key, err := f.Keys[i].read()
		if err != nil {
			return s, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if s.Keys == nil {
			s.Keys = make(map[string][]byte)
		}
		s.Keys[f.Keys[i].ID] = key
	}
	return s, nil
}
