package main

import (
	"fmt"
	"math"
)

// shape says how a cost grows with what it is measured over.
type shape int

const (
	unjudged  shape  = iota // a figure beside the others, whose growth says nothing
	flat                    // it does not grow
	linear                  // it grows at most as fast
	steep                   // it grows faster
	steepness = 1.25        // exponent from which on growth is called steep
	flatness  = 1.3         // the largest value over the first from which on a curve is not called flat
	noise     = 0.05        // share of the first value below which a difference is not told from none
)

func (s shape) String() string { return [...]string{"-", "flat", "linear", "steep"}[s] }

// curve is a cost over sizes that grow. Both have one element for each size.
type curve struct {
	what   string
	unit   string // of the values: us, ms, MB, or empty for ratios
	sizes  []int
	values []float64
	most   shape   // what it may be at most; unjudged: anything
	hidden float64 // below that a difference does not show
}

// shape judges a curve by what its values are above the first one: the exponent by which that grows from the last but one size to
// the last. A constant that every call costs does not make a quadratic cost look linear so.
func (c curve) shape() (s shape, exponent float64) {
	first, last := c.values[0], len(c.values)-1
	if c.most == unjudged || last == 0 {
		return unjudged, 0
	}
	if c.values[last]-first <= max(first*(flatness-1), c.hidden) {
		return flat, 0
	}
	before := c.values[last-1] - first
	if last == 1 {
		// Of two values no exponent is known but that of the whole.
		exponent = math.Log(c.values[1]/first) / math.Log(float64(c.sizes[1])/float64(c.sizes[0]))
	} else {
		exponent = math.Log((c.values[last]-first)/max(before, first*noise, c.hidden)) /
			math.Log(float64(c.sizes[last])/float64(c.sizes[last-1]))
	}
	if exponent > steepness {
		return steep, exponent
	}
	return linear, exponent
}

// verdict says the curve's shape, and fails where it is steeper than it may be.
func (c curve) verdict() (string, error) {
	s, exponent := c.shape()
	if s == unjudged {
		return s.String(), nil
	}
	text := fmt.Sprintf("%s, x%.2f", s, c.values[len(c.values)-1]/c.values[0])
	if s > c.most {
		return text, fmt.Errorf("%s grows by the power of %.2f from %d to %d, and may be %s at most",
			c.what, exponent, c.sizes[len(c.sizes)-2], c.sizes[len(c.sizes)-1], c.most)
	}
	return text, nil
}
