package main

import (
	"fmt"
	"math"
	"slices"
)

// shape says how a cost grows with what it is measured over.
type shape int

const (
	unjudged shape = iota // a figure beside the others, whose growth says nothing
	flat                  // it does not grow, or falls
	linear                // it grows at most as fast
	grows                 // it grows by too little to tell how fast
	steep                 // it grows faster
)

const (
	steepness = 1.25 // power from which on growth is called steep
	flatness  = 1.3  // how many times what was before it a value may be on a flat curve
	noise     = 0.05 // share of the smallest value below which a difference is not told from none
)

func (s shape) String() string { return [...]string{"-", "flat", "linear", "grows", "steep"}[s] }

// curve is a cost over sizes that grow. Both have one element for each size.
type curve struct {
	what   string
	unit   string // of the values: us, ms, MB, or empty for ratios
	sizes  []int
	values []float64
	most   shape   // what it may be at most, flat or linear; unjudged: anything
	hidden float64 // below that a difference does not show
}

// shape judges a curve by what its values are above the smallest one: by the power of the size with which that grows from the last
// size but one to the last. So a part that every size costs does not make a quadratic cost look linear.
func (c curve) shape() (s shape, power float64) {
	last := len(c.values) - 1
	if c.most == unjudged || last == 0 {
		return unjudged, 0
	}
	least, rises := c.values[0], false
	for _, v := range c.values {
		least = min(least, v)
		rises = rises || v-least > max(least*(flatness-1), c.hidden)
	}
	if !rises {
		return flat, 0
	}
	below := max(least*noise, c.hidden)
	before, after := c.values[last-1]-least, c.values[last]-least
	power = math.Log(max(after, below)/max(before, below)) / math.Log(float64(c.sizes[last])/float64(c.sizes[last-1]))
	switch {
	case power > steepness:
		return steep, power
	case before < below && after > below:
		return grows, power
	}
	return linear, power
}

// verdict says the curve's shape, and fails where it is steeper than it may be.
func (c curve) verdict() (string, error) {
	s, power := c.shape()
	if s == unjudged {
		return s.String(), nil
	}
	text := fmt.Sprintf("%s, x%.2f", s, slices.Max(c.values)/slices.Min(c.values))
	if c.values[0] >= slices.Max(c.values) {
		text = fmt.Sprintf("%s, x%.2f", s, c.values[len(c.values)-1]/c.values[0])
	}
	if s > flat && c.most == flat || s == steep {
		return text, fmt.Errorf("%s may be %s at most and is not: it grows by the power of %.2f from %d to %d",
			c.what, c.most, power, c.sizes[len(c.sizes)-2], c.sizes[len(c.sizes)-1])
	}
	return text, nil
}
