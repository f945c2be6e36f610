package config

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto/awskms"
	"github.com/temporal-seal/temporal-seal/internal/crypto/keyservice"
	"github.com/temporal-seal/temporal-seal/internal/foreign"
	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
)

// Foreign is a format of another tool that is opened in some namespaces.
type Foreign struct {
	// Name of the entry: policies read its payloads as sealed with the key `foreign:<name>`.
	Name string `yaml:"name" otherwise:"the format"`
	// Namespaces in which payloads of the format are opened, `*` for any run of characters.
	Namespaces []string `yaml:"namespaces" required:"true"`
	// Format: the SDKs' encryption samples, Temporal Cloud Proxy, Temporal's own proxy, or a compression.
	Format string `yaml:"format" required:"true" enum:"samples,temporal-sa,temporal-proxy,zlib,snappy,gzip"`
	// Keys of the format `samples`.
	Keys []ForeignKey `yaml:"keys"`
	// Key that wrapped the data keys of the formats `temporal-sa` (`awskms://...`) and `temporal-proxy` (`awskms://...`,
	// `gcpkms://...`, `azurekeyvault://...` or `plugin://...`).
	KMS string `yaml:"kms"`
	// Namespace to which the format `temporal-sa` bound its payloads.
	SealedAs string `yaml:"sealed_as" otherwise:"the namespace of the call"`
}

// ForeignKey is one key of a codec, in a file.
type ForeignKey struct {
	// Id of the key as payloads name it, in `encryption-key-id`.
	ID string `yaml:"id" otherwise:"for payloads whose id is empty"`
	// File with the key: 16, 24 or 32 bytes.
	File string `yaml:"file" required:"true"`
	// How the file encodes the key.
	Encoding string `yaml:"encoding" otherwise:"the bytes of the file" enum:"base64,hex"`
}

const foreignFormats = "samples, temporal-sa, temporal-proxy, zlib, snappy or gzip"

func validateForeign(d *document, list []Foreign) {
	keyed := map[string]bool{} // which names are taken by an entry with keys
	for i := range list {
		path := fmt.Sprintf("$.foreign[%d]", i)
		f := &list[i]
		format := foreign.Format(f.Format)
		if !format.Known() {
			d.add(path+".format", "must be one of %s, not %q", foreignFormats, f.Format)
			continue
		}
		d.refuse(len(f.Namespaces) == 0, path,
			"namespaces is required: those in which payloads of this format are opened")
		if name := f.EntryName(); keyed[name] && (format.Keyed() || format.Wrapped()) {
			d.add(path+".name", "%q is the name of another entry too; policies distinguish entries by name", name)
		} else {
			keyed[name] = true
		}
		d.refuse((len(f.Keys) > 0) != format.Keyed(), path+".keys",
			"the format samples requires keys: [{id: <as in the payloads>, file: <path>}]; no other format has keys")
		if (f.KMS != "") != format.Wrapped() {
			d.add(path+".kms",
				"the formats temporal-sa and temporal-proxy require it, and no other format has it: the KMS key that wrapped their data keys, "+
					"awskms://...")
		} else if format == foreign.TemporalSA && !strings.HasPrefix(f.KMS, awskms.Scheme+"://") {
			d.add(path+".kms", "is not a KMS key; write awskms://<key id, ARN or alias>?region=<region>")
		} else if format.Wrapped() {
			if err := keyservice.CheckForeign(f.KMS); err != nil {
				d.add(path+".kms", "%s", err)
			}
		}
		d.refuse(f.SealedAs != "" && format != foreign.TemporalSA, path+".sealed_as",
			"applies to the format temporal-sa alone; the other formats bind payloads to no namespace")
		f.validateKeys(d, path)
	}
}

// EntryName is the name, or else the format.
func (f *Foreign) EntryName() string {
	if f.Name != "" {
		return f.Name
	}
	return f.Format
}

func (f *Foreign) validateKeys(d *document, path string) {
	ids := map[string]bool{}
	for i, k := range f.Keys {
		at := fmt.Sprintf("%s.keys[%d]", path, i)
		d.refuse(ids[k.ID], at+".id", "%q is the id of another key too; give each key its own", k.ID)
		ids[k.ID] = true
		if k.File == "" {
			d.add(at, "file is required: the path of the file that contains the key")
			continue
		}
		if _, err := k.Read(); err != nil {
			d.add(at+".file", "%v", err)
		}
	}
}

// Read returns the key. Samples take the bytes of a text as they are, so an editor's newline at the end does
// not count.
func (k *ForeignKey) Read() ([]byte, error) {
	if err := filewatch.Private(k.File); err != nil {
		return nil, err
	}
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
			key = bytes.Clone(raw)
		}
	case "base64":
		key, err = base64.StdEncoding.DecodeString(text)
	case "hex":
		key, err = hex.DecodeString(text)
	default:
		return nil, fmt.Errorf(
			"encoding is base64 or hex, or left out for a file that holds the key's own bytes; not %q", k.Encoding)
	}
	if err != nil {
		return nil, fmt.Errorf("%s does not hold %s", k.File, k.Encoding) // the decoder's error would quote the key
	}
	if n := len(key); n != 16 && n != 24 && n != 32 {
		return nil, fmt.Errorf(
			"%s holds %d bytes; an AES key has 16, 24 or 32 (say encoding: base64 or hex where the file holds a "+
				"text)", k.File, n)
	}
	return key, nil
}
