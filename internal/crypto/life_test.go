package crypto

import (
	"errors"
	"testing"
	"time"
)

// TestLifeIsMeasuredByBothClocks: a key stops when either clock says so, and a clock that was set back shows nothing.
func TestLifeIsMeasuredByBothClocks(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		life         KeyLife
		seals, opens bool
		expired      bool
	}{
		"fresh":                       {life: KeyLife{Read: now, SealFor: time.Hour, OpenFor: 2 * time.Hour}, seals: true, opens: true},
		"its time to seal is over":    {life: KeyLife{Read: now.Add(-90 * time.Minute), SealFor: time.Hour, OpenFor: 2 * time.Hour}, opens: true},
		"it ended after it was read":  {life: KeyLife{Read: now.Add(-3 * time.Hour), SealFor: time.Hour, OpenFor: 2 * time.Hour}},
		"it had ended":                {life: KeyLife{Read: now, SealFor: -time.Hour, OpenFor: 0}, expired: true},
		"the machine slept":           {life: KeyLife{Read: now.Round(0).Add(-3 * time.Hour), SealFor: time.Hour, OpenFor: 2 * time.Hour}},
		"the clock was set back":      {life: KeyLife{Read: now.Round(0).Add(time.Hour), SealFor: time.Hour, OpenFor: 2 * time.Hour}},
		"the clock was set back 1 s":  {life: KeyLife{Read: now.Round(0).Add(time.Second), SealFor: time.Hour, OpenFor: 2 * time.Hour}, seals: true, opens: true},
		"it was destroyed":            {life: KeyLife{Read: now, SealFor: time.Hour, OpenFor: 2 * time.Hour, Destroyed: true}, expired: true},
		"it seals no more, and opens": {life: KeyLife{Read: now, SealFor: -time.Second, OpenFor: time.Hour}, opens: true},
	} {
		if l := &c.life; l.Seals() != c.seals || l.Opens() != c.opens || l.Expired() != c.expired {
			t.Errorf("%s: seals %v, opens %v, expired %v", name, l.Seals(), l.Opens(), l.Expired())
		}
	}
	var none *KeyLife
	if !none.Seals() || !none.Opens() || none.Expired() || none.Left() != nil {
		t.Error("a key without a life ends")
	}
	left := (&KeyLife{Read: now.Add(-time.Hour), SealFor: 2 * time.Hour, OpenFor: 3 * time.Hour}).Left()
	if left.SealFor > time.Hour || left.SealFor < 59*time.Minute || left.OpenFor > 2*time.Hour || left.OpenFor < 119*time.Minute {
		t.Errorf("left: %+v", left)
	}
}

// noExpiry is a key store whose keys do not expire.
type noExpiry struct{ KeyStore }

// TestGone: a key is gone for good where both clocks say that its life is over, or where it was destroyed.
func TestGone(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		life KeyLife
		gone bool
	}{
		"fresh":                     {KeyLife{OpenFor: time.Hour, End: now.Add(time.Hour)}, false},
		"both clocks say so":        {KeyLife{OpenFor: -time.Hour, End: now.Add(-time.Hour)}, true},
		"the store's clock alone":   {KeyLife{OpenFor: -time.Hour, End: now.Add(time.Hour)}, false},
		"destroyed":                 {KeyLife{OpenFor: -time.Hour, End: now.Add(time.Hour), Destroyed: true}, true},
		"destroyed, and not ended":  {KeyLife{OpenFor: time.Hour, End: now.Add(time.Hour), Destroyed: true}, true},
		"the process's clock alone": {KeyLife{OpenFor: time.Hour, End: now.Add(-time.Hour)}, false},
	} {
		if got := c.life.Gone(); got != c.gone {
			t.Errorf("%s: gone %v, want %v", name, got, c.gone)
		}
	}
}

// TestEarlier: the end that comes first counts, whichever clock said so.
func TestEarlier(t *testing.T) {
	now := time.Now()
	own := &KeyLife{Read: now, SealFor: time.Hour, OpenFor: 5 * time.Hour}
	row := &KeyLife{Read: now, SealFor: 2 * time.Hour, OpenFor: 3 * time.Hour, End: now.Add(3 * time.Hour)}
	if l := own.Earlier(row); l.SealFor > time.Hour || l.SealFor < 50*time.Minute || l.OpenFor > 3*time.Hour || l.OpenFor < 170*time.Minute || !l.End.Equal(row.End) {
		t.Errorf("%+v; want one hour to seal and three to open", l)
	}
	var none *KeyLife
	if own.Earlier(nil) != own || none.Earlier(row) != nil {
		t.Error("a key that does not expire has changed one that does, or the other way around")
	}
}

func TestExpiryOf(t *testing.T) {
	if ExpiryOf(noExpiry{}) != nil || ExpiryOf(nil) != nil {
		t.Error("a store without keys that expire has a part for them")
	}
	if text := ForCaller(Errorf(KindExpired, "open", "the life of its key ended on 2026-11-29")); text != "open: the life of its key ended on 2026-11-29" {
		t.Error(text)
	}
	if text := ForCaller(Internalf(KindExpired, "open", "%w", errors.New("db.example.com"))); text != "open: the life of its key is over: the key is destroyed" {
		t.Error(text)
	}
}
