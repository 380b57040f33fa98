package tokenizer

import (
	"strings"
	"testing"
	"testing/fstest"
)

// repo makes a repository of files given as name, text, name, text, ...
func repo(files ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(files); i += 2 {
		fsys[files[i]] = &fstest.MapFile{Data: []byte(files[i+1])}
	}
	return fsys
}

const byteLevelSteps = `,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},"decoder":{"type":"ByteLevel"}`

func TestVocabularyErrors(t *testing.T) {
	for _, c := range []struct {
		name    string
		files   fstest.MapFS
		options Options
		want    string
	}{
		{"none", repo("config.json", "{}"), Options{}, "tokenizer: no tokenizer files: want tokenizer.json"},
		{"kind", repo("tokenizer.json", definition(byteLevelSteps)), Options{Kinds: []Kind{KindWordPiece}}, "tokenizer.json is not of a kind that this architecture has (wordpiece)"},
		{"larger", repo("tokenizer.json", definition(byteLevelSteps)), Options{Size: 2}, "the vocabulary has 3 tokens, more than the 2 rows of the token embedding"},
		{"pre", repo("tokenizer.json", definition(`,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel","use_regex":false,"add_prefix_space":false}]}`)), Options{},
			"pre-tokenizer not recognised; --pre NAME says which of llama.cpp's it is."},
		{"special", repo("tokenizer.json", definition(byteLevelSteps)), Options{Special: []SpecialRule{{Role: "eot", Text: "<|user|>"}}}, `the architecture's eot token "<|user|>" is not among the added tokens`},
		{"broken", repo("tokenizer.json", "{"), Options{}, "tokenizer.json: unexpected end"},
		{"model", repo("tokenizer.model", "\x0a\x05"), Options{}, "tokenizer.model: byte 0: field 1 has 5 bytes, 0 are left"},
		{"merges", repo("vocab.json", `{"a":0}`), Options{}, "vocab.json is there, but merges.txt is not"},
		{"merge", repo("vocab.json", `{"a":0}`, "merges.txt", "#version: 0.2\na b\n"), Options{}, `merges.txt: line 2: "a" + "b": token "b" is not in the vocabulary`},
		{"ranks", repo("x.tiktoken", rankFileOf("ab")), Options{}, "x.tiktoken: a rank file does not say how text is cut; --pre NAME"},
		{"rank specials", repo("x.tiktoken", rankFileOf("ab")), Options{Pre: "qwen2"}, "x.tiktoken: a rank file does not have the special tokens"},
		{"decoder", repo("tokenizer.json", definition(byteLevelSteps), "tokenizer_config.json", `{"added_tokens_decoder":{"x":{"content":"y"}}}`), Options{}, `added_tokens_decoder: id "x"`},
		{"template", repo("tokenizer.json", definition(byteLevelSteps), "tokenizer_config.json", `{"chat_template":[{"name":"x"}]}`), Options{}, "chat_template[0]: want a name and a template"},
		{"negative", repo("tokenizer.json", definition(byteLevelSteps), "config.json", `{"bos_token_id":-1}`), Options{}, "config.json: the bos token has id -1"},
		{"gap", repo("tokenizer.json", definition(`,"added_tokens":[{"id":4000000,"content":"x"}]`+byteLevelSteps)), Options{}, "no token has id 3, but one has id 4000000"},
		{"beyond", repo("tokenizer.json", definition(`,"added_tokens":[{"id":9,"content":"x"}]`+byteLevelSteps)), Options{Size: 8}, "the vocabulary has 10 tokens, more than the 8 rows of the token embedding"},
		{"clash", repo("tokenizer.json", definition(`,"added_tokens":[{"id":7,"content":"a"}]`+byteLevelSteps)), Options{}, `added token "a" has id 7, but id 0 in the model's vocabulary`},
	} {
		files, err := Load(c.files)
		if err == nil {
			_, err = files.Vocabulary(c.options)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant %s", c.name, err, c.want)
		}
	}
}

func TestPadding(t *testing.T) {
	files, err := Load(repo("tokenizer.json", definition(byteLevelSteps)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := files.Vocabulary(Options{Size: 5})
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Tokens) != 5 || v.Tokens[4] != (Token{"[PAD4]", 0, Unused}) || v.Tokens[2] != (Token{"ab", 0, Normal}) {
		t.Errorf("tokens %+v", v.Tokens)
	}
	if v.Pre != "gpt-2" || len(v.Merges) != 1 || v.Merges[0] != "a b" {
		t.Errorf("pre %q, merges %q", v.Pre, v.Merges)
	}
}

func TestPreOverride(t *testing.T) {
	files, err := Load(repo("tokenizer.json", definition(`,"pre_tokenizer":{"type":"Whitespace"},"decoder":{"type":"ByteLevel"}`)))
	if err != nil {
		t.Fatal(err)
	}
	v, err := files.Vocabulary(Options{Pre: "chameleon"})
	if err != nil {
		t.Fatal(err)
	}
	if v.Pre != "chameleon" {
		t.Errorf("pre %q", v.Pre)
	}
}

func TestChatTemplates(t *testing.T) {
	for _, c := range []struct {
		name  string
		files fstest.MapFS
		want  string
	}{
		{"config", repo("tokenizer_config.json", `{"chat_template":"A"}`, "chat_template.jinja", "B"), "default=A"},
		{"jinja", repo("tokenizer_config.json", `{}`, "chat_template.jinja", "B", "chat_template.json", `{"chat_template":"C"}`), "default=B"},
		{"json", repo("chat_template.json", `{"chat_template":"C"}`), "default=C"},
		{"additional", repo("chat_template.jinja", "B", "additional_chat_templates/tool-use.jinja", "T", "additional_chat_templates/rag.jinja", "R"), "default=B rag=R tool_use=T"},
		{"list", repo("tokenizer_config.json", `{"chat_template":[{"name":"default","template":"D"},{"name":"tool use","template":"T"}]}`), "default=D tool_use=T"},
		{"none", repo("tokenizer_config.json", `{"chat_template":null}`), ""},
	} {
		files, err := Load(c.files)
		if err != nil {
			t.Fatal(err)
		}
		templates, err := files.ChatTemplates()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, tpl := range templates {
			got = append(got, tpl.Name+"="+tpl.Template)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: got %s, want %s", c.name, s, c.want)
		}
	}
}
