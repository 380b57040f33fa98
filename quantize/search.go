// The searches behind the k-quants and the weighted legacy types: given a
// group of weights, find the scale (and minimum) whose rounded levels lose the
// least. They are heuristics, so the order of every operation is part of the
// definition. Sums run in index order, and each product is rounded before it
// is added: float32(a * b) keeps a compiler from fusing the two.

package quantize

// negligible is the magnitude under which a whole group counts as zero
// (GROUP_MAX_EPS in ggml-quants.c).
const negligible = 1e-15

// searchScale finds levels l in [0, 2 top) and a scale that minimise the
// weighted error of x ~ scale * (l - top). It tries nineteen scales around the
// one that maps the element of the largest magnitude to -top. A nil weights
// means x squared. It is make_qx_quants with rmse_type 1 (ggml-quants.c).
func searchScale(top int32, x []float32, levels []int8, weights []float32) float32 {
	peak := signedPeak(x)
	if absolute(peak) < negligible {
		clear(levels[:len(x)])
		return 0
	}
	// fit rounds with an inverse scale and returns sum(w x l), sum(w l l).
	fit := func(inverse float32) (sumlx, suml2 float32) {
		for i, v := range x {
			l := float32(max(-top, min(top-1, nearestInt(float32(inverse*v)))))
			w := float32(v * v)
			if weights != nil {
				w = weights[i]
			}
			sumlx += float32(float32(w*v) * l)
			suml2 += float32(float32(w*l) * l)
		}
		return sumlx, suml2
	}
	chosen := float32(-top) / peak
	sumlx, suml2 := fit(chosen)
	var scale float32
	if suml2 != 0 {
		scale = sumlx / suml2
	}
	best := float32(scale * sumlx)
	for step := -9; step <= 9; step++ {
		if step == 0 {
			continue
		}
		inverse := -(float32(top) + float32(0.1*float32(step))) / peak
		sumlx, suml2 := fit(inverse)
		if suml2 > 0 && float32(sumlx*sumlx) > float32(best*suml2) {
			chosen = inverse
			scale = sumlx / suml2
			best = float32(scale * sumlx)
		}
	}
	for i, v := range x {
		levels[i] = int8(top + max(-top, min(top-1, nearestInt(float32(chosen*v)))))
	}
	return scale
}

// signedPeak returns the first element of the largest magnitude, 0 where all
// are zero or NaN.
func signedPeak(x []float32) float32 {
	var largest, peak float32
	for _, v := range x {
		if a := absolute(v); a > largest {
			largest, peak = a, v
		}
	}
	return peak
}

// refineScale finds levels l in [0, 2 top) and a scale for x ~ scale *
// (l - top), weighting by x squared: it starts from the scale that maps the
// peak to -top and moves one level at a time for as long as that helps, at
// most five rounds. It is make_q3_quants with do_rmse (ggml-quants.c).
func refineScale(top int32, x []float32, levels []int8) float32 {
	peak := signedPeak(x)
	if absolute(peak) < negligible {
		clear(levels[:len(x)])
		return 0
	}
	inverse := float32(-top) / peak
	var sumlx, suml2 float32
	for i, v := range x {
		level := max(-top, min(top-1, nearestInt(float32(inverse*v))))
		levels[i] = int8(level)
		l, w := float32(level), float32(v*v)
		sumlx += float32(float32(w*v) * l)
		suml2 += float32(float32(w*l) * l)
	}
	for round := 0; round < 5; round++ {
		changed := false
		for i, v := range x {
			l, w := float32(levels[i]), float32(v*v)
			lx := sumlx - float32(float32(w*v)*l)
			if !(lx > 0) {
				continue
			}
			l2 := suml2 - float32(float32(w*l)*l)
			level := max(-top, min(top-1, nearestInt(float32(v*l2)/lx)))
			if level == int32(levels[i]) {
				continue
			}
			l = float32(level)
			lx += float32(float32(w*v) * l)
			l2 += float32(float32(w*l) * l)
			if l2 > 0 && float32(float32(lx*lx)*suml2) > float32(float32(sumlx*sumlx)*l2) {
				levels[i] = int8(level)
				sumlx, suml2 = lx, l2
				changed = true
			}
		}
		if !changed {
			break
		}
	}
	for i := range x {
		levels[i] += int8(top)
	}
	if suml2 > 0 {
		return sumlx / suml2
	}
	return 0
}

// steps is the range of trial scales of searchScaleMin: trial i maps the range
// from the lowest value so far to the highest of the data to first + i*delta + top levels, for i from 0 to last.
type steps struct {
	first, delta float32
	last         int
}

// weightedSteps is the range that every type uses with importance.
var weightedSteps = steps{-0.9, 0.05, 36}

// searchScaleMin finds levels l in [0, top], a scale and a minimum that
// minimise the weighted error of x ~ scale * l - minimum, with minimum >= 0.
// Each trial rounds, solves the weighted least squares for the two, and is
// kept where it lowers the error: squared, or absolute where byMagnitude. What
// is kept moves the lower end of the range that the next trials map. It is
// make_qkx2_quants and make_qkx3_quants (ggml-quants.c), which agree wherever
// weights are given.
func searchScaleMin(top int32, x, weights []float32, levels []uint8, s steps, byMagnitude bool) (scale, minimum float32) {
	low, high := x[0], x[0]
	sumw := weights[0]
	sumx := float32(sumw * x[0])
	for i := 1; i < len(x); i++ {
		v, w := x[i], weights[i]
		if v < low {
			low = v
		}
		if v > high {
			high = v
		}
		sumw += w
		sumx += float32(w * v)
	}
	if low > 0 {
		low = 0
	}
	if high == low {
		clear(levels[:len(x)])
		return 0, -low
	}
	level := func(v, inverse float32) int32 {
		return max(0, min(top, nearestInt(float32(inverse*(v-low)))))
	}
	// loss is the error of the levels in trial with a scale and a lowest value.
	var trial [32]uint8
	loss := func(scale, low float32) (sum float32) {
		for i, v := range x {
			diff := float32(scale*float32(trial[i])) + low - v
			if byMagnitude {
				diff = absolute(diff)
			} else {
				diff = float32(diff * diff)
			}
			sum += float32(weights[i] * diff)
		}
		return sum
	}
	inverse := float32(top) / (high - low)
	scale = 1 / inverse
	for i, v := range x {
		trial[i] = uint8(level(v, inverse))
	}
	copy(levels, trial[:len(x)])
	best := loss(scale, low)
	for step := 0; step <= s.last; step++ {
		inverse := (s.first + float32(s.delta*float32(step)) + float32(top)) / (high - low)
		var suml, suml2, sumxl float32
		for i, v := range x {
			q := level(v, inverse)
			trial[i] = uint8(q)
			l, w := float32(q), weights[i]
			wl := float32(w * l)
			suml += wl
			suml2 += float32(wl * l)
			sumxl += float32(wl * v)
		}
		determinant := float32(sumw*suml2) - float32(suml*suml)
		if !(determinant > 0) {
			continue
		}
		trialScale := (float32(sumw*sumxl) - float32(sumx*suml)) / determinant
		trialLow := (float32(suml2*sumx) - float32(suml*sumxl)) / determinant
		if trialLow > 0 {
			trialLow = 0
			trialScale = sumxl / suml2
		}
		if e := loss(trialScale, trialLow); e < best {
			copy(levels, trial[:len(x)])
			best, scale, low = e, trialScale, trialLow
		}
	}
	return scale, -low
}

// searchPositive finds levels l in [0, top] and a scale that minimise the
// weighted error of x ~ scale * l for x >= 0: the scales or the minimums of a
// super-block. It tries nine scales, then moves single levels for as long as
// that helps, at most five rounds. It is make_qp_quants (ggml-quants.c).
func searchPositive(top int32, x []float32, levels []uint8, weights []float32) float32 {
	var largest float32
	for _, v := range x {
		if !(largest > v) {
			largest = v
		}
	}
	if largest < negligible {
		clear(levels[:len(x)])
		return 0
	}
	chosen := float32(top) / largest
	scale := 1 / chosen
	var best float32
	for i, v := range x {
		l := float32(uint8(nearestInt(float32(chosen * v))))
		diff := v - float32(scale*l)
		best += float32(float32(weights[i]*diff) * diff)
	}
	for step := -4; step <= 4; step++ {
		if step == 0 {
			continue
		}
		inverse := (float32(0.1*float32(step)) + float32(top)) / largest
		scale := 1 / inverse
		var e float32
		for i, v := range x {
			l := float32(min(top, nearestInt(float32(inverse*v))))
			diff := v - float32(scale*l)
			e += float32(float32(weights[i]*diff) * diff)
		}
		if e < best {
			best, chosen = e, inverse
		}
	}
	var sumlx, suml2 float32
	for i, v := range x {
		level := min(top, nearestInt(float32(chosen*v)))
		levels[i] = uint8(level)
		l, w := float32(level), weights[i]
		sumlx += float32(float32(w*v) * l)
		suml2 += float32(float32(w*l) * l)
	}
	for round := 0; round < 5; round++ {
		changed := false
		for i, v := range x {
			l, w := float32(levels[i]), weights[i]
			lx := sumlx - float32(float32(w*v)*l)
			l2 := suml2 - float32(float32(w*l)*l)
			if !(lx > 0 && l2 > 0) {
				continue
			}
			level := min(top, nearestInt(float32(v*l2)/lx))
			if level == int32(levels[i]) {
				continue
			}
			l = float32(level)
			lx += float32(float32(w*v) * l)
			l2 += float32(float32(w*l) * l)
			if float32(float32(lx*lx)*suml2) > float32(float32(sumlx*sumlx)*l2) {
				levels[i] = uint8(level)
				sumlx, suml2 = lx, l2
				changed = true
			}
		}
		if !changed {
			break
		}
	}
	if suml2 > 0 {
		return sumlx / suml2
	}
	return 0
}

// sumSquares returns the sum of x squared, in index order.
func sumSquares(x []float32) (sum float32) {
	for _, v := range x {
		sum += float32(v * v)
	}
	return sum
}

// weigh fills weights with importance * sqrt(energy + x squared): how much an
// element's error counts, given the mean energy around it.
//
// Inlined into some of its callers, Go 1.26 fuses the square and the sum on
// arm64 in spite of the conversion.
//
//go:noinline
func weigh(weights, importance, x []float32, energy float32) {
	for i, v := range x {
		weights[i] = float32(importance[i] * root(energy+float32(v*v)))
	}
}
