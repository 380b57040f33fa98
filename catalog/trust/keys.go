package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Key is a key pair of which this machine knows the public half, and perhaps
// how to sign with the private one. Keys are Ed25519, or ECDSA on P-256 with
// SHA-256.
type Key struct {
	Name   string
	ID     string // TUF's: the SHA-256 of the key's canonical JSON
	public crypto.PublicKey
	tuf    *metadata.Key
	from   string // file:PATH, env:NAME, command:PROGRAM ARGUMENT..., or empty
	dir    string // that paths are relative to
}

// maxKey bounds the text of a key and of what a signing command prints.
const maxKey = 64 << 10

// signTime is how long a signing command may take: somebody may have to press
// a button.
const signTime = 2 * time.Minute

// errNoKey says that a private key is not on this machine.
var errNoKey = errors.New("the private key is not on this machine")

// parsePublic reads a public key in PEM.
func parsePublic(data []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("want PEM with PUBLIC KEY")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	return key, checkKind(key)
}

// checkKind refuses keys that are not of a kind that readers know.
func checkKind(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return errors.New("want an Ed25519 key or an ECDSA key on P-256")
}

// newKey makes a Key of its public half.
func newKey(name string, public crypto.PublicKey, from, dir string) (*Key, error) {
	k, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	id, err := k.ID()
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", name, err)
	}
	return &Key{Name: name, ID: id, public: public, tuf: k, from: from, dir: dir}, nil
}

// Generate makes an Ed25519 key pair: dir/name.pem with the private half,
// that only its owner may read, and dir/name.pub. Files that are there are
// left alone.
func Generate(dir, name string) (*Key, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	open, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := create(filepath.Join(dir, name+".pem"), 0o600, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})); err != nil {
		return nil, err
	}
	if err := create(filepath.Join(dir, name+".pub"), 0o644, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: open})); err != nil {
		return nil, err
	}
	return newKey(name, public, "file:"+name+".pem", dir)
}

// create writes a file that must not be there yet.
func create(name string, mode fs.FileMode, data []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(name)
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// Sign signs a message and verifies the signature with the public half. The
// error wraps errNoKey where the private half is elsewhere.
func (k *Key) Sign(ctx context.Context, message []byte) ([]byte, error) {
	kind, arg, _ := strings.Cut(k.from, ":")
	var sig []byte
	var err error
	switch kind {
	case "":
		return nil, fmt.Errorf("key %s: %w", k.Name, errNoKey)
	case "file":
		sig, err = k.signFile(arg, message)
	case "env":
		text := os.Getenv(arg)
		if text == "" {
			return nil, fmt.Errorf("key %s: %w: environment variable %s is not set", k.Name, errNoKey, arg)
		}
		sig, err = signPEM([]byte(text), message)
	case "command":
		sig, err = k.signCommand(ctx, arg, message)
	default:
		err = fmt.Errorf("sign = %q: want file:PATH, env:NAME or command:PROGRAM", k.from)
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", k.Name, err)
	}
	if err := verify(k.public, message, sig); err != nil {
		return nil, fmt.Errorf("key %s: what signs with it is not the private half of its public key", k.Name)
	}
	return sig, nil
}

func (k *Key) signFile(name string, message []byte) ([]byte, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(k.dir, name)
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNoKey, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		return nil, fmt.Errorf("%s: others may read it (mode %04o): want 0600", name, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKey))
	if err != nil {
		return nil, err
	}
	sig, err := signPEM(text, message)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return sig, nil
}

// signPEM signs with a private key in PEM, PKCS #8.
func signPEM(text, message []byte) ([]byte, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, errors.New("want PEM with PRIVATE KEY (PKCS #8)")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("is not a private key in PKCS #8") // the error may show a part of it
	}
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(key, message), nil
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(message)
		return ecdsa.SignASN1(rand.Reader, key, sum[:])
	}
	return nil, errors.New("want an Ed25519 key or an ECDSA key on P-256")
}

// signCommand lets a program sign: it gets the message on its standard input
// and prints the signature in base64. It is run without a shell.
func (k *Key) signCommand(ctx context.Context, line string, message []byte) ([]byte, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil, errors.New("sign = \"command:\": the program is missing")
	}
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Dir = k.dir
	cmd.Stdin = bytes.NewReader(message)
	cmd.WaitDelay = time.Second
	out, errs := &bounded{limit: maxKey}, &bounded{limit: maxKey}
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("took longer than %s", signTime)
		}
		text := strings.TrimSpace(errs.String())
		return nil, fmt.Errorf("%s: %w: %.300q", words[0], err, text)
	}
	sig, err := base64.StdEncoding.DecodeString(strings.TrimSpace(out.String()))
	if err != nil {
		return nil, fmt.Errorf("%s: what it prints is not base64", words[0])
	}
	return sig, nil
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), b.limit-b.Len())])
	return len(p), nil
}

// verify checks a signature.
func verify(public crypto.PublicKey, message, sig []byte) error {
	switch key := public.(type) {
	case ed25519.PublicKey:
		if ed25519.Verify(key, message, sig) {
			return nil
		}
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(message)
		if ecdsa.VerifyASN1(key, sum[:], sig) {
			return nil
		}
	}
	return errors.New("the signature does not verify")
}

// signer is a Key as go-tuf wants it.
type signer struct {
	ctx context.Context
	key *Key
	err *error // go-tuf hides what went wrong
}

// PublicKey implements signature.PublicKeyProvider.
func (s signer) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return s.key.public, nil
}

// SignMessage implements signature.Signer.
func (s signer) SignMessage(message io.Reader, _ ...signature.SignOption) ([]byte, error) {
	data, err := io.ReadAll(message)
	if err != nil {
		return nil, err
	}
	sig, err := s.key.Sign(s.ctx, data)
	*s.err = err
	return sig, err
}
