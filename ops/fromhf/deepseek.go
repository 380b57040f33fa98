package fromhf

import (
	"fmt"
	"strings"

	"github.com/modelpipe/modelpipe/ops/spec"
)

// DeepSeek V2 and V3: latent attention, and after the first layers experts in
// groups with a part that every token passes. V3 scores by sigmoid and chooses
// by scores to which a correction is added.
var _ = register(family{
	classes: []string{"DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"},
	read: func(r *reader) {
		r.size()
		r.embedding("embed_tokens")
		norm := r.rms(1e-6)
		attn := r.latentAttention(norm)
		bias := r.flag("attention_bias", false)
		act, inner := r.activation("hidden_act"), r.dim("intermediate_size")

		layers := r.layerCount("num_hidden_layers")
		dense, every := layers, 1
		var moe *spec.MoE
		if r.has("n_routed_experts") {
			dense, every = r.count("first_k_dense_replace", 0), r.dim("moe_layer_freq", 1)
			moe = r.deepseekExperts()
		}
		r.layers("num_hidden_layers", "layers.%d.", func(l layer) spec.Block {
			l.preNorms(false)
			l.latentProjections(attn, bias)
			b := spec.Block{PreMix: norm, PreFFN: norm, Attention: attn}
			if l.i < dense || l.i%every != 0 {
				b.FFN = l.mlp(act, inner, false)
				return b
			}
			l.deepseekMoE(moe)
			b.FFN = spec.FFN{Gated: true, Activation: act, MoE: moe}
			return b
		})
		r.dropPredictors(layers)
		r.finish(norm, false, false)
	},
})

// latentAttention reads the dimensions of DeepSeek's attention. Where YaRN's
// mscale_all_dim is set, scores are multiplied by its scale squared, as V3's
// class and the code that came with V2 do; transformers' class for V2 does not.
func (r *reader) latentAttention(norm *spec.Norm) *spec.Attention {
	heads := r.dim("num_attention_heads")
	l := &spec.MLA{
		QRank: r.count("q_lora_rank", 0), KVRank: r.dim("kv_lora_rank"),
		Nope: r.dim("qk_nope_head_dim"), Rope: r.dim("qk_rope_head_dim"),
		KVANorm: &spec.Norm{Kind: spec.RMSNorm, Eps: 1e-6}, // the class's default epsilon
	}
	if l.QRank > 0 {
		l.QANorm = l.KVANorm
	}
	a := &spec.Attention{Heads: heads, KVHeads: heads, KeyDim: l.Nope + l.Rope, Causal: true, MLA: l}
	r.checkHeads(a)
	a.ValueDim = r.dim("v_head_dim")
	if a.Heads*a.ValueDim > maxDim || a.Heads*l.Nope > maxDim {
		r.fail("%s: %d heads of %d values: too many", r.name, a.Heads, a.ValueDim)
		a.ValueDim = 1
	}
	a.Rope = r.ropeOf("", l.Rope, rotary{theta: 10000, interleaved: r.flag("rope_interleave", true)})
	for _, field := range []string{"rope_parameters", "rope_scaling"} {
		s := r.object(field)
		if s == nil || s.text(s.either("rope_type", "type"), "default") != "yarn" {
			continue
		}
		if all := s.number("mscale_all_dim", 0); all != 0 {
			scale := yarnScale(s.positive("factor"), all)
			a.Scale *= scale * scale
		}
		if s.err != nil {
			r.fail("%w", s.err)
		}
		break
	}
	return a
}

// latentProjections gives the matrices of latent attention their places.
func (l layer) latentProjections(a *spec.Attention, bias bool) {
	m, w := a.MLA, l.model.Width
	if m.QRank > 0 {
		l.linear(spec.QA, "self_attn.q_a_proj", m.QRank, w, bias)
		l.norm(spec.QANorm, "self_attn.q_a_layernorm", m.QRank, false)
		l.linear(spec.QB, "self_attn.q_b_proj", a.Heads*a.KeyDim, m.QRank, false)
	} else {
		l.linear(spec.Q, "self_attn.q_proj", a.Heads*a.KeyDim, w, false)
	}
	l.linear(spec.KVA, "self_attn.kv_a_proj_with_mqa", m.KVRank+m.Rope, w, bias)
	l.norm(spec.KVANorm, "self_attn.kv_a_layernorm", m.KVRank, false)
	group := m.Nope + a.ValueDim
	kvb, none := l.module(l.prefix+"self_attn.kv_b_proj", a.Heads*group, m.KVRank, false)
	l.slice(l.slot(spec.KB), kvb, none, group, 0, m.Nope)
	l.slice(l.slot(spec.VB), kvb, none, group, m.Nope, a.ValueDim)
	l.linear(spec.AttnOut, "self_attn.o_proj", w, a.Heads*a.ValueDim, bias)
}

// deepseekExperts reads how tokens choose experts.
func (r *reader) deepseekExperts() *spec.MoE {
	e := &spec.MoE{
		Experts: r.dim("n_routed_experts"), Used: r.dim("num_experts_per_tok"), Inner: r.dim("moe_intermediate_size"),
		Scale:       float32(r.number("routed_scaling_factor", 1)),
		SharedInner: r.count("n_shared_experts", 0) * r.dim("moe_intermediate_size"),
	}
	if e.SharedInner > maxDim {
		r.fail("%s: a shared expert of %d values: too many", r.name, e.SharedInner)
		e.SharedInner = 0
	}
	if r.class == "DeepseekV2ForCausalLM" {
		r.only("scoring_func", "softmax")
		e.Scoring = spec.ScoreSoftmax
		switch method := r.text("topk_method", "greedy"); method {
		case "greedy":
		case "group_limited_greedy":
			e.Groups, e.GroupsUsed = r.dim("n_group"), r.dim("topk_group")
		default:
			r.fail("%s: unknown topk_method %q", r.name, method)
		}
		// In the code that came with the models, normalizing takes the place of
		// scaling; transformers' class does not normalize.
		if r.flag("norm_topk_prob", false) {
			e.Normalize, e.NormEps, e.Scale = true, 1e-20, 1
		}
		return e
	}
	r.only("scoring_func", "sigmoid")
	r.only("topk_method", "noaux_tc")
	e.Scoring, e.GroupTop2 = spec.ScoreSigmoid, true
	e.Groups, e.GroupsUsed = r.dim("n_group"), r.dim("topk_group")
	e.Normalize, e.NormEps = r.flag("norm_topk_prob", true), 1e-20
	return e
}

// deepseekMoE gives the experts and the part that every token passes their
// places.
func (l layer) deepseekMoE(e *spec.MoE) {
	l.linear(spec.Router, "mlp.gate", e.Experts, l.model.Width, false)
	if e.Scoring == spec.ScoreSigmoid {
		l.put(l.slot(spec.RouterCorrection), l.vector(l.prefix+"mlp.gate.e_score_correction_bias", e.Experts))
	}
	l.mlpExperts(e)
	if e.SharedInner > 0 {
		l.shared(e, "mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj")
	}
}

// dropPredictors drops the layers behind the last, which predict further
// tokens.
func (r *reader) dropPredictors(layers int) {
	for i := range min(r.count("num_nextn_predict_layers", 0), maxLayers) {
		prefix := fmt.Sprintf("layers.%d.", layers+i)
		for name, t := range r.tensors {
			if strings.HasPrefix(name, prefix) {
				t.claimed = true
			}
		}
	}
}
