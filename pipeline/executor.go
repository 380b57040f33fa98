package pipeline

import (
	"context"
	"fmt"
	"time"
)

// Local does tasks on this machine, several at a time, as far as the budgets go.
type Local struct {
	Jobs   int   // tasks at a time; at least 1
	Disk   int64 // bytes of the work directory that tasks may fill together; 0: any
	Memory int64 // bytes of memory that tasks may take together; 0: any

	// Do does one task. It may be called concurrently and must not panic.
	Do func(context.Context, Task) Result
}

// Execute implements Executor. Tasks are begun in their order: one that does
// not fit beside what is running waits, and those behind it with it.
func (l *Local) Execute(ctx context.Context, tasks []Task, report func(Result) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x := &execution{Local: l, report: report, state: map[string]Result{}, taken: map[string]Needs{}}
	for _, t := range tasks {
		x.state[t.ID] = Result{State: waiting}
	}
	results := make(chan Result)
	var err error
	pending := tasks
	for {
		if err == nil {
			pending, err = x.begin(ctx, pending, results)
			if err != nil {
				cancel(err)
			}
		}
		if x.running == 0 {
			if err == nil && len(pending) > 0 {
				if err = context.Cause(ctx); err == nil {
					err = fmt.Errorf("task %s: what it comes after comes after it", pending[0].ID)
				}
			}
			return err
		}
		r := <-results
		x.end(r)
		if rerr := report(r); err == nil && rerr != nil {
			err = rerr
			cancel(err)
		}
	}
}

// waiting is the state of a task that was not begun.
const waiting = "waiting"

// execution is an Execute at work. Only its goroutine touches it.
type execution struct {
	*Local
	report  func(Result) error
	state   map[string]Result // by ID
	taken   map[string]Needs  // of what is running
	running int
	disk    int64
	memory  int64
}

// begin starts what can be started and returns what is left.
func (x *execution) begin(ctx context.Context, tasks []Task, results chan<- Result) ([]Task, error) {
	var left []Task
	for i, t := range tasks {
		if ctx.Err() != nil {
			return append(left, tasks[i:]...), nil
		}
		before, known := x.state[t.After]
		r := t.failed(x.tooLarge(t))
		if known && before.State != waiting && before.State != StateDone {
			r = t.failed("what it needs was not made: " + before.Reason)
			r.Retry = before.Retry
		}
		switch {
		case r.Reason != "":
			x.state[t.ID] = r
			if err := x.report(r); err != nil {
				return nil, err
			}
		case known && before.State == waiting:
			left = append(left, t)
		case !x.fits(t):
			return append(left, tasks[i:]...), nil
		default:
			x.taken[t.ID] = t.Needs
			x.running, x.disk, x.memory = x.running+1, x.disk+t.Needs.Disk, x.memory+t.Needs.Memory
			go func() {
				began := time.Now()
				r := x.Do(ctx, t)
				r.Seconds = time.Since(began).Seconds()
				results <- r
			}()
		}
	}
	return left, nil
}

// tooLarge says why a task cannot be done on this machine at all.
func (x *execution) tooLarge(t Task) string {
	switch {
	case x.Disk > 0 && t.Needs.Disk > x.Disk:
		return fmt.Sprintf("it needs %d bytes of the work directory: --disk allows %d", t.Needs.Disk, x.Disk)
	case x.Memory > 0 && t.Needs.Memory > x.Memory:
		return fmt.Sprintf("it needs about %d bytes of memory: --memory allows %d", t.Needs.Memory, x.Memory)
	}
	return ""
}

func (x *execution) fits(t Task) bool {
	return x.running < max(1, x.Jobs) &&
		(x.Disk <= 0 || x.disk+t.Needs.Disk <= x.Disk) &&
		(x.Memory <= 0 || x.memory+t.Needs.Memory <= x.Memory)
}

// end gives back what a task has taken.
func (x *execution) end(r Result) {
	needs := x.taken[r.Task]
	delete(x.taken, r.Task)
	x.running, x.disk, x.memory = x.running-1, x.disk-needs.Disk, x.memory-needs.Memory
	x.state[r.Task] = r
}

// failed is the result of a task that was not done.
func (t *Task) failed(reason string) Result {
	return Result{Task: t.ID, Kind: t.Kind, Model: t.Model, Variant: t.Variant, State: StateFailed, Reason: reason}
}
