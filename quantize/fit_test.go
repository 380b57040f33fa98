package quantize

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/modelpipe/modelpipe/gguf"
)

// TestRelativeErrors measures the table of the priors.
func TestRelativeErrors(t *testing.T) {
	const rows, cols = 32, 2048
	r := rand.New(rand.NewPCG(1, 2))
	x, y, even := make([]float32, rows*cols), make([]float32, rows*cols), make([]float32, cols)
	for i := range x {
		x[i] = float32(r.NormFloat64() * 0.02)
	}
	for i := range even {
		even[i] = 1
	}
	for typ, want := range relativeErrors {
		codec, _ := Lookup(typ)
		size, err := typ.RowBytes(cols)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, rows*size)
		codec.Encode(b, x, cols, even)
		codec.Decode(y, b)
		var e, all float64
		for i := range x {
			d := float64(y[i] - x[i])
			e, all = e+d*d, all+float64(x[i])*float64(x[i])
		}
		if got := e / all; math.Abs(got/want-1) > 0.05 {
			t.Errorf("%v: relative error %.3g: the table has %.3g", typ, got, want)
		}
	}
}

// llama8B is the tensors of Llama 3.1 8B.
func llama8B() (tensors []Tensor) {
	add := func(name string, shape ...int64) { tensors = append(tensors, Tensor{name, shape, gguf.BF16}) }
	add("token_embd.weight", 4096, 128256)
	add("output.weight", 4096, 128256)
	for i := range 32 {
		for name, shape := range map[string][]int64{"attn_q": {4096, 4096}, "attn_k": {4096, 1024}, "attn_v": {4096, 1024}, "attn_output": {4096, 4096},
			"ffn_gate": {4096, 14336}, "ffn_up": {4096, 14336}, "ffn_down": {14336, 4096}} {
			add("blk."+string(rune('0'+i/10))+string(rune('0'+i%10))+"."+name+".weight", shape...)
		}
		tensors = append(tensors, Tensor{"blk." + string(rune('0'+i/10)) + string(rune('0'+i%10)) + ".attn_norm.weight", []int64{4096}, gguf.F32})
	}
	return tensors
}

func everything(string) bool { return true }

// TestFitBytes uses nearly all of the bytes, and what the recipe then assigns
// is what was counted.
func TestFitBytes(t *testing.T) {
	tensors := llama8B()
	losses := PriorLosses(tensors)
	for _, limit := range []int64{3_500_000_000, 5_000_000_000, 8_000_000_000} {
		fit, err := Recipe{}.FitBytes(tensors, limit, FitOptions{Losses: losses, Importance: everything, Alignment: 32})
		if err != nil {
			t.Fatal(err)
		}
		if fit.Bytes > limit || float64(fit.Bytes) < 0.995*float64(limit) {
			t.Errorf("%d bytes of %d", fit.Bytes, limit)
		}
		a, err := fit.Recipe.Assign(Model{Arch: "llama", Layers: 32, Heads: 32, HeadsKV: 8}, tensors, true)
		if err != nil {
			t.Fatal(err)
		}
		bytes := int64(0)
		for i, c := range a.Choices {
			n, err := gguf.TensorInfo{Name: tensors[i].Name, Type: c.Type, Shape: tensors[i].Shape}.Size()
			if err != nil {
				t.Fatal(err)
			}
			bytes += n
		}
		if bytes != fit.Bytes {
			t.Errorf("the recipe gives %d bytes: the fit counted %d", bytes, fit.Bytes)
		}
		if loss, ok := losses.Loss(tensors, a.Choices); !ok || math.Abs(loss/fit.Loss-1) > 1e-9 {
			t.Errorf("the recipe loses %g: the fit counted %g", loss, fit.Loss)
		}
		// The other way round it takes no more.
		back, err := Recipe{}.FitLoss(tensors, fit.Loss, FitOptions{Losses: losses, Importance: everything, Alignment: 32})
		if err != nil {
			t.Fatal(err)
		}
		if back.Loss > fit.Loss || float64(back.Bytes) > 1.002*float64(fit.Bytes) {
			t.Errorf("a loss of %g takes %d bytes: want no more than %d", back.Loss, back.Bytes, fit.Bytes)
		}
	}
}

// TestFitKeepsConstraints gives tensors that the user names their types, uses
// only fast types where asked, and needs no importance without one.
func TestFitKeepsConstraints(t *testing.T) {
	tensors := llama8B()
	q8 := gguf.Q8_0
	r := Recipe{Output: &q8, Overrides: []Override{{Pattern: "attn_v", Type: gguf.Q6_K}}}
	fit, err := r.FitBytes(tensors, 5_000_000_000, FitOptions{Losses: PriorLosses(tensors), Fast: true, Alignment: 32})
	if err != nil {
		t.Fatal(err)
	}
	a, err := fit.Recipe.Assign(Model{Arch: "llama", Layers: 32, Heads: 32, HeadsKV: 8}, tensors, false)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range a.Choices {
		name := tensors[i].Name
		switch {
		case name == "output.weight" && c.Type != gguf.Q8_0, roleOf(name) == attnV && c.Type != gguf.Q6_K:
			t.Errorf("%s is %v", name, c.Type)
		case c.Type.String()[0] == 'I':
			t.Errorf("%s is %v, which is not fast", name, c.Type)
		case c.NeedsImportance:
			t.Errorf("%s is %v, which needs importance", name, c.Type)
		}
	}
	if _, err := (Recipe{Overrides: []Override{{Pattern: "nothing", Type: q8}}}).FitBytes(tensors, 5_000_000_000, FitOptions{Losses: PriorLosses(tensors), Alignment: 32}); err == nil {
		t.Error("an override that matches nothing is accepted")
	}
	var over *BudgetError
	if _, err := (Recipe{}).FitBytes(tensors, 1_000_000_000, FitOptions{Losses: PriorLosses(tensors), Alignment: 32}); !errors.As(err, &over) || over.Least < 1.5e9 {
		t.Errorf("a limit below the least: %v", err)
	}
}
