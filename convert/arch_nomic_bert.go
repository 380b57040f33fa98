package convert

import (
	"fmt"

	"github.com/modelpipe/modelpipe/tokenizer"
)

// Nomic's BERT: rotary positions, fused q, k and v, a gate, no biases
// (conversion/bert.py, NomicBertModel).
var _ = register(Architecture{
	Name:     "nomic-bert",
	Classes:  []string{"NomicBertModel"},
	Prefixes: []string{"bert.", "model."},
	Keys: keys(layerNormKeys, []Key{
		{"rope.freq_base", f32, needFreqBase},
		{"context_length", u32, nomicContext},
		{"attention.causal", boolean, fixed(false)},
		{"pooling_type", u32, poolingType},
		{"tokenizer.ggml.token_type_count", u32, fieldOr(int64(1), "type_vocab_size")},
	}),
	Tensors: rules(
		one("embeddings.word_embeddings.weight", "token_embd.weight", "vocab, hidden"),
		may("embeddings.token_type_embeddings.weight", "token_types.weight", "token_types, hidden"),
		oldNorm("emb_ln", "token_embd_norm"),
		one("encoder.layers.{bid}.attn.Wqkv.weight", block+"attn_qkv.weight", "3*hidden, hidden"),
		one("encoder.layers.{bid}.attn.out_proj.weight", block+"attn_output.weight", "hidden, hidden"),
		oldNorm("encoder.layers.{bid}.norm1", block+"attn_output_norm"),
		one("encoder.layers.{bid}.mlp.fc11.weight", block+"ffn_up.weight", "ff, hidden"),
		one("encoder.layers.{bid}.mlp.fc12.weight", block+"ffn_gate.weight", "ff, hidden"),
		one("encoder.layers.{bid}.mlp.fc2.weight", block+"ffn_down.weight", "hidden, ff"),
		oldNorm("encoder.layers.{bid}.norm2", block+"layer_output_norm"),
	),
	Drop:  bertDropped,
	Vocab: tokenizer.Options{Kinds: []tokenizer.Kind{tokenizer.KindWordPiece, tokenizer.KindUnigram}},
})

// nomicContext is the length the models were trained for, which n_positions
// exceeds; a config that is not one of the published ones, or that asks for
// what ggml's graph does not do, is refused.
func nomicContext(m *Model) (any, error) {
	for _, want := range []struct {
		name  string
		value any
	}{
		{"activation_function", "swiglu"}, {"causal", false}, {"qkv_proj_bias", false}, {"mlp_fc1_bias", false},
		{"mlp_fc2_bias", false}, {"prenorm", false}, {"rotary_emb_interleaved", false},
	} {
		if v, _, ok := m.Config.Raw(want.name); ok && v != want.value {
			return nil, fmt.Errorf("config.json: %s is %v: ggml's nomic-bert has %v only", want.name, v, want.value)
		}
	}
	if fraction, err := m.Config.Float("rotary_emb_fraction"); err != nil || fraction != 1 {
		return nil, fmt.Errorf("config.json: rotary_emb_fraction: ggml's nomic-bert rotates all dimensions")
	}
	n, err := m.Config.Int("n_positions")
	if err != nil {
		return nil, err
	}
	trained, err := m.Config.Int("max_trained_positions")
	if err != nil && !isMissing(err) {
		return nil, err
	}
	if isMissing(err) {
		trained = 2048
	}
	if n != 8192 || trained != 2048 {
		return nil, fmt.Errorf("config.json: n_positions %d with max_trained_positions %d is not a published model's", n, trained)
	}
	return int64(2048), nil
}
