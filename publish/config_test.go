package publish

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestS3Config reads the settings as the AWS tools do.
func TestS3Config(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := file("config", `[default]
region = eu-west-1
[profile r2]
region = auto
services = r2
endpoint_url = https://general.example
[services r2]
s3 =
  endpoint_url = https://account.r2.example
[profile general]
endpoint_url = http://127.0.0.1:9000
`)
	shared := file("credentials", "[default]\naws_access_key_id = from-file\naws_secret_access_key = s1\n[r2]\naws_access_key_id = of-r2\naws_secret_access_key = s2\n[general]\naws_access_key_id = g\naws_secret_access_key = s3\n")
	keys := map[string]string{"AWS_ACCESS_KEY_ID": "from-env", "AWS_SECRET_ACCESS_KEY": "s0"}
	for _, c := range []struct {
		name                  string
		vars                  map[string]string
		key, region, endpoint string
		err                   string
	}{
		{"files", nil, "from-file", "eu-west-1", "", ""},
		{"environment wins", keys, "from-env", "eu-west-1", "", ""},
		{"region", map[string]string{"AWS_REGION": "us-west-2", "AWS_DEFAULT_REGION": "x"}, "from-file", "us-west-2", "", ""},
		{"profile with services", map[string]string{"AWS_PROFILE": "r2"}, "of-r2", "auto", "https://account.r2.example", ""},
		{"profile with endpoint", map[string]string{"AWS_PROFILE": "general"}, "g", "us-east-1", "http://127.0.0.1:9000", ""},
		{"endpoint of S3 wins", map[string]string{"AWS_ENDPOINT_URL_S3": "http://a:1", "AWS_ENDPOINT_URL": "http://b:1"}, "from-file", "eu-west-1", "http://a:1", ""},
		{"ignored endpoints", map[string]string{"AWS_ENDPOINT_URL": "http://b:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, "from-file", "eu-west-1", "", ""},
		{"endpoint with a path", map[string]string{"AWS_ENDPOINT_URL": "http://b:1/x"}, "", "", "", "want http(s)://host:port"},
		{"endpoint with a password", map[string]string{"AWS_ENDPOINT_URL": "http://u:secret@b:1"}, "", "", "", "want http(s)://host:port"},
		{"no such profile", map[string]string{"AWS_PROFILE": "none"}, "", "", "", "no credentials"},
		{"no files", map[string]string{"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "none")}, "", "", "", "no credentials"},
	} {
		t.Run(c.name, func(t *testing.T) {
			vars := map[string]string{"AWS_CONFIG_FILE": config, "AWS_SHARED_CREDENTIALS_FILE": shared}
			for k, v := range c.vars {
				vars[k] = v
			}
			// The library that reads the credentials asks for these itself.
			for _, name := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_PROFILE"} {
				t.Setenv(name, vars[name])
			}
			got, err := readS3Config(func(name string) string { return vars[name] })
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret@") {
					t.Fatalf("%v: want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			v, err := got.creds.GetWithContext(nil)
			if err != nil {
				t.Fatal(err)
			}
			endpoint := ""
			if got.endpoint != nil {
				endpoint = got.endpoint.String()
			}
			if v.AccessKeyID != c.key || got.region != c.region || endpoint != c.endpoint {
				t.Errorf("%s, %s, %q: want %s, %s, %q", v.AccessKeyID, got.region, endpoint, c.key, c.region, c.endpoint)
			}
		})
	}
}

// TestS3PartSize keeps a file below 10,000 parts of one size.
func TestS3PartSize(t *testing.T) {
	for _, c := range []struct {
		size, asked, want int64
		err               string
	}{
		{1, 0, 16 << 20, ""},
		{160 << 30, 0, 17 << 20, ""},
		{1 << 40, 0, 105 << 20, ""},
		{50 << 40, 0, 5243 << 20, ""},
		{50<<40 + 1, 0, 0, "more than a store takes"},
		{1 << 30, 5 << 20, 5 << 20, ""},
		{1 << 30, 5<<20 + 1, 6 << 20, ""},
		{1 << 30, 1 << 20, 0, "part size"},
		{1 << 40, 5 << 20, 0, "part size"},
	} {
		got, err := s3PartSize(c.size, c.asked)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%d by %d: %v: want %q", c.size, c.asked, err, c.err)
			}
			continue
		}
		if err != nil || got != c.want || (c.size+got-1)/got > maxParts {
			t.Errorf("%d by %d: %d, %v: want %d", c.size, c.asked, got, err, c.want)
		}
	}
}

// TestParamSize writes numbers as the names of models do.
func TestParamSize(t *testing.T) {
	for n, want := range map[int64]string{0: "", 999: "999", 260_032: "260K", 134_515_008: "135M", 999_600_000: "1B", 7_615_616_512: "7.62B", 671_026_419_200: "671B", 1_026_408_232_448: "1.03T"} {
		if got := paramSize(n); got != want {
			t.Errorf("%d: %s: want %s", n, got, want)
		}
	}
}

// TestTargets says what is no target, without a secret in the message.
func TestTargets(t *testing.T) {
	vars := map[string]string{"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_CONFIG_FILE": filepath.Join(t.TempDir(), "none")}
	for target, want := range map[string]string{
		"": "is empty", "a\x00b": "NUL", strings.Repeat("x", 5000): "at most 4096 bytes", "ftp://user:secret@host/x": `"ftp" is not known`,
		"s3://": "bucket", "s3://Bucket/x": "bucket", "s3://bucket/../x": "climb", "s3://bu..ket/": "bucket", "s3://user:secret@bucket/x": "bucket",
		"file://host/x": "file:///folder", "file:///x?y": "file:///folder",
		"oci://host": "oci://host/repository", "oci://host.example/UPPER": "oci://host/repository", "oci://host.example/a@sha256:" + strings.Repeat("0", 64): "oci://host/repository",
		"oci://team/model": "is not a host", "oci://host.example/a:" + strings.Repeat("t", 127): "tag", "oci://host.example/" + strings.Repeat("a/", 1000) + "b": "oci://host/repository",
	} {
		s, err := OpenEnv(target, func(name string) string { return vars[name] })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, %v: want %q", target, s, err, want)
			continue
		}
		if strings.Contains(err.Error(), "secret") || strings.ContainsAny(err.Error(), "\x00\n") || len(err.Error()) > 1000 {
			t.Errorf("%.60q: %.300q", target, err)
		}
	}
	for target, want := range map[string]string{
		"s3://bucket": "s3://bucket", "s3://bucket/": "s3://bucket", "s3://bucket/a/b/": "s3://bucket/a/b",
		"oci://host.example:5000/team/m": "oci://host.example:5000/team/m:latest", "oci://localhost:5000/m:v1": "oci://localhost:5000/m:v1",
		"oci://docker.io/team/m": "oci://index.docker.io/team/m:latest",
	} {
		s, err := OpenEnv(target, func(name string) string { return vars[name] })
		if err != nil || s.String() != want {
			t.Errorf("%s: %v, %v: want %s", target, s, err, want)
		}
	}
	if _, err := OpenStore("oci://host.example/team/m"); err == nil || !strings.Contains(err.Error(), "keeps no objects") {
		t.Errorf("%v", err)
	}
}
