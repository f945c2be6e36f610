package config

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
)

// IsLoopback tells if an address can be reached from this machine only.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

func checkAddress(d *document, path, address string) bool {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = net.LookupPort("tcp", port)
	}
	if err != nil {
		d.add(path, "%q is no address: write host:port", address)
	}
	return err == nil
}

// checkReadable tells of a file that is not there, where the path is given at all.
func checkReadable(d *document, path, file string) {
	if file == "" {
		return
	}
	f, err := os.Open(file)
	if err != nil {
		var failed *fs.PathError
		if errors.As(err, &failed) {
			err = failed.Err
		}
		d.add(path, "%s cannot be read: %v", file, err)
		return
	}
	_ = f.Close() // opened for reading only
}

func checkPair(d *document, path, cert, key string, needed bool) {
	if needed && (cert == "" || key == "") || (cert == "") != (key == "") {
		d.add(path, "wants both: cert_file and key_file")
	}
	checkReadable(d, path+".cert_file", cert)
	checkReadable(d, path+".key_file", key)
}
