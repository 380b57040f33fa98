package golden

import (
	"archive/zip"
	"encoding/binary"
	"io/fs"
	"math"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// Unzip takes the files of an archive into memory, so that they can be read at
// any offset.
func Unzip(t testing.TB, name string) fstest.MapFS {
	t.Helper()
	archive, err := zip.OpenReader(name)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	files := fstest.MapFS{}
	for _, f := range archive.File {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		data, err := fs.ReadFile(archive, f.Name)
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name] = &fstest.MapFile{Data: data}
	}
	return files
}

// Rows reads a file of rows of cols little-endian float32.
func Rows(t testing.TB, name string, cols int) [][]float64 {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) == 0 || cols < 1 || len(data)%(4*cols) != 0 {
		t.Fatalf("%s: %d bytes are no rows of %d", name, len(data), cols)
	}
	rows := make([][]float64, len(data)/(4*cols))
	for i := range rows {
		for j := range cols {
			rows[i] = append(rows[i], float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*(i*cols+j):]))))
		}
	}
	return rows
}
