package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// TestDeployed holds the files of deploy and the pages about them to the flags
// that the commands have.
func TestDeployed(t *testing.T) {
	flag := regexp.MustCompile(`(?:^|[\s"'=])--([a-z][a-z-]*)`)
	for name, command := range map[string]string{
		"docs/refresh.md": "refresh", "deploy/systemd/refresh.env": "refresh", "deploy/systemd/modelpipe-refresh.service": "refresh",
		"deploy/kubernetes/refresh-cronjob.yaml": "refresh", "deploy/workflows/refresh.yml": "refresh",
		"deploy/systemd/sync.env": "sync", "deploy/systemd/modelpipe-sync.service": "sync", "deploy/container/Containerfile": "sync",
	} {
		text := string(read(t, filepath.Join("../..", name)))
		cmd, _, err := newRoot(&app{log: slog.New(slog.DiscardHandler)}).Find([]string{command})
		if err != nil || cmd.Name() != command {
			t.Fatal(err)
		}
		found := 0
		for line := range strings.Lines(text) {
			if text := strings.TrimSpace(line); strings.HasPrefix(text, "RUN ") || strings.HasPrefix(text, "COPY ") || strings.HasPrefix(text, "#   podman") {
				continue // another program's
			}
			for _, m := range flag.FindAllStringSubmatch(line, -1) {
				found++
				if cmd.Flags().Lookup(m[1]) == nil && cmd.InheritedFlags().Lookup(m[1]) == nil {
					t.Errorf("%s: %s has no flag --%s", name, command, m[1])
				}
			}
		}
		if found == 0 {
			t.Errorf("%s: no flags", name)
		}
		if strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") {
			d := yaml.NewDecoder(strings.NewReader(text))
			for {
				var v map[string]any
				if err := d.Decode(&v); err != nil {
					if err.Error() != "EOF" {
						t.Errorf("%s: %v", name, err)
					}
					break
				}
			}
		}
	}
	if _, err := os.Stat("../../deploy/systemd/modelpipe-refresh.timer"); err != nil {
		t.Error(err)
	}
}

// TestDeployedSync runs the command lines of the unit and of the container file
// until their first round is over, with the paths and addresses of a test.
func TestDeployedSync(t *testing.T) {
	store, root, _ := signedStore(t)
	web := httptest.NewServer(http.FileServer(http.Dir(store)))
	defer web.Close()
	well := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer well.Close()
	for name, line := range map[string][]string{"systemd": unitCommand(t), "container": containerCommand(t)} {
		t.Run(name, func(t *testing.T) {
			node := filepath.Join(t.TempDir(), "node")
			for i, arg := range line {
				switch arg {
				case "https://models.example":
					line[i] = web.URL
				case "/etc/modelpipe/root.json":
					line[i] = root
				case "/var/lib/modelpipe":
					line[i] = node
				case "127.0.0.1:9100", "0.0.0.0:9100":
					line[i] = "127.0.0.1:0"
				case "http://127.0.0.1:8080/health":
					line[i] = well.URL
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var out, log lockedBuffer
			ended := make(chan int, 1)
			go func() { ended <- run(ctx, line, &out, &log) }()
			for !strings.Contains(out.String(), "release 1 is current") && ctx.Err() == nil {
				select {
				case code := <-ended:
					t.Fatalf("%q: exit %d: %s", line, code, log.String())
				case <-time.After(10 * time.Millisecond):
				}
			}
			cancel()
			if code := <-ended; code != exitDone {
				t.Errorf("%q: exit %d: %s", line, code, log.String())
			}
			if _, err := os.Stat(filepath.Join(node, "current/stories/Q8_0/q8_0.gguf")); err != nil {
				t.Error(err)
			}
		})
	}
}

// unitCommand is what systemd starts, with the settings of the example.
func unitCommand(t *testing.T) []string {
	t.Helper()
	settings := map[string]string{}
	for line := range strings.Lines(string(read(t, "../../deploy/systemd/sync.env"))) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			settings[key] = value
		}
	}
	for line := range strings.Lines(string(read(t, "../../deploy/systemd/modelpipe-sync.service"))) {
		if command, ok := strings.CutPrefix(line, "ExecStart=/usr/local/bin/modelpipe "); ok {
			var args []string
			for _, word := range strings.Fields(command) {
				if key, ok := strings.CutPrefix(word, "$"); ok {
					args = append(args, strings.Fields(settings[key])...)
				} else {
					args = append(args, word)
				}
			}
			return args
		}
	}
	t.Fatal("the unit starts nothing")
	return nil
}

// containerCommand is what the container starts, with the flags of the example.
// What the file builds and copies must be there.
func containerCommand(t *testing.T) []string {
	t.Helper()
	text := string(read(t, "../../deploy/container/Containerfile"))
	text, example := strings.ReplaceAll(text, "\\\n#", ""), []string(nil)
	var args []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case strings.Contains(line, "podman run"):
			example = words[slices.Index(words, "modelpipe")+1:]
		case strings.HasPrefix(line, "ENTRYPOINT "):
			if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "ENTRYPOINT ")), &args); err != nil {
				t.Fatal(err)
			}
		case strings.HasPrefix(line, "FROM docker.io/library/golang:"):
			version := strings.TrimPrefix(words[1], "docker.io/library/golang:")
			if !strings.Contains(string(read(t, "../../go.mod")), "\ngo "+version+".") {
				t.Errorf("the container is built with Go %s: go.mod wants another", version)
			}
		case strings.HasPrefix(line, "COPY ") && !strings.Contains(line, "--from="):
			for _, name := range words[1 : len(words)-1] {
				if _, err := os.Stat(filepath.Join("../..", name)); err != nil {
					t.Error(err)
				}
			}
		}
	}
	if len(args) == 0 || !strings.Contains(text, " "+args[0]+"\n") || !strings.Contains(text, "-o /out/modelpipe ./cmd/modelpipe ") {
		t.Fatalf("%q: is not what the container file builds and copies", args)
	}
	for _, pair := range [][2]string{{"--root", "VOLUME "}, {"--serve", "EXPOSE "}} {
		i := slices.Index(args, pair[0])
		if i < 0 || !strings.Contains(text, "\n"+pair[1]+strings.TrimPrefix(args[i+1], "0.0.0.0:")+"\n") {
			t.Errorf("%s of %q: is not what %sdeclares", pair[0], args, pair[1])
		}
	}
	return append(args[1:], example...)
}
