package convert

import (
	"slices"
	"strings"
)

// Sets of tensor rules that many architectures share. Names are without the
// prefixes that checkpoints may have (Architecture.Prefixes).

// rules joins rule lists.
func rules(lists ...[]Rule) []Rule { return slices.Concat(lists...) }

// one is a tensor that must be there.
func one(from, to, shape string, do ...Transform) []Rule {
	return []Rule{{From: from, To: to, Shape: shape, Do: do, Need: all}}
}

// may is a tensor that a model may lack.
func may(from, to, shape string, do ...Transform) []Rule {
	return []Rule{{From: from, To: to, Shape: shape, Do: do}}
}

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

// needed makes rules need what they need only where the condition holds.
func needed(where func(m *Model, bid int) bool, list []Rule) []Rule {
	list = slices.Clone(list)
	for i := range list {
		if need := list[i].Need; need != nil {
			list[i].Need = func(m *Model, bid int) bool { return where(m, bid) && need(m, bid) }
		}
	}
	return list
}

// flagged makes rules need what they may do without where a field of the
// config is true.
func flagged(field string, list []Rule) []Rule {
	list = slices.Clone(list)
	for i := range list {
		if list[i].Need == nil {
			list[i].Need = func(m *Model, _ int) bool {
				set, err := m.Config.Bool(field)
				return err == nil && set
			}
		}
	}
	return list
}

// unbiased leaves out the biases, for which ggml may have no place.
func unbiased(list []Rule) []Rule {
	return slices.DeleteFunc(slices.Clone(list), func(r Rule) bool { return strings.HasSuffix(r.To, ".bias") })
}

// complete makes rules need all their tensors, biases included.
func complete(list []Rule) []Rule {
	list = slices.Clone(list)
	for i := range list {
		list[i].Need = all
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

// ownHead is head for the architectures in which ggml does not fall back on the
// embedding: a model that shares it gets a copy.
var ownHead = rules(needed(all, head), []Rule{
	{From: "embed_tokens.weight", To: "output.weight", Shape: "vocab, hidden", Copy: true, Rename: withoutHead},
})

// withoutHead keeps the output of models whose head is the embedding.
func withoutHead(m *Model, _ int, to string) string {
	if tied, err := m.Config.Bool("tie_word_embeddings"); err != nil || !tied || m.headed {
		return ""
	}
	return to
}

// untied holds where config.json says that the output is not the embedding,
// in checkpoints of a model with a head: those saved without it have no
// "model." before their names.
func untied(m *Model, _ int) bool {
	v, _, ok := m.Config.Raw("tie_word_embeddings")
	return ok && v == false && m.prefixed
}

// attention is the separate q, k, v and o projections; rope steps go to q and
// k alone. ggml takes biases of q, k and v in every architecture; for that of o
// see outputBias.
func attention(q, k []Transform) []Rule {
	const from = "layers.{bid}.self_attn."
	return rules(
		flagged("attention_bias", linear(from+"q_proj", block+"attn_q", "heads*head_dim, hidden", q...)),
		flagged("attention_bias", linear(from+"k_proj", block+"attn_k", "kv_heads*head_dim, hidden", k...)),
		flagged("attention_bias", linear(from+"v_proj", block+"attn_v", "kv_heads*head_dim, hidden")),
		one(from+"o_proj.weight", block+"attn_output.weight", "hidden, heads*head_dim"),
	)
}

// outputBias is for the architectures in which ggml adds a bias to o.
var outputBias = may("layers.{bid}.self_attn.o_proj.bias", block+"attn_output.bias", "hidden")

var (
	// plainAttention is for models whose rotary order is ggml's NEOX order.
	plainAttention = attention(nil, nil)
	// permutedAttention is for models that ggml runs with interleaved pairs.
	permutedAttention = attention([]Transform{permute{"heads"}}, []Transform{permute{"kv_heads"}})

	// biasedAttention is plainAttention with a bias on each of q, k and v.
	biasedAttention = complete(plainAttention)

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
		one("layers.{bid}.mlp.gate_proj.weight", block+"ffn_gate.weight", "ff, hidden"),
		one("layers.{bid}.mlp.up_proj.weight", block+"ffn_up.weight", "ff, hidden"),
		one("layers.{bid}.mlp.down_proj.weight", block+"ffn_down.weight", "hidden, ff"),
	)

	// ffnBiases are for the architectures in which ggml adds biases to gatedFFN.
	ffnBiases = rules(
		may("layers.{bid}.mlp.gate_proj.bias", block+"ffn_gate.bias", "ff"),
		may("layers.{bid}.mlp.up_proj.bias", block+"ffn_up.bias", "ff"),
		may("layers.{bid}.mlp.down_proj.bias", block+"ffn_down.bias", "hidden"),
	)
)

// fusedFFN is gatedFFN with gate and up in one tensor, which ggml keeps as it
// is.
var fusedFFN = rules(
	one("layers.{bid}.mlp.gate_up_proj.weight", block+"ffn_up.weight", "2*ff, hidden"),
	one("layers.{bid}.mlp.down_proj.weight", block+"ffn_down.weight", "hidden, ff"),
)

// plainFFN is the feed-forward part without a gate, with or without biases.
func plainFFN(up, down string) []Rule {
	return rules(
		linear("layers.{bid}.mlp."+up, block+"ffn_up", "ff, hidden"),
		linear("layers.{bid}.mlp."+down, block+"ffn_down", "hidden, ff"),
	)
}

// experts stacks the experts under dir, which checkpoints keep apart
// (dir.{eid}.gate_proj.weight) or, since transformers 5, in stacks of which
// gate_up_proj holds gate before up.
func experts(dir string) []Rule {
	gate, up, down := block+"ffn_gate_exps.weight", block+"ffn_up_exps.weight", block+"ffn_down_exps.weight"
	list := []Rule{
		{From: dir + ".{eid}.gate_proj.weight", To: gate, Shape: "expert_ff, hidden", Count: "experts", Need: all},
		{From: dir + ".{eid}.up_proj.weight", To: up, Shape: "expert_ff, hidden", Count: "experts", Need: all},
		{From: dir + ".{eid}.down_proj.weight", To: down, Shape: "hidden, expert_ff", Count: "experts", Need: all},
	}
	for _, suffix := range []string{"", ".weight"} {
		list = append(list,
			Rule{From: dir + ".gate_up_proj" + suffix, To: gate, Shape: "experts, 2*expert_ff, hidden", Do: []Transform{rows{Count: "expert_ff"}}},
			Rule{From: dir + ".gate_up_proj" + suffix, To: up, Shape: "experts, 2*expert_ff, hidden", Do: []Transform{rows{Start: "expert_ff", Count: "expert_ff"}}},
			Rule{From: dir + ".down_proj" + suffix, To: down, Shape: "experts, hidden, expert_ff"},
		)
	}
	return list
}

// sharedExpert is the expert that every token goes through.
func sharedExpert(dir string) []Rule {
	return rules(
		one(dir+".gate_proj.weight", block+"ffn_gate_shexp.weight", "shared_ff, hidden"),
		one(dir+".up_proj.weight", block+"ffn_up_shexp.weight", "shared_ff, hidden"),
		one(dir+".down_proj.weight", block+"ffn_down_shexp.weight", "hidden, shared_ff"),
	)
}

// router chooses the experts; its bias, where there is one, corrects the
// choice and not the weights.
var router = rules(
	one("layers.{bid}.mlp.gate.weight", block+"ffn_gate_inp.weight", "experts, hidden"),
	may("layers.{bid}.mlp.gate.e_score_correction_bias", block+"exp_probs_b.bias", "experts"),
)

// sandwichNorms come before and after both parts of a block (Gemma 2).
func sandwichNorms(do ...Transform) []Rule {
	return rules(
		norm("layers.{bid}.input_layernorm", block+"attn_norm", "hidden", do...),
		norm("layers.{bid}.post_attention_layernorm", block+"post_attention_norm", "hidden", do...),
		norm("layers.{bid}.pre_feedforward_layernorm", block+"ffn_norm", "hidden", do...),
		norm("layers.{bid}.post_feedforward_layernorm", block+"post_ffw_norm", "hidden", do...),
	)
}

// postNorms come after both parts of a block (OLMo 2, EXAONE 4).
var postNorms = rules(
	norm("layers.{bid}.post_attention_layernorm", block+"post_attention_norm", "hidden"),
	norm("layers.{bid}.post_feedforward_layernorm", block+"post_ffw_norm", "hidden"),
)
