package publish

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"gopkg.in/ini.v1"
)

// s3Config is where a bucket is and who asks, as the AWS tools find it: the
// environment first, then the profile of the shared files.
type s3Config struct {
	endpoint *url.URL // nil: AWS
	region   string
	creds    *credentials.Credentials
	bundle   string // file of further certificate authorities
}

// openBucket opens s3://bucket/prefix.
func openBucket(target string, getenv func(string) string) (Sink, error) {
	name, prefix, _ := strings.Cut(strings.TrimPrefix(target, "s3://"), "/")
	prefix = strings.TrimSuffix(prefix, "/")
	if err := checkBucketName(name); err != nil {
		return nil, fmt.Errorf("target %s: %w", shown(target), err)
	}
	if prefix != "" {
		if err := CheckName(prefix); err != nil {
			return nil, fmt.Errorf("target %s: %w", shown(target), err)
		}
		prefix += "/"
	}
	c, err := readS3Config(getenv)
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", shown(target), err)
	}
	host, secure, lookup := "s3.amazonaws.com", true, minio.BucketLookupAuto
	if c.endpoint != nil {
		host, secure, lookup = c.endpoint.Host, c.endpoint.Scheme == "https", minio.BucketLookupPath
	}
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	if c.bundle != "" {
		pem, err := os.ReadFile(c.bundle)
		if err != nil {
			return nil, fmt.Errorf("AWS_CA_BUNDLE: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("AWS_CA_BUNDLE %s: has no certificate", c.bundle)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	answers := &boundedAnswers{next: transport}
	client, err := minio.New(host, &minio.Options{
		Creds: c.creds, Secure: secure, Region: c.region, BucketLookup: lookup,
		Transport: answers, MaxRetries: 6,
	})
	if err != nil {
		return nil, fmt.Errorf("target %s: %w", shown(target), err)
	}
	return &bucket{core: minio.Core{Client: client}, bucket: name, prefix: prefix, small: minPart, answers: answers}, nil
}

// checkBucketName holds a name to S3's rules that matter for its URL.
func checkBucketName(name string) error {
	if len(name) < 3 || len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" || strings.Contains(name, "..") || name[0] == '.' || name[0] == '-' {
		return errors.New("bucket: want a name of 3 to 63 small letters, digits, dots and dashes")
	}
	return nil
}

// readS3Config reads the environment and the shared files.
func readS3Config(getenv func(string) string) (s3Config, error) {
	first := func(names ...string) string {
		for _, n := range names {
			if v := getenv(n); v != "" {
				return v
			}
		}
		return ""
	}
	home, _ := os.UserHomeDir()
	shared := func(name, file string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return filepath.Join(home, ".aws", file)
	}
	profile := first("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
	if profile == "" {
		profile = "default"
	}
	config, err := ini.LoadSources(ini.LoadOptions{Loose: true, AllowPythonMultilineValues: true}, shared("AWS_CONFIG_FILE", "config"))
	if err != nil {
		return s3Config{}, fmt.Errorf("AWS config file: %w", err)
	}
	named := "profile " + profile
	if profile == "default" && !config.HasSection(named) {
		named = profile
	}
	section := config.Section(named)
	c := s3Config{region: first("AWS_REGION", "AWS_DEFAULT_REGION"), bundle: getenv("AWS_CA_BUNDLE")}
	if c.region == "" {
		c.region = section.Key("region").String()
	}
	if c.region == "" {
		c.region = "us-east-1"
	}
	endpoint := first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
	if endpoint == "" {
		if services := section.Key("services").String(); services != "" {
			endpoint = nested(config.Section("services "+services).Key("s3").String(), "endpoint_url")
		}
		if endpoint == "" {
			endpoint = section.Key("endpoint_url").String()
		}
	}
	if endpoint != "" && !strings.EqualFold(getenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"), "true") {
		u, err := url.Parse(endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil {
			return s3Config{}, errors.New("AWS_ENDPOINT_URL: want http(s)://host:port")
		}
		c.endpoint = u
	}
	providers := []credentials.Provider{&credentials.FileAWSCredentials{Profile: profile}}
	if id, secret := getenv("AWS_ACCESS_KEY_ID"), getenv("AWS_SECRET_ACCESS_KEY"); id != "" && secret != "" {
		own := credentials.Value{AccessKeyID: id, SecretAccessKey: secret, SessionToken: getenv("AWS_SESSION_TOKEN"), SignerType: credentials.SignatureV4}
		providers = []credentials.Provider{&credentials.Static{Value: own}}
	}
	// The service of the machine's own address is asked only where it was
	// configured: elsewhere its address may be anybody's.
	if first("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI") != "" || strings.EqualFold(getenv("AWS_EC2_METADATA_DISABLED"), "false") {
		providers = append(providers, &credentials.IAM{Client: &http.Client{Timeout: 10 * time.Second}})
	}
	c.creds = credentials.NewChainCredentials(providers)
	if v, err := c.creds.GetWithContext(nil); err != nil || v.AccessKeyID == "" {
		return s3Config{}, fmt.Errorf("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with ~/.aws/credentials: %w", ErrRefused)
	}
	return c, nil
}

// nested returns a key of a nested block of an AWS config file.
func nested(block, key string) string {
	for line := range strings.Lines(block) {
		if k, v, ok := strings.Cut(line, "="); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// answerLimit bounds what is read of an answer that is not an object: the
// longest of S3's lists are a tenth of it.
const answerLimit = 32 << 20

// boundedAnswers keeps a server from filling the memory with an answer, and
// learns what its clock says.
type boundedAnswers struct {
	next http.RoundTripper
	skew atomic.Int64 // of the server's clock against ours
}

// RoundTrip implements http.RoundTripper.
func (b *boundedAnswers) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(r)
	if err != nil {
		return res, err
	}
	if now, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		b.skew.Store(int64(time.Until(now)))
	}
	if r.Method != http.MethodGet || r.URL.RawQuery != "" {
		res.Body = &boundedBody{res.Body, answerLimit}
	}
	return res, nil
}

// ours is a time of the server by the clock of this machine.
func (b *boundedAnswers) ours(t time.Time) time.Time {
	return t.Add(-time.Duration(b.skew.Load()))
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d bytes: %w", int64(answerLimit), ErrProtocol)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
