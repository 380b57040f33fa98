package tokenizer

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// SentencePieceEncoder encodes as the sentencepiece library does with a
// tokenizer.model (version 0.2). It is safe for concurrent use.
//
// SentencePiece never reads control tokens in a text; with ParseSpecial they
// are cut out first, the longest at each place, and every part between them is
// encoded by itself, as transformers does.
type SentencePieceEncoder struct {
	sp       *SentencePiece
	charsmap *charsmap
	ids      map[string]int32 // normal, user-defined and unused pieces
	user     *trie            // user-defined pieces
	control  *trie            // control and unknown pieces
	bytes    [256]int32
	unk      int32
	unigram  *unigram
	bos, eos int32 // what AddSpecial adds; noToken: nothing
}

// NewSentencePieceEncoder prepares a model for encoding. AddSpecial puts the
// model's BOS and EOS around the text where addBOS and addEOS say so.
func NewSentencePieceEncoder(sp *SentencePiece, addBOS, addEOS bool) (*SentencePieceEncoder, error) {
	e := &SentencePieceEncoder{
		sp: sp, ids: make(map[string]int32, len(sp.Pieces)), user: newTrie(), control: newTrie(), unk: noToken, bos: noToken, eos: noToken,
	}
	for i := range e.bytes {
		e.bytes[i] = noToken
	}
	for i, p := range sp.Pieces {
		id := int32(i)
		switch p.Type {
		case PieceNormal, PieceUnused:
			e.ids[p.Text] = id
		case PieceUserDefined:
			e.ids[p.Text] = id
			e.user.insert(p.Text, id)
		case PieceUnknown:
			e.unk = id
			e.control.insert(p.Text, id)
		case PieceControl:
			e.control.insert(p.Text, id)
		case PieceByte:
			if b, ok := parseByteToken(p.Text); ok {
				e.bytes[b] = id
			}
		}
	}
	if e.unk == noToken {
		return nil, fmt.Errorf("sentencepiece model: no unknown piece")
	}
	for _, s := range []struct {
		add bool
		id  int32
		to  *int32
	}{{addBOS, sp.BosID, &e.bos}, {addEOS, sp.EosID, &e.eos}} {
		if s.add {
			if s.id < 0 || int(s.id) >= len(sp.Pieces) {
				return nil, fmt.Errorf("sentencepiece model: asked to add a token with id %d of %d", s.id, len(sp.Pieces))
			}
			*s.to = s.id
		}
	}
	if len(sp.Charsmap) > 0 {
		var err error
		if e.charsmap, err = parseCharsmap(sp.Charsmap); err != nil {
			return nil, fmt.Errorf("sentencepiece model: precompiled_charsmap: %w", err)
		}
	}
	switch sp.Kind {
	case SentencePieceBPE:
	case SentencePieceUnigram:
		e.unigram = e.newUnigram()
	default:
		return nil, fmt.Errorf("sentencepiece model: kind %d is not implemented: want unigram or BPE", sp.Kind)
	}
	return e, nil
}

// newUnigram indexes the pieces. As in the library (unigram_model.cc,
// EncodeOptimized) a user-defined piece scores better than all that it could be
// cut into, and unused pieces are not there.
func (e *SentencePieceEncoder) newUnigram() *unigram {
	pieces := e.sp.Pieces
	var lowest, highest float32
	first := true
	u := &unigram{pieces: newTrie(), unk: e.unk}
	for id, p := range pieces {
		if p.Type == PieceNormal {
			if first {
				lowest, highest, first = p.Score, p.Score, false
			}
			lowest, highest = min(lowest, p.Score), max(highest, p.Score)
		}
		if p.Type == PieceNormal || p.Type == PieceUserDefined {
			u.pieces.insert(p.Text, int32(id))
		}
	}
	u.unkScore = float64(lowest - unknownPenalty)
	u.score = func(id int32) float64 {
		if p := pieces[id]; p.Type != PieceUserDefined {
			return float64(p.Score)
		}
		return float64(float32(len(pieces[id].Text))*highest) - 0.1
	}
	return u
}

// Encode implements Encoder.
func (e *SentencePieceEncoder) Encode(text string, opts EncodeOptions) ([]int32, error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("encode: text of %d bytes: more than %d", len(text), MaxText)
	}
	var out []int32
	if opts.AddSpecial && e.bos != noToken {
		out = append(out, e.bos)
	}
	done := 0
	part := func(end int) (err error) {
		if end > done {
			out, err = e.encode(text[done:end], out)
		}
		return err
	}
	for i := 0; opts.ParseSpecial && i < len(text); {
		size, found := 0, noToken
		e.control.walk(text[i:], func(n int, id int32) { size, found = n, id })
		if size == 0 {
			i++
			continue
		}
		if err := part(i); err != nil {
			return nil, fmt.Errorf("encode: %w", err)
		}
		out = append(out, found)
		i += size
		done = i
	}
	if err := part(len(text)); err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	if opts.AddSpecial && e.eos != noToken {
		out = append(out, e.eos)
	}
	return out, nil
}

func (e *SentencePieceEncoder) encode(text string, out []int32) ([]int32, error) {
	text, err := e.normalize(text)
	if err != nil {
		return nil, err
	}
	var segments []segment
	if e.unigram != nil {
		segments = e.unigram.best(text)
	} else {
		segments = e.mergeBPE(text)
	}
	unknown := false
	for _, s := range segments {
		if s.id != e.unk {
			out = append(out, s.id)
			unknown = false
			continue
		}
		if !e.sp.ByteFallback {
			if !unknown { // neighbours become one
				out = append(out, e.unk)
			}
			unknown = true
			continue
		}
		for _, b := range []byte(text[s.start:s.end]) {
			if e.bytes[b] == noToken {
				return nil, fmt.Errorf("the model falls back on bytes, but has no piece for 0x%02X", b)
			}
			out = append(out, e.bytes[b])
		}
	}
	return out, nil
}

// normalize is Normalizer::Normalize of the library.
func (e *SentencePieceEncoder) normalize(text string) (string, error) {
	space := " "
	if e.sp.EscapeWhitespaces {
		space = escapedSpace
	}
	if e.sp.RemoveExtraWhitespaces {
		for text != "" {
			part, n, err := e.normalizePrefix(text)
			if err != nil {
				return "", err
			}
			if part != " " {
				break
			}
			text = text[n:]
		}
	}
	if text == "" {
		return "", nil
	}
	var b strings.Builder
	if e.sp.AddDummyPrefix && !e.sp.TreatWhitespaceAsSuffix {
		b.WriteString(space)
	}
	afterSpace := e.sp.RemoveExtraWhitespaces
	for text != "" {
		part, n, err := e.normalizePrefix(text)
		if err != nil {
			return "", err
		}
		text = text[n:]
		if afterSpace {
			part = strings.TrimLeft(part, " ")
		}
		if part == "" {
			continue
		}
		b.WriteString(strings.ReplaceAll(part, " ", space))
		afterSpace = e.sp.RemoveExtraWhitespaces && strings.HasSuffix(part, " ")
	}
	out := b.String()
	if e.sp.RemoveExtraWhitespaces {
		for strings.HasSuffix(out, space) {
			out = strings.TrimSuffix(out, space)
		}
	}
	if e.sp.AddDummyPrefix && e.sp.TreatWhitespaceAsSuffix {
		out += space
	}
	return out, nil
}

// normalizePrefix returns what the beginning of text becomes and its size.
func (e *SentencePieceEncoder) normalizePrefix(text string) (string, int, error) {
	size := 0
	e.user.walk(text, func(n int, _ int32) { size = n })
	if size > 0 {
		return text[:size], size, nil
	}
	if e.charsmap != nil {
		if to, n, err := e.charsmap.longest(text); n > 0 || err != nil {
			return to, n, err
		}
	}
	if r, n := utf8.DecodeRuneInString(text); r != utf8.RuneError || n > 1 {
		return text[:n], n, nil
	}
	return string(unicode.ReplacementChar), 1, nil
}

// mergeBPE is bpe::Model::Encode: user-defined pieces stand apart and do not
// merge, and unused pieces are taken apart again at the end.
func (e *SentencePieceEncoder) mergeBPE(text string) []segment {
	type halves struct{ left, right string }
	made := make(map[string]halves) // how an unused piece was made
	const frozen int32 = -2
	m := merger{find: func(left, right *symbol) (float64, int32, bool) {
		if left.id == frozen || right.id == frozen {
			return 0, 0, false
		}
		union := text[left.start:right.end]
		id, ok := e.ids[union]
		if !ok {
			return 0, 0, false
		}
		if e.sp.Pieces[id].Type == PieceUnused {
			made[union] = halves{text[left.start:left.end], text[right.start:right.end]}
		}
		return -float64(e.sp.Pieces[id].Score), noToken, true
	}}
	for i := 0; i < len(text); {
		size := 0
		e.user.walk(text[i:], func(n int, _ int32) { size = n })
		id := frozen
		if size == 0 {
			size, id = min(leadSize(text[i]), len(text)-i), noToken
		}
		m.add(i, i+size, id)
		i += size
	}
	m.merge()
	var out []segment
	var emit func(start, end int, depth int)
	emit = func(start, end int, depth int) {
		piece := text[start:end]
		id, ok := e.ids[piece]
		if !ok {
			id = e.unk
		}
		if h, unused := made[piece]; ok && unused && e.sp.Pieces[id].Type == PieceUnused && depth < len(text) {
			emit(start, start+len(h.left), depth+1)
			emit(end-len(h.right), end, depth+1)
			return
		}
		out = append(out, segment{start, end, id})
	}
	for i := int32(0); i >= 0 && int(i) < len(m.symbols); i = m.symbols[i].next {
		emit(int(m.symbols[i].start), int(m.symbols[i].end), 0)
	}
	return out
}

// Decode implements Encoder: control tokens are left out, bytes are joined,
// and the space that encoding put in front goes.
func (e *SentencePieceEncoder) Decode(ids []int32) string {
	var b strings.Builder
	strip := e.sp.AddDummyPrefix || e.sp.RemoveExtraWhitespaces
	for _, id := range ids {
		if id < 0 || int(id) >= len(e.sp.Pieces) {
			continue
		}
		text := ""
		switch p := e.sp.Pieces[id]; p.Type {
		case PieceControl:
			continue
		case PieceUnknown:
			text = " \u2047 " // as the library shows it
		case PieceByte:
			text = string([]byte{byte(slices.Index(e.bytes[:], id))})
		default:
			text = p.Text
			if strip {
				text = strings.TrimPrefix(text, escapedSpace)
			}
			text = strings.ReplaceAll(text, escapedSpace, " ")
		}
		// Where extra spaces are removed all that lead the text go.
		strip = strip && text == "" && e.sp.RemoveExtraWhitespaces
		b.WriteString(text)
	}
	return b.String()
}

var _ Encoder = (*SentencePieceEncoder)(nil)
