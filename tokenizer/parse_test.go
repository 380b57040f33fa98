package tokenizer

import (
	"os"
	"strings"
	"testing"
)

func TestParseTiktokenErrors(t *testing.T) {
	whole := rankFileOf()
	for _, c := range []struct{ in, want string }{
		{"", "byte 0x00 is not a token"},
		{"AAAA\n", "line 1: want a base64 token and a rank"},
		{"!! 0\n", "line 1: token: illegal base64"},
		{"AA== x\n", `line 1: rank "x": want an integer`},
		{"AA== 99999999\n", `rank "99999999": want an integer from 0 to 4194303`},
		{"AA== 1\n", "no token has rank 0"},
		{"AA== 0\nAQ== 0\n", `rank 0 belongs to both "\x00" and "\x01"`},
		{whole + "AA== 256\n", `token "\x00" has both rank 0 and rank 256`},
		{whole + " 256\n", "the token of rank 256 is empty"},
		{whole + "YWI= 257\n", "no token has rank 256"},
	} {
		if _, err := ParseTiktoken([]byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.20q: got %v, want %s", c.in, err, c.want)
		}
	}
	tk, err := ParseTiktoken([]byte(rankFileOf("abc")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tk.Merges(true); err == nil || !strings.Contains(err.Error(), `token "abc" of rank 256 is not a merge of two others`) {
		t.Errorf("strict merges: %v", err)
	}
	if m, err := tk.Merges(false); err != nil || len(m) != 0 {
		t.Errorf("merges: %q, %v", m, err)
	}
}

func TestParseTekkenErrors(t *testing.T) {
	good := tekkenFile("ab")
	for _, c := range []struct{ old, new, want string }{
		{`"default_vocab_size":261`, `"default_vocab_size":400`, "vocab: 257 tokens, fewer than the 396 of the config"},
		{`"default_vocab_size":261`, `"default_vocab_size":999999999`, "config: a vocabulary of 999999999"},
		{`"default_num_special_tokens":4`, `"default_num_special_tokens":2`, "special_tokens: 3, more than the 2 of the config"},
		{`{"rank":1,"token_str"`, `{"rank":2,"token_str"`, "special_tokens[1] has rank 2"},
		{`"</s>"`, `"<s>"`, `special_tokens[2]: "<s>" occurs twice`},
		{`{"rank":7,`, `{"rank":8,`, "vocab[7] has rank 8"},
		{`"YWI="`, `"YW"`, "vocab[256]: token_bytes: illegal base64"},
		{`"YWI="`, `"YQ=="`, `token "a" has both rank 97 and rank 256`},
	} {
		if !strings.Contains(good, c.old) {
			t.Fatalf("no %s", c.old)
		}
		if _, err := ParseTekken([]byte(strings.Replace(good, c.old, c.new, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.new, err, c.want)
		}
	}
}

// piece encodes a ModelProto with one piece of the given fields.
func piece(fields string) string { return "\x0a" + string(rune(len(fields))) + fields }

func TestParseSentencePieceErrors(t *testing.T) {
	unk := piece("\x0a\x05<unk>\x18\x02")
	if _, err := ParseSentencePiece([]byte(unk)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ in, want string }{
		{"", "no pieces"},
		{"\x0a", "byte 1: truncated or overlong number"},
		{"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "field 1 has 18446744073709551615 bytes, 0 are left"},
		{"\x00\x00", "field number 0"},
		{"\x0b", "field 1 has wire type 3"},
		{"\x08\x01", "piece 0: field 1 has wire type 0, want 2"},
		{piece("\x0a\x01a"), "no unknown piece"},
		{unk + piece("\x18\x01"), "piece 1: the text is empty"},
		{unk + piece("\x0a\x01\xff"), `piece 1: "\xff" is not UTF-8`},
		{unk + piece("\x0a\x01a") + piece("\x0a\x01a"), `piece 2: "a" is piece 1 too`},
		{unk + piece("\x0a\x01a\x18\x02"), `piece 1: "a" is unknown, as piece 0 is: want one`},
		{unk + piece("\x0a\x01a\x18\x09"), "piece 1: type 9: want 1 to 6"},
		{unk + piece("\x0a\x01a\x18\x06"), `piece 1: "a" is a byte piece: want <0x00> to <0xFF>`},
		{unk + piece("\x0a\x01a\x15\x00\x00\xc0\x7f"), `piece 1: "a": the score is not finite`},
		{unk + "\x12\x02\x18\x09", "trainer_spec: model_type 9: want 1 to 4"},
		{unk + "\x1a\x02\x12\x05", "normalizer_spec: byte 0: field 2 has 5 bytes, 0 are left"},
	} {
		if _, err := ParseSentencePiece([]byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %s", c.in, err, c.want)
		}
	}
}

func FuzzParseSentencePiece(f *testing.F) {
	data, err := os.ReadFile("testdata/golden/mistral/tokenizer.model")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(piece("\x0a\x05<unk>\x18\x02") + "\x12\x02\x18\x01\x1a\x02\x18\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		sp, err := ParseSentencePiece(data)
		if err != nil {
			return
		}
		if len(sp.Pieces) == 0 || len(sp.Pieces) > len(data)/2 {
			t.Fatalf("%d pieces of %d bytes", len(sp.Pieces), len(data))
		}
	})
}

func FuzzParseTiktoken(f *testing.F) {
	f.Add([]byte(rankFileOf("ab", "abc")))
	f.Add([]byte("AA== 0\r\nAQ== 1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		tk, err := ParseTiktoken(data)
		if err != nil {
			return
		}
		for i, token := range tk.Tokens {
			if tk.Ranks[string(token)] != int32(i) {
				t.Fatalf("token %q has rank %d, want %d", token, tk.Ranks[string(token)], i)
			}
			if back, ok := fromByteAlphabet(toByteAlphabet(string(token))); !ok || back != string(token) {
				t.Fatalf("%q becomes %q", token, back)
			}
		}
		if _, err := tk.Merges(false); err != nil && !strings.Contains(err.Error(), "bytes, more than") {
			t.Fatal(err)
		}
	})
}

func FuzzParseDefinition(f *testing.F) {
	f.Add([]byte(definition(byteLevelSteps)))
	data, err := os.ReadFile("testdata/golden/xlm-roberta/tokenizer.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseDefinition(data)
		if err != nil {
			return
		}
		if d.Model.Type == "" || len(d.Model.Vocab) > len(data) || len(d.Model.Pieces) > len(data) {
			t.Fatalf("model %q of %d bytes", d.Model.Type, len(data))
		}
		for _, m := range d.Model.Merges {
			if m.Left < 0 || m.Right < 0 || m.Result < 0 {
				t.Fatalf("merge %v", m)
			}
		}
		d.Structure()
	})
}
