// Package lograte keeps log lines that repeat from filling the log: the same line appears once in a while
// per key, however often what it reports happens. Its memory, and with it the number of lines, is bounded
// whatever the keys are.
package lograte

import (
	"strings"
	"sync"
	"time"
)

const (
	// Every is how often a line with the same key is logged.
	Every = time.Minute
	// Keys is how many lines with different keys are logged in that time. Further ones are left out.
	Keys = 1000
)

// Limiter decides for one log line. The zero value is ready, and it is safe for concurrent use.
type Limiter struct {
	mu     sync.Mutex
	logged map[string]time.Time
	swept  time.Time // when old keys were last removed, which takes a look at all of them
}

// Allow reports whether the line should be logged now. The key is what tells repetitions apart, such as a
// namespace.
func (l *Limiter) Allow(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if last, ok := l.logged[key]; ok && now.Sub(last) < Every {
		return false
	}
	if len(l.logged) >= Keys && now.Sub(l.swept) >= time.Second {
		l.swept = now
		for k, last := range l.logged {
			if now.Sub(last) >= Every {
				delete(l.logged, k)
			}
		}
	}
	if _, known := l.logged[key]; !known && len(l.logged) >= Keys {
		return false
	}
	if l.logged == nil {
		l.logged = make(map[string]time.Time)
	}
	l.logged[strings.Clone(key)] = now // the key may be a part of a message, which would stay in memory
	return true
}
