package keyring

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestSlotsAreBounded: an upstream that knows ever more namespaces does not make the proxy grow with them. What was used last
// stays, and what is reckoned is what is there.
func TestSlotsAreBounded(t *testing.T) {
	k, _ := ring(t)
	s := &k.core.slots
	var kept *slot
	now := time.Now().UnixNano() // what was not used for a day is put away as well
	for i := range 40_000 {
		name := fmt.Sprint("n", i, strings.Repeat("x", 900*(i%2)))
		s.confirm(name)
		sl := s.add(name, "default", now+int64(i))
		if i == 0 {
			kept = sl
		}
		kept.used.Store(now + int64(i)) // as if payloads were sealed all the time
		if s.size > maxSlots {
			t.Fatalf("slots of %d bytes after %d namespaces; at most %d", s.size, i+1, maxSlots)
		}
	}
	size, n, names := 0, 0, 0
	for v := range s.confirmed.Range {
		size, n = size+v.(slotKey).cost(), n+1
	}
	for v := range s.exist.Range {
		names += nameCost(v.(string))
	}
	if size > maxSlots || size != s.size || n < 4000 {
		t.Errorf("%d slots of %d bytes, reckoned with %d; at most %d", n, size, s.size, maxSlots)
	}
	if names > maxNames || names != s.names {
		t.Errorf("names of %d bytes, reckoned with %d; at most %d", names, s.names, maxNames)
	}
	if s.find(kept.namespace, "default") != kept || s.find("n39998", "default") == nil {
		t.Error("what was used last is gone")
	}
	if s.find("n2", "default") != nil {
		t.Error("what was not used for long stays")
	}
	for _, sl := range s.all() {
		s.remove(sl)
		s.remove(sl)
	}
	if s.size != 0 {
		t.Errorf("%d bytes are reckoned with for no slots", s.size)
	}
}
