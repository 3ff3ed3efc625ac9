package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// torchFlags say how the measurements against torch are made.
type torchFlags struct {
	Threads int    `help:"style, train: threads of each side (default: one per core)."`
	Python  string `default:"/usr/bin/python3" help:"style, train: the Python that has torch; without torch there is no yardstick."`
}

func (f torchFlags) threads() int {
	if f.Threads > 0 {
		return f.Threads
	}
	return runtime.NumCPU()
}

// runChild measures one case in a process of its own, whose peak of memory is
// the case's, and reads what it found.
func runChild(ctx context.Context, found any, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, slices.Concat(os.Args[1:], []string{"--report=" + os.DevNull}, args)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	// The child prints the report's heading first.
	return json.Unmarshal(out[bytes.LastIndexByte(bytes.TrimSpace(out), '\n')+1:], found)
}

// peakRSS is the most resident memory that this process has had.
func peakRSS() (float64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "kB")), 64)
			return kib * 1024, err
		}
	}
	return 0, errors.New("the kernel does not say a process's peak of memory")
}

// numbers are the tensors that are handed to torch.
type numbers struct{ data []byte }

// numbersAt says where in the file of numbers a tensor lies.
type numbersAt struct {
	At    int     `json:"at"`
	Shape []int64 `json:"shape"`
}

func (n *numbers) put(x []float32, shape ...int64) numbersAt {
	at := numbersAt{len(n.data) / 4, append([]int64{}, shape...)}
	for _, v := range x {
		n.data = binary.LittleEndian.AppendUint32(n.data, math.Float32bits(v))
	}
	return at
}

// raw puts what is little-endian already.
func (n *numbers) raw(data []byte, shape ...int64) numbersAt {
	at := numbersAt{len(n.data) / 4, append([]int64{}, shape...)}
	n.data = append(n.data, data...)
	return at
}

//go:embed yardstick.py
var yardstick []byte

// torchProcess is a Python that evaluates the same losses when it is asked.
type torchProcess struct {
	missing, version string
	folder           string
	cmd              *exec.Cmd
	in               io.WriteCloser
	out              *bufio.Scanner
}

// said is a line of the Python's.
type said struct {
	Torch   string    `json:"torch"`
	BLAS    string    `json:"blas"`
	Seconds float64   `json:"seconds"`
	Losses  []float64 `json:"losses"`
	Peak    float64   `json:"peak"`
}

// torch starts a script with a task and its numbers. If torch is not installed,
// it says so, without an error.
func (b *bench) torch(ctx context.Context, script []byte, n numbers, task map[string]any) (_ *torchProcess, err error) {
	t := &torchProcess{}
	if out, err := exec.CommandContext(ctx, b.Python, "-c", "import torch, numpy").CombinedOutput(); err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.missing = fmt.Sprintf("%s: %v %s", b.Python, err, lines[len(lines)-1])
		return t, nil
	}
	if t.folder, err = os.MkdirTemp("", "bench-torch"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(t.folder))
		}
	}()
	described, err := json.Marshal(task)
	if err != nil {
		return nil, err
	}
	for name, data := range map[string][]byte{
		"task.json": described, "numbers.f32": n.data, "yardstick.py": yardstick, "main.py": script,
	} {
		if err := os.WriteFile(filepath.Join(t.folder, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	t.cmd = exec.CommandContext(ctx, b.Python, filepath.Join(t.folder, "main.py"), t.folder)
	t.cmd.Stderr = os.Stderr
	// Of whatever kind its BLAS is, it has as many threads.
	for _, name := range []string{"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"} {
		t.cmd.Env = append(t.cmd.Env, fmt.Sprintf("%s=%d", name, b.threads()))
	}
	t.cmd.Env = append(os.Environ(), t.cmd.Env...)
	if t.in, err = t.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	t.out = bufio.NewScanner(out)
	hello, err := t.read()
	if err != nil {
		return nil, errors.Join(err, t.stop())
	}
	t.version = hello.Torch + " with " + hello.BLAS
	return t, nil
}

// warm runs each evaluation a few times before the measurement, and stops the
// Python process on an error.
func (t *torchProcess) warm(all ...string) error {
	for range 2 {
		for _, what := range all {
			if _, err := t.ask(what); err != nil {
				return errors.Join(err, t.stop())
			}
		}
	}
	return nil
}

func (t *torchProcess) read() (s said, err error) {
	if !t.out.Scan() {
		return s, errors.Join(errors.New("python ended"), t.out.Err())
	}
	return s, json.Unmarshal(t.out.Bytes(), &s)
}

func (t *torchProcess) ask(what string) (said, error) {
	if _, err := io.WriteString(t.in, what+"\n"); err != nil {
		return said{}, err
	}
	return t.read()
}

// gradient is how far ours is from torch's last one, and torch's peak of memory.
func (t *torchProcess) gradient(ours []float32) (peak, relative float64, err error) {
	s, err := t.ask("gradient")
	if err != nil {
		return 0, 0, err
	}
	data, err := os.ReadFile(filepath.Join(t.folder, "gradient.f32"))
	if err != nil {
		return 0, 0, err
	}
	if len(data) != 4*len(ours) {
		return 0, 0, fmt.Errorf("torch's gradient has %d bytes for %d numbers", len(data), len(ours))
	}
	var difference, size float64
	for i, g := range ours {
		theirs := float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
		difference += (float64(g) - theirs) * (float64(g) - theirs)
		size += theirs * theirs
	}
	return s.Peak, math.Sqrt(difference / size), nil
}

func (t *torchProcess) stop() error {
	if t.cmd == nil {
		return nil
	}
	return errors.Join(t.in.Close(), t.cmd.Wait(), os.RemoveAll(t.folder))
}
