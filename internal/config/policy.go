package config

import "time"

// Policy is where the policy comes from.
type Policy struct {
	// Rego file with the platform's policy, `package temporal`.
	File string `yaml:"file" otherwise:"the policy that ships"`
	// Folder with a Rego file for each namespace that has rules of its own: `<namespace>.rego`.
	Namespaces string `yaml:"namespaces" otherwise:"none"`
	// The whole policy as an OPA bundle, instead of files.
	Bundle *Bundle `yaml:"bundle" otherwise:"none"`
	// A policy that is tried out beside the one in force: it is evaluated for the same payloads, and differences are counted,
	// listed and logged. It decides nothing.
	Candidate *Candidate `yaml:"candidate" otherwise:"none"`
}

// Candidate is a policy on trial. What it leaves out is as in the policy in force.
type Candidate struct {
	// Rego file with the platform's policy on trial.
	File string `yaml:"file" otherwise:"policy.file"`
	// Folder with the namespaces' policies on trial: `<namespace>.rego`.
	Namespaces string `yaml:"namespaces" otherwise:"policy.namespaces"`
}

// Bundle is a policy that comes as an OPA bundle over HTTP.
type Bundle struct {
	// URL of the bundle; https, unless the bundle is signed or comes from loopback.
	URL string `yaml:"url" required:"true"`
	// File with a bearer token for the server. It is read for each request.
	TokenFile string `yaml:"token_file" otherwise:"no token"`
	// PEM file with the public key that verifies the bundle's signature, or a file with the secret of an HS
	// algorithm.
	PublicKeyFile string `yaml:"public_key_file" otherwise:"unsigned bundles are taken"`
	// Algorithm of the signature.
	Algorithm string `yaml:"algorithm" default:"RS256"`
	// Scope that the signature has to name.
	Scope string `yaml:"scope" otherwise:"any"`
	// Folder that keeps the last good bundle, for a start while the server does not answer.
	Folder string `yaml:"folder" otherwise:"none is kept"`
	// How often the server is asked for a changed bundle.
	Poll time.Duration `yaml:"poll" default:"1m"`
}

func (p *Policy) validate(d *document) {
	validateReadable(d, "$.policy.file", p.File)
	validateReadable(d, "$.policy.namespaces", p.Namespaces)
	if c := p.Candidate; c != nil {
		validateReadable(d, "$.policy.candidate.file", c.File)
		validateReadable(d, "$.policy.candidate.namespaces", c.Namespaces)
		d.refuse(c.File == "" && (c.Namespaces == "" || p.Bundle != nil), "$.policy.candidate",
			"file is required, or namespaces where the policy in force comes from files")
	}
	b := p.Bundle
	if b == nil {
		return
	}
	d.refuse(p.File != "" || p.Namespaces != "", "$.policy.bundle",
		"a bundle contains the whole policy; remove file and namespaces, or remove the bundle")
	d.refuse(b.URL == "", "$.policy.bundle", "url is required: the address of the bundle")
	validateSecret(d, "$.policy.bundle.token_file", b.TokenFile)
	validateReadable(d, "$.policy.bundle.public_key_file", b.PublicKeyFile)
}
