// Package nearest finds the known names that a mistyped one may have meant.
package nearest

import (
	"cmp"
	"slices"
	"strings"
)

// longest bounds the work on a name that a file or a user gives: the bytes of
// a longer one that count.
const longest = 256

// Names returns the n candidates that are most like name, the most alike
// first: those that need the fewest letters added and dropped for their
// length, so that an abbreviation is near to what it stands for. Case does not
// matter. Of equally near ones the first in candidates comes first.
func Names(name string, candidates []string, n int) []string {
	name = strings.ToLower(name[:min(len(name), longest)])
	type scored struct {
		name  string
		share float64 // of the letters that differ
	}
	sorted := make([]scored, len(candidates))
	for i, c := range candidates {
		lower := strings.ToLower(c)
		d := Distance(len(name), len(lower), 1, func(i, j int) int {
			if name[i] == lower[j] {
				return 0
			}
			return 2
		})
		sorted[i] = scored{c, float64(d) / float64(max(1, len(name)+len(lower)))}
	}
	slices.SortStableFunc(sorted, func(a, b scored) int { return cmp.Compare(a.share, b.share) })
	out := make([]string, min(n, len(sorted)))
	for i := range out {
		out[i] = sorted[i].name
	}
	return out
}

// Distance is Levenshtein's distance of two sequences of n and m elements:
// changing element i of the first into element j of the second costs
// change(i, j), adding or dropping an element costs gap. It takes n*m calls
// of change.
func Distance(n, m, gap int, change func(i, j int) int) int {
	row := make([]int, m+1)
	for j := range row {
		row[j] = j * gap
	}
	for i := range n {
		diagonal := row[0]
		row[0] = (i + 1) * gap
		for j := range m {
			cost := min(diagonal+change(i, j), row[j]+gap, row[j+1]+gap)
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[m]
}
