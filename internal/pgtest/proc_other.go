//go:build unix && !linux

package pgtest

import (
	"context"
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// attributes let the server run as user. Only Linux ends it with a test binary
// that is killed.
func attributes(user *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: user}
}

func children(of int) ([]int, error) {
	out, err := exec.CommandContext(context.Background(), "pgrep", "-P", strconv.Itoa(of)).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil, nil // none
	} else if err != nil {
		return nil, err
	}
	var pids []int
	for _, f := range strings.Fields(string(out)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func isAlive(pid int) bool { return syscall.Kill(pid, 0) == nil }
