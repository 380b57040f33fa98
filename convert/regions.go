package convert

import "sync"

// Reading a column of a remote tensor row by row would fetch it again and
// again. Where the order of the source is asked for, parts of tensors that are
// turned over are therefore read whole, once, and shared by the workers.
const (
	regionBytes = 48 << 20 // larger parts are read row by row all the same
	regionCount = 2        // the one that is worked on and its successor
)

// regions holds the parts that were read last.
type regions struct {
	mu   sync.Mutex
	kept []*region
}

// region is rows of a tensor as stored.
type region struct {
	leaf      Leaf
	off, size int64 // in the tensor's data
	users     int
	once      sync.Once
	data      []byte
	err       error
}

// get returns size bytes of a tensor from off on. The caller gives them back
// with put.
func (s *regions) get(e *evaluator, l Leaf, off, size int64) (*region, error) {
	s.mu.Lock()
	var r *region
	for _, k := range s.kept {
		if k.leaf.File == l.File && k.leaf.Offset == l.Offset && k.off == off && k.size == size {
			r = k
		}
	}
	if r == nil {
		r = &region{leaf: l, off: off, size: size}
		if len(s.kept) == regionCount {
			old := s.kept[0]
			s.kept = s.kept[1:]
			if old.users == 0 && int64(cap(old.data)) >= size {
				r.data = old.data[:size]
			}
		}
		s.kept = append(s.kept, r)
	}
	r.users++
	s.mu.Unlock()
	r.once.Do(func() {
		if r.data == nil {
			r.data = make([]byte, size)
		}
		// In pieces that a remote file can read ahead of.
		for at := int64(0); at < size && r.err == nil; at += chunkBytes {
			r.err = e.readLeaf(l, r.data[at:min(size, at+chunkBytes)], off+at)
		}
	})
	if r.err != nil {
		s.put(r)
		return nil, r.err
	}
	return r, nil
}

func (s *regions) put(r *region) {
	s.mu.Lock()
	r.users--
	s.mu.Unlock()
}
