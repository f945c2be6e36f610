package main

import (
	"math"
	"testing"
)

func TestShape(t *testing.T) {
	over := func(sizes []int, cost func(n float64) float64) curve {
		c := curve{what: "cost", sizes: sizes, most: linear}
		for _, n := range sizes {
			c.values = append(c.values, cost(float64(n)))
		}
		return c
	}
	decades, callers := []int{1, 10, 100, 1000}, []int{1, 4, 16, 64}
	for name, c := range map[string]struct {
		curve
		want shape
	}{
		"constant":                     {over(decades, func(float64) float64 { return 7 }), flat},
		"less":                         {over(decades, func(n float64) float64 { return 7 / n }), flat},
		"falling":                      {curve{sizes: callers, values: []float64{168, 57, 43, 39}, most: flat}, flat},
		"falling, then far up":         {curve{sizes: callers, values: []float64{168, 57, 39, 200}, most: linear}, steep},
		"a hump":                       {curve{sizes: callers, values: []float64{1, 5, 5, 1.2}, most: linear}, linear},
		"too little to tell":           {curve{sizes: decades, values: []float64{50, 50, 50.4, 90}, most: linear}, grows},
		"noise":                        {over(decades, func(n float64) float64 { return 10 + math.Sin(n) }), flat},
		"linear":                       {over(decades, func(n float64) float64 { return 3 * n }), linear},
		"linear beside a constant":     {over(decades, func(n float64) float64 { return 50 + n/10 }), linear},
		"logarithmic":                  {over(decades, func(n float64) float64 { return 1 + math.Log(n) }), linear},
		"by factors of four":           {over(callers, func(n float64) float64 { return 100 + 30*n }), linear},
		"n log n":                      {over(decades, func(n float64) float64 { return 1 + n*math.Log2(n+1) }), linear},
		"power of 1.5":                 {over(decades, func(n float64) float64 { return 1 + math.Pow(n, 1.5) }), steep},
		"quadratic":                    {over(decades, func(n float64) float64 { return n * n }), steep},
		"quadratic beside a constant":  {over(decades, func(n float64) float64 { return 100 + n*n/10_000 }), steep},
		"quadratic by factors of four": {over(callers, func(n float64) float64 { return 100 + n*n }), steep},
		"below what shows":             {curve{sizes: decades, values: []float64{1, 2, 1, 9}, most: linear, hidden: 10}, flat},
		"two sizes":                    {over([]int{1, 100}, func(n float64) float64 { return n * n }), steep},
	} {
		got, exponent := c.shape()
		if got != c.want {
			t.Errorf("%s: %s with an exponent of %.2f, want %s", name, got, exponent, c.want)
		}
		if _, err := c.verdict(); (err != nil) != (c.want == steep) {
			t.Errorf("%s: the verdict's error is %v", name, err)
		}
	}
	for name, c := range map[string]curve{
		"linear":             over(decades, func(n float64) float64 { return n }),
		"too little to tell": {sizes: decades, values: []float64{50, 50, 50.4, 90}},
		"a hump":             {sizes: callers, values: []float64{1, 5, 5, 1.2}},
	} {
		c.most = flat
		if _, err := c.verdict(); err == nil {
			t.Errorf("%s where it should be flat is no error", name)
		}
	}
}
