package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

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
