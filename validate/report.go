package validate

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/modelpipe/modelpipe/ops/measure"
)

// SchemaVersion names the form of report.json (docs/report.schema.json). It
// changes when a key changes its meaning or goes away.
const SchemaVersion = "modelpipe.report/1"

// A Report is what was found out about a candidate. What was not computed is
// absent, and no gate is about it.
type Report struct {
	Schema  string `json:"schema"`
	Version string `json:"version"` // of modelpipe

	// Pass says that every gate passed. There is at least one.
	Pass  bool   `json:"pass"`
	Gates []Gate `json:"gates"`

	Source    SourceInfo    `json:"source"`
	Candidate CandidateInfo `json:"candidate"`
	Method    MethodInfo    `json:"method"`

	Structure *StructureResult `json:"structure,omitempty"`
	Tokens    *TokensResult    `json:"tokens,omitempty"`
	Template  *TemplateResult  `json:"template,omitempty"`

	// Of the predictions over the text. KLD is in nats per token.
	KLD       *measure.KLD `json:"kld,omitempty"`
	Top1      *float64     `json:"top1,omitempty"`
	PPL       *measure.PPL `json:"ppl,omitempty"`
	NMSE      *float64     `json:"nmse,omitempty"`
	RMSDeltaP *float64     `json:"rms_delta_p,omitempty"`
	// Cosine is the least cosine of two vectors, for encoders that embed.
	Cosine *float64 `json:"cosine,omitempty"`
	// Distribution counts the predictions by their KLD.
	Distribution []Bin `json:"distribution,omitempty"`
	// Layers is the NMSE of the residual stream after each block.
	Layers []float64 `json:"layers,omitempty"`

	Stock *StockResult `json:"stock,omitempty"`
	// Alternatives are other files of the same source that were measured on the
	// same text, beside the candidate or before it was made.
	Alternatives []Alternative `json:"alternatives,omitempty"`

	Weights  *WeightsResult  `json:"weights,omitempty"`
	Canaries *CanariesResult `json:"canaries,omitempty"`
	Runtime  *RuntimeResult  `json:"runtime,omitempty"`

	// Skipped are the checks that the caller left out, NotJudged those that
	// could not be made, with why.
	Skipped   []string `json:"skipped,omitempty"`
	NotJudged []string `json:"not_judged,omitempty"`

	Seconds float64 `json:"seconds"`
}

// SourceInfo says where the reference came from.
type SourceInfo struct {
	Name       string `json:"name"`
	Repository string `json:"repository,omitempty"`
	Commit     string `json:"commit,omitempty"`
	Family     string `json:"family"`
}

// CandidateInfo says which file was judged.
type CandidateInfo struct {
	Name          string       `json:"name"`
	Size          int64        `json:"size"` // bytes, of all parts
	SHA256        string       `json:"sha256"`
	Parts         []FileDigest `json:"parts,omitempty"` // where it is split; SHA256 is then of the first
	Architecture  string       `json:"architecture"`
	Parameters    int64        `json:"parameters"`
	TensorBytes   int64        `json:"tensor_bytes"`
	BitsPerWeight float64      `json:"bits_per_weight"`
	// BlockBits is the bits per weight of the tensors whose types quantize in
	// blocks; 0 where there are none.
	BlockBits    float64          `json:"block_bits"`
	BytesPerType map[string]int64 `json:"bytes_per_type"`
}

// FileDigest is one file.
type FileDigest struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// MethodInfo says how the predictions were measured.
type MethodInfo struct {
	Text       string `json:"text"` // name of the file, or "default"
	TextSHA256 string `json:"text_sha256"`
	Chunks     int    `json:"chunks"`
	Ctx        int    `json:"ctx"`
	Tokens     int    `json:"tokens"` // predictions that count
	Device     string `json:"device"`
}

// Bin counts predictions whose KLD is at least From and less than To.
type Bin struct {
	From  float64 `json:"from"`
	To    float64 `json:"to"`
	Count int     `json:"count"`
}

// StockResult is what a stock preset of at most as many bytes comes to.
type StockResult struct {
	Preset string      `json:"preset"`
	Size   int64       `json:"size"` // bytes
	KLD    measure.KLD `json:"kld"`
	Top1   float64     `json:"top1"`
	PPL    float64     `json:"ppl"`
	// Difference is the candidate's mean KLD less the preset's, over the same
	// predictions, StdErr its standard error.
	Difference float64 `json:"difference"`
	StdErr     float64 `json:"std_err"`
}

// Alternative is a file that the candidate could have been, or stands beside.
type Alternative struct {
	Name   string  `json:"name"`
	Kind   string  `json:"kind"` // AlternativePreset, AlternativeFit or AlternativeFile
	Size   int64   `json:"size"` // bytes
	KLD    float64 `json:"kld"`  // mean, nats per token
	StdErr float64 `json:"std_err"`
	Top1   float64 `json:"top1"`
}

// The kinds of alternatives.
const (
	AlternativePreset = "preset" // of a stock preset
	AlternativeFit    = "fit"    // fitted to a size or a loss
	AlternativeFile   = "file"   // any other
)

// WriteJSON writes the report as report.json has it.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// distribution counts values in bins of half a decade.
func distribution(kld []float32) []Bin {
	edges := []float64{0, 1e-6, 3.2e-6, 1e-5, 3.2e-5, 1e-4, 3.2e-4, 1e-3, 3.2e-3, 1e-2, 3.2e-2, 0.1, 0.32, 1, 3.2, 10, 32, 1000}
	bins := make([]Bin, len(edges)-1)
	for i := range bins {
		bins[i] = Bin{From: edges[i], To: edges[i+1]}
	}
	for _, x := range kld {
		i := 0
		for i+1 < len(bins) && float64(x) >= bins[i].To {
			i++
		}
		bins[i].Count++
	}
	first, last := 0, len(bins)
	for first < last && bins[first].Count == 0 {
		first++
	}
	for last > first && bins[last-1].Count == 0 {
		last--
	}
	return bins[first:last]
}
