package config

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/x/filewatch"
	"github.com/temporal-seal/temporal-seal/internal/x/loopback"
)

// IsLoopback reports whether an address can be reached from this machine only.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && loopback.Host(host)
}

// validateAddress reports whether an address is a host and a port, and adds a problem if not.
func validateAddress(d *document, path, address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	switch {
	case err == nil:
	case strings.Contains(address, "${"):
		d.add(path, "%q contains a variable, which the proxy does not replace; write host:port, or render the file first", address)
	case strings.Contains(address, "://"):
		d.add(path, "%q is not an address; write host:port, without ://", address)
	default:
		d.add(path, "%q is not an address; write host:port", address)
	}
	return err == nil
}

// validateReadable adds a problem if a path is given and its file cannot be read, and reports whether it can.
func validateReadable(d *document, path, file string) (readable bool) {
	if file == "" {
		return false
	}
	f, err := os.Open(file)
	if err != nil {
		var failed *fs.PathError
		if errors.As(err, &failed) {
			err = failed.Err
		}
		d.add(path, "%s cannot be read: %v", file, err)
		return false
	}
	_ = f.Close() // opened for reading only
	return true
}

// validateSecret adds a problem if a path is given and its file cannot be read, or can be read by everybody.
func validateSecret(d *document, path, file string) {
	if !validateReadable(d, path, file) {
		return
	}
	if err := filewatch.Private(file); err != nil {
		d.add(path, "%v", err)
	}
}

// validatePair checks a certificate and its key: both or, unless they are required, none.
func validatePair(d *document, path, cert, key string, required bool) {
	d.refuse(required && (cert == "" || key == "") || (cert == "") != (key == ""), path,
		"cert_file and key_file are required")
	validateReadable(d, path+".cert_file", cert)
	validateReadable(d, path+".key_file", key)
}
