package hub_test

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/modelpipe/modelpipe/hub"
	"github.com/modelpipe/modelpipe/hub/hubtest"
)

// BenchmarkReadInOrder reads as a conversion does, digest included, from a Hub 20 ms away on a line of 200 MB/s. The
// figure to compare with is that of one plain download on the same line.
func BenchmarkReadInOrder(b *testing.B) {
	srv := hubtest.NewServer(b)
	const size = 512 << 20
	srv.AddRepo(hubtest.Repo{ID: "org/big", FS: fstest.MapFS{"model.safetensors": {Data: bytes.Repeat(random(1<<20, 1), size>>20)}}})
	c := newClient(b, hub.Options{Endpoint: srv.URL})
	srv.SetLatency(20 * time.Millisecond)
	srv.SetBandwidth(200e6)
	b.Run("plain", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			resp, err := http.Get(srv.URL + "/org/big/resolve/main/model.safetensors")
			if err != nil {
				b.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, resp.Body); err != nil || n != size {
				b.Fatal(n, err)
			}
			resp.Body.Close()
		}
	})
	for _, workers := range []int{1, 4} {
		b.Run(map[int]string{1: "workers=1", 4: "workers=4"}[workers], func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				s := snapshot(b, c, "org/big", "")
				f := open(b, s, "model.safetensors")
				const chunk = 1 << 20
				work := make(chan int64)
				var wg sync.WaitGroup
				for range workers {
					wg.Add(1)
					go func() {
						defer wg.Done()
						buf := make([]byte, chunk)
						for off := range work {
							if _, err := f.ReadAt(buf, off); err != nil && err != io.EOF {
								b.Error(err)
							}
						}
					}()
				}
				for off := int64(0); off < size; off += chunk {
					work <- off
				}
				close(work)
				wg.Wait()
				if p := s.Unverified(); len(p) != 0 {
					b.Errorf("unverified: %v", p)
				}
				s.Close()
			}
		})
	}
}
