package publish_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/modelpipe/modelpipe/publish"
	"github.com/modelpipe/modelpipe/publish/publishtest"
)

// TestLargeS3 runs the suite on versitygw.
func TestLargeS3(t *testing.T) {
	data := t.TempDir()
	address := publishtest.StartGateway(t, publishtest.Servers(t, ".."), data)
	var buckets atomic.Int64
	publishtest.Run(t, func(t testing.TB) *publishtest.Target {
		name := fmt.Sprintf("bucket-%d", buckets.Add(1))
		if err := os.Mkdir(filepath.Join(data, name), 0o777); err != nil {
			t.Fatal(err)
		}
		proxy := publishtest.NewProxy(t, "http://"+address)
		return &publishtest.Target{
			OneOfTwo: true,
			Open:     func(t testing.TB) publish.Sink { return open(t, "s3://"+name+"/models/team", s3Environment(proxy.URL)) },
			Proxy:    proxy,
		}
	})
}

// TestLargeOCI runs the suite on distribution.
func TestLargeOCI(t *testing.T) {
	address := publishtest.StartRegistry(t, publishtest.Servers(t, ".."))
	var repositories atomic.Int64
	publishtest.Run(t, func(t testing.TB) *publishtest.Target {
		name := fmt.Sprintf("team/model-%d", repositories.Add(1))
		proxy := publishtest.NewProxy(t, "http://"+address)
		cache := t.TempDir()
		return &publishtest.Target{
			Open: func(t testing.TB) publish.Sink {
				return open(t, "oci://"+strings.TrimPrefix(proxy.URL, "http://")+"/"+name+":v1", map[string]string{"XDG_CACHE_HOME": cache})
			},
			Proxy: proxy,
		}
	})
}

// TestLargePull pulls what was published with the clients that people use.
func TestLargePull(t *testing.T) {
	bin := publishtest.Servers(t, "..")
	address := publishtest.StartRegistry(t, bin)
	model, err := os.ReadFile("../gguf/testdata/malformed/good-two.gguf")
	if err != nil {
		t.Fatal(err)
	}
	const template = "{% for m in messages %}{{ m.content }}{% endfor %}"
	text := func(name string, role publish.Role, s string) publish.File {
		return publish.File{Name: name, Role: role, Size: int64(len(s)), Content: strings.NewReader(s)}
	}
	a := &publish.Artifact{
		Model: publish.Model{Name: "tiny", Family: "llama", Parameters: 1000, Quantization: "F32", ContextLength: 64},
		Files: []publish.File{
			{Name: "tiny.gguf", Role: publish.RoleModel, Size: int64(len(model)), Content: bytes.NewReader(model)},
			text("LICENSE", publish.RoleLicense, "terms"),
			text("chat_template.jinja", publish.RoleTemplate, template),
			text("template", publish.RoleOllamaTemplate, "{{ .Prompt }}"),
			text("params.json", publish.RoleOllamaParams, `{"stop":["</s>"]}`),
		},
		Attached: []publish.Attachment{{Name: "tiny.gguf.intoto.jsonl", MediaType: "application/vnd.in-toto+json", Data: []byte("{}\n")}},
	}
	s := open(t, "oci://"+address+"/team/tiny:v1", map[string]string{"XDG_CACHE_HOME": t.TempDir()})
	if _, err := s.Publish(t.Context(), a, publish.Options{}); err != nil {
		t.Fatal(err)
	}
	digest := func(p []byte) string {
		sum := sha256.Sum256(p)
		return hex.EncodeToString(sum[:])
	}
	for _, client := range []string{"docker", "oras"} {
		t.Run(client, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "pull"), client, address+"/team/tiny:v1", t.TempDir())
			cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, stderr.String())
			}
			found := map[string]bool{}
			for name := range strings.Lines(string(out)) {
				data, err := os.ReadFile(strings.TrimSpace(name))
				if err != nil {
					t.Fatal(err)
				}
				found[digest(data)] = true
			}
			if !found[digest(model)] || !found[digest([]byte(template))] {
				t.Errorf("%s does not hold the model and its template", out)
			}
		})
	}
	t.Run("ollama", func(t *testing.T) { pullAsOllama(t, address, digest(model)) })
}

// pullAsOllama does what Ollama does (server/download.go): it takes the
// manifest of Docker's second version, asks for each blob without following,
// and reads ranges from where the registry redirects to.
func pullAsOllama(t *testing.T, address, model string) {
	to := &url.URL{Scheme: "http", Host: address}
	reverse := httputil.NewSingleHostReverseProxy(to)
	front := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") && !r.URL.Query().Has("direct") {
			http.Redirect(w, r, r.URL.Path+"?direct=1", http.StatusTemporaryRedirect)
			return
		}
		reverse.ServeHTTP(w, r)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: front}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	base := "http://" + l.Addr().String()
	get := func(address, key, value string, want int) ([]byte, http.Header) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(key, value)
		res, err := http.DefaultTransport.RoundTrip(req) // does not follow
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != want {
			t.Fatalf("%s: status %d, %v: want %d", address, res.StatusCode, err, want)
		}
		return body, res.Header
	}
	raw, header := get(base+"/v2/team/tiny/manifests/v1-ollama", "Accept", "application/vnd.docker.distribution.manifest.v2+json", http.StatusOK)
	if got := header.Get("Content-Type"); got != "application/vnd.docker.distribution.manifest.v2+json" {
		t.Errorf("content type %s", got)
	}
	type layer struct {
		MediaType, Digest string
		Size              int
	}
	var m struct {
		Config layer
		Layers []layer
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, l := range append(m.Layers, m.Config) {
		_, header := get(base+"/v2/team/tiny/blobs/"+l.Digest, "Accept", "*/*", http.StatusTemporaryRedirect)
		var blob []byte
		for half := range 2 {
			from, to := half*(l.Size/2), l.Size/2-1
			if half == 1 {
				to = l.Size - 1
			}
			if to < from {
				continue
			}
			part, _ := get(base+header.Get("Location"), "Range", fmt.Sprintf("bytes=%d-%d", from, to), http.StatusPartialContent)
			blob = append(blob, part...)
		}
		sum := sha256.Sum256(blob)
		if "sha256:"+hex.EncodeToString(sum[:]) != l.Digest {
			t.Errorf("%s: is not %s", l.MediaType, l.Digest)
		}
		if _, twice := got[l.MediaType]; twice {
			t.Errorf("%s is there twice", l.MediaType)
		}
		got[l.MediaType] = string(blob)
	}
	sum := sha256.Sum256([]byte(got["application/vnd.ollama.image.model"]))
	if hex.EncodeToString(sum[:]) != model {
		t.Error("the model is another")
	}
	for mediaType, want := range map[string]string{
		"application/vnd.ollama.image.template": "{{ .Prompt }}",
		"application/vnd.ollama.image.params":   `{"stop":["</s>"]}`,
		"application/vnd.ollama.image.license":  "terms",
	} {
		if got[mediaType] != want {
			t.Errorf("%s is %q: want %q", mediaType, got[mediaType], want)
		}
	}
	var config struct {
		ModelFormat string `json:"model_format"`
		ModelFamily string `json:"model_family"`
		FileType    string `json:"file_type"`
	}
	if err := json.Unmarshal([]byte(got["application/vnd.docker.container.image.v1+json"]), &config); err != nil || config.ModelFormat != "gguf" || config.ModelFamily != "llama" || config.FileType != "F32" {
		t.Errorf("config %+v, %v", config, err)
	}
}
