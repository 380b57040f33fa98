package site

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/export"
)

// Target is a way to run a model, with what to type for it.
type Target struct {
	ID     string // for HTML
	Title  string
	About  string
	Blocks []Block
}

// Block is a text to copy.
type Block struct {
	Title    string
	Language string // sh, python, js, json, modelfile
	Text     string
}

// targets are the ways to run models, in the order of the dialog; each returns
// nil for a model that it does not support.
var targets = []func(*page) *Target{restTarget, workerTarget, openAITarget, llamaCppTarget, ollamaTarget, dockerTarget}

// ordered is a JSON object that keeps the order of its keys.
type ordered []struct {
	key   string
	value any
}

func (o *ordered) set(key string, value any) {
	*o = append(*o, struct {
		key   string
		value any
	}{key, value})
}

func (o ordered) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, f := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := jsonText(f.key, "")
		if err != nil {
			return nil, err
		}
		value, err := jsonText(f.value, "")
		if err != nil {
			return nil, err
		}
		b.WriteString(key + ":" + value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// jsonText writes a value as JSON for people: HTML's characters stay as they
// are, for a page escapes them itself. The text is also a literal of Python and
// JavaScript where it holds no true, false or null.
func jsonText(v any, prefix string) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	text := strings.TrimSuffix(b.String(), "\n")
	if prefix != "" {
		var indented bytes.Buffer
		if err := json.Indent(&indented, []byte(text), strings.TrimPrefix(prefix, "\n"), "  "); err != nil {
			return "", err
		}
		text = indented.String()
	}
	if !strings.ContainsFunc(text, disguises) {
		return text, nil
	}
	var shown strings.Builder
	for _, r := range text {
		if disguises(r) && r <= 0xffff {
			fmt.Fprintf(&shown, "\\u%04x", r) // only texts hold such characters
		} else {
			shown.WriteRune(r)
		}
	}
	return shown.String(), nil
}

// disguises says whether a character makes a text look other than it is: those
// that turn the direction of writing, and those that show nothing.
func disguises(r rune) bool {
	return r != '\n' && r != '\t' && !unicode.IsGraphic(r) && r != utf8.RuneError
}

// literal is a value in the syntax of JSON, Python and JavaScript.
func literal(v any) string {
	s, err := jsonText(v, "")
	if err != nil {
		panic("site: " + err.Error()) // texts and numbers only
	}
	return s
}

// indentedLiteral is a literal on several lines, whose further lines begin
// with so many spaces.
func indentedLiteral(v any, spaces int) string {
	s, err := jsonText(v, "\n"+strings.Repeat(" ", spaces))
	if err != nil {
		panic("site: " + err.Error())
	}
	return s
}

// message is one of a conversation.
type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

const (
	exampleQuestion = "Why is the sky blue? Answer in one sentence."
	exampleQuery    = "How do I reset my password?"
	exampleText     = "Click on Forgot password, and follow the link in the mail."
)

// messages is the conversation of the snippets.
func (p *page) messages() []message {
	var out []message
	if p.Model.Prompt != nil && p.Model.Prompt.System != "" {
		out = append(out, message{"system", p.Model.Prompt.System})
	}
	return append(out, message{"user", exampleQuestion})
}

// parameters adds the model's sampling parameters and the limit of its answers
// under the names of an API.
func (p *page) parameters(o *ordered, names map[string]string) {
	add := func(key string, value any) {
		if name := names[key]; name != "" {
			o.set(name, value)
		}
	}
	if n := p.Model.Serving.MaxTokens; n > 0 {
		add("max_tokens", n)
	}
	if p.Model.Prompt == nil {
		return
	}
	if s := p.Model.Prompt.Sampling; s != nil {
		if s.Temperature != nil {
			add("temperature", *s.Temperature)
		}
		if s.TopP != nil {
			add("top_p", *s.TopP)
		}
		if s.TopK != nil {
			add("top_k", *s.TopK)
		}
		if s.MinP != nil {
			add("min_p", *s.MinP)
		}
		if s.RepeatPenalty != nil {
			add("repeat_penalty", *s.RepeatPenalty)
		}
	}
	if len(p.Model.Prompt.Stop) > 0 {
		add("stop", p.Model.Prompt.Stop)
	}
}

// The names of parameters in APIs.
var (
	workersAINames  = map[string]string{"max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "repeat_penalty": "repetition_penalty"}
	openAINames     = map[string]string{"max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "stop": "stop"}
	openAIMoreNames = map[string]string{"top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repetition_penalty"}
	llamaNames      = map[string]string{"max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repeat_penalty", "stop": "stop"}
	ollamaNames     = map[string]string{"max_tokens": "num_predict", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "repeat_penalty": "repeat_penalty", "stop": "stop"}
)

// chats says whether the model continues conversations.
func (p *page) chats() bool {
	switch p.Model.Task {
	case catalog.TextGeneration, catalog.ImageToText, catalog.Summarization, catalog.Translation:
		return true
	}
	return false
}

// urlSafe writes a name into the path of an address, so that it is plain text
// inside of double quotes in a shell and in JavaScript too.
func urlSafe(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~@/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// curl is a command that posts JSON. Address is in double quotes and may name
// variables; flags come first.
func curl(flags, address, key string, body any) string {
	var b strings.Builder
	fmt.Fprintf(&b, "curl %s\"%s\" \\\n", flags, address)
	if key != "" {
		fmt.Fprintf(&b, "  -H \"Authorization: Bearer $%s\" \\\n", key)
	}
	fmt.Fprintf(&b, "  -H \"Content-Type: application/json\" \\\n  -d %s", export.ShellQuote(indentedLiteral(body, 0)))
	return b.String()
}

// with returns the object with one more key.
func (o ordered) with(key string, value any) ordered {
	out := append(ordered{}, o...)
	out.set(key, value)
	return out
}

const workersAIRun = "https://api.cloudflare.com/client/v4/accounts/$ACCOUNT_ID/ai/run/"

// workersAIInput is the body of a request to Workers AI.
func (p *page) workersAIInput() ordered {
	var body ordered
	switch p.Model.Task {
	case catalog.TextGeneration:
		body.set("messages", p.messages())
		p.parameters(&body, workersAINames)
	case catalog.TextEmbeddings:
		body.set("text", p.queries())
	case catalog.Reranking:
		body.set("query", exampleQuery)
		body.set("contexts", []map[string]string{{"text": exampleText}, {"text": "The office opens at nine."}})
	case catalog.Summarization:
		body.set("input_text", exampleText)
	case catalog.Translation:
		body.set("text", exampleQuestion)
		body.set("source_lang", "en")
		body.set("target_lang", "fr")
	case catalog.TextClassification:
		body.set("text", "This pizza is great!")
	}
	return body
}

// queries are texts to embed, behind the prefix that the model wants.
func (p *page) queries() []string {
	prefix := ""
	if p.Model.Embedding != nil {
		prefix = p.Model.Embedding.QueryPrefix
	}
	return []string{prefix + exampleQuery, prefix + "When does the office open?"}
}

// fileInput says that the model takes an image or a recording, which goes as
// bytes.
func (p *page) fileInput() string {
	switch p.Model.Task {
	case catalog.SpeechRecognition:
		return "recording.wav"
	case catalog.ImageToText:
		return "picture.jpg"
	}
	return ""
}

func restTarget(p *page) *Target {
	if export.WorkersAIRuns(p.Model) != nil {
		return nil
	}
	t := &Target{ID: "rest", Title: "REST", About: "Cloudflare Workers AI over HTTP. The token needs the permission Workers AI."}
	address := workersAIRun + urlSafe(export.WorkersAIName(p.Model))
	t.Blocks = append(t.Blocks, Block{"Account", "sh", "export ACCOUNT_ID=your-account-id\nexport API_TOKEN=your-api-token"})
	if file := p.fileInput(); file != "" {
		t.Blocks = append(t.Blocks, Block{"Request", "sh", fmt.Sprintf("curl %q \\\n  -H \"Authorization: Bearer $API_TOKEN\" \\\n  --data-binary @%s", address, file)})
		return t
	}
	body := p.workersAIInput()
	t.Blocks = append(t.Blocks, Block{"Request", "sh", curl("", address, "API_TOKEN", body)})
	if p.Model.Capabilities.Streaming && p.Model.Task == catalog.TextGeneration {
		t.Blocks = append(t.Blocks, Block{"Streaming", "sh", curl("-N ", address, "API_TOKEN", body.with("stream", true))})
	}
	return t
}

func workerTarget(p *page) *Target {
	if export.WorkersAIRuns(p.Model) != nil || p.fileInput() != "" {
		return nil
	}
	t := &Target{ID: "worker", Title: "Workers AI SDK", About: "A Worker with the binding AI, run by Wrangler."}
	var config ordered
	config.set("$schema", "node_modules/wrangler/config-schema.json")
	config.set("name", p.workerName())
	config.set("main", "src/index.js")
	config.set("compatibility_date", "2026-10-01")
	config.set("ai", map[string]string{"binding": "AI"})
	input := p.workersAIInput()
	reply := "    const result = await env.AI.run(model, input);\n    return Response.json(result);"
	if p.Model.Capabilities.Streaming && p.Model.Task == catalog.TextGeneration {
		reply = `    if (new URL(request.url).searchParams.has("stream")) {
      const stream = await env.AI.run(model, { ...input, stream: true });
      return new Response(stream, { headers: { "content-type": "text/event-stream" } });
    }
` + reply
	}
	t.Blocks = []Block{
		{"Start a project", "sh", "mkdir -p " + p.workerName() + "/src && cd " + p.workerName() + "\nnpm init -y && npm install --save-dev wrangler"},
		{"wrangler.jsonc", "json", indentedLiteral(config, 0)},
		{"src/index.js", "js", "const model = " + literal(export.WorkersAIName(p.Model)) + ";\n\nconst input = " + indentedLiteral(input, 0) + ";\n\nexport default {\n  async fetch(request, env) {\n" + reply + "\n  },\n};"},
		{"Run and deploy", "sh", "npx wrangler dev      # curl -N 'http://localhost:8787/?stream'\nnpx wrangler deploy"},
	}
	if !strings.Contains(reply, "stream") {
		t.Blocks[3].Text = "npx wrangler dev\nnpx wrangler deploy"
	}
	return t
}

// workerName names a Worker: letters, digits and dashes, 63 at most.
func (p *page) workerName() string {
	name := strings.NewReplacer(".", "-", "_", "-").Replace(p.Model.Slug)
	return strings.Trim(name[:min(len(name), 63)], "-")
}

func openAITarget(p *page) *Target {
	embeds := p.Model.Task == catalog.TextEmbeddings
	if !p.chats() && !embeds || p.Options.BaseURL == "" && export.WorkersAIRuns(p.Model) != nil {
		return nil
	}
	if p.fileInput() != "" {
		return nil
	}
	t := &Target{ID: "openai", Title: "OpenAI-compatible", About: "Any client of OpenAI's API; only the address, the key and the model change."}
	// Address as each language writes it.
	name, key := export.WorkersAIName(p.Model), "API_TOKEN"
	shell := `https://api.cloudflare.com/client/v4/accounts/$ACCOUNT_ID/ai/v1`
	python := `f"https://api.cloudflare.com/client/v4/accounts/{os.environ['ACCOUNT_ID']}/ai/v1"`
	js := "`https://api.cloudflare.com/client/v4/accounts/${process.env.ACCOUNT_ID}/ai/v1`"
	if base := strings.TrimRight(p.Options.BaseURL, "/"); base != "" {
		name, key = p.Model.Slug, "API_KEY"
		shell, python, js = base, literal(base), literal(base)
	}
	if embeds {
		var body ordered
		body.set("model", name)
		body.set("input", p.queries())
		t.Blocks = []Block{
			{"curl", "sh", curl("", shell+"/embeddings", key, body)},
			{"Python", "python", fmt.Sprintf("import os\nfrom openai import OpenAI\n\nclient = OpenAI(\n    base_url=%s,\n    api_key=os.environ[%s],\n)\nresult = client.embeddings.create(\n    model=%s,\n    input=%s,\n)\nfor item in result.data:\n    print(len(item.embedding), item.embedding[:3])", python, literal(key), literal(name), indentedLiteral(p.queries(), 4))},
			{"JavaScript", "js", fmt.Sprintf("import OpenAI from \"openai\";\n\nconst client = new OpenAI({\n  baseURL: %s,\n  apiKey: process.env.%s,\n});\nconst result = await client.embeddings.create(%s);\nfor (const item of result.data) console.log(item.embedding.length);", js, key, indentedLiteral(body, 0))},
		}
		return t
	}
	var body, more ordered
	body.set("model", name)
	body.set("messages", p.messages())
	p.parameters(&body, openAINames)
	p.parameters(&more, openAIMoreNames)
	streams := p.Model.Capabilities.Streaming
	var args strings.Builder
	for _, f := range body {
		fmt.Fprintf(&args, "    %s=%s,\n", f.key, indentedLiteral(f.value, 4))
	}
	if len(more) > 0 {
		fmt.Fprintf(&args, "    extra_body=%s,\n", literal(more))
	}
	pythonEnd := "answer = client.chat.completions.create(\n" + args.String() + ")\nprint(answer.choices[0].message.content)"
	whole := append(append(ordered{}, body...), more...)
	jsEnd := "const answer = await client.chat.completions.create(" + indentedLiteral(whole, 0) + ");\nconsole.log(answer.choices[0].message.content);"
	request, flags := whole, ""
	if streams {
		request, flags = whole.with("stream", true), "-N "
		pythonEnd = "stream = client.chat.completions.create(\n" + args.String() + "    stream=True,\n)\nfor chunk in stream:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or \"\", end=\"\", flush=True)"
		jsEnd = "const stream = await client.chat.completions.create(" + indentedLiteral(request, 0) + ");\nfor await (const chunk of stream) {\n  process.stdout.write(chunk.choices[0]?.delta?.content ?? \"\");\n}"
	}
	t.Blocks = []Block{
		{"curl", "sh", curl(flags, shell+"/chat/completions", key, request)},
		{"Python", "python", fmt.Sprintf("import os\nfrom openai import OpenAI\n\nclient = OpenAI(\n    base_url=%s,\n    api_key=os.environ[%s],\n)\n%s", python, literal(key), pythonEnd)},
		{"JavaScript", "js", fmt.Sprintf("import OpenAI from \"openai\";\n\nconst client = new OpenAI({\n  baseURL: %s,\n  apiKey: process.env.%s,\n});\n%s", js, key, jsEnd)},
	}
	return t
}

// local is a request to a server on this machine that speaks OpenAI's
// protocol.
func (p *page) local(base, name string) Block {
	var body ordered
	body.set("model", name)
	switch {
	case p.Model.Task == catalog.TextEmbeddings:
		body.set("input", p.queries())
		return Block{"Ask it", "sh", curl("", base+"/embeddings", "", body)}
	case p.Model.Task == catalog.Reranking:
		body.set("query", exampleQuery)
		body.set("documents", []string{exampleText, "The office opens at nine."})
		return Block{"Ask it", "sh", curl("", base+"/rerank", "", body)}
	}
	body.set("messages", p.messages())
	p.parameters(&body, llamaNames)
	if !p.Model.Capabilities.Streaming {
		return Block{"Ask it", "sh", curl("", base+"/chat/completions", "", body)}
	}
	return Block{"Ask it, streaming", "sh", curl("-N ", base+"/chat/completions", "", body.with("stream", true))}
}

// longestTemplate is the most bytes of a chat template that a snippet writes
// out. A longer one, or one that would not look as it is, is taken from the
// model file, which has it too.
const longestTemplate = 4096

func llamaCppTarget(p *page) *Target {
	place, ok := export.Location(p.Default, catalog.KindHTTP)
	if export.LlamaRuns(p.Model) != nil || !ok {
		return nil
	}
	t := &Target{ID: "llamacpp", Title: "llama.cpp", About: "llama-server on your own machine, with the file of variant " + p.Default.Name + "."}
	parts, projector := export.ModelFiles(p.Default)
	files := parts
	if projector != nil {
		files = append(append([]catalog.File{}, parts...), *projector)
	}
	var fetch, sums strings.Builder
	for _, f := range files {
		name := fileName(f)
		fmt.Fprintf(&fetch, "curl -L -C - -o %s %s\n", export.ShellQuote(name), export.ShellQuote(place.Address(f)))
		fmt.Fprintf(&sums, "%s  %s\n", strings.TrimPrefix(string(f.SHA256), "sha256:"), name)
	}
	fetch.WriteString("sha256sum -c - <<'SUMS'\n" + sums.String() + "SUMS")
	t.Blocks = append(t.Blocks, Block{"Download and verify", "sh", fetch.String()})
	base := func(f catalog.File) string { return export.ShellQuote(fileName(f)) }
	args := append([]string{"--model " + base(parts[0])}, pairs(export.LlamaArgs(p.Model))...)
	if projector != nil {
		args = append(args, "--mmproj "+base(*projector))
	}
	if pr := p.Model.Prompt; pr != nil && pr.Template != "" && len(pr.Template) <= longestTemplate && !strings.ContainsFunc(pr.Template, disguises) {
		t.Blocks = append(t.Blocks, Block{"The model's prompt template", "sh", "printf %s " + quoteAlways(pr.Template) + " > template.jinja"})
		args = append(args, "--chat-template-file template.jinja")
	}
	t.Blocks = append(t.Blocks, Block{"Serve", "sh", "llama-server " + strings.Join(append(args, "--port 8080"), " \\\n  ")}, p.local("http://localhost:8080/v1", p.Model.Slug))
	return t
}

// quoteAlways quotes a text for a shell in any case.
func quoteAlways(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// pairs puts options and their values on one line.
func pairs(args []string) []string {
	var out []string
	for _, a := range args {
		if strings.HasPrefix(a, "--") || len(out) == 0 {
			out = append(out, a)
		} else {
			out[len(out)-1] += " " + a
		}
	}
	return out
}

func ollamaTarget(p *page) *Target {
	if export.OllamaRuns(p.Model, p.Default) != nil {
		return nil
	}
	t := &Target{ID: "ollama", Title: "Ollama"}
	name := p.Model.Slug
	place, pulls := export.Location(p.Default, catalog.KindOCI)
	pulls = pulls && place.Ollama != "" && !strings.ContainsFunc(place.Ollama, disguises)
	file, ok := p.modelfile()
	switch {
	case pulls:
		name = place.Ollama
		t.About = "Pulled from the registry, with its prompt template and parameters."
		t.Blocks = append(t.Blocks, Block{"Pull", "sh", "ollama pull " + export.ShellQuote(name)})
	case ok:
		t.About = "Made from the file of variant " + p.Default.Name + ", which has the prompt template in it."
		t.Blocks = append(t.Blocks, Block{"Modelfile", "modelfile", file}, Block{"Make it", "sh", "ollama create " + name + " -f Modelfile"})
	default:
		return nil
	}
	var body, options ordered
	body.set("model", name)
	if p.Model.Task == catalog.TextEmbeddings {
		body.set("input", p.queries())
		t.Blocks = append(t.Blocks, Block{"Ask it", "sh", curl("", "http://localhost:11434/api/embed", "", body)})
		return t
	}
	t.Blocks = append(t.Blocks, Block{"Chat", "sh", "ollama run " + export.ShellQuote(name) + " " + export.ShellQuote(exampleQuestion)})
	options.set("num_ctx", p.Model.Serving.ContextTokens)
	p.parameters(&options, ollamaNames)
	body.set("messages", p.messages())
	body.set("options", options)
	body.set("stream", p.Model.Capabilities.Streaming)
	title, flags := "Ask it", ""
	if p.Model.Capabilities.Streaming {
		title, flags = "Ask it, streaming", "-N "
	}
	t.Blocks = append(t.Blocks, Block{title, "sh", curl(flags, "http://localhost:11434/api/chat", "", body)})
	return t
}

// modelfile is a Modelfile of the downloaded file, with the model's parameters
// and system message. It knows no escapes: what its quotes cannot hold makes
// none.
func (p *page) modelfile() (string, bool) {
	if _, ok := export.Location(p.Default, catalog.KindHTTP); !ok {
		return "", false
	}
	parts, projector := export.ModelFiles(p.Default)
	if projector != nil {
		return "", false
	}
	var b strings.Builder
	fmt.Fprintf(&b, "FROM ./%s\nPARAMETER num_ctx %d", fileName(parts[0]), p.Model.Serving.ContextTokens)
	var options ordered
	p.parameters(&options, ollamaNames)
	for _, o := range options {
		values := []any{o.value}
		if stop, ok := o.value.([]string); ok {
			values = nil
			for _, s := range stop {
				if strings.ContainsFunc(s, disguises) || strings.ContainsAny(s, "\"\\\n") {
					return "", false
				}
				values = append(values, s)
			}
		}
		for _, v := range values {
			fmt.Fprintf(&b, "\nPARAMETER %s %s", o.key, literal(v))
		}
	}
	if pr := p.Model.Prompt; pr != nil && pr.System != "" {
		if strings.ContainsFunc(pr.System, disguises) || strings.Contains(pr.System, `"""`) || strings.HasSuffix(pr.System, `"`) {
			return "", false
		}
		b.WriteString("\nSYSTEM \"\"\"" + pr.System + "\"\"\"")
	}
	return b.String(), true
}

// fileName is the last part of a file's path.
func fileName(f catalog.File) string { return f.Path[strings.LastIndex(f.Path, "/")+1:] }

func dockerTarget(p *page) *Target {
	place, ok := export.Location(p.Default, catalog.KindOCI)
	if !ok || export.LlamaRuns(p.Model) != nil || p.Model.Task == catalog.Reranking {
		return nil
	}
	name := strings.TrimPrefix(place.URI, "oci://")
	t := &Target{ID: "docker", Title: "Docker Model Runner", About: "Pulled from the registry by docker model."}
	t.Blocks = append(t.Blocks, Block{"Pull", "sh", fmt.Sprintf("docker model pull %s\ndocker model configure --context-size %d %s", export.ShellQuote(name), p.Model.Serving.ContextTokens, export.ShellQuote(name))})
	if p.chats() {
		t.Blocks = append(t.Blocks, Block{"Chat", "sh", "docker model run " + export.ShellQuote(name) + " " + export.ShellQuote(exampleQuestion)})
	}
	t.Blocks = append(t.Blocks, p.local("http://localhost:12434/engines/v1", name))
	return t
}
