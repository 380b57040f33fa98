// Pull fetches a model from a registry with the libraries that people's tools
// are made of, and prints where its file is:
//
//	pull docker HOST/REPOSITORY:TAG FOLDER   Docker Model Runner's
//	pull oras HOST/REPOSITORY:TAG FOLDER     ORAS
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/docker/model-runner/pkg/distribution/distribution"
	"github.com/docker/model-runner/pkg/distribution/registry"
	oras "oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry/remote"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: pull docker|oras HOST/REPOSITORY:TAG FOLDER")
		os.Exit(2)
	}
	pull := map[string]func(context.Context, string, string) error{"docker": docker, "oras": withORAS}[os.Args[1]]
	if pull == nil {
		fmt.Fprintln(os.Stderr, "pull: want docker or oras")
		os.Exit(2)
	}
	if err := pull(context.Background(), os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "pull:", err)
		os.Exit(1)
	}
}

func docker(ctx context.Context, reference, dir string) error {
	c, err := distribution.NewClient(
		distribution.WithStoreRootPath(dir),
		distribution.WithLogger(slog.New(slog.DiscardHandler)),
		distribution.WithRegistryClient(registry.NewClient(registry.WithPlainHTTP(true))),
	)
	if err != nil {
		return err
	}
	if err := c.PullModel(ctx, reference, io.Discard); err != nil {
		return err
	}
	bundle, err := c.GetBundle(reference)
	if err != nil {
		return err
	}
	fmt.Println(bundle.GGUFPath())
	if t := bundle.ChatTemplatePath(); t != "" {
		fmt.Println(t)
	}
	return nil
}

func withORAS(ctx context.Context, reference, dir string) error {
	repository, err := remote.NewRepository(reference)
	if err != nil {
		return err
	}
	repository.PlainHTTP = true
	store, err := file.New(dir)
	if err != nil {
		return err
	}
	defer store.Close()
	if _, err := oras.Copy(ctx, repository, repository.Reference.Reference, store, "", oras.DefaultCopyOptions); err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	for _, name := range names {
		fmt.Println(name)
	}
	return err
}
