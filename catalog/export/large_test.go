package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelpipe/modelpipe/catalog"
	"github.com/modelpipe/modelpipe/catalog/catalogtest"
)

// Versions of the consumers that were seen working.
var (
	pythonPackages = []string{"litellm==1.110.2", "openai==3.57.0", "ollama==0.6.3", "pyyaml"}
	// GPUStack's own dependencies are many; these are what its types need.
	gpuStackPackage = "gpustack==2.3.0"
	gpuStackNeeds   = []string{"sqlmodel", "greenlet", "fastapi", "cachetools", "aiocache", "gpustack-runtime==0.2.6", "croniter", "psutil", "pyjwt", "argon2-cffi"}
	nodePackages    = []string{"cloudflare@7.3.0", "typescript@7.0.2"}
)

// large skips where consumers are not to be installed, and returns the folder
// that keeps them between runs.
func large(t *testing.T) string {
	t.Helper()
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1: installs gateways' own libraries")
	}
	dir, err := filepath.Abs("../../out/large/exports")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// execute runs a command that must succeed and returns what it printed.
func execute(t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.Bytes()
}

// written writes the exports of models into a folder.
func written(t *testing.T, models []catalog.Model) (*Result, string) {
	t.Helper()
	r, dir := export(t, models, "all"), t.TempDir()
	for _, f := range r.Files {
		name := filepath.Join(dir, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return r, dir
}

// TestLargePythonConsumers reads the exports with LiteLLM, which computes
// costs and draws deployments by weight, with the clients of OpenAI and
// Ollama, and with GPUStack's types.
func TestLargePythonConsumers(t *testing.T) {
	home := large(t)
	python := filepath.Join(home, "venv/bin/python")
	if _, err := os.Stat(python); err != nil {
		execute(t, home, "python3", "-m", "venv", "venv")
	}
	execute(t, home, python, append([]string{"-m", "pip", "-q", "install"}, append(pythonPackages, gpuStackNeeds...)...)...)
	execute(t, home, python, "-m", "pip", "-q", "install", "--no-deps", gpuStackPackage)
	models := catalogtest.Example(t)
	angry := hostileModel(t)
	angry.Slug, angry.Aliases, angry.Pairings = "angry", nil, nil
	models = append([]catalog.Model{models[0], angry}, models[1:]...)
	r, dir := written(t, models)
	mux := http.NewServeMux()
	for path, name := range map[string]string{"/v1/models": "openai/models.json", "/api/tags": "ollama/tags.json"} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write(file(t, r, name))
		})
	}
	server := httptest.NewServer(mux)
	defer server.Close()
	script, err := filepath.Abs("consumers.py")
	if err != nil {
		t.Fatal(err)
	}
	var found struct {
		Costs    map[string][]string
		Draws    map[string]map[string]int
		OpenAI   map[string][]any
		Ollama   map[string][]any
		GPUStack map[string][]any
	}
	if err := json.Unmarshal(execute(t, home, python, "-W", "ignore", script, dir, server.URL), &found); err != nil {
		t.Fatal(err)
	}
	if want := map[string][]string{ // of 1,000,000 tokens in and 100,000 out
		"openai/all-minilm-l6-v2":  {"0.008", "0.0"},
		"openai/angry":             {"0.049", "0.019"},
		"openai/mistral-small-24b": {"0.35", "0.056"},
		"openai/qwen3-0.6b":        {"0.049", "0.019"},
	}; !reflect.DeepEqual(found.Costs, want) {
		t.Errorf("LiteLLM computes %v, want %v", found.Costs, want)
	}
	// 4000 draws: five standard deviations are at most 4 %.
	for name, shares := range map[string]map[string]float64{
		"qwen3-0.6b":  {"qwen3-0.6b/edge-blue": 0.8, "qwen3-0.6b/edge-green": 0.2},
		"qwen3-small": {"qwen3-0.6b/edge-blue": 0.8, "qwen3-0.6b/edge-green": 0.2},
		"assistant":   {"assistant/qwen3-0.6b/edge-blue": 0.64, "assistant/qwen3-0.6b/edge-green": 0.16, "assistant/mistral-small-24b/core": 0.2},
	} {
		if len(found.Draws[name]) != len(shares) {
			t.Errorf("LiteLLM draws %v for %s", found.Draws[name], name)
		}
		for id, share := range shares {
			if got := float64(found.Draws[name][id]) / 4000; got < share-0.04 || got > share+0.04 {
				t.Errorf("LiteLLM draws %s for %s with %v, want %v", id, name, got, share)
			}
		}
	}
	names := slices.Sorted(maps.Keys(found.OpenAI))
	if want := []string{"all-minilm-l6-v2", "angry", "assistant", "mistral-small-24b", "qwen3-0.6b"}; !slices.Equal(names, want) {
		t.Errorf("OpenAI's client lists %v, want %v", names, want)
	}
	for i, m := range models {
		if got := found.OpenAI[m.Slug]; !reflect.DeepEqual(got, []any{float64(m.Created.Unix()), m.Vendor}) {
			t.Errorf("OpenAI's client: model %d: %v", i, got)
		}
	}
	if got := found.Ollama["registry.example.com/edge/mistral-small-24b:q4_k_m-ollama"]; !reflect.DeepEqual(got,
		[]any{14333908832.0, "a35b1a7c10a0b639b4f525400d6e85d51a487df55319bba0edae7ab394afc50e", "llama", "23.57B", "Q4_K_M"}) {
		t.Errorf("Ollama's client: %v", got)
	}
	if got := found.GPUStack["Qwen3 0.6B"]; !reflect.DeepEqual(got, []any{596.05, "M", []any{
		"/var/lib/modelpipe/models/qwen3-0.6b/q4_k_m-a0b67b9ace3c/qwen3-0.6b-Q4_K_M.gguf", "/var/lib/modelpipe/models/qwen3-0.6b/q8_0-f4b8d162b81b/qwen3-0.6b-Q8_0.gguf",
	}}) {
		t.Errorf("GPUStack: %v", got)
	}
}

// TestLargeCloudflare holds the gateways and routes to the types of the
// requests in Cloudflare's own library.
func TestLargeCloudflare(t *testing.T) {
	home := large(t)
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("no npm")
	}
	execute(t, home, "npm", append([]string{"install", "--silent", "--no-fund", "--no-audit", "--prefix", home}, nodePackages...)...)
	r := export(t, catalogtest.Example(t), "ai-gateway")
	const types = `import type { DynamicRoutingCreateParams } from "cloudflare/resources/ai-gateway/dynamic-routing";
import type { AIGatewayCreateParams } from "cloudflare/resources/ai-gateway/ai-gateway";
import type { CustomProviderCreateParams } from "cloudflare/resources/ai-gateway/custom-providers";
type Body<T> = Omit<T, "account_id">;
export const gateways: {
	gateway: Body<AIGatewayCreateParams>;
	routes: Body<DynamicRoutingCreateParams>[];
	custom_providers?: Body<CustomProviderCreateParams>[];
	budget_alarm?: { threshold: number; currency: string; period: string };
}[] = `
	check := func(document []byte) ([]byte, error) {
		if err := os.WriteFile(filepath.Join(home, "check.mts"), append([]byte(types), document...), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck",
			"--module", "nodenext", "--moduleResolution", "nodenext", "--target", "es2022", "check.mts")
		cmd.Dir = home
		return cmd.CombinedOutput()
	}
	document := file(t, r, "ai-gateway/gateways.json")
	if out, err := check(document); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := check(bytes.Replace(document, []byte(`"elementId"`), []byte(`"element"`), 1)); err == nil {
		t.Error("the types let a wrong key pass")
	}
}

// TestLargeLlamaServer starts llama-server with the preset and asks it for its
// models. The program is $MODELPIPE_LLAMA_SERVER or the one that bench/peer.sh
// built.
func TestLargeLlamaServer(t *testing.T) {
	large(t)
	program := os.Getenv("MODELPIPE_LLAMA_SERVER")
	if program == "" {
		program = "../../out/peer/build/bin/llama-server"
	}
	if _, err := exec.LookPath(program); err != nil {
		t.Skip("no llama-server: set MODELPIPE_LLAMA_SERVER")
	}
	_, dir := written(t, catalogtest.Example(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	cmd := exec.CommandContext(t.Context(), program, "--models-preset", filepath.Join(dir, "llama-server/models.ini"), "--host", "127.0.0.1", "--port", port)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var body []byte
	for range 100 {
		res, err := http.Get("http://127.0.0.1:" + port + "/v1/models")
		if err == nil {
			body, err = io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil && res.StatusCode == http.StatusOK {
				break
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	var list struct {
		Data []struct {
			ID      string
			Aliases []string
			Status  struct{ Args []string }
		}
	}
	if err := json.Unmarshal(body, &list); err != nil {
		t.Fatalf("%v\n%s\n%s", err, body, log.String())
	}
	got := map[string]string{}
	for _, m := range list.Data {
		got[m.ID] = strings.Join(m.Aliases, ",") + " " + strings.Join(m.Status.Args, " ")
	}
	for id, wants := range map[string][]string{
		"all-minilm-l6-v2":  {"minilm ", "--embeddings", "--pooling mean", "--ctx-size 32768", "--parallel 64"},
		"mistral-small-24b": {"--temperature 0.15", "--n-predict 4096", "--jinja"},
		"qwen3-0.6b":        {"qwen3-small ", "/q4_k_m-a0b67b9ace3c/", "--min-p 0", "--top-k 20"},
		"qwen3-0.6b-q8_0":   {"/q8_0-f4b8d162b81b/"},
	} {
		for _, want := range wants {
			if !strings.Contains(got[id], want) {
				t.Errorf("llama-server runs %s with %q, want %q", id, got[id], want)
			}
		}
	}
}
