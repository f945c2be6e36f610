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
	// OneDomain has every namespace open what another one sealed, if there is no file and callers and server are on
	// loopback.
	OneDomain bool
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
	c, d, err := f.parse(text)
	if err != nil {
		return nil, err
	}
	return c, d.err()
}

// parse is Parse with the problems by their places.
func (f *Flags) parse(text []byte) (*Config, *document, error) {
	c := new(Config)
	d := &document{file: "flags"}
	if f.File != "" {
		d = decode(f.File, text, reflect.ValueOf(c).Elem())
		if len(d.problems) > 0 {
			return c, d, nil // what could not be decoded would make valid parts fail too
		}
	}
	if err := f.override(c, d); err != nil {
		return c, d, err
	}
	c.setDefaults()
	if f.OneDomain && f.File == "" && c.Local() {
		c.Grants = []Grant{{From: "*", To: "*"}}
	}
	c.validate(d)
	d.decoded = true
	return c, d, nil
}

// override sets what flags give, and notes their names for the paths of these values.
func (f *Flags) override(c *Config, d *document) error {
	d.flags = map[string]string{}
	for _, o := range []struct {
		flag, value, path string
		several           string // what the error calls a list of several elements, and what to change there
		target            func() *string
	}{
		{"--listen", f.Listen, "$.listeners[0].address", "listeners; change the address",
			only(&c.Listeners, Listener{}, func(l *Listener) *string { return &l.Address })},
		{"--upstream", f.Upstream, "$.upstreams[0].address", "upstreams; change the address",
			only(&c.Upstreams, Upstream{}, func(u *Upstream) *string { return &u.Address })},
		{"--key", f.Key, "$.keys[0].active", "keys; change the URI",
			only(&c.Keys, Key{Name: "default"}, func(k *Key) *string { return &k.Active })},
		{"--policy", f.Policy, "$.policy.file", "", func() *string { return &c.Policy.File }},
		{"--admin", f.Admin, "$.admin", "", func() *string { return &c.Admin }},
	} {
		if o.value == "" {
			continue
		}
		target := o.target()
		if target == nil {
			return fmt.Errorf("%s: the config file names several %s there", o.flag, o.several)
		}
		*target, d.flags[o.path] = o.value, o.flag
	}
	if f.Listen != "" {
		d.flags["$.listeners[0]"] = "--listen" // problems with the whole listener come from its address
	}
	return nil
}

// only returns a function that finds a field of the only element of a list; missing becomes the element
// of an empty list. A flag cannot change one of several elements: the function returns nil for them.
func only[T any](list *[]T, missing T, field func(*T) *string) func() *string {
	return func() *string {
		if len(*list) == 0 {
			*list = []T{missing}
		}
		if len(*list) > 1 {
			return nil
		}
		return field(&(*list)[0])
	}
}
