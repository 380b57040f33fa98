package publish

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/crc64nvme"
	"github.com/minio/minio-go/v7"
)

func init() { register(kind{scheme: "s3", open: openBucket}) }

// bucket is a sink and a store below a prefix of an S3 bucket.
//
// A file is a multipart upload of parts of one size. Beside it stands the
// object NAME.partial, a marker that says how far the upload is; it is kept up
// to date while a process works at it, by compare-and-swap, so that the loser
// of two learns of it. Completion is conditional on the name being free.
// Files of one part are put at once.
type bucket struct {
	core   minio.Core
	bucket string
	prefix string // empty, or with a slash at the end
	small  int64  // files up to this size are put in one request

	answers *boundedAnswers
}

const (
	minPart    = 5 << 20  // of S3, but for the last part
	usualPart  = 16 << 20 // enough for 160 GB
	maxParts   = 10000
	maxS3      = 50 << 40 // largest object of S3
	senders    = 4        // requests at a time
	partMemory = 320 << 20

	// markEvery is how often the marker of an upload is written anew, and
	// staleAfter how old it must be for its process to count as dead.
	markEvery  = 5 * time.Second
	staleAfter = time.Minute

	markerLimit = 16 << 20
)

// s3PartSize is the size of the parts of an upload.
func s3PartSize(size, asked int64) (int64, error) {
	if size > maxS3 {
		return 0, fmt.Errorf("%d bytes are more than a store takes (%d)", size, int64(maxS3))
	}
	p := max(usualPart, (size+maxParts-1)/maxParts)
	if asked > 0 {
		p = asked
	}
	if p < minPart || (size+p-1)/p > maxParts {
		return 0, fmt.Errorf("part size %d: want at least %d and at most %d parts", p, minPart, maxParts)
	}
	return (p + pieceBytes - 1) / pieceBytes * pieceBytes, nil
}

func (s *bucket) String() string {
	return strings.TrimSuffix("s3://"+s.bucket+"/"+s.prefix, "/")
}

func (s *bucket) location(name string) string { return "s3://" + s.bucket + "/" + s.prefix + name }

// fail says what an error of the store means.
func (s *bucket) fail(err error) error {
	var r minio.ErrorResponse
	if !errors.As(err, &r) {
		switch {
		case err == nil || errors.Is(err, context.Canceled):
			return err
		case errors.Is(err, ErrProtocol), errors.Is(err, ErrMismatch):
			return err
		}
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	said := fmt.Sprintf("%s (status %d)", r.Code, r.StatusCode)
	if r.Message != "" {
		said = fmt.Sprintf("%s: %.300q", said, r.Message)
	}
	switch {
	case r.Code == "NoSuchBucket":
		return fmt.Errorf("bucket %s does not exist: %w", s.bucket, ErrRefused)
	case r.Code == "NoSuchKey" || r.Code == "NoSuchUpload" || r.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s: %w", said, fs.ErrNotExist)
	case r.StatusCode == http.StatusPreconditionFailed || r.StatusCode == http.StatusConflict:
		return fmt.Errorf("%s: %w", said, ErrChanged)
	case r.StatusCode == http.StatusUnauthorized || r.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%s: %w", said, ErrRefused)
	case r.StatusCode >= 500 || r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusRequestTimeout:
		return fmt.Errorf("%s: %w", said, ErrUnavailable)
	}
	return errors.New(said)
}

// within bounds a request that carries so many bytes: a server slower than
// 64 KiB/s counts as one that does not answer.
func within(ctx context.Context, bytes int64) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, 5*time.Minute+time.Duration(bytes>>16)*time.Second)
}

// Publish implements Sink.
func (s *bucket) Publish(ctx context.Context, a *Artifact, opts Options) (_ *Receipt, err error) {
	if err := checkArtifact(a); err != nil {
		return nil, fmt.Errorf("publish to %s: %w", s, err)
	}
	opts = opts.filled()
	var uploads []*s3Upload
	defer func() {
		for _, u := range uploads {
			u.end(ctx, err)
		}
	}()
	receipt := &Receipt{Target: s.String()}
	for _, f := range asFiles(a) {
		u := &s3Upload{s: s, file: f, opts: opts, published: Published{Name: f.Name, Location: s.location(f.Name), Size: f.Size}}
		uploads = append(uploads, u)
		if err := u.upload(ctx); err != nil {
			return nil, fmt.Errorf("publish %s: %w", u.published.Location, err)
		}
	}
	if opts.BeforeNaming != nil {
		if err := opts.BeforeNaming(ctx); err != nil {
			return nil, err
		}
	}
	for _, u := range uploads {
		if err := u.name(ctx); err != nil {
			return nil, fmt.Errorf("publish %s: %w", u.published.Location, err)
		}
		receipt.Files = append(receipt.Files, u.published)
	}
	return receipt, nil
}

// marker is the content of NAME.partial.
type marker struct {
	Version  int       `json:"modelpipe_upload"`
	Owner    string    `json:"owner"`              // of one run
	Released bool      `json:"released,omitempty"` // by a run that was interrupted
	UploadID string    `json:"upload_id"`
	Identity string    `json:"identity"` // File.Identity
	Size     int64     `json:"size"`
	PartSize int64     `json:"part_size"`
	Started  time.Time `json:"started"`
	State    state     `json:"state"`
	Sent     []s3Part  `json:"sent"` // the parts in State
}

// s3Part is what the store says of a part.
type s3Part struct {
	ETag  string `json:"etag"`
	CRC64 string `json:"crc64nvme,omitempty"` // where it computes one
}

// s3Upload is a file on its way.
type s3Upload struct {
	s         *bucket
	file      File
	opts      Options
	published Published
	digests   *digests // of all, when the parts are there

	mu       sync.Mutex
	mark     marker
	version  Version // of the marker
	marked   bool    // the marker is ours
	sent     []s3Part
	frontier *frontier
	complete bool // the object has its name
}

func (u *s3Upload) open(ctx context.Context, from int64) (io.ReadCloser, int64, error) {
	return u.s.Open(ctx, u.file.Name, from)
}

func (u *s3Upload) markerName() string { return u.s.prefix + u.file.Name + partialSuffix }

// upload brings every byte to the store.
func (u *s3Upload) upload(ctx context.Context) error {
	f := u.file
	if ok, err := u.existing(ctx); ok || err != nil {
		return err
	}
	if f.Size <= u.s.small {
		d, err := digestContent(ctx, f, u.opts.Threads)
		if err != nil {
			return err
		}
		u.digests = d
		return checkDigest(f, d.sha256())
	}
	partSize, err := s3PartSize(f.Size, u.opts.PartSize)
	if err != nil {
		return err
	}
	there, err := u.begin(ctx, partSize)
	if err != nil {
		return err
	}
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var keeping sync.WaitGroup
	keeping.Go(func() { u.keepMarked(working, cancel) })
	err = u.sendParts(working, there)
	cause := context.Cause(working)
	cancel(nil)
	keeping.Wait()
	if err != nil {
		if cause != nil && ctx.Err() == nil {
			return cause
		}
		return err
	}
	if err := u.saveMarker(ctx); err != nil {
		return err
	}
	u.published.SHA256 = u.digests.sha256()
	return checkDigest(f, u.published.SHA256)
}

// existing says whether the object is there with the same content. Other
// content is an error.
func (u *s3Upload) existing(ctx context.Context) (bool, error) {
	size, err := u.s.stat(ctx, u.file.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if size != u.file.Size {
		return false, fmt.Errorf("it is there with %d bytes: want %d: %w", size, u.file.Size, ErrExists)
	}
	ours := u.file.SHA256
	if ours == "" {
		d, err := digestContent(ctx, u.file, u.opts.Threads)
		if err != nil {
			return false, err
		}
		ours = d.sha256()
	}
	theirs, err := readBack(ctx, u.open, u.file.Size)
	if err != nil {
		return false, err
	}
	if got := theirs.sha256(); got != ours {
		return false, fmt.Errorf("it is there with sha256 %s: want %s: %w", got, ours, ErrExists)
	}
	u.opts.Progress.Done.Add(u.file.Size)
	u.published.SHA256, u.published.Existed, u.complete = ours, true, true
	return true, nil
}

// begin finds the upload to go on with, or makes one, and marks it as ours.
// It returns the parts that are there.
func (u *s3Upload) begin(ctx context.Context, partSize int64) (map[int]minio.ObjectPart, error) {
	s, f := u.s, u.file
	old, version, age, err := s.readMarker(ctx, u.markerName())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	found := err == nil
	if found && !u.opts.Resume && old.alive(age) {
		return nil, fmt.Errorf("%s was written %d s ago: wait until it is over, or give --resume to go on with what a killed run has left: %w", s.location(f.Name+partialSuffix), int(age.Seconds()), ErrBusy)
	}
	u.version = version
	u.mark = marker{Version: 1, Owner: newOwner(), Identity: f.Identity, Size: f.Size, PartSize: partSize, Started: time.Now().UTC()}
	var there map[int]minio.ObjectPart
	if found && u.opts.Resume {
		if err := old.differs(u.mark); err != nil {
			return nil, fmt.Errorf("cannot go on with it: %w: publish again without --resume", err)
		}
		there, err = s.listParts(ctx, s.prefix+f.Name, old.UploadID)
		switch {
		case err == nil:
			u.mark.UploadID, u.mark.PartSize, u.mark.Started = old.UploadID, old.PartSize, old.Started
			if f.Identity != "" && old.holds(there) {
				u.mark.State, u.sent = old.State, old.Sent
			}
			u.opts.Log.Info("going on with an unfinished upload", "location", u.published.Location, "parts", len(there), "of", (f.Size+old.PartSize-1)/old.PartSize)
		case errors.Is(err, fs.ErrNotExist): // the store has dropped it
		default:
			return nil, err
		}
	}
	if found && !u.opts.Resume {
		u.opts.Log.Warn("what an interrupted run has left is thrown away: --resume would have gone on with it", "location", u.published.Location)
		if err := s.abort(ctx, f.Name, old.UploadID); err != nil {
			return nil, err
		}
	}
	if u.mark.UploadID == "" {
		o := minio.PutObjectOptions{UserMetadata: map[string]string{"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "FULL_OBJECT"}}
		u.mark.UploadID, err = s.core.NewMultipartUpload(ctx, s.bucket, s.prefix+f.Name, o)
		if err != nil {
			return nil, fmt.Errorf("begin upload: %w", s.fail(err))
		}
	}
	u.frontier = newFrontier(u.mark.State)
	if err := u.saveMarker(ctx); err != nil {
		if errors.Is(err, ErrBusy) && there == nil {
			s.abort(context.WithoutCancel(ctx), f.Name, u.mark.UploadID)
		}
		return nil, err
	}
	return there, nil
}

// alive says whether a process works at the upload of a marker of this age.
func (m marker) alive(age time.Duration) bool { return !m.Released && age < staleAfter }

// differs says what makes it impossible to go on with m.
func (m marker) differs(want marker) error {
	switch {
	case m.Version != want.Version || m.UploadID == "" || m.PartSize < minPart || m.PartSize%pieceBytes != 0 || want.Size/m.PartSize >= maxParts:
		return errors.New("it was made by another version of modelpipe")
	case m.Size != want.Size:
		return fmt.Errorf("it is of %d bytes: want %d", m.Size, want.Size)
	case m.Identity != want.Identity:
		return errors.New("it was made from another source, with other options or by another version")
	}
	return nil
}

// holds says whether the parts that a marker's state is of are those that
// were sent.
func (m marker) holds(there map[int]minio.ObjectPart) bool {
	if m.State.Parts < 0 || m.State.Parts != len(m.Sent) {
		return false
	}
	if _, err := m.State.restore(); err != nil {
		return false
	}
	for n, sent := range m.Sent {
		p, ok := there[n]
		if !ok || p.ETag != sent.ETag || p.Size != min(m.PartSize, m.Size-int64(n)*m.PartSize) {
			return false
		}
	}
	return true
}

// sendParts sends the parts that are not there, and takes the digests.
func (u *s3Upload) sendParts(ctx context.Context, there map[int]minio.ObjectPart) error {
	f, size := u.file, u.mark.PartSize
	d, err := u.mark.State.restore()
	if err != nil {
		return err
	}
	u.digests = d
	first := u.mark.State.Parts
	skipped := min(int64(first)*size, f.Size)
	u.published.Resumed = skipped
	u.opts.Progress.Done.Add(skipped)
	buffers := int(min(senders+2, max(2, partMemory/size)))
	sent := make([]s3Part, (f.Size+size-1)/size)
	copy(sent, u.sent)
	u.sent = sent
	st := &stream{content: f.Content, size: f.Size, part: size, first: first, threads: u.opts.Threads, senders: min(senders, buffers-1), buffers: buffers}
	st.digest = func(p part) error {
		d.write(p.data)
		state, err := d.state(p.n + 1)
		if err != nil {
			return err
		}
		u.frontier.digested(state)
		return nil
	}
	st.deliver = func(ctx context.Context, p part) error {
		var got s3Part
		var err error
		if old, ok := there[p.n]; ok && samePart(old, p.data) {
			got = s3Part{old.ETag, old.ChecksumCRC64NVME}
			u.mu.Lock()
			u.published.Resumed += int64(len(p.data))
			u.mu.Unlock()
		} else if got, err = u.s.putPart(ctx, f.Name, u.mark.UploadID, p); err != nil {
			return err
		}
		u.mu.Lock()
		u.sent[p.n] = got
		u.mu.Unlock()
		u.frontier.deliveredPart(p.n)
		u.opts.Progress.Done.Add(int64(len(p.data)))
		return nil
	}
	return st.run(ctx)
}

// samePart says whether a part of the store has the bytes p: by the checksum
// that the store names, or by the ETag, which is their MD5 in most stores. A
// part that cannot be compared is sent again.
func samePart(old minio.ObjectPart, p []byte) bool {
	if old.Size != int64(len(p)) {
		return false
	}
	if old.ChecksumCRC64NVME != "" {
		return old.ChecksumCRC64NVME == crcText(crc64nvme.Checksum(p))
	}
	sum := md5.Sum(p)
	return old.ETag == hex.EncodeToString(sum[:])
}

// crcText is a CRC-64/NVME as S3 writes it.
func crcText(crc uint64) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, crc))
}

// putPart sends a part and holds what the store says of it to its bytes.
func (s *bucket) putPart(ctx context.Context, name, uploadID string, p part) (s3Part, error) {
	ctx, cancel := within(ctx, int64(len(p.data)))
	defer cancel()
	crc := crcText(crc64nvme.Checksum(p.data))
	o := minio.PutObjectPartOptions{DisableContentSha256: true, CustomHeader: http.Header{"X-Amz-Checksum-Crc64nvme": {crc}}}
	body := &payload{data: p.data}
	defer body.stop()
	got, err := s.core.PutObjectPart(ctx, s.bucket, s.prefix+name, uploadID, p.n+1, body.reader(), int64(len(p.data)), o)
	if err != nil {
		return s3Part{}, fmt.Errorf("upload part %d: %w", p.n+1, s.fail(err))
	}
	if got.ETag == "" {
		return s3Part{}, fmt.Errorf("upload part %d: the answer has no ETag: %w", p.n+1, ErrProtocol)
	}
	if got.ChecksumCRC64NVME != "" && got.ChecksumCRC64NVME != crc {
		return s3Part{}, fmt.Errorf("upload part %d: the store has crc64nvme %.40s: %s was sent: %w", p.n+1, got.ChecksumCRC64NVME, crc, ErrMismatch)
	}
	return s3Part{got.ETag, got.ChecksumCRC64NVME}, nil
}

// name completes the object, if its name is free, and reads it back.
func (u *s3Upload) name(ctx context.Context) error {
	if u.complete {
		return nil
	}
	s, key := u.s, u.s.prefix+u.file.Name
	o := minio.PutObjectOptions{DisableContentSha256: true}
	o.SetMatchETagExcept("*")
	crc := crcText(u.digests.crc)
	var info minio.UploadInfo
	var err error
	if u.mark.UploadID == "" {
		data := make([]byte, u.file.Size)
		if err := readFull(u.file.Content, data, 0); err != nil {
			return err
		}
		o.UserMetadata = map[string]string{"x-amz-checksum-crc64nvme": crc}
		info, err = s.core.PutObject(ctx, s.bucket, key, bytes.NewReader(data), u.file.Size, "", "", o)
		u.opts.Progress.Done.Add(u.file.Size)
	} else {
		if err := u.saveMarker(ctx); err != nil { // it is still ours
			return err
		}
		parts := make([]minio.CompletePart, len(u.sent))
		for n, p := range u.sent {
			parts[n] = minio.CompletePart{PartNumber: n + 1, ETag: p.ETag, ChecksumCRC64NVME: p.CRC64}
		}
		o.UserMetadata = map[string]string{"x-amz-checksum-crc64nvme": crc, "x-amz-checksum-type": "FULL_OBJECT"}
		info, err = s.core.CompleteMultipartUpload(ctx, s.bucket, key, u.mark.UploadID, parts, o)
	}
	if err != nil {
		// The answer to an earlier try of this request may have been lost.
		failure := s.fail(err)
		if ok, xerr := u.existing(ctx); xerr == nil && ok {
			u.published.Existed = false
			return nil
		} else if errors.Is(xerr, ErrExists) {
			return fmt.Errorf("another publisher was faster: %w", xerr)
		}
		return fmt.Errorf("complete upload: %w", failure)
	}
	u.complete = true
	if info.ChecksumCRC64NVME != "" {
		if info.ChecksumCRC64NVME != crc {
			return u.withdraw(ctx, fmt.Errorf("the store has crc64nvme %.40s: %s was sent: %w", info.ChecksumCRC64NVME, crc, ErrMismatch))
		}
		u.published.Checksum = "crc64nvme:" + crc
	}
	u.published.SHA256 = u.digests.sha256()
	if u.opts.TrustChecksum && u.published.Checksum != "" {
		return nil
	}
	back, err := readBack(ctx, u.open, u.file.Size)
	if err == nil && back.sha256() != u.published.SHA256 {
		err = fmt.Errorf("read back: sha256 is %s: %s was sent: %w", back.sha256(), u.published.SHA256, ErrMismatch)
	}
	if errors.Is(err, ErrMismatch) {
		return u.withdraw(ctx, err)
	}
	return err
}

// withdraw takes an object away that this run has made and that is not what
// was sent.
func (u *s3Upload) withdraw(ctx context.Context, cause error) error {
	if err := u.s.Delete(context.WithoutCancel(ctx), u.file.Name); err != nil {
		return fmt.Errorf("%w; it could not be removed: %w", cause, err)
	}
	return cause
}

// end leaves what a later run can go on with, and nothing else.
func (u *s3Upload) end(ctx context.Context, err error) {
	if !u.marked {
		return
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if err != nil && !u.complete && (ctx.Err() != nil || u.opts.Keep(err)) {
		u.mark.Released = true
		u.saveMarker(clean)
		return
	}
	if !u.complete {
		if err := u.s.abort(clean, u.file.Name, u.mark.UploadID); err != nil {
			u.opts.Log.Warn("the unfinished upload could not be removed: publish gc will", "location", u.published.Location, "error", err)
			return
		}
	}
	if err := u.s.remove(clean, u.markerName()); err != nil {
		u.opts.Log.Warn("the marker of the upload could not be removed: publish gc will", "location", u.s.location(u.file.Name+partialSuffix), "error", err)
	}
}

// keepMarked keeps the marker up to date until ctx ends, and ends the upload
// where another process has taken it.
func (u *s3Upload) keepMarked(ctx context.Context, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(markEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := u.saveMarker(ctx)
		switch {
		case errors.Is(err, ErrBusy):
			cancel(err)
			return
		case err != nil && ctx.Err() == nil:
			u.opts.Log.Warn("the marker of the upload could not be written", "location", u.published.Location, "error", err)
		}
	}
}

// saveMarker writes the marker where it is still as this run has left it.
func (u *s3Upload) saveMarker(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mark.State = u.frontier.state()
	u.mark.Sent = u.sent[:u.mark.State.Parts]
	data, err := json.Marshal(u.mark)
	if err != nil {
		return err
	}
	version, err := u.s.put(ctx, u.markerName(), data, u.version)
	if errors.Is(err, ErrChanged) {
		u.marked = false
		return fmt.Errorf("%s was written by another process: %w", u.s.location(u.file.Name+partialSuffix), ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", u.s.location(u.file.Name+partialSuffix), err)
	}
	u.version, u.marked = version, true
	return nil
}

// readMarker reads a marker and says how old it is by the store's clock.
func (s *bucket) readMarker(ctx context.Context, key string) (m marker, _ Version, age time.Duration, err error) {
	r, info, _, err := s.core.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return m, Absent, 0, s.fail(err)
	}
	defer r.Close()
	data, _, err := readObject("s3://"+s.bucket+"/"+key, r, info.Size, markerLimit)
	if err != nil {
		return m, Absent, 0, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		m = marker{} // differs says so
	}
	return m, Version(info.ETag), max(0, time.Since(s.answers.ours(info.LastModified))), nil
}

// listParts returns the parts of an upload by their number from zero on.
func (s *bucket) listParts(ctx context.Context, key, uploadID string) (map[int]minio.ObjectPart, error) {
	there := map[int]minio.ObjectPart{}
	for after := 0; ; {
		page, err := s.core.ListObjectParts(ctx, s.bucket, key, uploadID, after, 1000)
		if err != nil {
			return nil, fmt.Errorf("list parts: %w", s.fail(err))
		}
		for _, p := range page.ObjectParts {
			if p.PartNumber < 1 || p.PartNumber > maxParts {
				return nil, fmt.Errorf("list parts: part %d: %w", p.PartNumber, ErrProtocol)
			}
			p.ETag = strings.Trim(p.ETag, `"`)
			there[p.PartNumber-1] = p
		}
		if !page.IsTruncated {
			return there, nil
		}
		if page.NextPartNumberMarker <= after {
			return nil, fmt.Errorf("list parts: page after part %d does not go on: %w", after, ErrProtocol)
		}
		after = page.NextPartNumberMarker
	}
}

// abort drops an upload; it is no error where there is none.
func (s *bucket) abort(ctx context.Context, name, uploadID string) error {
	if uploadID == "" {
		return nil
	}
	if err := s.fail(s.core.AbortMultipartUpload(ctx, s.bucket, s.prefix+name, uploadID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("abort upload: %w", err)
	}
	return nil
}

// stat returns the size of an object.
func (s *bucket) stat(ctx context.Context, name string) (int64, error) {
	info, err := s.core.StatObject(ctx, s.bucket, s.prefix+name, minio.StatObjectOptions{})
	if err != nil {
		return 0, s.fail(err)
	}
	return info.Size, nil
}

// Open implements Sink.
func (s *bucket) Open(ctx context.Context, name string, from int64) (io.ReadCloser, int64, error) {
	if err := CheckName(name); err != nil {
		return nil, 0, err
	}
	if from < 0 {
		return nil, 0, fmt.Errorf("read %s from byte %d", s.location(name), from)
	}
	var o minio.GetObjectOptions
	if from > 0 {
		if err := o.SetRange(from, math.MaxInt64); err != nil {
			return nil, 0, err
		}
	}
	r, info, header, err := s.core.GetObject(ctx, s.bucket, s.prefix+name, o)
	if err != nil {
		var e minio.ErrorResponse
		if errors.As(err, &e) && e.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			if size, serr := s.stat(ctx, name); serr == nil && size == from {
				return io.NopCloser(strings.NewReader("")), size, nil
			}
		}
		return nil, 0, fmt.Errorf("read %s: %w", s.location(name), s.fail(err))
	}
	size := info.Size
	if from > 0 {
		var at, end int64
		if n, _ := fmt.Sscanf(header.Get("Content-Range"), "bytes %d-%d/%d", &at, &end, &size); n != 3 || at != from || size < end {
			r.Close()
			return nil, 0, fmt.Errorf("read %s from byte %d: content-range is %.80q: %w", s.location(name), from, header.Get("Content-Range"), ErrProtocol)
		}
	}
	return r, size, nil
}

// Abandoned implements Sink.
func (s *bucket) Abandoned(ctx context.Context) ([]Rest, error) {
	var rests []Rest
	seen := map[string]bool{}
	for key, id := "", ""; ; {
		page, err := s.core.ListMultipartUploads(ctx, s.bucket, s.prefix, key, id, "", 1000)
		if err != nil {
			return nil, fmt.Errorf("list the uploads of %s: %w", s, s.fail(err))
		}
		for _, u := range page.Uploads {
			name, ok := strings.CutPrefix(u.Key, s.prefix)
			if !ok || CheckName(name) != nil {
				continue // not one of ours
			}
			seen[u.UploadID] = true
			m, _, age, err := s.readMarker(ctx, u.Key+partialSuffix)
			if err == nil && m.UploadID == u.UploadID && m.alive(age) {
				continue
			}
			rest := Rest{Name: name, ID: u.UploadID, Started: s.answers.ours(u.Initiated)}
			if parts, err := s.listParts(ctx, u.Key, u.UploadID); err == nil {
				for _, p := range parts {
					rest.Size += p.Size
				}
			}
			rests = append(rests, rest)
		}
		if !page.IsTruncated {
			break
		}
		if page.NextKeyMarker < key || page.NextKeyMarker == key && page.NextUploadIDMarker == id {
			return nil, fmt.Errorf("list the uploads of %s: page after %.80q does not go on: %w", s, key, ErrProtocol)
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
	for o := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix, Recursive: true}) {
		if o.Err != nil {
			return nil, fmt.Errorf("list %s: %w", s, s.fail(o.Err))
		}
		name, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, s.prefix), partialSuffix)
		if !ok || CheckName(name) != nil {
			continue
		}
		m, _, age, err := s.readMarker(ctx, o.Key)
		if err != nil || m.Version == 0 || seen[m.UploadID] {
			continue // gone, not a marker, or of an upload that is listed
		}
		// It may be of an upload begun since, or one that was killed when it
		// was complete.
		if _, err := s.listParts(ctx, s.prefix+name, m.UploadID); m.alive(age) && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		rests = append(rests, Rest{Name: name, ID: m.UploadID, Started: s.answers.ours(o.LastModified)})
	}
	slices.SortFunc(rests, func(x, y Rest) int { return strings.Compare(x.Name+"\x00"+x.ID, y.Name+"\x00"+y.ID) })
	return rests, nil
}

// Discard implements Sink.
func (s *bucket) Discard(ctx context.Context, r Rest) error {
	if err := CheckName(r.Name); err != nil {
		return fmt.Errorf("discard: %w", err)
	}
	m, _, _, err := s.readMarker(ctx, s.prefix+r.Name+partialSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("discard %s: %w", s.location(r.Name), err)
	}
	if err := s.abort(ctx, r.Name, r.ID); err != nil {
		return fmt.Errorf("discard %s: %w", s.location(r.Name), err)
	}
	if m.UploadID != r.ID || m.Version == 0 {
		return nil // the marker is another upload's
	}
	if err := s.remove(ctx, s.prefix+r.Name+partialSuffix); err != nil {
		return fmt.Errorf("discard %s: %w", s.location(r.Name), err)
	}
	return nil
}

// Get implements Store.
func (s *bucket) Get(ctx context.Context, name string, limit int64) ([]byte, Version, error) {
	if err := CheckName(name); err != nil {
		return nil, Absent, fmt.Errorf("get: %w", err)
	}
	r, info, _, err := s.core.GetObject(ctx, s.bucket, s.prefix+name, minio.GetObjectOptions{})
	if err != nil {
		return nil, Absent, fmt.Errorf("get %s: %w", s.location(name), s.fail(err))
	}
	defer r.Close()
	data, _, err := readObject(s.location(name), r, info.Size, limit)
	if err != nil {
		return nil, Absent, err
	}
	if int64(len(data)) != info.Size {
		return nil, Absent, fmt.Errorf("get %s: %d bytes came: %d were announced: %w", s.location(name), len(data), info.Size, ErrMismatch)
	}
	return data, Version(info.ETag), nil
}

// Put implements Store.
func (s *bucket) Put(ctx context.Context, name string, data []byte, prior Version) (Version, error) {
	if err := CheckName(name); err != nil {
		return Absent, fmt.Errorf("put: %w", err)
	}
	v, err := s.put(ctx, s.prefix+name, data, prior)
	if err != nil {
		return Absent, fmt.Errorf("put %s: %w", s.location(name), err)
	}
	return v, nil
}

// writerKey is the metadata that says who wrote an object. A request whose
// answer is lost is sent again, and then refused because of itself; by this it
// knows.
const writerKey = "Modelpipe-Writer"

// put writes an object at prior, whatever its name.
func (s *bucket) put(ctx context.Context, key string, data []byte, prior Version) (Version, error) {
	ctx, cancel := within(ctx, int64(len(data)))
	defer cancel()
	writer := randomText()
	o := minio.PutObjectOptions{DisableContentSha256: true, UserMetadata: map[string]string{
		"x-amz-checksum-crc64nvme": crcText(crc64nvme.Checksum(data)),
		writerKey:                  writer,
	}}
	switch prior {
	case Absent:
		o.SetMatchETagExcept("*")
	case Any:
	default:
		o.SetMatchETag(string(prior))
	}
	info, err := s.core.PutObject(ctx, s.bucket, key, bytes.NewReader(data), int64(len(data)), "", "", o)
	if err == nil {
		return Version(info.ETag), nil
	}
	err = s.fail(err)
	if errors.Is(err, ErrChanged) {
		if now, serr := s.core.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{}); serr == nil && now.UserMetadata[writerKey] == writer {
			return Version(now.ETag), nil
		}
	}
	if prior != Absent && prior != Any && errors.Is(err, fs.ErrNotExist) {
		return Absent, fmt.Errorf("it is gone: %w", ErrChanged)
	}
	return Absent, err
}

// List implements Store.
func (s *bucket) List(ctx context.Context, prefix string) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for o := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}) {
			if o.Err != nil {
				yield(Entry{}, fmt.Errorf("list %s: %w", s, s.fail(o.Err)))
				return
			}
			name := strings.TrimPrefix(o.Key, s.prefix)
			if CheckName(name) == nil && !yield(Entry{name, o.Size, o.LastModified}, nil) {
				return
			}
		}
	}
}

// Delete implements Store.
func (s *bucket) Delete(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	if err := s.remove(ctx, s.prefix+name); err != nil {
		return fmt.Errorf("delete %s: %w", s.location(name), err)
	}
	return nil
}

func (s *bucket) remove(ctx context.Context, key string) error {
	if err := s.fail(s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{})); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// newOwner names a run, and its machine for people.
func newOwner() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s/%d/%s", host, os.Getpid(), randomText())
}
