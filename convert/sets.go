package convert

import "slices"

// Sets of tensor rules that many architectures share. Names are without the
// prefixes that checkpoints may have (Architecture.Prefixes).

// rules joins rule lists.
func rules(lists ...[]Rule) []Rule { return slices.Concat(lists...) }

// linear is a projection: a weight that must be there and a bias that may be,
// which has the weight's first dimension and gets the same steps.
func linear(from, to, shape string, do ...Transform) []Rule {
	return []Rule{
		{From: from + ".weight", To: to + ".weight", Shape: shape, Do: do, Need: all},
		{From: from + ".bias", To: to + ".bias", Shape: firstDim(shape), Do: do},
	}
}

func firstDim(shape string) string {
	for i := range len(shape) {
		if shape[i] == ',' {
			return shape[:i]
		}
	}
	return shape
}

// norm is a norm over size values: a weight that must be there, and a bias
// for those that have one.
func norm(from, to, size string, do ...Transform) []Rule {
	return []Rule{
		{From: from + ".weight", To: to + ".weight", Shape: size, Do: do, Need: all},
		{From: from + ".bias", To: to + ".bias", Shape: size},
	}
}

// optional makes rules that need nothing.
func optional(list []Rule) []Rule {
	list = slices.Clone(list)
	for i := range list {
		list[i].Need = nil
	}
	return list
}

// needed makes rules need their weights only where the condition holds.
func needed(where func(m *Model, bid int) bool, list []Rule) []Rule {
	list = slices.Clone(list)
	for i := range list {
		if list[i].Need != nil {
			list[i].Need = where
		}
	}
	return list
}

const block = "blk.{bid}."

// embedding and head are what most decoders have outside the blocks. The head
// must be there where the config says that it is not the embedding.
var (
	embedding = []Rule{{From: "embed_tokens.weight", To: "token_embd.weight", Shape: "vocab, hidden", Need: all}}
	head      = []Rule{
		{From: "lm_head.weight", To: "output.weight", Shape: "vocab, hidden", Need: untied},
		{From: "lm_head.bias", To: "output.bias", Shape: "vocab"},
	}
	finalNorm = norm("norm", "output_norm", "hidden")
)

// untied holds where config.json says that the output is not the embedding,
// in checkpoints of a model with a head: those saved without it have no
// "model." before their names.
func untied(m *Model, _ int) bool {
	v, _, ok := m.Config.Raw("tie_word_embeddings")
	return ok && v == false && m.prefixed
}

// attention is the separate q, k, v and o projections; rope steps go to q and
// k alone.
func attention(q, k []Transform) []Rule {
	const from = "layers.{bid}.self_attn."
	return rules(
		linear(from+"q_proj", block+"attn_q", "heads*head_dim, hidden", q...),
		linear(from+"k_proj", block+"attn_k", "kv_heads*head_dim, hidden", k...),
		linear(from+"v_proj", block+"attn_v", "kv_heads*head_dim, hidden"),
		linear(from+"o_proj", block+"attn_output", "hidden, heads*head_dim"),
	)
}

var (
	// plainAttention is for models whose rotary order is ggml's NEOX order.
	plainAttention = attention(nil, nil)
	// permutedAttention is for models that ggml runs with interleaved pairs.
	permutedAttention = attention([]Transform{permute{"heads"}}, []Transform{permute{"kv_heads"}})

	// headNorms normalise each head of q and k.
	headNorms = rules(
		norm("layers.{bid}.self_attn.q_norm", block+"attn_q_norm", "head_dim"),
		norm("layers.{bid}.self_attn.k_norm", block+"attn_k_norm", "head_dim"),
	)

	// preNorms come before the attention and before the feed-forward part.
	preNorms = rules(
		norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden"),
		norm("layers.{bid}.post_attention_layernorm", block+"ffn_norm", "hidden"),
	)

	// gatedFFN is the feed-forward part with a gate (SwiGLU and the like).
	gatedFFN = rules(
		linear("layers.{bid}.mlp.gate_proj", block+"ffn_gate", "ff, hidden"),
		linear("layers.{bid}.mlp.up_proj", block+"ffn_up", "ff, hidden"),
		linear("layers.{bid}.mlp.down_proj", block+"ffn_down", "hidden, ff"),
	)
)
