package config

import (
	"time"
)

type Policy struct {
	File       string  `yaml:"file"`
	Namespaces string  `yaml:"namespaces"`
	Bundle     *Bundle `yaml:"bundle"`
}

// Bundle takes the place of files: the policy comes as an OPA bundle over HTTP.
type Bundle struct {
	URL           string        `yaml:"url"`
	TokenFile     string        `yaml:"token_file"`
	PublicKeyFile string        `yaml:"public_key_file"`
	Algorithm     string        `yaml:"algorithm"`
	Scope         string        `yaml:"scope"`
	Folder        string        `yaml:"folder"`
	Poll          time.Duration `yaml:"poll"`
}

func (p *Policy) check(d *document) {
	checkReadable(d, "$.policy.file", p.File)
	checkReadable(d, "$.policy.namespaces", p.Namespaces)
	b := p.Bundle
	if b == nil {
		return
	}
	if p.File != "" || p.Namespaces != "" {
		d.add("$.policy.bundle", "a bundle is the whole policy: remove file and namespaces, or the bundle")
	}
	if b.URL == "" {
		d.add("$.policy.bundle", "wants url: where the bundle is")
	}
	checkReadable(d, "$.policy.bundle.token_file", b.TokenFile)
	checkReadable(d, "$.policy.bundle.public_key_file", b.PublicKeyFile)
}
