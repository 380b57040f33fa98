package hub_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modelpipe/modelpipe/hub"
)

func TestOptionsFromEnv(t *testing.T) {
	home := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(home, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inCache := write(".cache/huggingface/token", "hf_cache\n")
	inHome := write("hf/token", "hf_home")
	elsewhere := write("elsewhere", "  hf_else\r\n")
	write("empty/token", "\n")

	tests := []struct {
		name        string
		env         map[string]string
		token, from string
		cache       string
		offline     bool
	}{
		{"nothing", nil, "hf_cache", inCache, ".cache/huggingface/hub", false},
		{"XDG", map[string]string{"XDG_CACHE_HOME": home + "/xdg"}, "", "", "xdg/huggingface/hub", false},
		{"HF_HOME", map[string]string{"HF_HOME": "~/hf", "XDG_CACHE_HOME": "/x"}, "hf_home", inHome, "hf/hub", false},
		{"HF_HOME with a variable", map[string]string{"HF_HOME": "$HOME/hf"}, "hf_home", inHome, "hf/hub", false},
		{"HF_HUB_CACHE", map[string]string{"HF_HUB_CACHE": home + "/c", "HUGGINGFACE_HUB_CACHE": "/x"}, "hf_cache", inCache, "c", false},
		{"HUGGINGFACE_HUB_CACHE", map[string]string{"HUGGINGFACE_HUB_CACHE": home + "/c"}, "hf_cache", inCache, "c", false},
		{"HF_TOKEN", map[string]string{"HF_TOKEN": " hf_env\n", "HF_TOKEN_PATH": elsewhere}, "hf_env", "HF_TOKEN", ".cache/huggingface/hub", false},
		{"old name", map[string]string{"HUGGING_FACE_HUB_TOKEN": "hf_old"}, "hf_old", "HUGGING_FACE_HUB_TOKEN", ".cache/huggingface/hub", false},
		{"HF_TOKEN_PATH", map[string]string{"HF_TOKEN_PATH": elsewhere}, "hf_else", elsewhere, ".cache/huggingface/hub", false},
		{"no such token file", map[string]string{"HF_TOKEN_PATH": home + "/none"}, "", "", ".cache/huggingface/hub", false},
		{"empty token file", map[string]string{"HF_HOME": home + "/empty"}, "", "", "empty/hub", false},
		{"no implicit token", map[string]string{"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}, "", "", ".cache/huggingface/hub", false},
		{"offline", map[string]string{"HF_HUB_OFFLINE": "yes"}, "hf_cache", inCache, ".cache/huggingface/hub", true},
		{"offline, old name", map[string]string{"TRANSFORMERS_OFFLINE": "1"}, "hf_cache", inCache, ".cache/huggingface/hub", true},
		{"not offline", map[string]string{"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, "hf_cache", inCache, ".cache/huggingface/hub", false},
	}
	for _, tt := range tests {
		o, err := hub.OptionsFromEnv(func(name string) string {
			if name == "HOME" {
				return home
			}
			return tt.env[name]
		})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		cache := filepath.Join(home, filepath.FromSlash(tt.cache))
		if string(o.Token) != tt.token || o.TokenFrom != tt.from || o.CacheDir != cache || o.Offline != tt.offline {
			t.Errorf("%s: token %q from %q, cache %q, offline %v", tt.name, string(o.Token), o.TokenFrom, o.CacheDir, o.Offline)
		}
	}
}

func TestTokensDoNotPrint(t *testing.T) {
	o := hub.Options{Token: token}
	var logged strings.Builder
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "token", o.Token, "options", o)
	asJSON, err := json.Marshal(o.Token)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{
		fmt.Sprint(o.Token), fmt.Sprintf("%v %+v %#v %q %s", o, o, o, o.Token, o.Token), string(asJSON), logged.String(),
	} {
		if strings.Contains(s, token) {
			t.Errorf("shown: %s", s)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		o    hub.Options
		want string
	}{
		{hub.Options{Endpoint: "huggingface.co"}, "want https://host"},
		{hub.Options{Endpoint: "ftp://huggingface.co"}, "want https://host"},
		{hub.Options{Endpoint: "https://me:secret@huggingface.co"}, "must not hold a user"},
		{hub.Options{Token: "hf_a\nb", TokenFrom: "HF_TOKEN"}, "token from HF_TOKEN"},
	}
	for _, tt := range tests {
		if _, err := hub.New(tt.o); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", tt.o.Endpoint, err)
		}
	}
}
