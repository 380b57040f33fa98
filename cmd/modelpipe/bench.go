package main

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/quantize"
)

func init() { register(newBench) }

// codecSpeed is how fast one thread encodes and decodes a type, in 10^6 bytes
// of float32 per second. A figure is 0 where ggml has no such way.
type codecSpeed struct {
	Type       string `json:"type"`
	Encode     speed  `json:"encode"`
	Importance speed  `json:"importance"`
	Decode     speed  `json:"decode"`
}

// speed compares the codec that this processor runs with the plain one that
// defines it.
type speed struct {
	Plain float64 `json:"plain"`
	Fast  float64 `json:"fast"`
}

func (s speed) String() string {
	if s.Fast == 0 {
		return "-\t-\t-"
	}
	return fmt.Sprintf("%.4g\t%.4g\t%.1fx", s.Plain, s.Fast, s.Fast/s.Plain)
}

const (
	benchCols = 4096
	benchRows = 16
)

func newBench(a *app) *cobra.Command {
	var seconds float64
	c := &cobra.Command{
		Use:   "bench [TYPE...]",
		Short: "Measure the codecs of this machine",
		Long: `Measures how fast one thread encodes (with and without importance) and decodes
each type, in MB of float32 per second, for the plain codec that defines the
type and for the one that conversions use on this processor. Each figure is the
best of many short runs over the same 256 KiB of normally distributed weights.

'make bench' in the source tree puts ggml's figures beside them.`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if !(seconds > 0) {
				return usagef("--seconds %g: want more than 0", seconds)
			}
			types, err := benchTypes(names)
			if err != nil {
				return err
			}
			var out []codecSpeed
			for _, t := range types {
				if err := cmd.Context().Err(); err != nil {
					return err
				}
				out = append(out, measure(t, time.Duration(seconds*float64(time.Second))))
			}
			if a.json {
				return a.printJSON(out)
			}
			w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
			fmt.Fprintln(w, "\tencode\t\t\twith importance\t\t\tdecode\t\t\t")
			fmt.Fprintln(w, "type\tplain\tused\tratio\tplain\tused\tratio\tplain\tused\tratio\t")
			for _, s := range out {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t\n", s.Type, s.Encode, s.Importance, s.Decode)
			}
			return w.Flush()
		},
	}
	c.Flags().Float64Var(&seconds, "seconds", 0.3, "run each codec for this `time`")
	return c
}

// benchTypes returns the named types, or all that have a codec.
func benchTypes(names []string) ([]gguf.Type, error) {
	var types []gguf.Type
	for _, name := range names {
		t, err := gguf.ParseType(name)
		if err != nil {
			return nil, withExit(exitUsage, err)
		}
		if _, ok := quantize.Definition(t); !ok {
			return nil, usagef("type %s has no codec", t)
		}
		types = append(types, t)
	}
	if len(names) > 0 {
		return types, nil
	}
	for t := gguf.F32; t < 64; t++ {
		if _, ok := quantize.Definition(t); ok {
			types = append(types, t)
		}
	}
	return types, nil
}

// measure times a type's codecs for about d each.
func measure(t gguf.Type, d time.Duration) codecSpeed {
	r := rand.New(rand.NewPCG(1, uint64(t)))
	src := make([]float32, benchRows*benchCols)
	for i := range src {
		src[i] = float32(r.NormFloat64() * 0.02)
	}
	importance := make([]float32, benchCols)
	for i := range importance {
		importance[i] = float32(math.Exp(r.NormFloat64()))
	}
	dst := make([]byte, int64(len(src))/t.BlockElements()*t.BlockBytes())
	back := make([]float32, len(src))
	plain, _ := quantize.Definition(t)
	fast, _ := quantize.Lookup(t)
	both := func(run func(c quantize.Codec)) speed {
		return speed{best(d, len(src), func() { run(plain) }), best(d, len(src), func() { run(fast) })}
	}
	s := codecSpeed{Type: t.String()}
	if !plain.NeedsImportance {
		s.Encode = both(func(c quantize.Codec) { c.Encode(dst, src, benchCols, nil) })
	}
	if plain.NeedsImportance || changes(plain, src, importance, len(dst)) {
		s.Importance = both(func(c quantize.Codec) { c.Encode(dst, src, benchCols, importance) })
	}
	s.Decode = both(func(c quantize.Codec) { c.Decode(back, dst) })
	return s
}

// changes reports whether importance makes a difference to the type.
func changes(c quantize.Codec, src, importance []float32, size int) bool {
	with, without := make([]byte, size), make([]byte, size)
	c.Encode(with, src, benchCols, importance)
	c.Encode(without, src, benchCols, nil)
	return !bytes.Equal(with, without)
}

// best runs f for about d, at least twice, and returns the highest speed in
// 10^6 bytes of float32 per second.
func best(d time.Duration, weights int, f func()) float64 {
	f() // warm up
	shortest := time.Duration(math.MaxInt64)
	for start, n := time.Now(), 0; n < 2 || time.Since(start) < d; n++ {
		at := time.Now()
		f()
		shortest = min(shortest, time.Since(at))
	}
	return float64(4*weights) / 1e6 / shortest.Seconds()
}
