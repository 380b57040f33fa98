package publishtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Servers builds the servers and clients of tools/servers, once, and returns
// the folder that they are in. root is the path of the repository. It takes
// minutes the first time; without MODELPIPE_LARGE the test is skipped.
func Servers(t testing.TB, root string) string {
	t.Helper()
	if os.Getenv("MODELPIPE_LARGE") == "" {
		t.Skip("set MODELPIPE_LARGE=1: builds an S3 gateway, a registry and their clients")
	}
	dir, err := filepath.Abs(filepath.Join(root, "out/large/servers"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir+string(filepath.Separator), "./pull",
		"github.com/distribution/distribution/v3/cmd/registry", "github.com/versity/versitygw/cmd/versitygw")
	cmd.Dir = filepath.Join(root, "tools/servers")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the servers: %v\n%s", err, out)
	}
	return dir
}

// Serve runs a server until the test ends, and waits until it listens.
func Serve(t testing.TB, address string, env []string, name string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s does not listen: %s", name, out.String())
}

// FreeAddress returns an address of this machine that nobody listens at.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// StartGateway starts versitygw for the buckets that are folders of dir, and
// returns its address. Its key is test, the secret testsecret.
func StartGateway(t testing.TB, servers, dir string) string {
	t.Helper()
	address := FreeAddress(t)
	Serve(t, address, []string{"ROOT_ACCESS_KEY=test", "ROOT_SECRET_KEY=testsecret"}, filepath.Join(servers, "versitygw"), "--port", address, "posix", dir)
	return address
}

// registryConfig is that of a distribution registry in a folder.
const registryConfig = `version: 0.1
log: {level: error}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
http: {addr: %s}
`

// StartRegistry starts a distribution registry and returns its address.
func StartRegistry(t testing.TB, servers string) string {
	t.Helper()
	return startRegistry(t, servers, t.TempDir(), "")
}

// loginConfig is that of who may use a registry: test, with the password
// testsecret, whose bcrypt hash is login.
const (
	loginConfig = "auth: {htpasswd: {realm: test, path: %s}}\n"
	login       = "test:$2a$05$i8eH.B7Y21QkBc7m7LEtoumcJbIfbxfkgc62Irp9LXUFF6CxVYMle\n"
)

// StartClosedRegistry starts a registry that wants a login for everything:
// test, with the password testsecret.
func StartClosedRegistry(t testing.TB, servers string) string {
	t.Helper()
	dir := t.TempDir()
	users := filepath.Join(dir, "htpasswd")
	if err := os.WriteFile(users, []byte(login), 0o666); err != nil {
		t.Fatal(err)
	}
	return startRegistry(t, servers, dir, fmt.Sprintf(loginConfig, users))
}

func startRegistry(t testing.TB, servers, dir, more string) string {
	t.Helper()
	address := FreeAddress(t)
	config := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(config, append(fmt.Appendf(nil, registryConfig, filepath.Join(dir, "data"), address), more...), 0o666); err != nil {
		t.Fatal(err)
	}
	Serve(t, address, nil, filepath.Join(servers, "registry"), "serve", config)
	return address
}
