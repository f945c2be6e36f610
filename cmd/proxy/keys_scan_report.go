package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/temporal-seal/temporal-seal/internal/crypto"
	"github.com/temporal-seal/temporal-seal/internal/scan"
)

// scanned is the result of a scan, as --output json shows it.
type scanned struct {
	Namespaces map[string]*scan.Namespace `json:"namespaces"`
	// What the references mean.
	Keys  map[string]string `json:"keys"`
	Asked *askedKey         `json:"asked,omitempty"`
	// How many places could not be read.
	unread int
}

// askedKey is the answer for the key of --key.
type askedKey struct {
	// As the user wrote it.
	Key string `json:"key"`
	// Its reference in envelopes.
	KEK       string `json:"kek"`
	Envelopes int    `json:"envelopes"`
	// Keys in the key store that this key has wrapped and no other key of the config. They open by this key alone.
	Stored int `json:"stored_keys"`
	// Unknown are the references of other keys that envelopes name and the config does not: an alias may have named one of them
	// before, so it is unclear which key the question is about.
	Unknown []string `json:"unknown_keys,omitempty"`
	// MayRetire means that everything was read, that nothing at the server or in the key store needs the key, and that all keys at the server
	// are known.
	MayRetire bool `json:"may_be_retired"`
	// Where one of the envelopes is.
	example string
}

// result joins a report with the names of the keys and the answer for the asked one.
func (o *scanOptions) result(r *scan.Report, names map[string]string, asked *crypto.KEKRef, stored storedKeys) *scanned {
	d := &scanned{Namespaces: r.Namespaces, Keys: names, unread: r.Unread()}
	if stored.err != nil {
		d.unread++
	}
	if asked != nil {
		n, example := r.Under(*asked)
		unknown := unknownKeys(r, names, asked.String())
		d.Asked = &askedKey{Key: o.asked, KEK: asked.String(), Envelopes: n, Stored: stored.alone, Unknown: unknown,
			MayRetire: n == 0 && stored.alone == 0 && d.unread == 0 && len(unknown) == 0, example: example}
	}
	return d
}

// unknownKeys lists the references that envelopes name and names does not have, but for the one asked about.
func unknownKeys(r *scan.Report, names map[string]string, asked string) (unknown []string) {
	for _, n := range r.Namespaces {
		for _, e := range n.Sealed {
			if names[e.KEK] == "" && e.KEK != asked {
				unknown = append(unknown, e.KEK)
			}
		}
	}
	slices.Sort(unknown)
	return slices.Compact(unknown)
}

// verdict returns the exit code of the scan. That of a key in use comes first: nothing that was not read
// could change it.
func (d *scanned) verdict() error {
	switch {
	case d.Asked != nil && (d.Asked.Envelopes > 0 || d.Asked.Stored > 0):
		return keyInUse
	case d.unread > 0, d.Asked != nil && len(d.Asked.Unknown) > 0:
		return notAllWasRead
	}
	return nil
}

// walkedText lists how many things of each kind have been walked, such as "3 schedules, 12 workflows".
func walkedText(n *scan.Namespace) string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(n.Walked)) {
		parts = append(parts, fmt.Sprintf("%d %s", n.Walked[what], what))
	}
	return cmp.Or(strings.Join(parts, ", "), "nothing yet")
}

// print writes the report as text: for each namespace what it holds, and at the end the answer for the key of
// --key.
func (o *scanOptions) print(stdout io.Writer, d *scanned) error {
	s := newStyle(stdout)
	for _, name := range slices.Sorted(maps.Keys(d.Namespaces)) {
		n := d.Namespaces[name]
		s.line("%s  %s", s.bold("namespace "+name), walkedText(n))
		if err := o.printSealed(stdout, d.Keys, n); err != nil {
			return err
		}
		for _, encoding := range slices.Sorted(maps.Keys(n.Foreign)) {
			s.line("  sealed by something else (%s): %d", encoding, n.Foreign[encoding])
		}
		for _, kind := range slices.Sorted(maps.Keys(n.Clear)) {
			s.line("  clear %s: %d", kind, n.Clear[kind])
		}
		if n.Erased > 0 {
			s.line("  of erased subjects, which open nowhere any more: %d", n.Erased)
		}
		if n.Expired > 0 {
			s.line("  of expired keys, which open nowhere any more: %d", n.Expired)
		}
		for _, reason := range n.Reasons {
			s.line("  %s: %s", s.red("unread"), reason)
		}
		if more := n.Unread - len(n.Reasons); more > 0 {
			s.line("  and %d more that could not be read", more)
		}
	}
	if d.Asked == nil {
		return s.err
	}
	// What was found decides even if something else could not be read.
	if d.Asked.Stored > 0 {
		s.line("%s: %s in the key store, wrapped by no other key of the config: %s. `temporal-seal keystore rewrap` wraps them by the active keys",
			o.asked, count(d.Asked.Stored, "key"), s.red("IN USE"))
	}
	switch {
	case d.Asked.Envelopes > 0:
		s.line("%s: %d envelopes, such as in %s: %s", o.asked, d.Asked.Envelopes, d.Asked.example, s.red("IN USE"))
	case d.Asked.Stored > 0:
	case d.unread > 0:
		s.line("%s: not found, and %d places could not be read: %s", o.asked, d.unread, s.yellow("NOT KNOWN"))
	case len(d.Asked.Unknown) > 0:
		s.line("%s (reference %s): no envelope, but others name keys that the config does not have (references %s): %s. "+
			"If an alias has moved, one of them may be the key that you mean: ask for its ARN, or with its reference, and see "+
			"`temporal-seal keys reference`", o.asked, d.Asked.KEK, strings.Join(d.Asked.Unknown, ", "), s.yellow("NOT KNOWN"))
	default:
		s.line("%s: no envelope in %s: %s",
			o.asked, count(len(d.Namespaces), "namespace"), s.green("it may be retired"))
	}
	return s.err
}

// printSealed writes the table of a namespace: a row for each key, with its data keys below if they are
// asked for.
func (o *scanOptions) printSealed(stdout io.Writer, names map[string]string, n *scan.Namespace) error {
	if len(n.Sealed) == 0 {
		return nil
	}
	t := newTable(stdout)
	fmt.Fprintln(t, "  KEY\tSEALED FOR\tKEK\tENVELOPES\tDATA KEYS\tKEY ENCRYPTION KEY")
	// Rows of one key name follow each other, so that the earlier key encryption keys stand beside the active
	// one.
	sorted := slices.Clone(n.Sealed)
	slices.SortFunc(sorted, func(a, b *scan.Envelopes) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.SealedFor, b.SealedFor), cmp.Compare(a.KEK, b.KEK))
	})
	for _, e := range sorted {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%d\t%d\t%s\n",
			e.Key, e.SealedFor, e.KEK, e.Count, len(e.DataKeys), cmp.Or(names[e.KEK], "not in the config"))
		if o.expires != nil && o.expires(e.SealedFor, e.Key) && e.SelfContained > 0 {
			fmt.Fprintf(t, "    of these, %d carry their data key, so they do not expire\t\t\t\t\t\n", e.SelfContained)
		}
		if o.dataKeys {
			for _, id := range slices.Sorted(maps.Keys(e.DataKeys)) {
				fmt.Fprintf(t, "    data key %s\t\t\t%d\t\t\n", id, e.DataKeys[id])
			}
		}
	}
	return t.Flush()
}
