package ops

import (
	"fmt"
	"time"

	"github.com/gomlx/compute"
	. "github.com/gomlx/gomlx/core/graph"
)

// Try computes a product on the device, checks that it has float32's
// precision, and returns the rate in operations per second.
func (d *Device) Try() (rate float64, err error) {
	defer recovered(&err)
	const rows, inner, cols = 256, 1024, 1024
	// 1+2^-12 is what formats of fewer bits than float32 round to 1.
	ones, values := make([]float32, rows*inner), make([]float32, cols*inner)
	for i := range ones {
		ones[i] = 1
	}
	for i := range values {
		values[i] = 1 + 1.0/4096
	}
	inputs := map[string]compute.Buffer{}
	if inputs["x"], err = d.upload(ones, rows, inner); err != nil {
		return 0, err
	}
	defer free(inputs["x"])
	if inputs["w"], err = d.upload(values, cols, inner); err != nil {
		return 0, err
	}
	defer free(inputs["w"])
	p, err := d.program("try", func(b *builder) []*Node {
		return []*Node{DotGeneral(b.input("x", rows, inner), []int{1}, nil, b.input("w", cols, inner), []int{1}, nil)}
	})
	if err != nil {
		return 0, err
	}
	best := time.Duration(0)
	for range 3 { // the first one warms up
		start := time.Now()
		out, err := p.run(inputs)
		if err != nil {
			return 0, err
		}
		y, err := download(out[0])
		free(out...)
		if err != nil {
			return 0, err
		}
		if took := time.Since(start); best == 0 || took < best {
			best = took
		}
		for _, v := range y {
			if v != inner+inner/4096.0 {
				return 0, fmt.Errorf("device %s: a product of float32 values is %v, want %v", d.name, v, inner+inner/4096.0)
			}
		}
	}
	return 2 * rows * inner * cols / best.Seconds(), nil
}
