package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"
)

// SentencePiece is a parsed SentencePiece model (tokenizer.model,
// sentencepiece.bpe.model), the ModelProto of sentencepiece_model.proto. The
// index of a piece is its id.
type SentencePiece struct {
	Pieces []SentencePiecePiece
	Kind   SentencePieceKind

	ByteFallback            bool
	TreatWhitespaceAsSuffix bool
	UnkID, BosID            int32 // -1 where there is none
	EosID, PadID            int32
	AddDummyPrefix          bool
	RemoveExtraWhitespaces  bool
	EscapeWhitespaces       bool
	Charsmap                []byte // compiled normalization map; nil where there is none
}

// SentencePiecePiece is one token of a SentencePiece model.
type SentencePiecePiece struct {
	Text  string
	Score float32
	Type  SentencePieceType
}

// SentencePieceType is the role of a piece, by the numbers of
// ModelProto.SentencePiece.Type. GGUF's token types have the same numbers.
type SentencePieceType int32

// The piece types.
const (
	PieceNormal      SentencePieceType = 1
	PieceUnknown     SentencePieceType = 2
	PieceControl     SentencePieceType = 3
	PieceUserDefined SentencePieceType = 4
	PieceUnused      SentencePieceType = 5
	PieceByte        SentencePieceType = 6
)

// SentencePieceKind is the segmentation algorithm, by the numbers of
// TrainerSpec.ModelType.
type SentencePieceKind int32

// The segmentation algorithms.
const (
	SentencePieceUnigram SentencePieceKind = 1
	SentencePieceBPE     SentencePieceKind = 2
	SentencePieceWord    SentencePieceKind = 3
	SentencePieceChar    SentencePieceKind = 4
)

// ParseSentencePiece reads a serialized ModelProto. As SentencePiece itself
// does when it loads a model it refuses one with an empty or repeated piece, or
// without exactly one unknown piece.
func ParseSentencePiece(data []byte) (*SentencePiece, error) {
	sp := &SentencePiece{
		Kind:  SentencePieceUnigram,
		UnkID: 0, BosID: 1, EosID: 2, PadID: -1, // the proto's defaults
		AddDummyPrefix: true, RemoveExtraWhitespaces: true, EscapeWhitespaces: true,
	}
	err := eachField(data, func(f wireField) error {
		switch f.number {
		case 1:
			p, err := parsePiece(f)
			if err != nil {
				return fmt.Errorf("piece %d: %w", len(sp.Pieces), err)
			}
			if len(sp.Pieces) == MaxTokens {
				return fmt.Errorf("more than %d pieces", MaxTokens)
			}
			sp.Pieces = append(sp.Pieces, p)
		case 2:
			if err := sp.trainer(f); err != nil {
				return fmt.Errorf("trainer_spec: %w", err)
			}
		case 3:
			if err := sp.normalizer(f); err != nil {
				return fmt.Errorf("normalizer_spec: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return sp, sp.check()
}

// check holds the pieces against each other.
func (sp *SentencePiece) check() error {
	if len(sp.Pieces) == 0 {
		return fmt.Errorf("no pieces")
	}
	seen := make(map[string]int, len(sp.Pieces))
	unknown := -1
	for i, p := range sp.Pieces {
		if first, ok := seen[p.Text]; ok {
			return fmt.Errorf("piece %d: %q is piece %d too", i, p.Text, first)
		}
		seen[p.Text] = i
		switch p.Type {
		case PieceUnknown:
			if unknown >= 0 {
				return fmt.Errorf("piece %d: %q is unknown, as piece %d is: want one", i, p.Text, unknown)
			}
			unknown = i
		case PieceByte:
			if _, ok := parseByteToken(p.Text); !ok {
				return fmt.Errorf("piece %d: %q is a byte piece: want <0x00> to <0xFF>", i, p.Text)
			}
		}
	}
	if unknown < 0 {
		return fmt.Errorf("no unknown piece")
	}
	return nil
}

// parseByteToken returns the byte that a text such as "<0x0A>" stands for.
func parseByteToken(text string) (byte, bool) {
	if len(text) != 6 || text[:3] != "<0x" || text[5] != '>' {
		return 0, false
	}
	hi, ok1 := hexDigit(text[3])
	lo, ok2 := hexDigit(text[4])
	return hi<<4 | lo, ok1 && ok2
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// parsePiece reads a ModelProto.SentencePiece.
func parsePiece(f wireField) (SentencePiecePiece, error) {
	p := SentencePiecePiece{Type: PieceNormal}
	body, err := f.message()
	if err != nil {
		return p, err
	}
	err = eachField(body, func(f wireField) (err error) {
		switch f.number {
		case 1:
			p.Text, err = f.str()
		case 2:
			p.Score, err = f.float()
		case 3:
			var v int32
			if v, err = f.enum(); err == nil && (v < 1 || v > 6) {
				err = fmt.Errorf("type %d: want 1 to 6", v)
			}
			p.Type = SentencePieceType(v)
		}
		return err
	})
	switch {
	case err != nil:
	case p.Text == "":
		err = fmt.Errorf("the text is empty")
	case math.IsNaN(float64(p.Score)) || math.IsInf(float64(p.Score), 0):
		err = fmt.Errorf("%q: the score is not finite", p.Text)
	}
	return p, err
}

// trainer reads what matters of a TrainerSpec.
func (sp *SentencePiece) trainer(f wireField) error {
	body, err := f.message()
	if err != nil {
		return err
	}
	return eachField(body, func(f wireField) (err error) {
		switch f.number {
		case 3:
			var v int32
			if v, err = f.enum(); err == nil && (v < 1 || v > 4) {
				err = fmt.Errorf("model_type %d: want 1 to 4", v)
			}
			sp.Kind = SentencePieceKind(v)
		case 24:
			sp.TreatWhitespaceAsSuffix, err = f.bool()
		case 35:
			sp.ByteFallback, err = f.bool()
		case 40:
			sp.UnkID, err = f.enum()
		case 41:
			sp.BosID, err = f.enum()
		case 42:
			sp.EosID, err = f.enum()
		case 43:
			sp.PadID, err = f.enum()
		}
		return err
	})
}

// normalizer reads a NormalizerSpec.
func (sp *SentencePiece) normalizer(f wireField) error {
	body, err := f.message()
	if err != nil {
		return err
	}
	return eachField(body, func(f wireField) (err error) {
		switch f.number {
		case 2:
			var b []byte
			b, err = f.message()
			sp.Charsmap = append([]byte(nil), b...)
		case 3:
			sp.AddDummyPrefix, err = f.bool()
		case 4:
			sp.RemoveExtraWhitespaces, err = f.bool()
		case 5:
			sp.EscapeWhitespaces, err = f.bool()
		}
		return err
	})
}

// wireField is one field of a protobuf message: a varint, a fixed number or a
// run of bytes.
type wireField struct {
	number int
	kind   int    // the wire type: 0 varint, 1 fixed64, 2 bytes, 5 fixed32
	value  uint64 // kinds 0, 1 and 5
	bytes  []byte // kind 2; a part of the message
}

// eachField calls visit for every field of a protobuf message. Groups, which
// proto2 dropped, are refused.
func eachField(data []byte, visit func(wireField) error) error {
	pos := 0
	varint := func() (uint64, error) {
		v, n := binary.Uvarint(data[pos:])
		if n <= 0 {
			return 0, fmt.Errorf("byte %d: truncated or overlong number", pos)
		}
		pos += n
		return v, nil
	}
	for pos < len(data) {
		start := pos
		key, err := varint()
		if err != nil {
			return err
		}
		if key>>3 == 0 || key>>3 > 1<<29-1 {
			return fmt.Errorf("byte %d: field number %d", start, key>>3)
		}
		f := wireField{number: int(key >> 3), kind: int(key & 7)}
		switch f.kind {
		case 0:
			if f.value, err = varint(); err != nil {
				return err
			}
		case 1, 5:
			size := 8
			if f.kind == 5 {
				size = 4
			}
			if len(data)-pos < size {
				return fmt.Errorf("byte %d: field %d is truncated", start, f.number)
			}
			var buf [8]byte
			copy(buf[:], data[pos:pos+size])
			f.value = binary.LittleEndian.Uint64(buf[:])
			pos += size
		case 2:
			n, err := varint()
			if err != nil {
				return err
			}
			if n > uint64(len(data)-pos) {
				return fmt.Errorf("byte %d: field %d has %d bytes, %d are left", start, f.number, n, len(data)-pos)
			}
			f.bytes = data[pos : pos+int(n)]
			pos += int(n)
		default:
			return fmt.Errorf("byte %d: field %d has wire type %d", start, f.number, f.kind)
		}
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}

func (f wireField) want(kind int) error {
	if f.kind != kind {
		return fmt.Errorf("field %d has wire type %d, want %d", f.number, f.kind, kind)
	}
	return nil
}

func (f wireField) message() ([]byte, error) { return f.bytes, f.want(2) }

func (f wireField) str() (string, error) {
	if err := f.want(2); err != nil {
		return "", err
	}
	if !utf8.Valid(f.bytes) {
		return "", fmt.Errorf("%q is not UTF-8", f.bytes)
	}
	return string(f.bytes), nil
}

func (f wireField) float() (float32, error) {
	return math.Float32frombits(uint32(f.value)), f.want(5)
}

func (f wireField) bool() (bool, error) { return f.value != 0, f.want(0) }

// enum reads an enum or int32; a negative one takes ten bytes on the wire.
func (f wireField) enum() (int32, error) {
	if err := f.want(0); err != nil {
		return 0, err
	}
	if v := int64(f.value); v < math.MinInt32 || v > math.MaxInt32 {
		return 0, fmt.Errorf("field %d: %d does not fit 32 bits", f.number, v)
	}
	return int32(f.value), nil
}
