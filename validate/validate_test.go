package validate

import (
	"context"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/modelpipe/modelpipe/ops"
)

// cpu is the engine of the tests.
func cpu(t testing.TB) Engine {
	t.Helper()
	d, err := ops.Open("cpu")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return OnDevice(d, ops.Options{})
}

// openSource opens a folder.
func openSource(t testing.TB, fsys fs.FS) *Source {
	t.Helper()
	s, err := OpenFolder(context.Background(), fsys, SourceInfo{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// openCandidate opens a file in memory.
func openCandidate(t testing.TB, data []byte) *Candidate {
	t.Helper()
	c, err := OpenCandidate(context.Background(), fstest.MapFS{"m.gguf": {Data: data}}, "m.gguf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestScratchAll(t *testing.T) {
	e := cpu(t)
	for _, name := range goldenNames(t) {
		t.Run(name, func(t *testing.T) {
			src := goldenModel(t, name)
			c := openCandidate(t, converted(t, src, name, ""))
			s := openSource(t, src)
			r, err := Run(context.Background(), s, c, Options{Engine: e, Chunks: 2, Ctx: 32, Skip: []string{CheckCanaries}})
			if err != nil {
				t.Fatal(err)
			}
			if !r.Pass || len(r.NotJudged) > 0 {
				t.Errorf("%v nj %v; %v; %v %v", failed(r), r.NotJudged, r.Structure.Differences, r.Weights.Suspicious, *r.NMSE)
			}
		})
	}
}
