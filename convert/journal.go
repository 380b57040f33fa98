package convert

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/modelpipe/modelpipe/internal/bulkhash"
)

// The journal of an unfinished output says which chunks of it are written
// and how far its digest is. It is a line of JSON, which names the plan and
// the source, and then records that are only ever appended:
//
//	kind (1 byte) | length of the payload (1 byte) | payload | CRC-32C of all before it
//
// A record that is cut short or does not match its checksum ends the journal.
// A chunk is recorded after it was written, so that a killed process loses no
// more than the chunks under way. After a power failure the journal may be
// ahead of the data: chunks recorded after the last sync are therefore read
// back and compared with their checksum before they are believed. Digests are
// believed as they are, for they were taken from memory.
const (
	recordChunk  = 'W' // uint32 chunk, uint32 CRC-32C of its bytes: it was written
	recordLost   = 'L' // uint32 chunk: it did not match its checksum when it was read back
	recordDigest = 'D' // uint32 chunks covered, state of crypto/sha256
	recordSync   = 'S' // uint64 length of the journal up to which chunks are on the disk
	recordEnd    = 'E' // SHA-256 of the file: all of it is on the disk
)

// identity is the first line of a journal.
type identity struct {
	Version int          `json:"modelpipe_journal"`
	Plan    string       `json:"plan"` // SHA-256 of everything the bytes depend on
	Size    int64        `json:"size"`
	Turned  int64        `json:"turned_bytes"` // how the file was cut into chunks
	Source  []sourceFile `json:"source"`
}

type sourceFile struct {
	Name     string    `json:"name"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

// identify describes what the bytes of an output depend on.
func identify(plan *Plan, src fs.FS, opts FileOptions) (identity, error) {
	id := identity{Version: 1, Size: plan.Size}
	h := bulkhash.NewSHA256()
	head, err := plan.Header.AppendBinary(nil)
	if err != nil {
		return id, fmt.Errorf("journal: %w", err)
	}
	h.Write(head)
	fmt.Fprintf(h, "%d %d %t %q\n", plan.HeaderSize, plan.Size, opts.AllowNonfinite, opts.Inputs)
	for _, s := range plan.Steps {
		fmt.Fprintf(h, "%#v\n", s)
	}
	id.Plan = hex.EncodeToString(h.Sum(nil))
	id.Source, err = sourceFiles(plan, src)
	return id, err
}

// sourceFiles describes the files that a plan reads, in the order of their
// names.
func sourceFiles(plan *Plan, src fs.FS) ([]sourceFile, error) {
	seen := map[string]bool{}
	for _, s := range plan.Steps {
		Leaves(s.From, func(l Leaf) { seen[l.File] = true })
	}
	var files []sourceFile
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		info, err := fs.Stat(src, name)
		if err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		files = append(files, sourceFile{name, info.Size(), info.ModTime().UTC()})
	}
	return files, nil
}

// sameSource says what has changed in the files of a source since they were as
// in was.
func sameSource(now, was []sourceFile) error {
	for i, f := range now {
		if i >= len(was) || was[i].Name != f.Name {
			return errors.New("the files of the source have changed since")
		}
		if w := was[i]; w.Size != f.Size || !w.Modified.Equal(f.Modified) {
			return fmt.Errorf("source file %s has changed since", f.Name)
		}
	}
	if len(now) != len(was) {
		return errors.New("the files of the source have changed since")
	}
	return nil
}

// differs says what makes it impossible to go on with a journal of was.
func (id identity) differs(was identity) error {
	if was.Version != id.Version {
		return fmt.Errorf("it was written by another version of modelpipe")
	}
	if err := sameSource(id.Source, was.Source); err != nil {
		return err
	}
	if was.Plan != id.Plan || was.Size != id.Size {
		return errors.New("it was made with other options, from another source or by another version")
	}
	return nil
}

// journal is an open journal. Its methods may be called concurrently.
type journal struct {
	id   identity
	data *os.File // the unfinished output

	claims  map[uint32]claim // of the run that is gone on with
	durable int64            // length of the journal up to which claims are sure
	earlier []bool           // chunks that are there; fixed by verify
	hashed  int
	state   []byte
	end     []byte // digest of the finished file

	mu   sync.Mutex
	file *os.File
	size int64
}

// claim is a chunk that the journal says is written.
type claim struct {
	at  int64 // of the record in the journal
	sum uint32
}

// has says whether an earlier run has written chunk i.
func (j *journal) has(i int) bool { return i < len(j.earlier) && j.earlier[i] }

func (j *journal) append(kind byte, payload []byte) error {
	rec := append([]byte{kind, byte(len(payload))}, payload...)
	rec = binary.LittleEndian.AppendUint32(rec, crc32.Checksum(rec, castagnoli))
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.WriteAt(rec, j.size); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	j.size += int64(len(rec))
	return nil
}

// written records that chunk i is in the file.
func (j *journal) written(i int, sum uint32) error {
	return j.append(recordChunk, binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(i)), sum))
}

// digest records the state of the digest over the first chunks.
func (j *journal) digest(hashed int, state []byte) error {
	return j.append(recordDigest, append(binary.LittleEndian.AppendUint32(nil, uint32(hashed)), state...))
}

// sync takes the data to the disk and records it.
func (j *journal) sync() error {
	j.mu.Lock()
	covered := j.size
	j.mu.Unlock()
	if err := j.data.Sync(); err != nil {
		return fmt.Errorf("sync output: %w", err)
	}
	if err := j.append(recordSync, binary.LittleEndian.AppendUint64(nil, uint64(covered))); err != nil {
		return err
	}
	return j.file.Sync()
}

// finish takes all to the disk and records the digest of the whole.
func (j *journal) finish(sum []byte) error {
	if err := j.data.Sync(); err != nil {
		return fmt.Errorf("sync output: %w", err)
	}
	if err := j.append(recordEnd, sum); err != nil {
		return err
	}
	return j.file.Sync()
}

// start begins a new journal.
func (j *journal) start(id identity) error {
	line, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.id, j.size = id, int64(len(line))+1
	if err := j.file.Truncate(0); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if _, err := j.file.WriteAt(append(line, '\n'), 0); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	return j.file.Sync()
}

// load reads the journal of an earlier run. It fails where that run was of
// something other than id.
func (j *journal) load(id identity) error {
	r := bufio.NewReaderSize(io.NewSectionReader(j.file, 0, 1<<62), 64<<10)
	line, err := r.ReadBytes('\n')
	if err != nil && err != io.EOF {
		return fmt.Errorf("read journal: %w", err)
	}
	if err == io.EOF || json.Unmarshal(line, &j.id) != nil {
		return errors.New("its journal is damaged")
	}
	if err := id.differs(j.id); err != nil {
		return err
	}
	j.size = int64(len(line))
	j.claims = map[uint32]claim{}
	var buf [2 + 255 + 4]byte
	for {
		rec, err := readRecord(r, buf[:])
		if err != nil {
			return fmt.Errorf("read journal: %w", err)
		}
		if rec == nil {
			break
		}
		p := rec[2 : len(rec)-4]
		switch kind := rec[0]; {
		case kind == recordChunk && len(p) == 8:
			j.claims[binary.LittleEndian.Uint32(p)] = claim{j.size, binary.LittleEndian.Uint32(p[4:])}
		case kind == recordLost && len(p) == 4:
			delete(j.claims, binary.LittleEndian.Uint32(p))
		case kind == recordDigest && len(p) > 4:
			j.hashed, j.state = int(binary.LittleEndian.Uint32(p)), slices.Clone(p[4:])
		case kind == recordSync && len(p) == 8:
			j.durable = int64(binary.LittleEndian.Uint64(p))
		case kind == recordEnd && len(p) == sha256.Size:
			j.end = slices.Clone(p)
		default:
			return errors.New("its journal is of another version of modelpipe")
		}
		j.size += int64(len(rec))
	}
	if err := j.file.Truncate(j.size); err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	return nil
}

// readRecord reads one record into buf. It returns nil at the end of what can
// be believed.
func readRecord(r io.Reader, buf []byte) ([]byte, error) {
	_, err := io.ReadFull(r, buf[:2])
	n := 2 + int(buf[1])
	if err == nil {
		_, err = io.ReadFull(r, buf[2:n+4])
	}
	switch {
	case err == io.EOF || err == io.ErrUnexpectedEOF:
		return nil, nil
	case err != nil:
		return nil, err
	case crc32.Checksum(buf[:n], castagnoli) != binary.LittleEndian.Uint32(buf[n:]):
		return nil, nil
	}
	return buf[:n+4], nil
}

// verify decides which chunks need not be rendered again.
func (j *journal) verify(c *chunks) error {
	j.earlier = make([]bool, c.n)
	buf := make([]byte, c.largest())
	for i, claim := range j.claims {
		if int(i) >= c.n {
			return fmt.Errorf("journal: chunk %d of %d", i, c.n)
		}
		if claim.at >= j.durable {
			at := c.at(int(i))
			n, err := j.data.ReadAt(buf[:at.size], at.off)
			if err != nil && err != io.EOF {
				return fmt.Errorf("read the unfinished output at offset %d: %w", at.off, err)
			}
			if int64(n) != at.size || crc32.Checksum(buf[:n], castagnoli) != claim.sum {
				// The next sync must not vouch for it.
				if err := j.append(recordLost, binary.LittleEndian.AppendUint32(nil, i)); err != nil {
					return err
				}
				continue
			}
		}
		j.earlier[i] = true
	}
	if j.hashed > c.n {
		return fmt.Errorf("journal: digest of %d chunks of %d", j.hashed, c.n)
	}
	return nil
}
