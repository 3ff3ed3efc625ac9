package jobs_test

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/likeness-id/likeness/pkg/jobs"
	"github.com/likeness-id/likeness/pkg/style"
)

// nice is the nice value of the calling thread.
func niceOf(t *testing.T) int {
	t.Helper()
	p, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
	if err != nil {
		t.Error(err)
	}
	return 20 - p // as the system call has it
}

// TestStepsBack: a job's thread yields to those of requests.
func TestStepsBack(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	want := min(19, niceOf(t)+7)
	got := make(chan int, 1)
	o, _ := options()
	o.Nice = 7
	o.Transferrer = walker{step: func(context.Context, style.Task, int) error {
		got <- niceOf(t)
		return nil
	}}
	s := openAndStart(t, filepath.Join(t.TempDir(), "jobs.db"), o)
	awaitState(t, s, submit(t, s, request(1)), jobs.Succeeded)
	if n := <-got; n != want {
		t.Errorf("a job runs at nice %d, want %d", n, want)
	}
}
