package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/quantize"
)

// This file says what is done to make a variant, and what comes of it, in plain
// data: a task can be sent to another machine as JSON, and its result back.

// makes is the generation of what the same inputs are made into. It is raised
// when a version of modelpipe makes other files, or judges otherwise, so that
// everything is made anew.
const makes = 1

// Inputs is everything that decides about a variant. Equal inputs give equal
// bytes and the same judgement, so what was made of them once is not made again.
type Inputs struct {
	Makes   int            `json:"makes"`
	Tool    string         `json:"tool,omitempty"` // version, where each one makes anew
	Model   string         `json:"model"`          // slug
	Source  string         `json:"source"`         // hf://org/name, or the name of a folder
	Commit  string         `json:"commit"`         // of the repository, or the digest of the folder
	Variant string         `json:"variant"`        // name in the curation file
	Recipe  catalog.Digest `json:"recipe_digest"`
	Imatrix string         `json:"imatrix,omitempty"` // digest of a file, or auto: and the digest of what it is measured on
	Losses  string         `json:"losses,omitempty"`  // of a fit: digest of a file, or auto: and the digest of what they are measured on
	Gates   Gates          `json:"gates"`
}

// ID is the identity of what is made of the inputs: 64 hexadecimal digits.
func (in Inputs) ID() string { return digestJSON(in) }

// digestJSON is the SHA-256 of a value's JSON.
func digestJSON(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain data
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Gates is what a variant must hold, and on what that is measured.
type Gates struct {
	MaxSize int64    `json:"max_size,omitempty"` // bytes
	MaxKLD  *float64 `json:"max_kld,omitempty"`
	MinTop1 *float64 `json:"min_top1,omitempty"`
	MaxPPL  *float64 `json:"max_ppl_ratio,omitempty"`
	Text    string   `json:"text,omitempty"` // digest; none: the one that comes with modelpipe

	Canaries string `json:"canaries,omitempty"` // digest of the prompts; none: those that come with modelpipe

	Chunks int `json:"chunks"`
	Ctx    int `json:"ctx"`
}

// Calibration is what an importance matrix is measured of.
type Calibration struct {
	Makes  int    `json:"makes"`
	Source string `json:"source"`
	Commit string `json:"commit"`
	Text   string `json:"text"` // digest
	Chunks int    `json:"chunks"`
	Ctx    int    `json:"ctx"`
}

// ID is the identity of the matrix.
func (c Calibration) ID() string { return digestJSON(c) }

// Measurement is what the losses of types are measured of.
type Measurement struct {
	Makes   int         `json:"makes"`
	Imatrix Calibration `json:"imatrix"` // that the encoders go by; its text is measured on
	Chunks  int         `json:"chunks"`
	Ctx     int         `json:"ctx"`
	Seed    uint64      `json:"seed"`
}

// ID is the identity of the losses.
func (m Measurement) ID() string { return digestJSON(m) }

// The kinds of tasks.
const (
	KindLosses    = "losses"    // measure what types lose on tensors
	KindCalibrate = "calibrate" // measure an importance matrix
	KindMake      = "make"      // convert, validate, and put into the store
)

// Task is a piece of work. Files that it names by digest or identity lie in the
// work directory (Worker).
type Task struct {
	ID     string `json:"id"` // of Inputs or Calibration
	Kind   string `json:"kind"`
	Model  string `json:"model"`  // slug
	Source string `json:"source"` // hf://org/name, or the path of a folder
	Commit string `json:"commit"`
	Folder string `json:"folder,omitempty"` // name that stands for the path of a folder
	Needs  Needs  `json:"needs"`
	After  string `json:"after,omitempty"` // ID of a task that comes before

	Calibration *Calibration `json:"calibration,omitempty"` // of kind calibrate
	Measurement *Measurement `json:"measurement,omitempty"` // of kind losses

	// Of kind make.
	Variant string  `json:"variant,omitempty"`
	Type    string  `json:"type,omitempty"`    // preset, type or fit
	Recipe  string  `json:"recipe,omitempty"`  // text of a recipe file, instead
	Imatrix string  `json:"imatrix,omitempty"` // name of its file in the work directory; also of kind losses
	Losses  string  `json:"losses,omitempty"`  // name of their file there
	Gates   Gates   `json:"gates"`
	Channel string  `json:"channel,omitempty"` // whose keys sign its provenance
	Inputs  *Inputs `json:"inputs,omitempty"`
	Size    int64   `json:"size,omitempty"` // of the file, in bytes
}

// Needs is what a task takes of the machine, in bytes.
type Needs struct {
	Disk   int64 `json:"disk"`
	Memory int64 `json:"memory"`
}

// isFit says whether a type asks for types that fit max_size.
func isFit(name string) bool { return strings.EqualFold(name, catalog.TypeFit) }

// recipe is how the types are chosen; what it says of a fit only tells it from
// others.
func (t *Task) recipe() (quantize.Recipe, error) { return parseRecipe(t.Type, t.Recipe) }

// parseRecipe reads the text of a recipe file, or takes a type.
func parseRecipe(name, text string) (quantize.Recipe, error) {
	if text == "" {
		return quantize.Recipe{Preset: name}, nil
	}
	return quantize.ReadRecipe(strings.NewReader(text))
}

// The states of results.
const (
	StateDone    = "done"
	StateRefused = "refused" // a gate said no
	StateFailed  = "failed"
)

// Result is what came of a task.
type Result struct {
	Task    string         `json:"task"` // its ID
	Kind    string         `json:"kind"`
	Model   string         `json:"model"`
	Variant string         `json:"variant,omitempty"`
	State   string         `json:"state"`
	Reason  string         `json:"reason,omitempty"` // where it is not done
	Retry   bool           `json:"retry,omitempty"`  // it may be done by a later run: something was unavailable
	ID      string         `json:"id,omitempty"`     // of the variant
	Gates   []catalog.Gate `json:"gates,omitempty"`
	Read    int64          `json:"bytes_read"`
	Written int64          `json:"bytes_written"`
	Seconds float64        `json:"seconds"`
}

// Executor does tasks. Local does them on this machine; another one can send
// them elsewhere.
type Executor interface {
	// Execute does each task after the one that it comes after, which must be
	// among the tasks or done. It calls report with each result, one at a
	// time; a task after one that was not done is reported as failed. It
	// returns when all are reported, or with the error of report.
	Execute(ctx context.Context, tasks []Task, report func(Result) error) error
}
