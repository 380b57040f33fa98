package catalog

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"strings"
	"time"

	"github.com/modelpipe/modelpipe/gguf"
)

// RecordSchemaID identifies the version of the JSON form of a Record.
const RecordSchemaID = "https://github.com/modelpipe/modelpipe/schema/record/1.0.0/record.schema.json"

// The names in the folder of a variant.
const (
	RecordName      = "record.json"
	ReportName      = "report.json"
	AttestationName = "provenance.dsse.json"
)

// Bounds of the documents of a variant.
const (
	maxRecord      = 4 << 20
	maxReport      = 64 << 20
	maxAttestation = 1 << 20
)

// Record is what is known of a published variant from its files alone. It
// lies beside them, in the folder VariantDir, and never changes.
type Record struct {
	Schema        string     `json:"$schema" schema:"const=https://github.com/modelpipe/modelpipe/schema/record/1.0.0/record.schema.json" doc:"version of this format"`
	Model         string     `json:"model" schema:"pattern=slug" doc:"slug of the model"`
	Architecture  string     `json:"architecture" schema:"pattern=name" doc:"general.architecture of the file"`
	Parameters    int64      `json:"parameters" schema:"min=1" doc:"number of weights"`
	ContextWindow int64      `json:"context_window,omitempty" schema:"min=1" doc:"tokens that the model was made for"`
	Embedding     *Embedding `json:"embedding,omitempty" doc:"of an embedding model"`
	Template      string     `json:"template,omitempty" schema:"maxLength=200000" doc:"tokenizer.chat_template"`
	BOS           string     `json:"bos,omitempty" schema:"maxLength=200" doc:"text of the token in front of everything"`
	EOS           string     `json:"eos,omitempty" schema:"maxLength=200" doc:"text of the token that ends an answer"`
	Variant       Variant    `json:"variant" doc:"the variant as the catalog has it; quality and attestation may come from files beside the record instead"`
}

// VariantDir is the folder of a variant in a store.
func VariantDir(slug, id string) string { return path.Join("models", slug, id) }

// VariantID is the ID of the variant with a name in the curation file and the
// digest of its first file.
func VariantID(name string, digest Digest) string {
	return strings.ToLower(name) + "-" + strings.TrimPrefix(string(digest), "sha256:")[:12]
}

// DigestOf returns the digest of some bytes.
func DigestOf(data []byte) Digest {
	sum := sha256.Sum256(data)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// NewRecord describes a published GGUF file, the parts of a split one in their
// order. Files and provenance are known to who published it.
func NewRecord(slug, name, preset string, h *gguf.Header, files []File, locations []Location, from Provenance) (*Record, error) {
	if len(files) == 0 || !matches("digest", string(files[0].SHA256)) {
		return nil, fmt.Errorf("record of %s: no file with a digest", quoted(slug))
	}
	arch, err := h.Metadata.String("general.architecture")
	if err != nil {
		return nil, fmt.Errorf("record of %s: %w", quoted(slug), err)
	}
	r := &Record{
		Schema:       RecordSchemaID,
		Model:        slug,
		Architecture: arch,
		Variant: Variant{
			ID:         VariantID(name, files[0].SHA256),
			Name:       name,
			Format:     "gguf",
			Preset:     preset,
			Types:      map[string]int64{},
			Files:      files,
			Locations:  locations,
			Provenance: from,
		},
	}
	r.Variant.Provenance.Created = utc(from.Created)
	for _, f := range files {
		r.Variant.Size += f.Size
	}
	if err := r.weights(h); err != nil {
		return nil, fmt.Errorf("record of %s: %w", quoted(slug), err)
	}
	if err := r.metadata(h.Metadata); err != nil {
		return nil, fmt.Errorf("record of %s: %w", quoted(slug), err)
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("record of %s: %w", quoted(slug), err)
	}
	return r, nil
}

// weights counts weights by type.
func (r *Record) weights(h *gguf.Header) error {
	var bytes int64
	for _, t := range h.Tensors {
		n, err := t.Elements()
		if err != nil {
			return err
		}
		block := t.Type.BlockElements()
		if block == 0 || n%block != 0 {
			return fmt.Errorf("tensor %s: %d weights of type %s", quoted(t.Name), n, t.Type)
		}
		r.Parameters += n
		bytes += n / block * t.Type.BlockBytes()
		r.Variant.Types[t.Type.String()] += n
	}
	if r.Parameters < 1 || bytes < 1 {
		return errors.New("the file has no weights")
	}
	r.Variant.BitsPerWeight = math.Round(8*float64(bytes)/float64(r.Parameters)*1e4) / 1e4
	r.Variant.Memory.Weights = bytes
	return nil
}

// poolings are llama.cpp's names of pooling types, by number.
var poolings = []string{"none", "mean", "cls", "last", "rank"}

// metadata reads what the file's keys say.
func (r *Record) metadata(md gguf.Metadata) error {
	get := func(key string) (int64, error) {
		n, err := md.Int(r.Architecture + "." + key)
		if errors.Is(err, gguf.ErrNoKey) {
			return 0, nil
		}
		return n, err
	}
	var err error
	if r.ContextWindow, err = get("context_length"); err != nil {
		return err
	}
	width, err := get("embedding_length")
	if err != nil {
		return err
	}
	pooling, err := md.Int(r.Architecture + ".pooling_type")
	switch {
	case errors.Is(err, gguf.ErrNoKey):
	case err != nil:
		return err
	case pooling < 0 || pooling >= int64(len(poolings)):
		return fmt.Errorf("%s.pooling_type is %d", r.Architecture, pooling)
	case pooling > 0 && width > 0:
		r.Embedding = &Embedding{Dimensions: width, Pooling: poolings[pooling]}
	}
	if _, ok := md.Get("tokenizer.chat_template"); ok {
		if r.Template, err = md.String("tokenizer.chat_template"); err != nil {
			return err
		}
	}
	tokens, _ := md.Strings("tokenizer.ggml.tokens")
	for key, to := range map[string]*string{"tokenizer.ggml.bos_token_id": &r.BOS, "tokenizer.ggml.eos_token_id": &r.EOS} {
		id, err := md.Int(key)
		if err == nil && id >= 0 && id < int64(len(tokens)) {
			*to = tokens[id]
		}
	}
	cache, err := cacheBytes(md, r.Architecture)
	if err != nil {
		return err
	}
	// Buffers of the computation, as llama.cpp reserves them for batches of
	// 512 tokens, roughly: the logits, and some activations of a layer.
	const batch, activations, fixed = 512, 16, 64 << 20
	r.Variant.Memory.PerToken = cache
	r.Variant.Memory.Overhead = fixed + 4*batch*(min(int64(len(tokens)), 1<<24)+activations*min(width, 1<<20))
	return nil
}

// cacheBytes is the size of the cache of one token: for each layer the keys
// and values of its heads, in 16 bits. Where attention is latent, a layer
// keeps the compressed vector and the rotated part instead. An encoder keeps
// nothing.
func cacheBytes(md gguf.Metadata, arch string) (int64, error) {
	list := func(key string) ([]int64, error) {
		v, _ := md.Get(arch + "." + key)
		switch v := v.(type) {
		case nil:
			return nil, nil
		case []int32:
			return widen(v), nil
		case []uint32:
			return widen(v), nil
		}
		n, err := md.Int(arch + "." + key)
		return []int64{n}, err
	}
	first := func(key string) (int64, error) {
		n, err := list(key)
		if err != nil || len(n) == 0 {
			return 0, err
		}
		return n[0], nil
	}
	causal, err := md.Bool(arch + ".attention.causal")
	if err == nil && !causal {
		return 0, nil
	}
	var layers, width, heads, key, value, latent, rotated int64
	for name, to := range map[string]*int64{
		"block_count": &layers, "embedding_length": &width, "attention.head_count": &heads,
		"attention.key_length": &key, "attention.value_length": &value,
		"attention.kv_lora_rank": &latent, "rope.dimension_count": &rotated,
	} {
		if *to, err = first(name); err != nil {
			return 0, err
		}
		const most = 1 << 24
		if *to < 0 || *to > most {
			return 0, fmt.Errorf("%s.%s is %d", arch, name, *to)
		}
	}
	if latent > 0 {
		return 2 * layers * (latent + rotated), nil
	}
	shared, err := list("attention.head_count_kv")
	if err != nil {
		return 0, err
	}
	if len(shared) == 0 {
		shared = []int64{heads}
	}
	if heads > 0 {
		if key == 0 {
			key = width / heads
		}
		if value == 0 {
			value = width / heads
		}
	}
	total := int64(0)
	for i := range min(layers, 1<<16) {
		n := shared[min(i, int64(len(shared))-1)]
		if n < 0 || n > 1<<16 {
			return 0, fmt.Errorf("%s.attention.head_count_kv is %d", arch, n)
		}
		total += 2 * n * (key + value)
	}
	return total, nil
}

func widen[T int32 | uint32](v []T) []int64 {
	out := make([]int64, len(v))
	for i, x := range v {
		out[i] = int64(x)
	}
	return out
}

// DecodeRecord reads a Record.
func DecodeRecord(data []byte) (*Record, error) {
	var r Record
	if err := decodeStrict(data, &r, RecordSchemaID); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if err := r.validate(); err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	return &r, nil
}

func (r *Record) validate() error {
	if err := check(r, "json"); err != nil {
		return err
	}
	if want := VariantID(r.Variant.Name, r.Variant.Files[0].SHA256); r.Variant.ID != want {
		return fmt.Errorf("variant.id is %s, want %s", r.Variant.ID, want)
	}
	if err := r.Variant.validate(); err != nil {
		return fmt.Errorf("variant: %w", err)
	}
	return nil
}

// ReportSchema names the reports of validation that the catalog reads
// (docs/report.schema.json).
const ReportSchema = "modelpipe.report/1"

// report is what the catalog takes from a report of validation.
type report struct {
	Schema    string `json:"schema"`
	Pass      bool   `json:"pass"`
	Candidate struct {
		SHA256 string `json:"sha256"` // of the file, or of the first part
	} `json:"candidate"`
	KLD    *KLD     `json:"kld"`
	Top1   *float64 `json:"top1"`
	PPL    *PPL     `json:"ppl"`
	Tokens struct {
		Equal *bool `json:"equal"`
	} `json:"tokens"`
	Structure struct {
		OK *bool `json:"ok"`
	} `json:"structure"`
	Gates []struct {
		Name  string `json:"name"`
		Limit any    `json:"limit"` // number or bool
		Value any    `json:"value"`
		Pass  bool   `json:"pass"`
	} `json:"gates"`
}

// DecodeQuality reads the figures of a report of validation: kld, top1, ppl,
// tokens.equal, structure.ok and gates. What else it has is for people. The
// report must be of the file with the digest, the first of several, and must
// have judged something.
func DecodeQuality(data []byte, file Digest) (*Quality, error) {
	var r report
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("report: %w", jsonError(err))
	}
	if r.Schema != ReportSchema {
		return nil, fmt.Errorf("report: schema is %.80q, want %q", r.Schema, ReportSchema)
	}
	if got := Digest("sha256:" + r.Candidate.SHA256); got != file {
		return nil, fmt.Errorf("report: candidate.sha256: is of another file: %.80q, want %s", got, file)
	}
	q := &Quality{KLD: r.KLD, Top1: r.Top1, PPL: r.PPL, TokensEqual: r.Tokens.Equal, StructureOK: r.Structure.OK}
	for i, g := range r.Gates {
		limit, err1 := gateFigure(g.Limit)
		value, err2 := gateFigure(g.Value)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("report: gates[%d]: %w", i, err)
		}
		q.Gates = append(q.Gates, Gate{Name: g.Name, Limit: limit, Value: value, Passed: g.Pass})
	}
	if q.KLD != nil {
		for _, v := range []*float64{&q.KLD.Mean, &q.KLD.P99, &q.KLD.Max} {
			if *v > -kldRounding {
				*v = max(0, *v)
			}
		}
	}
	if err := check(q, "json"); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	if len(q.Gates) == 0 {
		return nil, errors.New("report: gates: nothing was judged")
	}
	if q.Passed() != r.Pass {
		return nil, fmt.Errorf("report: pass is %t, and its gates, tokens and structure say %t", r.Pass, q.Passed())
	}
	return q, nil
}

// kldRounding is how far, in nats, rounding can put a divergence of nothing
// below zero.
const kldRounding = 1e-4

// gateFigure is the number of a gate; those that something holds have none.
func gateFigure(v any) (*float64, error) {
	switch v := v.(type) {
	case float64:
		return &v, nil
	case bool:
		return nil, nil
	}
	return nil, fmt.Errorf("limit and value: want a number, true or false, got %.80v", v)
}

// readQuality reads a report of a file that lies in the store under a name.
func readQuality(name string, data []byte, file Digest) (*Quality, error) {
	q, err := DecodeQuality(data, file)
	if err != nil {
		return nil, err
	}
	q.Report = &Link{URI: name, SHA256: DigestOf(data), Size: int64(len(data)), MediaType: "application/json"}
	return q, nil
}

func attestationLink(name string, data []byte) *Link {
	return &Link{URI: name, SHA256: DigestOf(data), Size: int64(len(data)), MediaType: "application/vnd.dsse.envelope.v1+json"}
}

// Passed says whether every gate held. Without a report there was none.
func (q *Quality) Passed() bool {
	if q == nil {
		return true
	}
	for _, g := range q.Gates {
		if !g.Passed {
			return false
		}
	}
	return (q.TokensEqual == nil || *q.TokensEqual) && (q.StructureOK == nil || *q.StructureOK)
}

// utc is a time as documents have it.
func utc(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
