// Package lograte keeps log lines that repeat from filling the log: the same line appears once in a while
// per key, however often what it reports happens. Its memory, and with it the number of lines, is bounded
// whatever the keys are.
package lograte

import (
	"crypto/sha256"
	"strings"
	"sync"
	"time"
)

const (
	// Every is how often a line with the same key is logged.
	Every = time.Minute
	// Keys is how many lines with different keys are logged in that time. Further ones are left out.
	Keys = 1000
	// longKey is from how many bytes on a digest stands for a key: it may have a caller's text in it, as long as a request.
	longKey = 256
)

// Limiter decides for one log line. The zero value is ready, and it is safe for concurrent use.
type Limiter struct {
	mu     sync.Mutex
	logged map[string]line
	swept  time.Time // when old keys were last removed, which takes a look at all of them
	beyond int       // lines left out since there are too many keys
}

// line is what is known of the lines with one key.
type line struct {
	last    time.Time
	leftOut int // since then
}

// Allow reports whether the line should be logged now. The key distinguishes repetitions, such as a
// namespace.
func (l *Limiter) Allow(key string) bool {
	_, ok := l.Next(key)
	return ok
}

// Next is Allow, and returns how many lines were left out since the last one with this key. Lines left out since
// there were too many keys are in the number of the next line with a new key.
func (l *Limiter) Next(key string) (leftOut int, ok bool) {
	if len(key) > longKey {
		digest := sha256.Sum256([]byte(key))
		key = string(digest[:])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	known, seen := l.logged[key]
	if seen && now.Sub(known.last) < Every {
		known.leftOut++
		l.logged[key] = known
		return 0, false
	}
	if len(l.logged) >= Keys && now.Sub(l.swept) >= time.Second {
		l.swept = now
		for k, old := range l.logged {
			if now.Sub(old.last) >= Every {
				delete(l.logged, k)
			}
		}
	}
	if !seen {
		if len(l.logged) >= Keys {
			l.beyond++
			return 0, false
		}
		known.leftOut, l.beyond = l.beyond, 0
	}
	if l.logged == nil {
		l.logged = make(map[string]line)
	}
	l.logged[strings.Clone(key)] = line{last: now} // the key may be a part of a message, which would stay in memory
	return known.leftOut, true
}
