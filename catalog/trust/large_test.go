package trust

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// otherClient follows a store with the reference implementation, python-tuf:
// it prints the digest of the channel's index, or why it refuses the store.
const otherClient = `
import hashlib, os, sys
from tuf.ngclient import Updater, UpdaterConfig
base, root, state = sys.argv[1:]
os.makedirs(state, exist_ok=True)
try:
    u = Updater(metadata_dir=state, metadata_base_url=base + "/metadata/", target_dir=state, target_base_url=base + "/", bootstrap=open(root, "rb").read())
    u.refresh()
    info = u.get_targetinfo("channels/stable.json")
    print("sha256:" + hashlib.sha256(open(u.download_target(info, os.path.join(state, "index.json")), "rb").read()).hexdigest())
except Exception as e:
    print("refused:", type(e).__name__)
`

// TestLargePythonTUF holds what is signed to another client: the reference
// implementation of TUF, from PyPI.
func TestLargePythonTUF(t *testing.T) {
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1 to install tuf from PyPI and follow a store with it")
	}
	venv := filepath.Join(t.TempDir(), "venv")
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("python3", "-m", "venv", venv)
	run(filepath.Join(venv, "bin", "pip"), "install", "-q", "tuf==6.0.0")

	w := newWorkshop(t)
	w.repo.Now = nil // the other client has the clock of the machine
	server := httptest.NewServer(http.FileServer(http.Dir(w.store)))
	defer server.Close()
	state, root := filepath.Join(w.dir, "state"), filepath.Join(w.dir, "root.json")
	follow := func() string {
		t.Helper()
		return run(filepath.Join(venv, "bin", "python"), "-c", otherClient, server.URL, root, state)
	}
	want := func(r *Result) string { return string(r.Channels[0].Index) }
	first := w.sign()
	if err := os.WriteFile(root, w.read("metadata/1.root.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := follow(); got != want(first) {
		t.Errorf("got %s, want %s", got, want(first))
	}
	old := w.read("metadata/timestamp.json")
	if _, err := Generate(w.dir, "carol"); err != nil {
		t.Fatal(err)
	}
	w.policy(strings.Replace(policyText, `"alice", "bob"`, `"carol", "bob"`, 1) + "[key.carol]\npublic = \"carol.pub\"\nsign = \"file:carol.pem\"\n")
	if _, err := w.repo.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.index("two")
	second := w.sign()
	if got := follow(); got != want(second) || got == want(first) {
		t.Errorf("after a rotation: got %s, want %s", got, want(second))
	}
	if err := os.WriteFile(filepath.Join(w.store, "metadata", "timestamp.json"), old, 0o644); err != nil {
		t.Fatal(err)
	}
	if got := follow(); got != "refused: BadVersionNumberError" {
		t.Errorf("a rollback: %s", got)
	}
}
