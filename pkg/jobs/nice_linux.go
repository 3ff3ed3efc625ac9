package jobs

import (
	"log/slog"
	"runtime"

	"golang.org/x/sys/unix"
)

// stepBack ties the goroutine to its thread and has the thread, with those that
// are made from it, yield the cores to others. The thread ends with the
// goroutine, so nobody else is slowed.
func stepBack(nice int, log *slog.Logger) {
	if nice <= 0 {
		return
	}
	runtime.LockOSThread()
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), min(nice+niceNow(), 19)); err != nil {
		log.Warn("style jobs run at the priority of requests", "error", err)
	}
}

// niceNow is the thread's own nice value: the system call has it upside down.
func niceNow() int {
	p, err := unix.Getpriority(unix.PRIO_PROCESS, unix.Gettid())
	if err != nil {
		return 0
	}
	return 20 - p
}
