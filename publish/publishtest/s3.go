package publishtest

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/crc64nvme"
)

// S3 is a store in memory that speaks as much of S3 as a publisher needs, as
// strictly as AWS does: conditional writes, parts of at least 5 MiB, checksums.
// Its lists come in pages of two, so that paging is used. It does not check
// signatures; Server in the opt-in tests does.
type S3 struct {
	URL string

	mu      sync.Mutex
	objects map[string]s3Object // by bucket/key
	uploads map[string]*s3Upload
	serial  int
}

type s3Object struct {
	data     []byte
	etag     string
	crc      string
	modified time.Time
	writer   string // x-amz-meta-modelpipe-writer
}

type s3Upload struct {
	key     string
	started time.Time
	parts   map[int]s3Object
}

// NewS3 starts a store, which ends with the test.
func NewS3(t testing.TB) *S3 {
	s := &S3{objects: map[string]s3Object{}, uploads: map[string]*s3Upload{}}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.URL = server.URL
	return s
}

// Damage flips a bit of an object, or of every part of an unfinished one, and
// says whether there was any.
func (s *S3) Damage(key string) (done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, ok := s.objects[key]; ok {
		o.data = slices.Clone(o.data)
		o.data[len(o.data)/2] ^= 1
		s.objects[key] = o
		done = true
	}
	for _, u := range s.uploads {
		for n, p := range u.parts {
			if u.key == key {
				p.data = slices.Clone(p.data)
				p.data[0] ^= 1
				u.parts[n] = p
				done = true
			}
		}
	}
	return done
}

const (
	minPart = 5 << 20
	// writerHeader is the one piece of metadata that is kept.
	writerHeader = "X-Amz-Meta-Modelpipe-Writer"
)

func crcText(p []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, crc64nvme.Checksum(p)))
}

// s3Error is an answer that says no.
type s3Error struct {
	status int
	code   string
}

// ServeHTTP implements http.Handler.
func (s *S3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil || r.ContentLength >= 0 && int64(len(body)) != r.ContentLength {
		panic(http.ErrAbortHandler)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	no := s.serve(w, r, body)
	if no == nil {
		return
	}
	w.WriteHeader(no.status)
	if r.Method != http.MethodHead {
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", no.code)
	}
}

func (s *S3) serve(w http.ResponseWriter, r *http.Request, body []byte) *s3Error {
	if !strings.Contains(r.Header.Get("Authorization"), "Credential=test/") {
		return &s3Error{403, "InvalidAccessKeyId"}
	}
	path := strings.TrimPrefix(r.URL.Path, "/")
	bucket, key, _ := strings.Cut(path, "/")
	if bucket != "bucket" {
		return &s3Error{404, "NoSuchBucket"}
	}
	q := r.URL.Query()
	switch id := q.Get("uploadId"); {
	case key == "" && q.Has("uploads"):
		return s.listUploads(w, q.Get("prefix"), q.Get("key-marker"), q.Get("upload-id-marker"))
	case key == "" && q.Get("list-type") == "2":
		return s.listObjects(w, q.Get("prefix"), q.Get("continuation-token"))
	case r.Method == http.MethodPost && q.Has("uploads"):
		s.serial++
		id := fmt.Sprintf("upload-%06d", s.serial)
		s.uploads[id] = &s3Upload{key: path, started: time.Now(), parts: map[int]s3Object{}}
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><Bucket>%s</Bucket><Key>%s</Key><UploadId>%s</UploadId></InitiateMultipartUploadResult>", bucket, escape(key), id)
		return nil
	case id != "":
		u := s.uploads[id]
		if u == nil || u.key != path {
			return &s3Error{404, "NoSuchUpload"}
		}
		switch r.Method {
		case http.MethodPut:
			return s.putPart(w, r, u, q.Get("partNumber"), body)
		case http.MethodGet:
			return listParts(w, id, u, q.Get("part-number-marker"))
		case http.MethodDelete:
			delete(s.uploads, id)
			w.WriteHeader(204)
			return nil
		case http.MethodPost:
			return s.complete(w, r, id, u, body)
		}
	case r.Method == http.MethodPut:
		return s.put(w, r, path, body)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return s.get(w, r, path)
	case r.Method == http.MethodDelete:
		delete(s.objects, path)
		w.WriteHeader(204)
		return nil
	}
	return &s3Error{501, "NotImplemented"}
}

// condition holds a request to the object as it is.
func (s *S3) condition(r *http.Request, path string) *s3Error {
	o, ok := s.objects[path]
	if r.Header.Get("If-None-Match") == "*" && ok {
		return &s3Error{412, "PreconditionFailed"}
	}
	if want := strings.Trim(r.Header.Get("If-Match"), `"`); want != "" {
		if !ok {
			return &s3Error{404, "NoSuchKey"}
		}
		if want != o.etag {
			return &s3Error{412, "PreconditionFailed"}
		}
	}
	return nil
}

func newObject(r *http.Request, body []byte) (s3Object, *s3Error) {
	sum := md5.Sum(body)
	o := s3Object{body, hex.EncodeToString(sum[:]), crcText(body), time.Now(), r.Header.Get(writerHeader)}
	if want := r.Header.Get("X-Amz-Checksum-Crc64nvme"); want != "" && want != o.crc {
		return o, &s3Error{400, "BadDigest"}
	}
	return o, nil
}

func (s *S3) put(w http.ResponseWriter, r *http.Request, path string, body []byte) *s3Error {
	if no := s.condition(r, path); no != nil {
		return no
	}
	o, no := newObject(r, body)
	if no != nil {
		return no
	}
	s.objects[path] = o
	o.describe(w.Header())
	return nil
}

// describe sets the headers of the answer to a write.
func (o s3Object) describe(h http.Header) {
	h.Set("ETag", `"`+o.etag+`"`)
	h.Set("X-Amz-Checksum-Crc64nvme", o.crc)
}

func (s *S3) putPart(w http.ResponseWriter, r *http.Request, u *s3Upload, number string, body []byte) *s3Error {
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > 10000 {
		return &s3Error{400, "InvalidArgument"}
	}
	o, no := newObject(r, body)
	if no != nil {
		return no
	}
	u.parts[n] = o
	o.describe(w.Header())
	return nil
}

func (s *S3) complete(w http.ResponseWriter, r *http.Request, id string, u *s3Upload, body []byte) *s3Error {
	var asked struct {
		Part []struct {
			PartNumber        int
			ETag              string
			ChecksumCRC64NVME string
		}
	}
	if xml.Unmarshal(body, &asked) != nil || len(asked.Part) == 0 {
		return &s3Error{400, "MalformedXML"}
	}
	if no := s.condition(r, u.key); no != nil {
		return no
	}
	var data []byte
	last := 0
	for i, p := range asked.Part {
		have, ok := u.parts[p.PartNumber]
		switch {
		case p.PartNumber <= last:
			return &s3Error{400, "InvalidPartOrder"}
		case !ok || strings.Trim(p.ETag, `"`) != have.etag || p.ChecksumCRC64NVME != have.crc:
			return &s3Error{400, "InvalidPart"}
		case len(have.data) < minPart && i < len(asked.Part)-1:
			return &s3Error{400, "EntityTooSmall"}
		}
		last = p.PartNumber
		data = append(data, have.data...)
	}
	o, _ := newObject(&http.Request{}, data)
	o.etag = fmt.Sprintf("%s-%d", o.etag, len(asked.Part))
	if want := r.Header.Get("X-Amz-Checksum-Crc64nvme"); want != "" && want != o.crc {
		return &s3Error{400, "BadDigest"}
	}
	s.objects[u.key] = o
	delete(s.uploads, id)
	bucket, key, _ := strings.Cut(u.key, "/")
	fmt.Fprintf(w, "<CompleteMultipartUploadResult><Bucket>%s</Bucket><Key>%s</Key><ETag>%s</ETag><ChecksumCRC64NVME>%s</ChecksumCRC64NVME></CompleteMultipartUploadResult>", bucket, escape(key), o.etag, o.crc)
	return nil
}

func (s *S3) get(w http.ResponseWriter, r *http.Request, path string) *s3Error {
	o, ok := s.objects[path]
	if !ok {
		return &s3Error{404, "NoSuchKey"}
	}
	h := w.Header()
	h.Set("ETag", `"`+o.etag+`"`)
	h.Set("Last-Modified", o.modified.UTC().Format(http.TimeFormat))
	if o.writer != "" {
		h.Set(writerHeader, o.writer)
	}
	data, status := o.data, 200
	if text, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		first, last, _ := strings.Cut(text, "-")
		from, err := strconv.ParseInt(first, 10, 64)
		to, lerr := strconv.ParseInt(last, 10, 64)
		if lerr != nil || to >= int64(len(data)) {
			to = int64(len(data)) - 1
		}
		if err != nil || from > to {
			return &s3Error{416, "InvalidRange"}
		}
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(data)))
		data, status = data[from:to+1], 206
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	if r.Method == http.MethodGet {
		w.Write(data)
	}
	return nil
}

const page = 2

func (s *S3) listObjects(w http.ResponseWriter, prefix, after string) *s3Error {
	var keys []string
	for path := range s.objects {
		_, key, _ := strings.Cut(path, "/")
		if strings.HasPrefix(key, prefix) && key > after {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	more := len(keys) > page
	keys = keys[:min(page, len(keys))]
	fmt.Fprintf(w, "<ListBucketResult><IsTruncated>%t</IsTruncated>", more)
	for _, key := range keys {
		o := s.objects["bucket/"+key]
		fmt.Fprintf(w, "<Contents><Key>%s</Key><Size>%d</Size><ETag>%s</ETag><LastModified>%s</LastModified></Contents>", escape(key), len(o.data), o.etag, o.modified.UTC().Format(time.RFC3339))
	}
	if more {
		fmt.Fprintf(w, "<NextContinuationToken>%s</NextContinuationToken>", escape(keys[page-1]))
	}
	fmt.Fprint(w, "</ListBucketResult>")
	return nil
}

func (s *S3) listUploads(w http.ResponseWriter, prefix, key, id string) *s3Error {
	type entry struct{ key, id string }
	var all []entry
	for id, u := range s.uploads {
		if _, k, _ := strings.Cut(u.key, "/"); strings.HasPrefix(k, prefix) {
			all = append(all, entry{k, id})
		}
	}
	all = slices.DeleteFunc(all, func(e entry) bool { return e.key < key || e.key == key && e.id <= id })
	slices.SortFunc(all, func(x, y entry) int { return strings.Compare(x.key+"\x00"+x.id, y.key+"\x00"+y.id) })
	more := len(all) > page
	all = all[:min(page, len(all))]
	fmt.Fprintf(w, "<ListMultipartUploadsResult><IsTruncated>%t</IsTruncated>", more)
	for _, e := range all {
		fmt.Fprintf(w, "<Upload><Key>%s</Key><UploadId>%s</UploadId><Initiated>%s</Initiated></Upload>", escape(e.key), e.id, s.uploads[e.id].started.UTC().Format(time.RFC3339))
	}
	if more {
		fmt.Fprintf(w, "<NextKeyMarker>%s</NextKeyMarker><NextUploadIdMarker>%s</NextUploadIdMarker>", escape(all[page-1].key), all[page-1].id)
	}
	fmt.Fprint(w, "</ListMultipartUploadsResult>")
	return nil
}

func listParts(w http.ResponseWriter, id string, u *s3Upload, marker string) *s3Error {
	after, _ := strconv.Atoi(marker)
	var numbers []int
	for n := range u.parts {
		if n > after {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	more := len(numbers) > page
	numbers = numbers[:min(page, len(numbers))]
	fmt.Fprintf(w, "<ListPartsResult><UploadId>%s</UploadId><IsTruncated>%t</IsTruncated>", id, more)
	for _, n := range numbers {
		p := u.parts[n]
		fmt.Fprintf(w, "<Part><PartNumber>%d</PartNumber><ETag>\"%s\"</ETag><Size>%d</Size><ChecksumCRC64NVME>%s</ChecksumCRC64NVME></Part>", n, p.etag, len(p.data), p.crc)
	}
	if more {
		fmt.Fprintf(w, "<NextPartNumberMarker>%d</NextPartNumberMarker>", numbers[page-1])
	}
	fmt.Fprint(w, "</ListPartsResult>")
	return nil
}

func escape(s string) string {
	var b strings.Builder
	xml.EscapeText(&b, []byte(s))
	return b.String()
}

// Stored counts objects and unfinished uploads.
func (s *S3) Stored() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.objects) + len(s.uploads)
}
