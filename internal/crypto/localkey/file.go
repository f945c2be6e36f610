package localkey

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	magic   = "temporal-seal-key-file 1"
	warning = "# Everything sealed with this file can be opened with it, and with nothing else. Back it up; never commit it.\n"
	maxSize = 64 << 10
	// forOthers are the permissions of everybody. The group may read: a Secret that Kubernetes mounts belongs to root and to the
	// group of the pod.
	forOthers = 0o007
)

type keyFile struct {
	id   string
	keys []fileKey
}

type fileKey struct {
	name    string
	created time.Time
	secret  []byte
}

// existsError is fs.ErrExist for a key file, with what follows from it.
type existsError string

func (e existsError) Error() string {
	return string(e) + " exists and is left as it is: what was sealed with it opens with nothing else"
}

func (e existsError) Is(target error) bool { return target == fs.ErrExist }

// Create makes a key file with one fresh key, readable by its owner alone. It refuses to overwrite anything: the error
// is fs.ErrExist then.
func Create(path string, now time.Time) error {
	id := make([]byte, 16)
	rand.Read(id)
	f := keyFile{id: hex.EncodeToString(id)}
	f.add(now)
	if err := write(path, f.encode()); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return existsError(path)
		}
		return err
	}
	return nil
}

// Rotate adds a fresh key to a key file: it wraps from now on, the earlier ones still unwrap. Proxies that run with the
// file notice by themselves.
func Rotate(path string, now time.Time) error {
	// One rotation at a time: the second of two would drop the first one's key.
	lock := path + ".lock"
	if err := write(lock, nil); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists: another rotation is under way; if none is, remove that file", lock)
		}
		return err
	}
	defer os.Remove(lock)
	f, _, err := read(path)
	if err != nil {
		return err
	}
	f.add(now)
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := write(next, f.encode()); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncFolder(path)
}

func (f *keyFile) add(now time.Time) {
	secret := make([]byte, dataKeySize)
	rand.Read(secret)
	f.keys = append(f.keys, fileKey{name: "k" + strconv.Itoa(len(f.keys)+1), created: now.UTC(), secret: secret})
}

func (f *keyFile) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%s\nid %s\n", warning, magic, f.id)
	for _, k := range f.keys {
		fmt.Fprintf(&b, "key %s %s %s\n", k.name, k.created.Format(time.RFC3339), base64.StdEncoding.EncodeToString(k.secret))
	}
	return b.Bytes()
}

// write makes a new file and has it on disk before it returns.
func write(path string, content []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(path)) // half a key file is worse than none
	}
	return syncFolder(path)
}

func syncFolder(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func read(path string) (f keyFile, info fs.FileInfo, err error) {
	file, err := os.Open(path)
	if err != nil {
		return f, nil, err
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil {
		return f, nil, err
	}
	switch {
	case !info.Mode().IsRegular() || info.Size() > maxSize:
		return f, nil, fmt.Errorf("%s is not a key file", path)
	case info.Mode().Perm()&forOthers != 0:
		return f, nil, fmt.Errorf("%s can be read or changed by everybody (mode %#o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	content := make([]byte, info.Size())
	defer clear(content)
	if _, err := io.ReadFull(file, content); err != nil {
		return f, nil, err
	}
	if f, err = parse(content); err != nil {
		return f, nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, info, nil
}

// parse reads what encode writes. Its errors name lines, never what stands in them.
func parse(content []byte) (f keyFile, err error) {
	seen := false
	for i, line := range strings.Split(string(content), "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || strings.HasPrefix(words[0], "#"):
		case !seen && strings.Join(words, " ") == magic:
			seen = true
		case !seen:
			return f, fmt.Errorf("line %d: not a key file of version 1", i+1)
		case words[0] == "id" && len(words) == 2 && f.id == "":
			f.id = words[1]
		case words[0] == "key" && len(words) == 4:
			k, ok := parseKey(words)
			if !ok {
				return f, fmt.Errorf("line %d: not a key: name, RFC 3339 time and 32 bytes in base64 expected", i+1)
			}
			f.keys = append(f.keys, k)
		default:
			return f, fmt.Errorf("line %d: neither the id nor a key", i+1)
		}
	}
	if id, err := hex.DecodeString(f.id); err != nil || len(id) != 16 || len(f.keys) == 0 {
		return f, errors.New("the id or every key is missing; restore the file from its backup")
	}
	return f, nil
}

func parseKey(words []string) (fileKey, bool) {
	created, err := time.Parse(time.RFC3339, words[2])
	if err != nil {
		return fileKey{}, false
	}
	secret, err := base64.StdEncoding.DecodeString(words[3])
	if err != nil || len(secret) != dataKeySize {
		return fileKey{}, false
	}
	return fileKey{name: words[1], created: created, secret: secret}, true
}
