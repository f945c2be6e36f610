package config

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto/awskms"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
)

// Foreign is a format of another tool, read in some namespaces.
type Foreign struct {
	Name       string       `yaml:"name"`
	Namespaces []string     `yaml:"namespaces"`
	Format     string       `yaml:"format"`
	Keys       []ForeignKey `yaml:"keys"`
	KMS        string       `yaml:"kms"`
	SealedAs   string       `yaml:"sealed_as"`
}

// ForeignKey is one key of a codec, in a file.
type ForeignKey struct {
	ID       string `yaml:"id"`
	File     string `yaml:"file"`
	Encoding string `yaml:"encoding"`
}

const foreignFormats = "samples, temporal-sa, temporal-proxy, zlib, snappy or gzip"

func (c *Config) checkForeign(d *document) {
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
		if name := f.EntryName(); keyed[name] && (format.Keyed() || format.Wrapped()) {
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

func (f *Foreign) EntryName() string {
	if f.Name != "" {
		return f.Name
	}
	return f.Format
}

func (f *Foreign) checkKeys(d *document, path string) {
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
		if _, err := k.Read(); err != nil {
			d.add(at+".file", "%v", err)
		}
	}
}

// read gives the key. Samples take the bytes of a text as they are, so an editor's newline at the end does not count.
func (k *ForeignKey) Read() ([]byte, error) {
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
