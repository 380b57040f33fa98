// Package publish puts artifacts where gateways and edge nodes read them: into
// a folder, into an S3 bucket, or into an OCI registry.
//
// A Sink takes an Artifact: files whose content is read at offsets, so that a
// conversion that renders ranges on demand is uploaded without a local copy.
// Whatever the kind of sink, this holds:
//
//   - A file gets its name when every byte of it has arrived, and never
//     replaces other content under that name.
//   - What has arrived is read back and its SHA-256 compared, unless
//     Options.TrustChecksum says otherwise.
//   - A torn upload goes on where it was, with Options.Resume; one that nobody
//     goes on with is found by Abandoned and taken away by Discard.
//   - Memory does not grow with the content.
//
// Small objects that change, such as a catalog and its log, are kept by a
// Store with compare-and-swap, which folders and buckets are as well.
//
// A kind of sink is a literal in a file of its own: file.go, s3.go, oci.go.
package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// What went wrong, for errors.Is.
var (
	// ErrExists: the name is taken by other content, or another publisher
	// was faster.
	ErrExists = errors.New("exists with other content")
	// ErrChanged: the object is not the version that was to be replaced.
	ErrChanged = errors.New("changed by another writer")
	// ErrBusy: another process is publishing the same.
	ErrBusy = errors.New("another process is publishing it")
	// ErrMismatch: what was read is not what was written, or not what was
	// announced.
	ErrMismatch = errors.New("content mismatch")
	// ErrUnavailable: the target did not answer in spite of retries. Worth
	// another try later.
	ErrUnavailable = errors.New("unavailable")
	// ErrRefused: the target said no: credentials, permission, quota.
	ErrRefused = errors.New("refused")
	// ErrProtocol: the target answered what no client could use safely.
	ErrProtocol = errors.New("unusable answer")
)

// A Sink is a target of artifacts. Its methods may be called concurrently.
type Sink interface {
	// String is the target as people write it, without secrets.
	String() string

	// Publish uploads the files of a and gives them their names. After an
	// error none of the files that were not complete has its name; where the
	// error may pass, what was uploaded is left for Options.Resume. A file
	// that is there already, with the same content, is left as it is.
	Publish(ctx context.Context, a *Artifact, opts Options) (*Receipt, error)

	// Open reads a published file from an offset on and returns the size of
	// the whole file with it. The error wraps fs.ErrNotExist where there is
	// no such file.
	Open(ctx context.Context, name string, from int64) (io.ReadCloser, int64, error)

	// Abandoned lists the unfinished uploads that no process is known to
	// work at. When they were begun is said by the clock of this machine,
	// whatever that of the target says.
	Abandoned(ctx context.Context) ([]Rest, error)

	// Discard takes an unfinished upload away.
	Discard(ctx context.Context, r Rest) error
}

// An Artifact is one model and what belongs to it.
type Artifact struct {
	Files    []File       // the model, or the parts of a split in their order, come first
	Model    Model        // what a registry's clients want to know
	Attached []Attachment // about the model
}

// Role is what a file is to its model.
type Role string

const (
	RoleModel     Role = "model"     // GGUF, or a part of a split one
	RoleProjector Role = "projector" // GGUF of the vision part
	RoleTemplate  Role = "template"  // chat template, Jinja
	RoleLicense   Role = "license"   // text
	RoleReadme    Role = "readme"    // Markdown

	// The following are of the Ollama layout of a registry alone.
	RoleOllamaTemplate Role = "ollama-template" // prompt template, of Go's text/template
	RoleOllamaParams   Role = "ollama-params"   // JSON object of Ollama's parameters
	RoleOllamaSystem   Role = "ollama-system"   // text
)

// A File is content with a name.
type File struct {
	Name    string // as CheckName wants it
	Role    Role
	Size    int64
	Content io.ReaderAt // may be read concurrently; the same bytes each time

	// SHA256 is the digest in hexadecimal where it is known; other content
	// is then an error.
	SHA256 string

	// Identity says what the content will be before it is read, such as the
	// digest of a plan: an unfinished upload of the same identity is gone on
	// with unread. Where it is empty the content is read again and compared
	// with what was uploaded.
	Identity string
}

// Model describes a model to the clients of a registry.
type Model struct {
	Name          string
	Family        string // architecture: "llama", "qwen3"
	Parameters    int64
	Quantization  string // "Q4_K_M"
	ContextLength int64
	License       string // SPDX
	Source        string // where it comes from: "hf://org/name@commit"
	Created       time.Time
}

// An Attachment is a statement about the artifact: a signature, its
// provenance, a report. A registry keeps it as a referrer; elsewhere it is a
// file beside the model.
type Attachment struct {
	Name      string // of the file: "model.gguf.intoto.jsonl"
	MediaType string // "application/vnd.in-toto+json"
	Data      []byte
}

// Options is how to publish. None of it changes what is published.
type Options struct {
	// Resume goes on with the unfinished upload of an earlier run.
	Resume bool

	// Threads is how many goroutines read the content; zero is GOMAXPROCS.
	Threads int

	// PartSize is the size of what is uploaded at once; zero chooses by the
	// size of the file.
	PartSize int64

	// MoveTag lets a tag of a registry move to the new artifact.
	MoveTag bool

	// TrustChecksum takes the word of a store that has computed our checksum
	// over the whole object, or of a registry that has checked our digest, in
	// place of reading the content back.
	TrustChecksum bool

	// BeforeNaming, where it is not nil, is called when every byte has
	// arrived and before anything gets its name. Its error stops that.
	BeforeNaming func(context.Context) error

	// Keep says of which errors a later run may be free, so that what was
	// uploaded is kept. Those of a target that is unavailable, and an
	// interrupt, always are such.
	Keep func(error) bool

	// Progress, where it is not nil, is kept up to date.
	Progress *Progress

	// Log, where it is not nil, is told of retries and of what is gone on
	// with.
	Log *slog.Logger
}

// Progress is what a display polls.
type Progress struct {
	Done atomic.Int64 // bytes that have arrived, in this run or before
}

// A Receipt is what was published.
type Receipt struct {
	Target    string      `json:"target"`
	Files     []Published `json:"files"`
	Manifests []Manifest  `json:"manifests,omitempty"` // of a registry
}

// Published is a file at its target.
type Published struct {
	Name     string `json:"name"`
	Location string `json:"location"` // path, s3://bucket/key, or oci://host/repo@sha256:...
	SHA256   string `json:"sha256"`
	Size     int64  `json:"size"`
	Existed  bool   `json:"existed,omitempty"`  // it was there already
	Resumed  int64  `json:"resumed,omitempty"`  // bytes that an earlier run had uploaded
	Checksum string `json:"checksum,omitempty"` // of the store over the whole object: "crc64nvme:..."
}

// Manifest is a manifest of a registry.
type Manifest struct {
	Tag       string `json:"tag,omitempty"` // none: a referrer
	Digest    string `json:"digest"`
	MediaType string `json:"media_type"`
	Size      int64  `json:"size"`
}

// A Rest is an unfinished upload.
type Rest struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"` // of the upload at its target, or the path of a file
	Size    int64     `json:"size"`
	Started time.Time `json:"started"`
}

// kind is a kind of sink.
type kind struct {
	scheme string // before "://"
	open   func(target string, getenv func(string) string) (Sink, error)
}

var kinds = map[string]kind{}

// register is called by the init function of each kind's file.
func register(k kind) { kinds[k.scheme] = k }

// IsRemote says whether target is not a path of this machine.
func IsRemote(target string) bool {
	scheme, _, ok := strings.Cut(target, "://")
	return ok && scheme != "file"
}

// Open returns the sink of a target: the path of a folder, file:///folder,
// s3://bucket/prefix, or oci://host/repository[:tag]. Credentials come from
// where the tools of each kind look for them.
//
// Nothing is asked of a server yet.
func Open(target string) (Sink, error) { return OpenEnv(target, os.Getenv) }

// OpenEnv is Open with another environment than that of the process.
func OpenEnv(target string, getenv func(string) string) (Sink, error) {
	if strings.ContainsRune(target, 0) || len(target) > maxTarget {
		return nil, fmt.Errorf("target %.80q: want at most %d bytes without NUL", target, maxTarget)
	}
	scheme, _, ok := strings.Cut(target, "://")
	if !ok {
		scheme = "file"
	}
	k, ok := kinds[scheme]
	if !ok {
		return nil, fmt.Errorf("target %s: %q is not known: want a path, s3://bucket/prefix or oci://host/repository:tag", shown(target), scheme)
	}
	return k.open(target, getenv)
}

// OpenStore returns the store of small objects of a target.
func OpenStore(target string) (Store, error) {
	s, err := Open(target)
	if err != nil {
		return nil, err
	}
	store, ok := s.(Store)
	if !ok {
		return nil, fmt.Errorf("target %s: keeps no objects that change: want a path or s3://bucket/prefix", s)
	}
	return store, nil
}

// maxTarget bounds the text of a target.
const maxTarget = 4096

// shown is a target as messages show it: short, and without what stands
// before an @ in its host, which may be a password.
func shown(target string) string {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok {
		scheme, rest = "", target
	} else {
		scheme += "://"
		host, path, _ := strings.Cut(rest, "/")
		if i := strings.LastIndex(host, "@"); i >= 0 {
			rest = host[i+1:] + "/" + path
		}
	}
	if len(rest) > 200 {
		rest = rest[:200] + "..."
	}
	return scheme + rest
}
