package spec

import (
	"strings"
	"testing"
)

func weight(rows, cols int) Weight { return Weight{Names: []string{"test"}, Rows: rows, Cols: cols} }

// valid is a model with a layer of attention and one of latent attention and
// experts, that Check lets pass.
func valid() *Model {
	m := &Model{
		Family: "valid", Vocab: 10, Width: 8, FinalNorm: &Norm{Kind: RMSNorm, Eps: 1e-5}, Head: &Head{Scale: 1},
		Weights: map[Slot]Weight{
			Global(TokenEmbd): weight(10, 8), Global(FinalNorm): weight(1, 8), Global(Output): weight(10, 8), Global(PositionEmbd): weight(99, 8),
			At(0, Q): weight(8, 8), At(0, Q.Bias()): weight(1, 8), At(0, K): weight(4, 8), At(0, V): weight(6, 8), At(0, AttnOut): weight(8, 12),
			At(0, QNorm): weight(4, 2), At(0, KNorm): weight(1, 2), At(0, Sinks): weight(1, 4),
			At(0, Gate): weight(3, 8), At(0, Up): weight(3, 8), At(0, Down): weight(8, 3),
			At(1, Q): weight(14, 8), At(1, KVA): weight(7, 8), At(1, KB): weight(6, 3), At(1, VB): weight(8, 3), At(1, AttnOut): weight(8, 8),
			At(1, Router): weight(4, 8),
		},
	}
	norm := &Norm{Kind: LayerNorm}
	m.Blocks = []Block{
		{ResidualScale: 1, Attention: &Attention{
			Heads: 4, KVHeads: 2, KeyDim: 2, ValueDim: 3, QNorm: norm, KNorm: norm, Rope: &Rope{InvFreq: []float64{1}, Magnitude: 1},
		}, FFN: FFN{Gated: true, Activation: SiLU, Inner: 3}},
		{ResidualScale: 1, Attention: &Attention{
			Heads: 2, KVHeads: 2, KeyDim: 7, ValueDim: 4, MLA: &MLA{KVRank: 3, Nope: 3, Rope: 4, KVANorm: norm},
		}, FFN: FFN{Activation: ReLU, MoE: &MoE{Experts: 4, Used: 2, Inner: 3, Scoring: ScoreSigmoid, Groups: 2, GroupsUsed: 1, GroupTop2: true}}},
	}
	for x := range 4 {
		m.Weights[Slot{1, Up, x}], m.Weights[Slot{1, Down, x}] = weight(3, 8), weight(8, 3)
	}
	return m
}

func TestCheck(t *testing.T) {
	if err := valid().Check(); err != nil {
		t.Fatal(err)
	}
	set := func(s Slot, rows, cols int) func(*Model) {
		return func(m *Model) { m.Weights[s] = weight(rows, cols) }
	}
	without := func(s Slot) func(*Model) { return func(m *Model) { delete(m.Weights, s) } }
	for _, test := range []struct {
		change func(m *Model)
		want   string
	}{
		{func(m *Model) { m.Width = 0 }, "width is 0"},
		{func(m *Model) { m.Vocab = 1 << 30 }, "vocabulary is 1073741824"},
		{func(m *Model) { m.Blocks = make([]Block, 1<<13) }, "8192 blocks"},
		{func(m *Model) { m.Pooling = "max" }, `unknown pooling "max"`},
		{without(Global(Output)), "no tensor for output"},
		{without(At(0, K)), "no tensor for layer 0 k"},
		{without(Slot{1, Up, 3}), "no tensor for layer 1 up of expert 3"},
		{set(At(0, V), 4, 8), "test is [4, 8]: want [6, 8] for layer 0 v"},
		{set(At(0, Q.Bias()), 8, 1), "want [1, 8] for layer 0 q.bias"},
		{set(At(0, QNorm), 3, 2), "want [4, 2] for layer 0 q_norm"},
		{set(Global(PositionEmbd), 0, 8), "want [n, 8] for position_embd"},
		{set(At(2, Q), 1, 1), "the model has no place for layer 2 q"},
		{set(At(0, PostMix), 1, 8), "the model has no place for layer 0 post_mix"},
		{set(Slot{0, Up, 1}, 3, 8), "the model has no place for layer 0 up of expert 1"},
		{set(At(1, K), 8, 8), "the model has no place for layer 1 k"},
		{func(m *Model) { m.FinalNorm.Kind = "batch" }, `unknown kind of norm "batch"`},
		{func(m *Model) { m.FinalNorm.Eps = -1 }, "epsilon is -1"},
		{func(m *Model) { m.Blocks[0].Attention = nil }, "want either attention or a convolution"},
		{func(m *Model) { m.Blocks[0].Conv = &ShortConv{3} }, "want either attention or a convolution"},
		{func(m *Model) { m.Blocks[0].Parallel, m.Blocks[0].SumMix = true, m.FinalNorm }, "a parallel block has no norms behind its parts"},
		{func(m *Model) { m.Blocks[0].Attention.KVHeads = 3 }, "4 heads do not share 3 key heads evenly"},
		{func(m *Model) { m.Blocks[0].Attention.Heads, m.Blocks[0].Attention.KVHeads = 1<<26, 1 }, "too many"},
		{func(m *Model) { m.Blocks[0].Attention.Rope.Start = 1 }, "1 rotary pairs from 1 on in 2 values"},
		{func(m *Model) { m.Blocks[0].Attention.Rope.Long = []float64{1, 2} }, "1 rotary pairs, and 2 for long sequences"},
		{func(m *Model) { m.Blocks[1].Attention.MLA.Nope = 4 }, "latent attention"},
		{func(m *Model) { m.Blocks[0].FFN.Activation = "sine" }, `unknown activation "sine"`},
		{func(m *Model) { m.Blocks[0].FFN.Activation = SwiGLUClamped }, "limit 0"},
		{func(m *Model) { m.Blocks[1].FFN.MoE.Used = 5 }, "5 of 4 experts"},
		{func(m *Model) { m.Blocks[1].FFN.MoE.Groups = 3 }, "4 experts in 1 of 3 groups"},
		{func(m *Model) { m.Blocks[1].FFN.MoE.Groups, m.Blocks[1].FFN.MoE.GroupsUsed = 4, 2 }, "groups of 1 experts have no two best"},
		{func(m *Model) { m.Blocks[1].FFN.MoE.Scoring = "dice" }, `unknown scoring "dice"`},
	} {
		m := valid()
		test.change(m)
		if err := m.Check(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %v, want %q", err, test.want)
		}
	}
}
