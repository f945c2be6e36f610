package config

import (
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
		l, err := single(&c.Listeners, Listener{},
			"--listen: the config file names several listeners; change the address there")
		if err != nil {
			return err
		}
		l.Address = f.Listen
	}
	if f.Upstream != "" {
		u, err := single(&c.Upstreams, Upstream{},
			"--upstream: the config file names several upstreams; change the address there")
		if err != nil {
			return err
		}
		u.Address = f.Upstream
	}
	if f.Key != "" {
		k, err := single(&c.Keys, Key{Name: "default"},
			"--key: the config file names several keys; change the URI there")
		if err != nil {
			return err
		}
		k.Active = f.Key
	}
	if f.Policy != "" {
		c.Policy.File = f.Policy
	}
	if f.Admin != "" {
		c.Admin = f.Admin
	}
	return nil
}

// single returns the only element of a list, which becomes first if the list is empty.
func single[T any](list *[]T, first T, several string) (*T, error) {
	if len(*list) > 1 {
		return nil, fmt.Errorf("%s", several)
	}
	if len(*list) == 0 {
		*list = []T{first}
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
