package main

import (
	"io"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{
		{[]float64{3}, 3},
		{[]float64{3, 1}, 2},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 100, 2}, 3},
	} {
		before := slices.Clone(c.values)
		if got := median(c.values); got != c.want {
			t.Errorf("median(%v) = %v, want %v", before, got, c.want)
		}
		if !slices.Equal(c.values, before) {
			t.Errorf("median changed the order of %v to %v", before, c.values)
		}
	}
}

func TestBootstrapOfEqualValues(t *testing.T) {
	if got := bootstrap([]float64{1.2, 1.2, 1.2, 1.2}); got != (interval{1.2, 1.2}) {
		t.Errorf("the interval is %v, want one point", got)
	}
}

func TestBootstrapIsSeeded(t *testing.T) {
	r := newRand()
	values := make([]float64, 200)
	for i := range values {
		values[i] = r.Float64()
	}
	if first, second := bootstrap(values), bootstrap(values); first != second {
		t.Errorf("one and the same sample gave %v and %v", first, second)
	}
}

// The interval of 95 % has to hold the true median in about 95 of 100 samples; a bootstrap of 20 values holds it in some
// 90.
func TestBootstrapCoversTheMedian(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	const samples = 100
	covered, wide := 0, 0.0
	for range samples {
		values := make([]float64, 20)
		for i := range values {
			values[i] = 1 + 0.1*r.NormFloat64()
		}
		ci := bootstrap(values)
		if ci.low <= 1 && 1 <= ci.high {
			covered++
		}
		wide += ci.high - ci.low
	}
	if covered < samples*85/100 || covered > samples*99/100 {
		t.Errorf("%d of %d intervals hold the median", covered, samples)
	}
	// The standard error of the median of 20 normal values is 1.25 * 0.1 / sqrt(20) = 0.028; 95 % are 3.9 times as wide.
	if mean := wide / samples; mean < 0.08 || mean > 0.14 {
		t.Errorf("the intervals are %.3f wide, want about 0.11", mean)
	}
}

func TestVerdict(t *testing.T) {
	// Each list has a value for each of eight pairs.
	around := func(center, spread float64) (values []float64) {
		for i := range 8 {
			values = append(values, center+spread*(float64(i)-3.5)/3.5)
		}
		return values
	}
	few := &samples{ratios: []float64{1, 1, 1, 1, 1}}
	few.used[0].objects, few.used[0].bytes = []float64{1}, []float64{1}
	few.used[1].objects, few.used[1].bytes = []float64{1}, []float64{1}
	if got := few.verdict(); got != undecided {
		t.Errorf("five pairs: %s, want %s", got, undecided)
	}
	for _, c := range []struct {
		name           string
		ratios         []float64
		objects, bytes []float64 // of the new build; the old one has about 100 and 10,000
		want           verdict
	}{
		{"the same", around(1, 0.02), around(100, 2), around(10_000, 300), noSlower},
		{"faster, and less is allocated", around(0.7, 0.02), around(80, 2), around(8_000, 300), noSlower},
		{"2 % slower is within the rule", around(1.02, 0.02), around(100, 2), around(10_000, 300), noSlower},
		{"20 % slower", around(1.2, 0.02), around(100, 2), around(10_000, 300), slower},
		{"too noisy", around(1, 0.4), around(100, 2), around(10_000, 300), undecided},
		{"4 % slower, perhaps more", around(1.04, 0.04), around(100, 2), around(10_000, 300), undecided},
		{"noisy allocations", around(1, 0.02), around(100, -20), around(10_000, -3_000), noSlower},
		{"one object more is tolerated", around(1, 0.02), around(101, 2), around(10_000, 300), noSlower},
		{"five objects more", around(1, 0.02), around(105, 2), around(10_000, 300), slower},
		{"a kilobyte more", around(1, 0.02), around(100, 2), around(11_000, 300), slower},
	} {
		s := &samples{ratios: c.ratios}
		s.used[0].objects, s.used[0].bytes = around(100, 2), around(10_000, 300)
		s.used[1].objects, s.used[1].bytes = c.objects, c.bytes
		if got := s.verdict(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		for _, lenient := range []bool{false, true} {
			failed := report(io.Discard, []string{"work"}, map[string]*samples{"work": s}, lenient) != nil
			if want := c.want == slower || c.want == undecided && !lenient; failed != want {
				t.Errorf("%s, lenient %v: failed is %v, want %v", c.name, lenient, failed, want)
			}
		}
	}
}
