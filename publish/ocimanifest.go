package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Media types and annotations that clients go by. The layers of the main
// manifest have those of Docker Model Runner (docker/model-runner
// pkg/distribution/types), its config and artifactType those of ModelPack
// (modelpack/model-spec), which together all of Docker Model Runner, llama.cpp
// and ORAS take.
const (
	typeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeEmpty          = "application/vnd.oci.empty.v1+json"
	typeModelPack      = "application/vnd.cncf.model.manifest.v1+json"
	typeModelConfig    = "application/vnd.cncf.model.config.v1+json"
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"

	titleAnnotation = "org.opencontainers.image.title"
	pathAnnotation  = "org.cncf.model.filepath"

	ollamaSuffix = "-ollama" // of the sibling tag
)

// mediaTypes are those of the main manifest's layers.
var mediaTypes = map[Role]string{
	RoleModel:     "application/vnd.docker.ai.gguf.v3",
	RoleProjector: "application/vnd.docker.ai.mmproj",
	RoleTemplate:  "application/vnd.docker.ai.chat.template.jinja",
	RoleLicense:   "application/vnd.docker.ai.license",
	RoleReadme:    "application/vnd.cncf.model.doc.v1.raw",
}

// ollamaTypes are those of the sibling's layers.
var ollamaTypes = map[Role]string{
	RoleModel:          "application/vnd.ollama.image.model",
	RoleProjector:      "application/vnd.ollama.image.projector",
	RoleOllamaTemplate: "application/vnd.ollama.image.template",
	RoleOllamaParams:   "application/vnd.ollama.image.params",
	RoleOllamaSystem:   "application/vnd.ollama.image.system",
	RoleLicense:        "application/vnd.ollama.image.license",
}

// descriptor refers to content.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// manifest is a manifest as written or read.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Subject       *descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`

	raw    []byte
	digest string
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// encoded returns m with its bytes.
func (m manifest) encoded() manifest {
	m.raw, _ = json.Marshal(m) // of strings and numbers
	m.digest = digestOf(m.raw)
	return m
}

func (m *manifest) descriptor() descriptor {
	return descriptor{MediaType: m.MediaType, Digest: m.digest, Size: int64(len(m.raw)), ArtifactType: m.ArtifactType}
}

// layer finds a layer by its title.
func (m *manifest) layer(title string) (descriptor, bool) {
	for _, l := range m.Layers {
		if l.Annotations[titleAnnotation] == title {
			return l, true
		}
	}
	return descriptor{}, false
}

// mayBe says why the manifest of a tag cannot be that of an artifact whose
// digests are not known yet.
func (m *manifest) mayBe(a *Artifact) error {
	for _, f := range a.Files {
		if mediaTypes[f.Role] == "" {
			continue
		}
		l, ok := m.layer(f.Name)
		switch {
		case !ok:
			return fmt.Errorf("it has no %s", f.Name)
		case l.Size != f.Size:
			return fmt.Errorf("its %s has %d bytes: want %d", f.Name, l.Size, f.Size)
		case f.SHA256 != "" && l.Digest != "sha256:"+f.SHA256:
			return fmt.Errorf("its %s has %s: want sha256:%s", f.Name, l.Digest, f.SHA256)
		}
	}
	return nil
}

// modelPack returns the main manifest and its config.
func modelPack(a *Artifact, blobs map[string]descriptor) (manifest, []byte) {
	m := manifest{SchemaVersion: 2, MediaType: typeOCIManifest, ArtifactType: typeModelPack}
	var diffIDs []string
	for _, f := range a.Files {
		d := blobs[f.Name]
		if mediaTypes[f.Role] == "" {
			continue
		}
		d.Annotations = map[string]string{titleAnnotation: f.Name, pathAnnotation: f.Name}
		m.Layers = append(m.Layers, d)
		diffIDs = append(diffIDs, d.Digest)
	}
	type object map[string]any
	about, config := object{}, object{"format": "gguf"}
	set := func(o object, key, v string) {
		if v != "" {
			o[key] = v
		}
	}
	set(about, "name", a.Model.Name)
	set(about, "family", a.Model.Family)
	set(about, "sourceURL", a.Model.Source)
	if a.Model.License != "" {
		about["licenses"] = []string{a.Model.License}
	}
	if !a.Model.Created.IsZero() {
		about["createdAt"] = a.Model.Created.UTC().Format(time.RFC3339)
	}
	set(config, "architecture", a.Model.Family)
	set(config, "paramSize", paramSize(a.Model.Parameters))
	set(config, "quantization", a.Model.Quantization)
	c, _ := json.Marshal(object{"descriptor": about, "modelfs": object{"type": "layers", "diffIds": diffIDs}, "config": config})
	m.Config = descriptor{MediaType: typeModelConfig, Digest: digestOf(c), Size: int64(len(c))}
	return m.encoded(), c
}

// ollama returns the manifest of the sibling tag and its config. Ollama takes
// no split models.
func ollama(a *Artifact, blobs map[string]descriptor) (manifest, []byte, bool) {
	m := manifest{SchemaVersion: 2, MediaType: typeDockerManifest}
	models := 0
	var diffIDs []string
	for _, f := range a.Files {
		d := blobs[f.Name]
		if d.MediaType = ollamaTypes[f.Role]; d.MediaType == "" {
			continue
		}
		if f.Role == RoleModel {
			models++
		}
		m.Layers = append(m.Layers, d)
		diffIDs = append(diffIDs, d.Digest)
	}
	if models != 1 {
		return manifest{}, nil, false
	}
	c, _ := json.Marshal(struct {
		Format        string   `json:"model_format"`
		Family        string   `json:"model_family"`
		Families      []string `json:"model_families"`
		ModelType     string   `json:"model_type"`
		FileType      string   `json:"file_type"`
		ContextLength int64    `json:"context_length,omitempty"`
		Architecture  string   `json:"architecture"`
		OS            string   `json:"os"`
		RootFS        struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		} `json:"rootfs"`
	}{
		Format: "gguf", Family: a.Model.Family, Families: []string{a.Model.Family},
		ModelType: paramSize(a.Model.Parameters), FileType: a.Model.Quantization, ContextLength: a.Model.ContextLength,
		// Of every config that Ollama writes, whatever the machine.
		Architecture: "amd64", OS: "linux",
		RootFS: struct {
			Type    string   `json:"type"`
			DiffIDs []string `json:"diff_ids"`
		}{"layers", diffIDs},
	})
	m.Config = descriptor{MediaType: typeDockerConfig, Digest: digestOf(c), Size: int64(len(c))}
	return m.encoded(), c, true
}

// paramSize writes a number of parameters as model names do: 135M, 7.62B.
func paramSize(n int64) string {
	v, unit := float64(n), ""
	switch {
	case n <= 0:
		return ""
	case n >= 999_500_000_000:
		v, unit = v/1e12, "T"
	case n >= 999_500_000:
		v, unit = v/1e9, "B"
	case n >= 999_500:
		v, unit = v/1e6, "M"
	case n >= 1000:
		v, unit = v/1e3, "K"
	}
	return strconv.FormatFloat(v, 'g', 3, 64) + unit
}

// manifest reads the manifest of a tag or digest.
func (r *repository) manifest(ctx context.Context, reference string) (*manifest, error) {
	ctx, cancel := within(ctx, manifestLimit)
	defer cancel()
	res, err := r.again(ctx, call{method: http.MethodGet, url: r.base + "/manifests/" + reference, want: []int{200},
		header: map[string]string{"Accept": typeOCIManifest + ", " + typeDockerManifest + ", " + typeOCIIndex}})
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w", reference, err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, manifestLimit+1))
	if err != nil {
		return nil, fmt.Errorf("read manifest %s: %w: %w", reference, ErrUnavailable, err)
	}
	if len(raw) > manifestLimit {
		return nil, fmt.Errorf("read manifest %s: is more than %d bytes: %w", reference, manifestLimit, ErrProtocol)
	}
	m := &manifest{raw: raw, digest: digestOf(raw)}
	if strings.HasPrefix(reference, "sha256:") && m.digest != reference {
		return nil, fmt.Errorf("read manifest %s: its digest is %s: %w", reference, m.digest, ErrMismatch)
	}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("read manifest %s: %w: %w", reference, ErrProtocol, err)
	}
	for _, l := range m.Layers {
		if !validDigest(l.Digest) || l.Size < 0 {
			return nil, fmt.Errorf("read manifest %s: layer %.80q of %d bytes: %w", reference, l.Digest, l.Size, ErrProtocol)
		}
	}
	return m, nil
}

func validDigest(d string) bool {
	b, err := hex.DecodeString(strings.TrimPrefix(d, "sha256:"))
	return strings.HasPrefix(d, "sha256:") && err == nil && len(b) == sha256.Size
}

// putManifest writes a manifest under a tag, or under its digest.
func (r *repository) putManifest(ctx context.Context, m manifest, tag string) (descriptor, error) {
	_, err := r.putRaw(ctx, m.MediaType, m.raw, tag)
	return m.descriptor(), err
}

// putRaw writes a manifest or index and returns the header of the answer.
func (r *repository) putRaw(ctx context.Context, mediaType string, raw []byte, tag string) (http.Header, error) {
	reference := tag
	if reference == "" {
		reference = digestOf(raw)
	}
	res, err := r.again(ctx, call{method: http.MethodPut, url: r.base + "/manifests/" + reference, want: []int{201, 200, 202},
		header: map[string]string{"Content-Type": mediaType}, body: raw})
	if err != nil {
		return nil, fmt.Errorf("write manifest %s: %w", reference, err)
	}
	res.Body.Close()
	if d := res.Header.Get("Docker-Content-Digest"); d != "" && d != digestOf(raw) {
		return nil, fmt.Errorf("write manifest %s: the registry has %.80q: %s was sent: %w", reference, d, digestOf(raw), ErrMismatch)
	}
	return res.Header, nil
}

// attach writes a referrer of subject. Where the registry has no referrers it
// is listed in an index under the tag that the specification names for this.
func (r *repository) attach(ctx context.Context, subject descriptor, t Attachment) (Manifest, error) {
	if len(t.Data) == 0 {
		return Manifest{}, errors.New("has no content")
	}
	for _, b := range [][]byte{[]byte("{}"), t.Data} {
		if err := r.putBlob(ctx, b); err != nil {
			return Manifest{}, err
		}
	}
	subject.ArtifactType = ""
	m := manifest{
		SchemaVersion: 2, MediaType: typeOCIManifest, ArtifactType: t.MediaType,
		Config:  descriptor{MediaType: typeEmpty, Digest: digestOf([]byte("{}")), Size: 2},
		Layers:  []descriptor{{MediaType: t.MediaType, Digest: digestOf(t.Data), Size: int64(len(t.Data)), Annotations: map[string]string{titleAnnotation: t.Name}}},
		Subject: &subject,
	}.encoded()
	header, err := r.putRaw(ctx, m.MediaType, m.raw, "")
	if err != nil {
		return Manifest{}, err
	}
	done := Manifest{Digest: m.digest, MediaType: m.MediaType, Size: int64(len(m.raw))}
	if header.Get("OCI-Subject") == subject.Digest {
		return done, nil
	}
	return done, r.list(ctx, subject.Digest, m.descriptor())
}

// referrersTag is the tag of the index of an older registry's referrers.
func referrersTag(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// index is a list of manifests.
type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// list adds a referrer to the index. There is no compare-and-swap: it is read
// back, and written again where another writer came in between.
func (r *repository) list(ctx context.Context, subject string, d descriptor) error {
	for range tries {
		at := index{SchemaVersion: 2, MediaType: typeOCIIndex}
		old, err := r.manifest(ctx, referrersTag(subject))
		switch {
		case err == nil:
			if err := json.Unmarshal(old.raw, &at); err != nil {
				return fmt.Errorf("referrers: %w: %w", ErrProtocol, err)
			}
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		for _, m := range at.Manifests {
			if m.Digest == d.Digest {
				return nil
			}
		}
		at.SchemaVersion, at.MediaType = 2, typeOCIIndex
		at.Manifests = append(at.Manifests, d)
		raw, err := json.Marshal(at)
		if err != nil {
			return err
		}
		if _, err := r.putRaw(ctx, typeOCIIndex, raw, referrersTag(subject)); err != nil {
			return err
		}
	}
	return fmt.Errorf("referrers of %s: other writers were always faster: %w", subject, ErrChanged)
}

// referrers returns what refers to a manifest.
func (r *repository) referrers(ctx context.Context, subject string) ([]descriptor, error) {
	var raw []byte
	res, err := r.again(ctx, call{method: http.MethodGet, url: r.base + "/referrers/" + subject, want: []int{200}, header: map[string]string{"Accept": typeOCIIndex}})
	switch {
	case err == nil:
		defer res.Body.Close()
		raw, err = io.ReadAll(io.LimitReader(res.Body, manifestLimit))
		if err != nil {
			return nil, fmt.Errorf("referrers: %w: %w", ErrUnavailable, err)
		}
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrRefused) || errors.Is(err, ErrProtocol):
		m, err := r.manifest(ctx, referrersTag(subject))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		raw = m.raw
	default:
		return nil, err
	}
	var at index
	if err := json.Unmarshal(raw, &at); err != nil {
		return nil, fmt.Errorf("referrers: %w: %w", ErrProtocol, err)
	}
	for _, d := range at.Manifests {
		if !validDigest(d.Digest) {
			return nil, fmt.Errorf("referrers: digest %.80q: %w", d.Digest, ErrProtocol)
		}
	}
	return at.Manifests, nil
}

// attachedLayer finds an attachment by its name.
func (r *repository) attachedLayer(ctx context.Context, subject, title string) (descriptor, bool, error) {
	all, err := r.referrers(ctx, subject)
	if err != nil {
		return descriptor{}, false, err
	}
	for _, d := range all {
		m, err := r.manifest(ctx, d.Digest)
		if err != nil {
			return descriptor{}, false, err
		}
		if l, ok := m.layer(title); ok {
			return l, true, nil
		}
	}
	return descriptor{}, false, nil
}
