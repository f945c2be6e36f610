package sdks

import (
	"slices"
	"strings"

	"github.com/temporal-seal/temporal-seal/e2e/harness"
)

// A scenario is done by each language's program, and this is the user data that it must use.
type scenario struct {
	name  string
	sites []site
}

// A site is a place where a scenario has user data: a canary that the programs make from the site's name.
type site struct {
	name string
	// notShown: the application does not get it back, so that it is in no line of the program.
	notShown bool
	// notKept: the server only passes it on, or overwrites it soon, so that it is not in the database without the proxy either.
	notKept bool
	// only in these languages; the others' SDKs do not have it. Empty: in all.
	only []string
}

func (s site) in(language string) bool {
	return len(s.only) == 0 || slices.Contains(s.only, language)
}

var scenarios = []scenario{
	{"values", []site{{name: "text"}, {name: "nested"}, {name: "bytes"}, {name: "large"}}},
	{"failures", []site{{name: "message"}, {name: "details"}, {name: "cause"}, {name: "workflow"}, {name: "crash"}, {name: "fatal"}}},
	{"retries", []site{{name: "message", notShown: true}, {name: "result"}}},
	{"heartbeats", []site{{name: "details"}}},
	{"cancellation", []site{{name: "heartbeat", notKept: true}, {name: "cleanup"}}},
	{"signals", []site{{name: "first"}, {name: "second"}, {name: "external"}}},
	{"queries", []site{{name: "question", notKept: true}, {name: "answer", notKept: true}, {name: "broken", notKept: true}}},
	{"updates", []site{
		{name: "with start"}, {name: "argument"}, {name: "result"},
		// The server forgets an update that was rejected.
		{name: "rejected argument", notShown: true, notKept: true}, {name: "rejected", notKept: true},
		{name: "failed argument", notShown: true}, {name: "failed"}, {name: "details"},
	}},
	{"children", []site{{name: "input"}, {name: "result"}, {name: "failure"}}},
	{"continue", []site{{name: "carry 2"}, {name: "carry 1"}}},
	{"memo", []site{{name: "start"}, {name: "upsert"}, {name: "summary"}, {name: "details"}}},
	{"headers", []site{{name: "user"}}},
	{"local", []site{{name: "input"}, {name: "result"}, {name: "message"}, {name: "details", notShown: true}, {name: "cause", notShown: true}}},
	{"markers", []site{{name: "side effect", only: []string{"go", "java"}}, {name: "mutable side effect", only: []string{"go", "java"}}}},
	{"schedules", []site{{name: "memo"}, {name: "input"}}},
	{"async", []site{{name: "heartbeat", notKept: true}, {name: "by token"}, {name: "by id"}, {name: "failure"}}},
	{"replay", []site{{name: "input"}, {name: "before"}, {name: "note"}, {name: "after"}}},
}

// secret makes the canary that a program uses at a site. Each program has this function in its own language.
func secret(queue, place string) string {
	const letters = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
	const prime = 16777619
	hash := uint32(2166136261)
	for _, b := range []byte(queue + "/" + place) {
		hash = (hash ^ uint32(b)) * prime
	}
	text := make([]byte, 32)
	for i := range text {
		hash = (hash ^ uint32(i)) * prime
		text[i] = letters[hash>>16%uint32(len(letters))]
	}
	return string(text)
}

// add registers a scenario's canaries for a program, and returns the text of each by its site's name.
func (s scenario) add(c *harness.Canaries, language, queue string, with func(site) bool) map[string]string {
	texts := map[string]string{}
	for _, site := range s.sites {
		if !site.in(language) {
			continue
		}
		text := secret(queue, s.name+"/"+site.name)
		texts[site.name] = text
		if with(site) {
			c.Add(language+" "+s.name+": "+site.name, text)
		}
	}
	return texts
}

// named replaces what differs from run to run by its name.
func named(lines []string, queue string, texts map[string]string) []string {
	pairs := []string{queue, "<queue>"}
	for name, text := range texts {
		pairs = append(pairs, text, "<"+name+">")
	}
	replacer := strings.NewReplacer(pairs...)
	out := make([]string, len(lines))
	for i, line := range lines {
		out[i] = replacer.Replace(line)
	}
	return out
}
