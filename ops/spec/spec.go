// Package spec says in neutral terms what a transformer computes and where its
// weights are. Two readers that share nothing fill it: fromhf from a Hugging
// Face folder and fromgguf from a GGUF file. Two engines run it: plain, in
// float64 and in plain Go, which is the definition; and ops, on an
// accelerator's graph. So a mistake in one mapping shows as a difference.
//
// Everything here is data. A model is a residual stream x of Width values per
// token, blocks that add to it, a last norm and a head:
//
//	x = Embedding(ids)
//	for each block:
//	    sequential: x = sum1(x + r*post1(mix(pre1(x)))); x = sum2(x + r*post2(ffn(pre2(x))))
//	    parallel:   x = x + r*(mix(pre1(x)) + ffn(pre2(x)))
//	logits = Head(final(x))
//
// where every norm may be absent and r is ResidualScale. What the terms of a
// family cannot say is an error of its reader, never an approximation.
package spec

import (
	"context"
	"fmt"
	"io"

	"github.com/modelpipe/modelpipe/gguf"
)

// A Model is a specification and its weights.
type Model struct {
	// Family is what the source calls the architecture: general.architecture
	// or the class of config.json. It is for messages only.
	Family string

	Vocab   int // rows of the token embedding, and columns of the logits
	Width   int // of the residual stream
	Context int // positions that the model was trained for; 0 where the source does not say

	Embedding Embedding
	Blocks    []Block
	FinalNorm *Norm
	Head      *Head // nil: the outputs are the hidden states after FinalNorm

	// Pooling is how an embedding model makes one vector of a sequence.
	Pooling Pooling

	// Classifier, where there is one, makes scores of that vector: a reranker's
	// or a classifier's.
	Classifier *Classifier

	// Weights has one entry for each tensor that the specification needs, and
	// for each optional one (biases, sinks, factors) that the source has. The
	// presence of an optional entry is what switches it on.
	Weights map[Slot]Weight

	// Source is the open files that Weights read from; nil where whoever
	// opened the model closes them.
	Source io.Closer
}

// Close closes the files that the model's weights are read from.
func (m *Model) Close() error {
	if m.Source == nil {
		return nil
	}
	return m.Source.Close()
}

// Embedding is how token ids become the residual stream: the rows of
// TokenEmbd times Scale, plus rows of PositionEmbd and TokenTypes where those
// weights are there (token type 0), then Norm.
type Embedding struct {
	Scale float32 // 1 where the source says nothing
	Norm  *Norm   // weights EmbdNorm
}

// Head is how the residual stream becomes logits: x times the transpose of
// Output (which readers point at TokenEmbd's tensor where the two are tied),
// plus OutputBias, times Scale, then soft-capped as c*tanh(x/c).
type Head struct {
	Scale   float32 // 1 where the source says nothing
	SoftCap float32 // 0: none
}

// NormKind says what a norm divides by.
type NormKind string

const (
	RMSNorm   NormKind = "rms"   // x / sqrt(mean(x^2) + eps)
	LayerNorm NormKind = "layer" // (x - mean(x)) / sqrt(var(x) + eps)
	L2Norm    NormKind = "l2"    // x / sqrt(sum(x^2) + eps)
)

// Norm is one normalization over the last dimension, times (weight + Offset)
// where there is a weight, plus the bias where there is one.
type Norm struct {
	Kind   NormKind
	Eps    float64
	Offset float32 // 1 where the source stores weight-1, as Gemma's classes do
}

// Pooling is how an embedding model makes one vector of the last hidden states.
type Pooling string

const (
	PoolNone Pooling = ""
	PoolMean Pooling = "mean"
	PoolCLS  Pooling = "cls"
	PoolLast Pooling = "last"
)

// Classifier is how the pooled vector v becomes Labels scores:
//
//	ClassOut*norm(act(ClassDense*v + bias)) + bias where Dense, else ClassOut*v + bias
//
// and where Softmax, the softmax of that. The norm may be absent.
type Classifier struct {
	Labels     int
	Dense      bool
	Activation Activation // of Dense: Tanh, GELU or GELUTanh
	Norm       *Norm      // weights ClassNorm
	Softmax    bool
}

// Block is one layer. Exactly one of Attention and Conv is set.
type Block struct {
	// PreMix norms what goes into the mixing part, PostMix what comes out of
	// it before it is added, SumMix the sum; likewise for the feed-forward
	// part. In a parallel block a nil PreFFN means that the feed-forward part
	// gets PreMix's result; in a sequential one it means no norm.
	PreMix, PostMix, SumMix *Norm
	PreFFN, PostFFN, SumFFN *Norm

	Parallel      bool
	ResidualScale float32 // of what each part adds; 1 where the source says nothing

	Attention *Attention
	Conv      *ShortConv
	FFN       FFN
}

// Attention is softmax(Scale * q k^T + mask) v with grouped heads: query head h
// reads key head h / (Heads/KVHeads). Weights Q is [Heads*KeyDim, Width], K
// [KVHeads*KeyDim, Width], V [KVHeads*ValueDim, Width], AttnOut
// [Width, Heads*ValueDim]; with MLA, q, k and v come from its weights instead.
type Attention struct {
	Heads, KVHeads   int
	KeyDim, ValueDim int     // per head
	Scale            float64 // of the scores, mostly 1/sqrt(KeyDim)
	SoftCap          float32 // scores become c*tanh(s/c); 0: none
	Causal           bool

	// Window > 0: a token sees itself and the Window-1 tokens before it (where
	// attention is not causal, those at most Window/2 away on either side).
	// Chunk > 0: it sees tokens of its own chunk of that many positions.
	Window, Chunk int

	// Rope turns pairs of each head's query and key; nil: no positions here.
	Rope *Rope

	// QNorm and KNorm are applied before Rope, or after it with NormAfterRope:
	// over each head (weights [1, KeyDim], or a row per head where every head
	// has its own), or over all heads together (NormWhole, weights
	// [1, Heads*KeyDim] and [1, KVHeads*KeyDim]).
	QNorm, KNorm  *Norm
	NormWhole     bool
	NormAfterRope bool

	Clamp float32 // q, k and v are cut to [-Clamp, Clamp] after projection; 0: none

	// Temperature scales queries at far positions (Llama 4): by
	// log(floor((pos+1)/TemperatureFloor)+1)*Temperature + 1. 0: none.
	Temperature, TemperatureFloor float64

	// ALiBi > 0 adds -slope*|i-j| to the scores. With n the largest power of
	// two that is not above Heads, head h < n has the slope
	// 2^(-ALiBi/n*(h+1)), and head h >= n has 2^(-ALiBi/(2n)*(2(h-n)+1)), as
	// ggml's soft_max_ext does with max_bias. 0: none.
	ALiBi float64

	MLA *MLA

	// InnerNorm norms the heads' outputs, all together, before AttnOut.
	InnerNorm *Norm
}

// MLA is DeepSeek's latent attention. KeyDim is Nope+Rope there. Queries:
// QB(norm(QA x)) where QRank > 0, else Q x; each head is Nope values and then
// Rope values. Keys and values: KVA x is KVRank latents and Rope shared rotary
// values; the normed latents times KB [Heads*Nope, KVRank] are the heads' first
// key values, times VB [Heads*ValueDim, KVRank] the values.
type MLA struct {
	QRank, KVRank int
	Nope, Rope    int
	QANorm        *Norm // weights QANorm
	KVANorm       *Norm // weights KVANorm
}

// Rope is a rotary embedding of the Dims = 2*len(InvFreq) values of a head that
// begin at Start (with MLA: of the rotary part). Pair i turns by
// pos * InvFreq[i]; cos and sin are multiplied by Magnitude. Scalings of every
// kind (linear, llama3, yarn, longrope, partial) are in InvFreq and Magnitude,
// which each reader computes from its own source.
type Rope struct {
	InvFreq   []float64
	Magnitude float64
	Start     int

	// Interleaved pairs are (2i, 2i+1); otherwise (i, i+Dims/2).
	Interleaved bool

	// Sequences of more than LongFrom tokens turn by Long, where it is set.
	Long          []float64
	LongMagnitude float64
	LongFrom      int
}

// ShortConv is LFM2's gated convolution: (b, c, h) = ConvIn x, then
// ConvOut(c * conv(b*h)), where conv is causal, per channel, with Kernel taps
// of weight ConvTaps [Width, Kernel], the last one for the token itself.
type ShortConv struct{ Kernel int }

// Activation is the function between a feed-forward part's matrices, or between
// a classifier's.
type Activation string

const (
	SiLU     Activation = "silu"
	GELU     Activation = "gelu"      // x * Phi(x), by erf
	GELUTanh Activation = "gelu_tanh" // the tanh approximation
	ReLU     Activation = "relu"
	ReLU2    Activation = "relu2" // max(x,0)^2
	Tanh     Activation = "tanh"  // of classifiers only
	// SwiGLUClamped is gpt-oss's: g = min(gate, limit), u = clamp(up, limit),
	// g * sigmoid(alpha*g) * (u+1).
	SwiGLUClamped Activation = "swiglu_clamped"
)

// FFN is the feed-forward part: Down(act(Gate x) * Up x) where Gated, else
// Down(act(Up x)). With MoE it is the sum of the chosen experts (and of the
// shared part), each of that form; Inner is then not used.
type FFN struct {
	Gated      bool
	Activation Activation
	Alpha      float32 // of SwiGLUClamped
	Limit      float32 // of SwiGLUClamped
	Inner      int
	InnerNorm  *Norm // before Down, weights FFNInnerNorm
	MoE        *MoE
}

// Scoring is how router logits become scores.
type Scoring string

const (
	ScoreSoftmax         Scoring = "softmax"          // over all experts, then choose
	ScoreSigmoid         Scoring = "sigmoid"          // of each, then choose
	ScoreSoftmaxSelected Scoring = "softmax_selected" // choose by logits, then softmax over the chosen
)

// MoE is a mixture of experts. Router is [Experts, Width]. The Used experts of
// the highest score (plus RouterCorrection where that weight is there, which
// only helps to choose) are weighted by their score; Normalize divides by the
// sum of the chosen (plus NormEps); then times Scale. With Groups > 1 the experts are in that
// many equal groups, of which the GroupsUsed best count: a group's score is its
// best expert's, or with GroupTop2 the sum of its two best.
type MoE struct {
	Experts, Used      int
	Inner              int
	Scoring            Scoring
	Normalize          bool
	NormEps            float64
	Scale              float32 // 1 where the source says nothing
	Groups, GroupsUsed int
	GroupTop2          bool

	// WeightInput multiplies an expert's input by its weight, not its output.
	WeightInput bool

	// SharedInner > 0: a feed-forward part that every token passes, weights
	// Shared*; where SharedRouter [1, Width] is there its output is multiplied
	// by sigmoid(SharedRouter x).
	SharedInner int
}

// Role is what a tensor does.
type Role string

// The roles. A bias has the role of its matrix with ".bias" (Bias).
const (
	TokenEmbd    Role = "token_embd"    // [Vocab, Width]
	PositionEmbd Role = "position_embd" // [positions, Width]
	TokenTypes   Role = "token_types"   // [types, Width]
	EmbdNorm     Role = "embd_norm"     // [1, Width]
	FinalNorm    Role = "final_norm"    // [1, Width]
	Output       Role = "output"        // [Vocab, Width]
	ClassDense   Role = "class_dense"   // [Width, Width]
	ClassNorm    Role = "class_norm"    // [1, Width]
	ClassOut     Role = "class_out"     // [Labels, Width]

	PreMix  Role = "pre_mix" // norms: [1, Width]
	PostMix Role = "post_mix"
	SumMix  Role = "sum_mix"
	PreFFN  Role = "pre_ffn"
	PostFFN Role = "post_ffn"
	SumFFN  Role = "sum_ffn"

	Q         Role = "q"
	K         Role = "k"
	V         Role = "v"
	QNorm     Role = "q_norm"
	KNorm     Role = "k_norm"
	AttnOut   Role = "attn_out"
	AttnInner Role = "attn_inner_norm" // [1, Heads*ValueDim]
	Sinks     Role = "sinks"           // [1, Heads]: one more score per head in the softmax's sum

	QA      Role = "q_a"       // MLA: [QRank, Width]
	QANorm  Role = "q_a_norm"  // [1, QRank]
	QB      Role = "q_b"       // [Heads*KeyDim, QRank]
	KVA     Role = "kv_a"      // [KVRank+Rope, Width]
	KVANorm Role = "kv_a_norm" // [1, KVRank]
	KB      Role = "k_b"       // [Heads*Nope, KVRank]
	VB      Role = "v_b"       // [Heads*ValueDim, KVRank]

	// llama.cpp absorbs KB and VB: it multiplies queries by the one and, after
	// attention, mixed latents by the other. These have no weights; engines
	// that show the inputs of matrices show those inputs under them.
	AbsorbedKB Role = "k_b.absorbed" // the queries' values without positions, [Heads*Nope]
	AbsorbedVB Role = "v_b.absorbed" // the latents that each head attends to, [Heads*KVRank]

	ConvIn   Role = "conv_in"   // [3*Width, Width]
	ConvTaps Role = "conv_taps" // [Width, Kernel]
	ConvOut  Role = "conv_out"  // [Width, Width]

	Gate             Role = "gate" // [Inner, Width]; of an expert where Slot.Expert is one
	Up               Role = "up"
	Down             Role = "down"              // [Width, Inner]
	FFNInner         Role = "ffn_inner_norm"    // [1, Inner]
	Router           Role = "router"            // [Experts, Width]
	RouterCorrection Role = "router_correction" // [1, Experts]
	SharedGate       Role = "shared_gate"       // [SharedInner, Width]
	SharedUp         Role = "shared_up"
	SharedDown       Role = "shared_down"
	SharedRouter     Role = "shared_router" // [1, Width]
)

// Bias is the role of a matrix's or a norm's bias, [1, rows].
func (r Role) Bias() Role { return r + ".bias" }

// A Slot is a tensor's place in a model.
type Slot struct {
	Layer  int // None outside of blocks
	Role   Role
	Expert int // None where the tensor is not one expert's
}

// None is the layer or expert of a slot that has none.
const None = -1

// Global is a slot outside of blocks.
func Global(r Role) Slot { return Slot{None, r, None} }

// At is a slot of a layer.
func At(layer int, r Role) Slot { return Slot{layer, r, None} }

func (s Slot) String() string {
	switch {
	case s.Layer == None:
		return string(s.Role)
	case s.Expert == None:
		return fmt.Sprintf("layer %d %s", s.Layer, s.Role)
	}
	return fmt.Sprintf("layer %d %s of expert %d", s.Layer, s.Role, s.Expert)
}

// A Weight is a matrix whose rows can be read as float32, whatever they are
// stored as. A vector is one row.
type Weight struct {
	// Names are the tensors of the source that hold it: one, or several where
	// a scale or a zero point belongs to it. A part of a fused tensor has that
	// tensor's name.
	Names []string

	Rows, Cols int

	// Type is how the source stores it: a safetensors dtype or a ggml type.
	Type string

	// Read fills dst with len(dst)/Cols rows from row first on. It may be
	// called at the same time by several goroutines. Its errors name the file,
	// the tensor and the offset.
	Read func(ctx context.Context, dst []float32, first int) error

	// Stored, where it is not nil, gives the same rows undecoded, for engines
	// that decode them elsewhere. Whoever replaces Read clears it.
	Stored *Stored
}

// Stored is how a source has a matrix whose rows are rows of a ggml type.
type Stored struct {
	Type gguf.Type

	// Read fills dst with whole rows from row first on, as Weight.Read does.
	Read func(ctx context.Context, dst []byte, first int) error
}

// Floats reads the whole of w.
func (w Weight) Floats(ctx context.Context) ([]float32, error) {
	dst := make([]float32, w.Rows*w.Cols)
	return dst, w.Read(ctx, dst, 0)
}

// Weight returns the tensor of a slot that the model must have.
func (m *Model) Weight(s Slot) (Weight, error) {
	w, ok := m.Weights[s]
	if !ok {
		return Weight{}, fmt.Errorf("%s: no tensor for %v", m.Family, s)
	}
	return w, nil
}
