package fromgguf

import "github.com/modelpipe/modelpipe/ops/spec"

// An architecture is what llama.cpp does with files of one
// general.architecture, as data. Names of tensors are those in the file
// without "blk.N." and ".weight".
type architecture struct {
	name string

	norm  spec.NormKind // of all norms but those of queries and keys that say otherwise
	pairs pairing
	keys  func(*hparams) // metadata that only some architectures have

	embedding   embedding
	norms       norms
	attention   attention
	feedForward feedForward
	experts     *experts // nil: no layer has them

	finalNorm string // ordinary where it is "", without weights where it is "-", none where it is "none"
	head      head

	classifier classifier
}

// classifier is what makes scores of one hidden state or of their mean, where the
// file is of a reranker (LLAMA_POOLING_TYPE_RANK).
type classifier int

const (
	noClassifier classifier = iota
	firstToken              // cls.output tanh(cls x) of the first, or cls.output x
	lastToken               // the softmax of cls.output x, of the last
	pooledHead              // cls.output cls.norm(gelu(cls x)) of the mean, or of the first
)

// pairing says which values of a head a rotary embedding turns together
// (llama_model_rope_type).
type pairing int

const (
	unturned   pairing = iota // LLAMA_ROPE_TYPE_NONE
	neighbours                // LLAMA_ROPE_TYPE_NORM: 2i and 2i+1
	halves                    // LLAMA_ROPE_TYPE_NEOX: i and i+n/2
)

// presence says whether a tensor is in a file.
type presence int

const (
	never presence = iota
	maybe
	always
)

type embedding struct {
	norm      bool // token_embd_norm
	normBias  presence
	positions bool // position_embd
	types     bool // token_types, where they are there
}

// norms are those of a block; "" is none.
type norms struct {
	preMix, postMix, sumMix string
	preFFN, postFFN, sumFFN string
	bias                    presence
	bare                    bool // none has weights
	parallel                bool // attention and feed-forward part see the same input

	// adjust changes the norms of a block by what its tensors are.
	adjust func(b *builder, layer int, n *norms)
}

// plainNorms are one norm before each part.
var plainNorms = norms{preMix: "attn_norm", preFFN: "ffn_norm"}

// sandwichNorms are one norm before and one behind each part.
var sandwichNorms = norms{preMix: "attn_norm", postMix: "post_attention_norm", preFFN: "ffn_norm", postFFN: "post_ffw_norm"}

type attention struct {
	fused     fusion // of q, k and v
	bias      presence
	outBias   presence
	headNorm  headNorm
	normKind  spec.NormKind // of headNorm; "" is RMSNorm
	optional  bool          // headNorm is where its tensors are
	normAfter bool          // headNorm comes after rotation
	sinks     bool
	innerNorm string
	latent    bool // DeepSeek's
	rotWidth  bool // heads are as wide as what is rotated

	// factors says which tensors of rotary factors a file may have:
	// rope_freqs, or those of long and short contexts.
	factors factors
}

type fusion int

const (
	apartOrFused fusion = iota
	onlyFused
)

type headNorm int

const (
	noHeadNorm headNorm = iota
	perHead             // one vector for all heads
	ownPerHead          // a vector for each head
	wholeHeads          // over all heads together
)

type factors int

const (
	noFactors   factors = iota
	freqFactors         // rope_freqs
	longFactors         // rope_factors_long and rope_factors_short
	bothFactors         // the latter where rope.scaling.type is longrope, else the former
)

type feedForward struct {
	form       form
	activation spec.Activation
	bias       presence
	innerNorm  string
}

type form int

const (
	gated     form = iota // ffn_gate, ffn_up, ffn_down
	fusedGate             // the same with the gate as the first half of ffn_up's rows
	ungated               // ffn_up, ffn_down
)

type experts struct {
	in         func(p *hparams, layer int) bool // which layers; nil: all where the file has experts
	inner      func(p *hparams) int             // width of an expert; nil: feed_forward_length
	scoring    spec.Scoring                     // "": hparams.scoring
	normalize  bool                             // or where hparams.weightsNorm says so
	bias       presence                         // of the router and of the experts
	correction presence                         // exp_probs_b.bias
	shared     func(p *hparams) int             // width of the shared part; nil: none
	sharedGate bool                             // ffn_gate_inp_shexp
	weighInput bool
	mayFuse    bool // ffn_gate_up_exps instead of two tensors
	activation spec.Activation
}

type head int

const (
	ownOrTied head = iota // output, else token_embd
	own
	tied
	ownWithBias
	ownOrTiedMaybeBias
	noHead
	unusedHead // output may be there and is not used
)

// expertFF is the width of an expert by its own key.
func expertFF(p *hparams) int { return p.expertFF }

// expertFFOrShare is that, or the experts' share of feed_forward_length.
func expertFFOrShare(p *hparams) int {
	if p.expertFF == 0 && p.used > 0 {
		return p.ff / p.used
	}
	return p.expertFF
}

// afterDense is the rule of architectures that begin with layers without
// experts.
func afterDense(p *hparams, layer int) bool { return layer >= p.denseLead }
