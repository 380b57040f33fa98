package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

func init() { register(kind{scheme: "oci", open: openRepository}) }

// repository is a sink: a tag of a repository in an OCI registry.
//
// Files become blobs, sent in chunks one after the other (ociupload.go), which
// two manifests list (ocimanifest.go): one for the tag, in the ModelPack layout
// that Docker Model Runner, llama.cpp and ORAS read, and one for the sibling
// TAG-ollama. Attachments become referrers of the first.
//
// The protocol has no compare-and-swap of tags: a tag is looked at right
// before it is written and right after it, so that of two publishers the one
// who was overwritten is told, unless both look in between.
type repository struct {
	tag   name.Tag
	base  string // URL of the repository: scheme://host/v2/name
	cache string // folder of caches; empty for the system's
	scope string // permission that is asked for

	mu     sync.Mutex
	client *http.Client // made at the first request
}

// Bounds of what a registry may answer.
const (
	manifestLimit = 4 << 20
	errorLimit    = 64 << 10
	chunkBytes    = 32 << 20 // of a chunked upload
)

// openRepository opens oci://host/repository[:tag]; the tag is latest where
// none is given.
func openRepository(target string, getenv func(string) string) (Sink, error) {
	ref := strings.TrimPrefix(target, "oci://")
	host, _, ok := strings.Cut(ref, "/")
	if !ok || host == "" || strings.ContainsAny(ref, "@?#") {
		return nil, fmt.Errorf("target %s: want oci://host/repository[:tag]", shown(target))
	}
	tag, err := name.NewTag(ref)
	if err != nil {
		return nil, fmt.Errorf("target %s: want oci://host/repository[:tag]: %s", shown(target), shownName(err.Error()))
	}
	if got := tag.RegistryStr(); got != host && !(host == "docker.io" && got == name.DefaultRegistry) {
		return nil, fmt.Errorf("target %s: %s is not a host: want oci://host/repository[:tag]", shown(target), shownName(host))
	}
	if len(tag.TagStr()+ollamaSuffix) > 128 {
		return nil, fmt.Errorf("target %s: the tag is longer than %d bytes", shown(target), 128-len(ollamaSuffix))
	}
	r := &repository{tag: tag, cache: getenv("XDG_CACHE_HOME"), scope: transport.PushScope}
	r.base = fmt.Sprintf("%s://%s/v2/%s", tag.Scheme(), tag.RegistryStr(), tag.RepositoryStr())
	return r, nil
}

func (r *repository) String() string {
	return "oci://" + r.tag.RegistryStr() + "/" + r.tag.RepositoryStr() + ":" + r.tag.TagStr()
}

// location names content of the repository.
func (r *repository) location(digest string) string {
	return "oci://" + r.tag.RegistryStr() + "/" + r.tag.RepositoryStr() + "@" + digest
}

// http returns a client that knows the credentials of the docker keychain.
func (r *repository) http(ctx context.Context) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	auth, err := authn.Resolve(ctx, authn.DefaultKeychain, r.tag.Repository)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", r.tag.RegistryStr(), err)
	}
	inner := http.DefaultTransport.(*http.Transport).Clone()
	inner.ResponseHeaderTimeout = 2 * time.Minute
	inner.DisableCompression = true
	for try := 0; ; try++ {
		t, err := transport.NewWithContext(ctx, r.tag.Registry, auth, inner, []string{r.tag.Repository.Scope(r.scope)})
		if err == nil {
			r.client = &http.Client{Transport: t}
			return r.client, nil
		}
		var said *transport.Error
		if errors.As(err, &said) && said.StatusCode < 500 && said.StatusCode != http.StatusTooManyRequests {
			return nil, fmt.Errorf("log in to %s: %.300s: %w", r.tag.RegistryStr(), oneLine(err.Error()), ErrRefused)
		}
		if try == tries || ctx.Err() != nil {
			return nil, fmt.Errorf("log in to %s: %.300s: %w", r.tag.RegistryStr(), oneLine(err.Error()), ErrUnavailable)
		}
		if err := pause(ctx, try); err != nil {
			return nil, err
		}
	}
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// call is a request to a registry.
type call struct {
	method, url string
	header      map[string]string
	body        []byte
	want        []int // statuses; others are errors
}

// do sends a request once. The caller closes the body. Failures that may pass
// are ErrUnavailable; a status 404 is fs.ErrNotExist.
func (r *repository) do(ctx context.Context, c call) (*http.Response, error) {
	client, err := r.http(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, c.method, c.url, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, withoutURL(err))
	}
	body := &payload{data: c.body}
	defer body.stop()
	body.body(req)
	for k, v := range c.header {
		req.Header.Set(k, v)
	}
	res, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil && context.Cause(ctx) != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%s %s: %w: %w", c.method, r.tag.RegistryStr(), ErrUnavailable, withoutURL(err))
	}
	for _, s := range c.want {
		if res.StatusCode == s {
			return res, nil
		}
	}
	defer res.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(res.Body, errorLimit))
	return nil, r.refusal(c.method, res.StatusCode, said)
}

// again sends a request until it succeeds, fails for good, or was tried often.
func (r *repository) again(ctx context.Context, c call) (*http.Response, error) {
	for try := 0; ; try++ {
		res, err := r.do(ctx, c)
		if err == nil || !errors.Is(err, ErrUnavailable) || try == tries || ctx.Err() != nil {
			return res, err
		}
		if perr := pause(ctx, try); perr != nil {
			return nil, err
		}
	}
}

// refusal says what an unwanted status means.
func (r *repository) refusal(method string, status int, body []byte) error {
	var e struct {
		Errors []struct{ Code, Message string }
	}
	said := ""
	if json.Unmarshal(body, &e) == nil && len(e.Errors) > 0 {
		said = fmt.Sprintf(" %.100q: %.300q", e.Errors[0].Code, e.Errors[0].Message)
	}
	kind := ErrProtocol
	switch {
	case status == http.StatusNotFound:
		kind = fs.ErrNotExist
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusMethodNotAllowed:
		kind = ErrRefused
	case status == http.StatusBadRequest && strings.Contains(said, "DIGEST_INVALID"):
		kind = ErrMismatch
	case status >= 500 || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status == http.StatusRequestedRangeNotSatisfiable:
		kind = ErrUnavailable
	}
	return fmt.Errorf("%s %s: status %d%s: %w", method, r.tag.RegistryStr(), status, said, kind)
}

// Publish implements Sink.
func (r *repository) Publish(ctx context.Context, a *Artifact, opts Options) (*Receipt, error) {
	rec, err := r.publish(ctx, a, opts.filled())
	if err != nil {
		return nil, fmt.Errorf("publish to %s: %w", r, err)
	}
	return rec, nil
}

func (r *repository) publish(ctx context.Context, a *Artifact, opts Options) (*Receipt, error) {
	if err := checkArtifact(a); err != nil {
		return nil, err
	}
	before, err := r.manifest(ctx, r.tag.TagStr())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if before != nil && !opts.MoveTag {
		if err := before.mayBe(a); err != nil {
			return nil, fmt.Errorf("the tag is there with other content (%w): choose another, or give --move-tag: %w", err, ErrExists)
		}
	}
	receipt := &Receipt{Target: r.String()}
	var uploads []*ociUpload
	defer func() {
		for _, u := range uploads {
			u.close()
		}
	}()
	blobs := map[string]descriptor{} // by name
	byDigest := map[string]string{}
	for _, f := range a.Files {
		u := &ociUpload{r: r, file: f, opts: opts, published: Published{Name: f.Name, Size: f.Size}}
		uploads = append(uploads, u)
		if err := u.upload(ctx, before); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		p := u.published
		if other, ok := byDigest[p.SHA256]; ok {
			return nil, fmt.Errorf("%s and %s have the same content: clients do not take one blob twice", other, f.Name)
		}
		byDigest[p.SHA256] = f.Name
		blobs[f.Name] = descriptor{MediaType: mediaTypes[f.Role], Digest: "sha256:" + p.SHA256, Size: p.Size}
		receipt.Files = append(receipt.Files, p)
	}
	if opts.BeforeNaming != nil {
		if err := opts.BeforeNaming(ctx); err != nil {
			return nil, err
		}
	}
	main, config := modelPack(a, blobs)
	if err := r.putBlob(ctx, config); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	pushed, err := r.putManifest(ctx, main, "")
	if err != nil {
		return nil, err
	}
	for _, t := range a.Attached {
		m, err := r.attach(ctx, pushed, t)
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", t.Name, err)
		}
		receipt.Manifests = append(receipt.Manifests, m)
	}
	var tagged []Manifest
	if sibling, config, ok := ollama(a, blobs); ok {
		if err := r.putBlob(ctx, config); err != nil {
			return nil, fmt.Errorf("config: %w", err)
		}
		m, err := r.moveTag(ctx, sibling, r.tag.TagStr()+ollamaSuffix, opts.MoveTag)
		if err != nil {
			return nil, err
		}
		tagged = append(tagged, m)
	}
	m, err := r.moveTag(ctx, main, r.tag.TagStr(), opts.MoveTag)
	if err != nil {
		return nil, err
	}
	receipt.Manifests = append(append([]Manifest{m}, tagged...), receipt.Manifests...)
	return receipt, nil
}

// moveTag writes a tag that is free, or that may move, and looks whether it
// has stayed.
func (r *repository) moveTag(ctx context.Context, m manifest, tag string, may bool) (Manifest, error) {
	want := digestOf(m.raw)
	old, err := r.manifest(ctx, tag)
	switch {
	case err == nil && old.digest == want:
		return Manifest{Tag: tag, Digest: want, MediaType: m.MediaType, Size: int64(len(m.raw))}, nil
	case err == nil && !may:
		return Manifest{}, fmt.Errorf("tag %s is there with other content (%s): choose another, or give --move-tag: %w", tag, old.digest, ErrExists)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return Manifest{}, err
	}
	if _, err := r.putManifest(ctx, m, tag); err != nil {
		return Manifest{}, err
	}
	now, err := r.manifest(ctx, tag)
	if err != nil {
		return Manifest{}, fmt.Errorf("read tag %s back: %w", tag, err)
	}
	if now.digest != want {
		return Manifest{}, fmt.Errorf("tag %s: another publisher has moved it to %s: %w", tag, now.digest, ErrExists)
	}
	return Manifest{Tag: tag, Digest: want, MediaType: m.MediaType, Size: int64(len(m.raw))}, nil
}

// Open implements Sink: name is the title of a layer of the tag's manifest, or
// of one of its referrers.
func (r *repository) Open(ctx context.Context, name string, from int64) (io.ReadCloser, int64, error) {
	if err := CheckName(name); err != nil {
		return nil, 0, err
	}
	m, err := r.manifest(ctx, r.tag.TagStr())
	if err != nil {
		return nil, 0, fmt.Errorf("open %s: %w", r, err)
	}
	d, ok := m.layer(name)
	if !ok {
		if d, ok, err = r.attachedLayer(ctx, m.digest, name); err != nil {
			return nil, 0, fmt.Errorf("open %s: %w", r, err)
		}
	}
	if !ok {
		return nil, 0, fmt.Errorf("open %s: %s: %w", r, name, fs.ErrNotExist)
	}
	return r.openBlob(ctx, d, from)
}

// openBlob reads a blob from an offset on.
func (r *repository) openBlob(ctx context.Context, d descriptor, from int64) (io.ReadCloser, int64, error) {
	if from < 0 || from > d.Size {
		return nil, 0, fmt.Errorf("read %s from byte %d: it has %d", r.location(d.Digest), from, d.Size)
	}
	if from == d.Size {
		return io.NopCloser(strings.NewReader("")), d.Size, nil
	}
	c := call{method: http.MethodGet, url: r.base + "/blobs/" + d.Digest, header: map[string]string{"Accept": "*/*"}, want: []int{200}}
	if from > 0 {
		c.header["Range"] = fmt.Sprintf("bytes=%d-%d", from, d.Size-1)
		c.want = append(c.want, 206)
	}
	res, err := r.again(ctx, c)
	if err != nil {
		return nil, 0, fmt.Errorf("read %s: %w", r.location(d.Digest), err)
	}
	length := d.Size
	if res.StatusCode == http.StatusPartialContent {
		length -= from
	}
	if res.ContentLength >= 0 && res.ContentLength != length {
		res.Body.Close()
		return nil, 0, fmt.Errorf("read %s: %d bytes are announced: want %d: %w", r.location(d.Digest), res.ContentLength, length, ErrMismatch)
	}
	if res.StatusCode == http.StatusOK && from > 0 {
		if _, err := io.CopyN(io.Discard, res.Body, from); err != nil {
			res.Body.Close()
			return nil, 0, fmt.Errorf("read %s: %w: %w", r.location(d.Digest), ErrUnavailable, err)
		}
	}
	return res.Body, d.Size, nil
}
