package pgtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// attributes let the server run as user and end at once with the test binary,
// even when that is killed.
func attributes(user *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: user, Pdeathsig: syscall.SIGQUIT}
}

// processState reads the state of a process and its parent.
func processState(pid int) (state byte, parent int, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// pid (name) state parent ...: the name may hold spaces and parentheses.
	_, err = fmt.Sscanf(string(b[bytes.LastIndexByte(b, ')')+1:]), " %c %d", &state, &parent)
	return state, parent, err
}

func children(of int) ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		if _, parent, err := processState(pid); err == nil && parent == of {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// isAlive says whether a process still holds anything: one that only waits to
// be counted by its parent does not.
func isAlive(pid int) bool {
	state, _, err := processState(pid)
	return err == nil && state != 'Z' && state != 'X'
}
