package config

import (
	"cmp"
	"fmt"
	"os"
	"reflect"
)

// Flags are the command-line flags that stand for the common case. They override what the file says.
type Flags struct {
	File                                 string // path of the config file; "": none
	Listen, Upstream, Policy, Key, Admin string
}

// Load reads the config file, if there is one, and returns what Parse makes of it.
func (f *Flags) Load() (*Config, error) {
	text, err := f.Read()
	if err != nil {
		return nil, err
	}
	return f.Parse(text)
}

// Read returns the text of the config file, and nil without one.
func (f *Flags) Read() ([]byte, error) {
	if f.File == "" {
		return nil, nil
	}
	text, err := os.ReadFile(f.File)
	if err != nil {
		return nil, fmt.Errorf("the config file cannot be read: %w; check --config", err)
	}
	return text, nil
}

// Parse decodes the text of the config file, overrides it by the flags, completes it with defaults and
// validates the whole. Beside an error it returns what could be decoded, if anything.
func (f *Flags) Parse(text []byte) (*Config, error) {
	c := new(Config)
	d := &document{file: "flags"}
	if f.File != "" {
		d = decode(f.File, text, reflect.ValueOf(c).Elem())
		if len(d.problems) > 0 {
			return c, d.err() // what could not be decoded would make valid parts fail too
		}
	}
	if err := f.override(c); err != nil {
		return nil, err
	}
	d.flags = f.byPath()
	c.setDefaults()
	c.validate(d)
	return c, d.err()
}

func (f *Flags) override(c *Config) error {
	if f.Listen != "" {
		l, err := single(&c.Listeners, "--listen", "listeners; change the address")
		if err != nil {
			return err
		}
		l.Address = f.Listen
	}
	if f.Upstream != "" {
		u, err := single(&c.Upstreams, "--upstream", "upstreams; change the address")
		if err != nil {
			return err
		}
		u.Address = f.Upstream
	}
	if f.Key != "" {
		if len(c.Keys) == 0 {
			c.Keys = []Key{{Name: "default"}}
		}
		k, err := single(&c.Keys, "--key", "keys; change the URI")
		if err != nil {
			return err
		}
		k.Active = f.Key
	}
	c.Policy.File = cmp.Or(f.Policy, c.Policy.File)
	c.Admin = cmp.Or(f.Admin, c.Admin)
	return nil
}

// single returns the only element of a list, which gets an empty one if it has none. A flag cannot change one
// of several: the error names what to change in the file.
func single[T any](list *[]T, flag, several string) (*T, error) {
	if len(*list) > 1 {
		return nil, fmt.Errorf("%s: the config file names several %s there", flag, several)
	}
	if len(*list) == 0 {
		*list = make([]T, 1)
	}
	return &(*list)[0], nil
}

// byPath maps the YAML paths of values that flags gave to the flags' names.
func (f *Flags) byPath() map[string]string {
	paths := map[string]string{}
	for _, row := range []struct{ value, flag, path string }{
		{f.Listen, "--listen", "$.listeners[0]"}, {f.Listen, "--listen", "$.listeners[0].address"},
		{f.Upstream, "--upstream", "$.upstreams[0].address"}, {f.Key, "--key", "$.keys[0].active"},
		{f.Policy, "--policy", "$.policy.file"}, {f.Admin, "--admin", "$.admin"},
	} {
		if row.value != "" {
			paths[row.path] = row.flag
		}
	}
	return paths
}
