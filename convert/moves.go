package convert

// A run is an arithmetic progression of rows: row Row+i*Step of a matrix is
// row To+i*ToStep of the destination, for i < N. Steps are at least 1.
type run struct{ row, step, n, to, toStep int64 }

// part returns the elements [i, i+n) of r.
func (r run) part(i, n int64) run {
	return run{r.row + i*r.step, r.step, n, r.to + i*r.toStep, r.toStep}
}

// moves takes the row moves of m apart: it calls emit with the runs of nodes
// that are not moves (leaves, transposes, arithmetic) which together give the
// rows of r, each exactly once. Rows of padding have a nil matrix. Both ways
// of rendering, by value and by stored bytes, go through it.
func moves(m Matrix, r run, emit func(Matrix, run) error) error {
	if r.n == 0 {
		return nil
	}
	switch m := m.(type) {
	case Stack:
		base := int64(0)
		for i := int64(0); i < r.n; {
			// The part of the next row is found once for all rows in it.
			at := r.row + i*r.step
			for _, p := range m.Parts {
				rows, _ := p.Dims()
				if at >= base+rows {
					base += rows
					continue
				}
				n := min(r.n-i, (base+rows-at-1)/r.step+1)
				sub := r.part(i, n)
				sub.row -= base
				if err := moves(p, sub, emit); err != nil {
					return err
				}
				i += n
				break
			}
			base = 0
		}
		return nil
	case Rows:
		if m.Count == m.Every {
			return moves(m.Of, r, emit)
		}
		if m.Count == 1 {
			r.row, r.step = r.row*m.Every+m.Start, r.step*m.Every
			return moves(m.Of, r, emit)
		}
		for i := int64(0); i < r.n; {
			at := r.row + i*r.step
			group, in := at/m.Count, at%m.Count
			n := min(r.n-i, (m.Count-in-1)/r.step+1)
			sub := r.part(i, n)
			sub.row = group*m.Every + m.Start + in
			if err := moves(m.Of, sub, emit); err != nil {
				return err
			}
			i += n
		}
		return nil
	case RopePermute:
		if r.step%2 != 0 && r.n > 1 {
			even := run{r.row, 2 * r.step, (r.n + 1) / 2, r.to, 2 * r.toStep}
			odd := run{r.row + r.step, 2 * r.step, r.n / 2, r.to + r.toStep, 2 * r.toStep}
			if err := moves(m, even, emit); err != nil {
				return err
			}
			return moves(m, odd, emit)
		}
		rows, _ := m.Of.Dims()
		size := rows / m.Heads
		for i := int64(0); i < r.n; {
			at := r.row + i*r.step
			head, in := at/size, at%size
			n := min(r.n-i, (size-in-1)/r.step+1)
			sub := r.part(i, n)
			sub.row = head*size + in%2*(size/2) + in/2
			sub.step = max(1, r.step/2)
			if err := moves(m.Of, sub, emit); err != nil {
				return err
			}
			i += n
		}
		return nil
	case Pad:
		rows, _ := m.Of.Dims()
		n := int64(0)
		if r.row < rows {
			n = min(r.n, (rows-r.row-1)/r.step+1)
		}
		if err := moves(m.Of, r.part(0, n), emit); err != nil {
			return err
		}
		if n < r.n {
			return emit(nil, r.part(n, r.n-n))
		}
		return nil
	case Reshape:
		if _, cols := m.Of.Dims(); cols == m.Cols {
			return moves(m.Of, r, emit)
		}
	case Transpose:
		if of, ok := m.Of.(Transpose); ok && of.Batch == m.Batch {
			return moves(of.Of, r, emit)
		}
	}
	return emit(m, r)
}
