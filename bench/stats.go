package main

import (
	"math/rand/v2"
	"slices"
)

// median returns the middle of the values, and of an even number of them the mean of the two in the middle. It leaves the
// values in their order. There has to be one at least.
func median(values []float64) float64 {
	return medianOfSorted(slices.Sorted(slices.Values(values)))
}

func medianOfSorted(sorted []float64) float64 {
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// interval is a confidence interval.
type interval struct{ low, high float64 }

const (
	resamples  = 10_000
	confidence = 0.95
)

// bootstrap returns the 95 % confidence interval of the values' median: the percentiles of the medians of 10,000 samples
// that are drawn from the values with replacement. The generator is seeded, so equal values give equal intervals.
func bootstrap(values []float64) interval {
	r := rand.New(rand.NewPCG(7, 8))
	medians := make([]float64, resamples)
	sample := make([]float64, len(values))
	for i := range medians {
		for j := range sample {
			sample[j] = values[r.IntN(len(values))]
		}
		slices.Sort(sample)
		medians[i] = medianOfSorted(sample)
	}
	slices.Sort(medians)
	tail := int(resamples * (1 - confidence) / 2)
	return interval{medians[tail], medians[resamples-1-tail]}
}
