package recall_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A template is a document with places for values. Where it is JSON:
//
//   - {word} in a string, or in the name of a member, is a value of that word in `makers`, and labels its place with the word's class
//   - {=class} is nothing, and labels the place
//   - a string that starts with # becomes a number
//   - a name that starts with ? is there in half of the documents, and one with * has an array whose elements are repeated
//   - a name "@class" or "@class suffix" becomes a name of that class in one of the half's languages, and labels its place
//
// A template that starts with "text:" is no JSON: the payload has encoding binary/plain.
type template struct{ name, text string }

// A document is a payload's data with its labels.
type document struct {
	template string
	text     bool
	data     []byte
	labels   []label
}

// A label is what somebody who reads the document finds at a place. Pointers are those of the survey's reports: * is an element of an array, and
// {key} a name that is itself a value.
type label struct{ pointer, class, kind string }

// classes are what the words of templates are. Words that are not here are values that nobody has to protect.
var classes = map[string]string{
	"jwt": "jwt", "key": "service key", "pem": "private key", "urlpass": "password in URL", "email": "email", "phone": "phone", "nanp": "phone",
	"card": "card", "cardgroups": "card", "iban": "iban", "ibangroups": "iban", "natid": "national id", "hl7": "hl7",
}

// makers make the value of a word, and name its kind: the service of a key, the country of a number.
var makers = map[string]func(m *maker) (value, kind string){
	"key": func(m *maker) (string, string) {
		service := m.pick(slices.Sorted(maps.Keys(serviceKeys))...)
		return serviceKeys[service](m), service
	},
	"natid": func(m *maker) (string, string) {
		country := m.pick(slices.Sorted(maps.Keys(nationalIDs))...)
		return nationalIDs[country](m), country
	},
	"jwt": of((*maker).jwt), "pem": of((*maker).privateKey), "urlpass": of((*maker).urlPassword), "email": of((*maker).email), "phone": of((*maker).phone),
	"nanp": of((*maker).northAmerican), "card": of((*maker).card), "cardgroups": of((*maker).writtenCard), "iban": of((*maker).iban), "ibangroups": of((*maker).writtenIBAN),
	"hl7": of((*maker).hl7), "password": of((*maker).password), "given": from(givenNames...), "family": from(surnames...),
	"fullname": of(func(m *maker) string { return m.pick(givenNames...) + " " + m.pick(surnames...) }),
	"address": of(func(m *maker) string {
		return m.pick("Lindenweg", "Rue Haute", "Mill Lane", "Via Lunga") + " " + m.fill("%#")
	}),
	"birth": of(func(m *maker) string {
		return m.birthday().Format(m.pick("2006-01-02", "02.01.2006", "01/02/2006", "2006-01-02T00:00:00Z"))
	}),

	// look-alikes and what is ordinary
	"badcard":   of(func(m *maker) string { return m.wrongDigit(m.card()) }),
	"badiban":   of((*maker).wrongIBAN),
	"publickey": of((*maker).publicKey),
	"plainurl":  of((*maker).plainURL),
	"uuid":      of((*maker).uuid),
	"int":       of(func(m *maker) string { return fmt.Sprint(m.in(1, 9999)) }),
	"small":     of(func(m *maker) string { return fmt.Sprint(m.in(1, 12)) }),
	"money":     of(func(m *maker) string { return fmt.Sprintf("%d.%02d", m.in(1, 4999), m.IntN(100)) }),
	"float":     of(func(m *maker) string { return fmt.Sprintf("%.4f", m.Float64()*180-90) }),
	"md5":       of(func(m *maker) string { return m.text(32, hexes) }),
	"sha1":      of(func(m *maker) string { return m.text(40, hexes) }),
	"sha256":    of(func(m *maker) string { return m.text(64, hexes) }),
	"version": of(func(m *maker) string {
		return fmt.Sprintf("%d.%d.%d%s", m.IntN(20), m.IntN(40), m.IntN(99), m.pick("", "", "-rc.1", "+build.77"))
	}),
	"time":   of(func(m *maker) string { return m.recent().Format(time.RFC3339Nano) }),
	"date":   of(func(m *maker) string { return m.recent().Format(m.pick("2006-01-02", "20060102")) }),
	"unix":   of(func(m *maker) string { return fmt.Sprint(m.recent().Unix()) }),
	"millis": of(func(m *maker) string { return fmt.Sprint(m.recent().UnixMilli()) }),
	"nanos":  of(func(m *maker) string { return fmt.Sprint(m.recent().UnixNano()) }),
	"order":  of(func(m *maker) string { return m.pick("ORD-", "PO", "INV/2025/", "RMA-") + m.fill("%#######") }),
	"tracking": of(func(m *maker) string {
		return m.pick("1Z"+m.text(6, upper+digits)+m.fill("##########"), "JJD"+m.fill("##################"), m.fill("9400 #### #### #### #### ##"))
	}),
	"ean": of(func(m *maker) string {
		s := "40" + m.text(10, digits)
		return s + string(digits[(10-weighted(s, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3)%10)%10])
	}),
	"sku": of(func(m *maker) string { return m.fill("0##-%%%-####") }),
	"ip":  of(func(m *maker) string { return fmt.Sprintf("10.%d.%d.%d", m.IntN(256), m.IntN(256), m.IntN(256)) }),
	"mac": of(func(m *maker) string { return grouped(m.text(12, hexes), ":", 2, 2, 2, 2, 2) }),
	"vin": of(func(m *maker) string { return "WVW" + m.text(14, digits+"ABCDEFGHJKLMNPRSTUVWXYZ") }),
	"package": of(func(m *maker) string {
		return m.pick("react", "@types/node", "lodash", "esbuild", "@scope/ui") + "@" + fmt.Sprintf("%d.%d.%d", m.IntN(20), m.IntN(9), m.IntN(30))
	}),
	"image": of(func(m *maker) string { return "registry.internal/" + m.text(5, lower) + "@sha256:" + m.text(64, hexes) }),
	"gitssh": of(func(m *maker) string {
		return "git@" + m.pick("github.com", "gitlab.com") + ":" + m.text(5, lower) + "/" + m.text(6, lower) + ".git"
	}),
	"class": of(func(m *maker) string {
		return "com." + m.text(6, lower) + "." + m.pick("billing", "claims") + ".RetryPolicy"
	}),
	"badphone": of(func(m *maker) string {
		return m.fill(m.pick("0##-1##-####", "1##-0##-####", "%#########", "%##########"))
	}),
	"word":     from("pending", "shipped", "retry", "amber", "north", "batch", "weekly", "standard", "gold", "metric"),
	"sentence": from("The parcel left the warehouse.", "Retry after the next window.", "Sensor readings look stable.", "Approved by the on-call team.", "Customer asked for a later slot."),
	"cursor":   of(func(m *maker) string { return m.pageToken() }),
	"arn": of(func(m *maker) string {
		return "arn:aws:sqs:eu-west-1:" + m.fill("%###########") + ":" + m.text(6, lower)
	}),
	"account": of(func(m *maker) string { return m.fill("%#########") }),
	"pubkey":  of(func(m *maker) string { return "pk_live_" + m.text(24, alnum) }),
}

func of(make func(m *maker) string) func(m *maker) (string, string) {
	return func(m *maker) (string, string) { return make(m), "" }
}

func from(values ...string) func(m *maker) (string, string) {
	return func(m *maker) (string, string) { return m.pick(values...), "" }
}

var word = regexp.MustCompile(`\{(=?[a-z0-9 -]+)\}`)

// expand puts values into a text, and returns their labels without a pointer.
func (m *maker) expand(text string) (string, []label) {
	var labels []label
	out := word.ReplaceAllStringFunc(text, func(found string) string {
		name := found[1 : len(found)-1]
		if class, ok := strings.CutPrefix(name, "="); ok {
			labels = distinct(labels, label{class: class})
			return ""
		}
		make, ok := makers[name]
		if !ok {
			panic("no word " + name)
		}
		value, kind := make(m)
		if class := classes[name]; class != "" {
			switch {
			case name == "natid" && weak(kind, value):
				class = "weak national id"
			case kind == "age": // it is a private key, not a service's
				class = "private key"
			}
			labels = distinct(labels, label{class: class, kind: kind})
		}
		return value
	})
	return out, labels
}

// distinct adds a label, unless there is one of its class: a text with two addresses is one finding.
func distinct(labels []label, l label) []label {
	if slices.ContainsFunc(labels, func(have label) bool { return have.class == l.class }) {
		return labels
	}
	return append(labels, l)
}

// A filling is a template that is being filled.
type filling struct {
	*maker
	names  map[string][]string // member names of each class
	labels []label
}

// document fills a template.
func (m *maker) document(t template, names map[string][]string) document {
	if text, ok := strings.CutPrefix(t.text, "text:"); ok {
		out, labels := m.expand(strings.TrimPrefix(text, "\n"))
		return document{template: t.name, text: true, data: []byte(out), labels: labels}
	}
	var value any
	if err := json.Unmarshal([]byte(t.text), &value); err != nil {
		panic(fmt.Sprintf("template %s: %v", t.name, err))
	}
	f := &filling{maker: m, names: names}
	data, err := json.Marshal(f.fill("", value))
	if err != nil {
		panic(fmt.Sprintf("template %s: %v", t.name, err))
	}
	return document{template: t.name, data: data, labels: f.labels}
}

func (f *filling) fill(pointer string, value any) any {
	switch value := value.(type) {
	case string:
		text, labels := f.expand(value)
		f.at(pointer, labels)
		if number, ok := strings.CutPrefix(text, "#"); ok {
			return json.Number(number)
		}
		return text
	case []any:
		var out []any
		for _, element := range value {
			out = append(out, f.fill(pointer+"/*", element))
		}
		return out
	case map[string]any:
		return f.object(pointer, value)
	}
	return value
}

func (f *filling) object(pointer string, from map[string]any) map[string]any {
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(from)) {
		value, key := from[name], name
		if rest, ok := strings.CutPrefix(key, "?"); ok {
			if key = rest; f.IntN(2) == 0 {
				continue
			}
		}
		if rest, ok := strings.CutPrefix(key, "*"); ok {
			key = rest
			for range f.IntN(3) {
				value = append(value.([]any)[:len(value.([]any)):len(value.([]any))], value.([]any)[0])
			}
		}
		var class string
		if rest, ok := strings.CutPrefix(key, "@"); ok {
			class, _, _ = strings.Cut(rest, " ")
			for key = f.pick(f.names[class]...); out[key] != nil; {
				key = f.pick(f.names[class]...)
			}
		}
		key, labels := f.expand(key)
		at := pointer + "/" + escape(key)
		if len(labels) > 0 { // the name is data
			at = pointer + "/{key}"
			f.at(at, labels)
		}
		if class != "" {
			f.labels = append(f.labels, label{pointer: at, class: class, kind: key})
		}
		out[key] = f.fill(at, value)
	}
	return out
}

func (f *filling) at(pointer string, labels []label) {
	for _, l := range labels {
		f.labels = append(f.labels, label{pointer: pointer, class: l.class, kind: l.kind})
	}
}

// escape writes a name as a token of a JSON pointer (RFC 6901).
func escape(name string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(name) }

// half makes n documents of templates in turn.
func half(seed uint64, n int, templates []template, names map[string][]string) (out []document) {
	m := newMaker(seed)
	for i := range n {
		out = append(out, m.document(templates[i%len(templates)], names))
	}
	return out
}
