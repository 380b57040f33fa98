package catalog

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"path"

	"github.com/modelpipe/modelpipe/gguf"
	"github.com/modelpipe/modelpipe/internal/bulkhash"
	"github.com/modelpipe/modelpipe/publish"
)

// PiecesSchemaID identifies the version of the JSON form of Pieces.
const PiecesSchemaID = "https://github.com/modelpipe/modelpipe/schema/pieces/1.0.0/pieces.schema.json"

// PiecesName is the name of a variant's Pieces in its folder.
const PiecesName = "pieces.json"

// MaxPieces bounds the document of a variant's pieces, in bytes.
const MaxPieces = 32 << 20

// Pieces are the digests of the parts of a variant's files. A node that has
// another version on its disk fetches only the pieces that it does not have,
// and notices a damaged one as soon as it has arrived.
//
// A GGUF file is cut at its tensors, so that a piece is the same in every file
// with that tensor, wherever it lies in it. A tensor of more than pieceBytes
// is cut into pieces of that size, counted from its start; tensors of less
// than gatherBytes are gathered. Header and other files are cut where their
// content says so, so that an edit changes the pieces around it and no others.
type Pieces struct {
	Schema string       `json:"$schema" schema:"const=https://github.com/modelpipe/modelpipe/schema/pieces/1.0.0/pieces.schema.json" doc:"version of this format"`
	Files  []FilePieces `json:"files" schema:"minItems=1" doc:"files, in the order of the variant"`
}

// FilePieces are the pieces of a file: one behind the other they are the file.
type FilePieces struct {
	Size   int64   `json:"size" schema:"min=0" doc:"bytes of the file"`
	SHA256 Digest  `json:"sha256" schema:"pattern=digest" doc:"of the file"`
	Pieces []Piece `json:"pieces" doc:"pieces, the first one first"`
}

// Piece is a part of a file.
type Piece struct {
	Size   int64  `json:"size" schema:"min=1" doc:"bytes of the piece"`
	SHA256 Digest `json:"sha256" schema:"pattern=digest" doc:"of the piece"`
}

// Where files are cut, in bytes.
const (
	pieceBytes  = 4 << 20  // most of a piece
	gatherBytes = 64 << 10 // least of a piece of tensors, but for the last
	leastChunk  = 2 << 10  // of what is cut by content
	mostChunk   = 32 << 10
	chunkBits   = 12 // a chunk has leastChunk + 2^12 bytes on average
)

// PieceHash cuts what is written to it, a file from its beginning, into
// pieces. It keeps no content.
type PieceHash struct {
	size  int64
	data  int64   // where the tensors begin; size for other files
	ends  []int64 // of pieces of tensors, ascending
	at    int64
	begin int64 // of the piece at work
	roll  uint64

	whole, piece hash.Hash
	pieces       []Piece
}

// NewPieceHash returns a PieceHash for a file of size bytes: a GGUF file with
// the header, whose tensors are laid out, or with nil any other file.
func NewPieceHash(h *gguf.Header, size int64) (*PieceHash, error) {
	p := &PieceHash{size: size, data: size, whole: bulkhash.NewSHA256(), piece: bulkhash.NewSHA256()}
	if h == nil {
		return p, nil
	}
	var err error
	if p.data, err = h.DataOffset(); err != nil {
		return nil, err
	}
	begin := p.data
	for i, t := range h.Tensors {
		end := size
		if i+1 < len(h.Tensors) {
			end = p.data + h.Tensors[i+1].Offset
		}
		if end < begin || end > size {
			return nil, fmt.Errorf("tensor %s: ends at byte %d of %d", quoted(t.Name), end, size)
		}
		if end-begin < gatherBytes && end < size {
			continue
		}
		for end-begin > pieceBytes {
			begin += pieceBytes
			p.ends = append(p.ends, begin)
		}
		if end > begin {
			p.ends = append(p.ends, end)
		}
		begin = end
	}
	if n := len(p.ends); p.data < size && (n == 0 || p.ends[n-1] < size) {
		p.ends = append(p.ends, size)
	}
	return p, nil
}

// Write implements io.Writer. It fails where more than the size is written.
func (p *PieceHash) Write(b []byte) (int, error) {
	if int64(len(b)) > p.size-p.at {
		return 0, fmt.Errorf("more than the %d bytes of the file", p.size)
	}
	n := len(b)
	p.whole.Write(b)
	for len(b) > 0 {
		k, cut := p.next(b)
		p.piece.Write(b[:k])
		p.at += int64(k)
		b = b[k:]
		if cut {
			p.cut()
		}
	}
	return n, nil
}

// next returns how many of the bytes belong to the piece at work, and whether
// it ends with them.
func (p *PieceHash) next(b []byte) (int, bool) {
	if p.at >= p.data {
		if left := p.ends[0] - p.at; left <= int64(len(b)) {
			return int(left), true
		}
		return len(b), false
	}
	limit := min(int64(len(b)), p.data-p.at)
	for i := range limit {
		// The gear hash (Xia et al., Ddelta, 2014): the last 64 bytes decide.
		p.roll = p.roll<<1 + gear(b[i])
		length := p.at + i + 1 - p.begin
		if length >= mostChunk || length >= leastChunk && p.roll>>(64-chunkBits) == 0 {
			return int(i + 1), true
		}
	}
	return int(limit), p.at+limit == p.data
}

// gear is a fixed random number for each byte: the mixing function of
// SplitMix64 (Steele, Lea, Flood 2014).
func gear(b byte) uint64 {
	z := (uint64(b) + 1) * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func (p *PieceHash) cut() {
	if p.at >= p.data && len(p.ends) > 0 && p.ends[0] == p.at {
		p.ends = p.ends[1:]
	}
	p.pieces = append(p.pieces, Piece{p.at - p.begin, sumDigest(p.piece)})
	p.piece.Reset()
	p.begin, p.roll = p.at, 0
}

func sumDigest(h hash.Hash) Digest { return Digest("sha256:" + hex.EncodeToString(h.Sum(nil))) }

// Pieces returns the pieces of the file, all of which was written.
func (p *PieceHash) Pieces() (FilePieces, error) {
	if p.at != p.size {
		return FilePieces{}, fmt.Errorf("%d bytes: want %d", p.at, p.size)
	}
	if p.begin < p.at {
		p.cut()
	}
	f := FilePieces{Size: p.size, SHA256: sumDigest(p.whole), Pieces: p.pieces}
	if f.Pieces == nil {
		f.Pieces = []Piece{}
	}
	return f, nil
}

// CutFile reads a file of size bytes and returns its digest and its pieces.
func CutFile(ctx context.Context, r io.ReaderAt, size int64) (FilePieces, error) {
	var header *gguf.Header
	var magic [4]byte
	if _, err := r.ReadAt(magic[:], 0); err == nil && string(magic[:]) == "GGUF" {
		if header, err = gguf.ReadHeader(r, size); err != nil {
			return FilePieces{}, err
		}
	}
	p, err := NewPieceHash(header, size)
	if err != nil {
		return FilePieces{}, err
	}
	section := io.NewSectionReader(r, 0, size)
	buffer := make([]byte, 1<<20)
	for {
		n, err := section.Read(buffer)
		if _, werr := p.Write(buffer[:n]); werr != nil {
			return FilePieces{}, werr
		}
		if errors.Is(err, io.EOF) {
			return p.Pieces()
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return FilePieces{}, err
		}
	}
}

// DecodePieces reads the pieces of a variant's files.
func DecodePieces(data []byte, v *Variant) (*Pieces, error) {
	var p Pieces
	if err := decodeStrict(data, &p, PiecesSchemaID); err != nil {
		return nil, fmt.Errorf("pieces: %w", err)
	}
	if err := p.validate(v); err != nil {
		return nil, fmt.Errorf("pieces: %w", err)
	}
	return &p, nil
}

func (p *Pieces) validate(v *Variant) error {
	if len(p.Files) != len(v.Files) {
		return fmt.Errorf("of %d files: the variant has %d", len(p.Files), len(v.Files))
	}
	for i, f := range p.Files {
		if f.SHA256 != v.Files[i].SHA256 || f.Size != v.Files[i].Size {
			return fmt.Errorf("files[%d] is %s of %d bytes: the variant has %s of %d", i, f.SHA256, f.Size, v.Files[i].SHA256, v.Files[i].Size)
		}
		total := int64(0)
		for _, piece := range f.Pieces {
			if piece.Size > math.MaxInt64-total {
				return fmt.Errorf("files[%d]: the sizes of its pieces overflow", i)
			}
			total += piece.Size
		}
		if total != f.Size {
			return fmt.Errorf("files[%d]: its pieces have %d bytes, it has %d", i, total, f.Size)
		}
	}
	return nil
}

// PutPieces puts the pieces of a variant's files beside them and notes in the
// record where they are. It comes before PutRecord. Pieces that are there stay
// as they are.
func (o *Operator) PutPieces(ctx context.Context, r *Record, p *Pieces) error {
	p.Schema = PiecesSchemaID
	if err := p.validate(&r.Variant); err != nil {
		return fmt.Errorf("pieces: %w", err)
	}
	data, err := Encode(p)
	if err != nil {
		return err
	}
	if len(data) > MaxPieces {
		return fmt.Errorf("pieces: the document has %d bytes: want at most %d", len(data), MaxPieces)
	}
	name := path.Join(VariantDir(r.Model, r.Variant.ID), PiecesName)
	if _, err := o.Store.Put(ctx, name, data, publish.Absent); errors.Is(err, publish.ErrChanged) || errors.Is(err, publish.ErrExists) {
		// A record may have their digest already: they stay.
		if data, _, err = o.Store.Get(ctx, name, MaxPieces); err != nil {
			return err
		}
		if _, err := DecodePieces(data, &r.Variant); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	} else if err != nil {
		return err
	}
	r.Variant.Pieces = &Link{URI: name, SHA256: DigestOf(data), Size: int64(len(data)), MediaType: "application/json"}
	return nil
}
